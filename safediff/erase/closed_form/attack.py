"""The way back to an erased concept in closed form (RECE: Gong et al. 2024, arXiv:2407.12383)."""

from collections.abc import Mapping

import torch
from torch import Tensor


def closed_form_attack(
    edited: Mapping[str, Tensor], original: Mapping[str, Tensor], c: Tensor, reg: float
) -> Tensor:
    """The text states c' that the edited model reads as the original reads c.

    c' minimises sum |W_e c' - W_0 c|^2 + reg |c'|^2 over all matrices, token by token:
    c' = (reg I + sum W_e^T W_e)^-1 (sum W_e^T W_0) c. Where no matrix was edited this is c itself,
    up to the regulariser, and says nothing: whoever attacks with it reports "not applicable".

    Args:
        edited: W_e of keys and values by name, each (out, d).
        original: W_0 under the same names.
        c: text states (..., d).
        reg: weight of |c'|^2.

    Returns:
        c', shape and type of ``c``.
    """
    width = c.shape[-1]
    own = reg * torch.eye(width, dtype=torch.float64, device=c.device)
    cross = torch.zeros_like(own)
    for name in original:
        w_e, w_0 = edited[name].double(), original[name].double()
        own += w_e.T @ w_e
        cross += w_e.T @ w_0
    way_back: Tensor = c.double() @ torch.linalg.solve(own, cross).T
    return way_back.to(c.dtype)

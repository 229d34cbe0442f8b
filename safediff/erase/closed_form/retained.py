"""What SPEED retains: which tokens, perturbed how, and the directions that are left to edit.

Li et al. 2025, arXiv:2503.07392: influence-based prior filtering, directed prior augmentation and
the null space of the retained tokens' second moment.
"""

import torch
from torch import Tensor

from safediff.erase.closed_form.params import SpeedParams


def retained_moment(
    rows: Tensor,
    weight: Tensor,
    unconstrained: Tensor,
    params: SpeedParams,
    generator: torch.Generator,
) -> Tensor:
    """Mean of c c^T over retained tokens and their perturbed copies, (d, d).

    A copy is c + noise along the right singular vectors of ``weight`` with the smallest singular
    values: another token with nearly the same key or value. With ``influence_filter`` only those
    tokens count that ``unconstrained`` moves at least as much as it moves them on average;
    likewise copies, among themselves.

    Args:
        rows: tokens c, (n, d).
        weight: W, (out, d).
        unconstrained: a change of W that ignores retention, (out, d).
        params: the knobs.
        generator: of the noise; on the CPU.
    """
    if params.influence_filter:
        rows = rows[_influential(rows, unconstrained)]
    directions = torch.linalg.svd(weight, full_matrices=False).Vh[-params.num_directions :]
    shape = (params.num_augment * len(rows), len(directions))
    noise = torch.randn(shape, generator=generator, dtype=rows.dtype).to(rows.device)
    copies = rows.repeat(params.num_augment, 1) + noise @ directions
    if params.influence_filter:
        copies = copies[_influential(copies, unconstrained)]
    total: Tensor = rows.T @ rows + copies.T @ copies
    return total / (len(rows) + len(copies))


def _influential(rows: Tensor, change: Tensor) -> Tensor:
    """Which rows ``change`` moves at least as much as it moves them on average, (n,)."""
    shift = (rows @ change.T).norm(dim=1)
    chosen: Tensor = shift >= shift.mean()
    return chosen


def free_directions(moment: Tensor, threshold: float) -> Tensor:
    """N (d, k) with orthonormal columns: where the moment's singular values are below threshold.

    P = N N^T is the projector onto the null space.
    """
    energy, vectors = torch.linalg.eigh(moment)  # of a positive matrix: its singular values too
    free: Tensor = vectors[:, energy < threshold]
    return free

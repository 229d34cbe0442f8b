"""Distances between two sets of pictures, on features that somebody else extracted.

Print which features were used beside every number: values on different features do not compare.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Kid(NamedTuple):
    """Kernel distance: mean and standard deviation over subsets."""

    mean: float
    std: float
    subset_size: int
    """Groups in each."""
    num_subsets: int


def fid(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of Gaussian fits (Heusel et al. 2017, arXiv:1706.08500), features (n, d).

    With covariances S = R^T R, tr (S_1 S_2)^(1/2) is the sum of the singular values of R_1 R_2^T.
    That stays exact where there are fewer pictures than features; the eigenvalues of S_1 S_2, which
    torchmetrics and torch-fidelity sum, are then zeros with rounding errors, of which the square
    roots add up (to 1e-5 of the distance between 24 pictures each, 2048 features).

    Biased upwards for small n: compare only at equal n.
    """
    a, b = real.double(), fake.double()
    r_a, r_b = _covariance_root(a), _covariance_root(b)
    gap = (a.mean(0) - b.mean(0)).square().sum()
    overlap = torch.linalg.svdvals(r_a @ r_b.T).sum()
    found = float(gap + r_a.square().sum() + r_b.square().sum() - 2 * overlap)
    return 0.0 if found < 0 else found  # of a set against itself rounding leaves -1e-13


def _covariance_root(features: Tensor) -> Tensor:
    """R (min(n, d), d) with R^T R = covariance of the features (n, d)."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    root: Tensor = torch.linalg.qr(centred, mode="r").R
    return root


def kid(
    real: Tensor,
    fake: Tensor,
    groups: Sequence[object] | None = None,
    seed: int = 0,
    num_subsets: int = 50,
) -> Kid:
    """Polynomial MMD (Binkowski et al. 2018, arXiv:1801.01401) of paired features (n, d).

    Pictures of one prompt and one seed resemble each other more than those of two prompts do. The
    usual cross term counts such pairs, so that a set against itself comes out far below zero:
    neither it nor torchmetrics, which draws both subsets apart, is unbiased here. Row i of ``real``
    belongs to row i of ``fake``, subsets take both, and the cross term leaves i = j out, as the
    terms within a set do: the U-statistic of Gretton et al. (2012, JMLR 13:723, Lemma 6), which
    asks of the pairs only that they are independent of each other.

    Subsets are random halves of the groups, with no more than 1000 pictures. Their standard
    deviation is that of the whole set's value, since half the pictures double the variance and
    overlap by half.

    Args:
        real: features, (n, d).
        fake: the same, paired row by row.
        groups: what a subset takes as a whole, (n,): pictures of one prompt are not independent.
            None: each pair for itself.
        seed: of the subsets.
        num_subsets: how many.

    Raises:
        ValueError: fewer than three groups: all subsets would be the same.
    """
    members = _members(range(len(real)) if groups is None else groups)
    if len(members) < 3:
        raise ValueError(f"kid needs 3 groups of pictures or more, not {len(members)}")
    size = max(2, min(len(members) // 2, 1000 * len(members) // len(real)))
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(num_subsets):
        chosen = torch.randperm(len(members), generator=generator)[:size]
        rows = torch.cat([members[place] for place in chosen.tolist()])
        values.append(_mean_off_diagonal(_pair_kernel(real[rows].double(), fake[rows].double())))
    found = torch.stack(values)
    return Kid(float(found.mean()), float(found.std()), size, num_subsets)


def _pair_kernel(real: Tensor, fake: Tensor) -> Tensor:
    """Of two pairs (n, n): k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(y_i, x_j)."""
    cross = _kernel(real, fake)
    return _kernel(real, real) + _kernel(fake, fake) - cross - cross.T


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1.0) ** 3


def _mean_off_diagonal(values: Tensor) -> Tensor:
    n = len(values)
    return (values.sum() - values.trace()) / (n * (n - 1))


def _members(groups: Iterable[object]) -> list[Tensor]:
    """The rows of each group, in the order of their first ones."""
    rows: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return [torch.tensor(of_one) for of_one in rows.values()]

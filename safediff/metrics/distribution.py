"""Distances between two sets of pictures, on features that somebody else extracted.

Print which features were used beside every number: values on different features do not compare.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance


class Kid(NamedTuple):
    """Kernel distance: mean and standard deviation over subsets."""

    mean: float
    std: float
    subset_size: int
    num_subsets: int


@contextmanager
def _no_advice() -> Iterator[None]:
    """Without torchmetrics' warning that features are kept, which is what is wanted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `")
        yield


class _Given(nn.Module):
    """Stands where torchmetrics expects an Inception network; its input already is features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


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
    return float(gap + r_a.square().sum() + r_b.square().sum() - 2 * overlap)


def _covariance_root(features: Tensor) -> Tensor:
    """R (min(n, d), d) with R^T R = covariance of the features (n, d)."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    root: Tensor = torch.linalg.qr(centred, mode="r").R
    return root


def kid(real: Tensor, fake: Tensor, seed: int = 0, num_subsets: int = 50) -> Kid:
    """Unbiased polynomial MMD (Binkowski et al. 2018, arXiv:1801.01401), features (n, d).

    Subsets hold half of the smaller set, at most 1000. The value may be negative: it is unbiased.
    """
    subset_size = max(2, min(1000, len(real) // 2, len(fake) // 2))
    with _no_advice():
        metric = KernelInceptionDistance(
            feature=_Given(real.shape[1]),
            subsets=num_subsets,
            subset_size=subset_size,
            normalize=False,
            sync_on_compute=False,  # one process measures; others would wait for it for ever
        )
    metric.update(real.double(), real=True)
    metric.update(fake.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchmetrics draws subsets from the global generator
        mean, std = metric.compute()
    return Kid(float(mean), float(std), subset_size, num_subsets)

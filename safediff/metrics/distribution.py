"""Distances between two sets of pictures, on features that somebody else extracted.

Print which features were used beside every number: values on different features do not compare.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
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

    Biased upwards for small n: compare only at equal n.
    """
    with _no_advice():
        metric = FrechetInceptionDistance(feature=_Given(real.shape[1]), normalize=False)
    metric.set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


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
        )
    metric.update(real.float(), real=True)
    metric.update(fake.float(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # torchmetrics draws subsets from the global generator
        mean, std = metric.compute()
    return Kid(float(mean), float(std), subset_size, num_subsets)

"""Frechet and kernel distances against their formulas."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from safediff.metrics.distribution import fid, kid


def gaussian(count: int, shift: float, scale: float, seed: int, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) / 2
    return torch.randn(count, width, generator=generator) @ mix * scale + shift


REAL = gaussian(200, 0.0, 1.0, 0)
FAKE = gaussian(160, 0.3, 1.2, 1)


def test_fid_of_equal_sets_is_zero() -> None:
    assert abs(fid(REAL, REAL.clone())) < 1e-6


def test_fid_is_the_formula() -> None:
    a, b = REAL.double().numpy(), FAKE.double().numpy()
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    gap = a.mean(0) - b.mean(0)
    expected = gap @ gap + np.trace(s_a + s_b - 2 * np.real(sqrtm(s_a @ s_b)))
    assert fid(REAL, FAKE) == pytest.approx(expected, rel=1e-6)
    assert fid(FAKE, REAL) == pytest.approx(expected, rel=1e-6)


def test_fid_of_a_shift_is_its_square() -> None:
    assert fid(REAL, REAL + 2.0) == pytest.approx(6 * 2.0**2, rel=1e-5)


@pytest.mark.parametrize("count", [8, 200], ids=["fewer pictures than features", "more"])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_fid_of_a_scaled_set_is_exact(count: int, scale: float) -> None:
    """Fits of x and s x are (s - 1)^2 (|mean|^2 + tr S) apart, whatever the rank of S."""
    x = gaussian(count, 0.5, 1.0, 4, width=64).double()
    expected = (scale - 1) ** 2 * float(x.mean(0).square().sum() + x.var(0).sum())
    assert fid(x, scale * x) == pytest.approx(expected, rel=1e-12)


class Given(nn.Module):
    num_features = 6

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_fid_is_that_of_torchmetrics() -> None:
    theirs = FrechetInceptionDistance(feature=Given(), normalize=False).set_dtype(torch.float64)
    theirs.update(REAL, real=True)
    theirs.update(FAKE, real=False)
    assert fid(REAL, FAKE) == pytest.approx(float(theirs.compute()), rel=1e-6)


def direct_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD^2 with k(a, b) = (a b / d + 1)^3 over the whole sets."""
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / x.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k, n = kernel(a, a), len(a)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


@pytest.mark.parametrize("fake", [FAKE, gaussian(160, 0.0, 1.0, 2)], ids=["other", "same law"])
def test_kid_estimates_the_mmd_of_the_full_sets(fake: Tensor) -> None:
    """Subsets are drawn without bias: their mean meets the full value within its error."""
    found = kid(REAL, fake, num_subsets=400)
    assert (found.subset_size, found.num_subsets) == (80, 400)
    assert abs(found.mean - direct_mmd(REAL, fake)) < 4 * found.std / 400**0.5


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
def test_kid_is_that_of_torchmetrics() -> None:
    """Theirs gets features through a network of its own and draws the same subsets."""
    theirs = KernelInceptionDistance(
        feature=Given(), subsets=50, subset_size=80, normalize=False
    ).set_dtype(torch.float64)
    theirs.update(REAL.double(), real=True)
    theirs.update(FAKE.double(), real=False)
    torch.manual_seed(3)
    mean, std = theirs.compute()
    found = kid(REAL, FAKE, seed=3)
    assert (found.subset_size, found.num_subsets) == (80, 50)
    assert found.mean == pytest.approx(float(mean), rel=1e-6)
    assert found.std == pytest.approx(float(std), rel=1e-6)
    assert kid(REAL, FAKE, seed=4).mean != pytest.approx(found.mean, rel=1e-6)


def test_kid_of_a_set_with_itself_is_not_positive() -> None:
    """The unbiased estimate leaves out a picture's kernel with itself within sets only."""
    assert kid(REAL, REAL.clone()).mean <= 0 < kid(REAL, FAKE).mean


def test_kid_is_deterministic() -> None:
    state = torch.random.get_rng_state()
    found = kid(REAL, FAKE, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    assert kid(REAL, FAKE, seed=1) == found
    assert kid(REAL, FAKE, seed=2).mean != found.mean


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_more_different_sets_are_further_apart(shift: float) -> None:
    near, far = gaussian(200, shift, 1.0, 3), gaussian(200, shift + 1.0, 1.0, 3)
    assert fid(REAL, near) < fid(REAL, far)
    assert kid(REAL, near).mean < kid(REAL, far).mean

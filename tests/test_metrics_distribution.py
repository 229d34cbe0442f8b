"""Frechet and kernel distances against their formulas."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from safediff.metrics.distribution import fid, kid


def gaussian(count: int, shift: float, scale: float, seed: int, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) / 2
    return torch.randn(count, width, generator=generator) @ mix * scale + shift


REAL = gaussian(200, 0.0, 1.0, 0)
FAKE = gaussian(160, 0.3, 1.2, 1)


def test_fid_of_equal_sets_is_zero() -> None:
    assert 0 <= fid(REAL, REAL.clone()) < 1e-6
    found = {fid(x, x.flip(0)) for x in torch.randn(20, 50, 8, generator=torch.Generator())}
    assert 0 <= min(found) <= max(found) < 1e-6


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


PAIRED = REAL[:160] + gaussian(160, 0.1, 0.3, 1)


def direct_mmd(x: Tensor, y: Tensor) -> float:
    """MMD^2 with k(a, b) = (a b / d + 1)^3 over all ordered pairs of two rows, one by one."""
    x, y = x.double(), y.double()
    n, total = len(x), 0.0

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / x.shape[1] + 1) ** 3)

    for i in range(n):
        for j in range(n):
            if i != j:
                total += k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i])
    return total / (n * (n - 1))


@pytest.mark.parametrize("fake", [FAKE, PAIRED], ids=["other pictures", "pairs"])
def test_kid_estimates_the_mmd_of_all_pairs(fake: Tensor) -> None:
    """Subsets are drawn without bias: their mean meets the full value within its error."""
    found = kid(REAL[:60], fake[:60], num_subsets=400)
    assert (found.subset_size, found.num_subsets) == (30, 400)
    assert abs(found.mean - direct_mmd(REAL[:60], fake[:60])) < 4 * found.std / 400**0.5


def test_kid_has_the_kernel_of_torchmetrics() -> None:
    """Theirs counts pairs in the cross term; without them both are the same number."""
    x, y = PAIRED[:60].double(), FAKE[:60].double()
    kernel = (x @ y.T / 6 + 1).pow(3)
    left_out = 2 * float(kernel.trace() / 60 - kernel.mean()) / (60 - 1)
    assert direct_mmd(x, y) == pytest.approx(float(poly_mmd(x, y)) + left_out, rel=1e-6)


def test_kid_of_a_set_with_itself_is_zero() -> None:
    found = kid(REAL, REAL.clone())
    assert (found.mean, found.std) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_kid_of_pairs_is_not_below_that_of_unpaired_sets() -> None:
    """The law of the pictures decides, not how alike two of one seed are: here they are equally
    far apart in law. An estimate that counts a picture with its own partner is near -6."""
    values = []
    for seed in range(40):
        real = gaussian(40, 0.0, 1.0, 100 + seed)
        near = real + gaussian(40, 0.0, 0.1, 200 + seed)
        values.append(kid(real, near, num_subsets=8).mean)
    spread = torch.tensor(values)
    assert abs(float(spread.mean())) < 4 * float(spread.std()) / 40**0.5 + 0.005


def test_kid_takes_the_pictures_of_one_prompt_together() -> None:
    """Copies of one picture are one unit: they add no certainty."""
    groups = [str(place // 4) for place in range(160)]
    real, fake = REAL[:40].repeat_interleave(4, 0), FAKE[:40].repeat_interleave(4, 0)
    together = kid(real, fake, groups)
    assert together.subset_size == 20
    assert together.std > 1.5 * kid(real, fake).std


def test_kid_needs_three_prompts() -> None:
    with pytest.raises(ValueError, match="3 groups of pictures or more, not 2"):
        kid(REAL[:8], FAKE[:8], ["a"] * 4 + ["b"] * 4)


def test_kid_is_deterministic() -> None:
    state = torch.random.get_rng_state()
    found = kid(PAIRED, FAKE, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(123)
    assert kid(PAIRED, FAKE, seed=1) == found
    assert kid(PAIRED, FAKE, seed=2).mean != found.mean


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_more_different_sets_are_further_apart(shift: float) -> None:
    near, far = gaussian(200, shift, 1.0, 3), gaussian(200, shift + 1.0, 1.0, 3)
    assert fid(REAL, near) < fid(REAL, far)
    assert kid(REAL, near).mean < kid(REAL, far).mean

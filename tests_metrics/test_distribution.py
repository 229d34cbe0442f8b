"""FID is that of torch-fidelity and torchmetrics; so is KID, but for the pairs that they count.

To 1e-6 on the same features in float64. On Inception features of a few pictures both tools compute
KID in float32, and their FID errs in the fifth digit (see ``safediff.metrics.distribution``).
"""

from pathlib import Path

import pytest
import torch
from random_networks import blobs
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from safediff.metrics.distribution import fid, kid
from safediff.metrics.inception import InceptionFeatures

FID = "frechet_inception_distance"
KID = "kernel_inception_distance_mean"
REAL, FAKE = blobs(12, 0), blobs(12, 1, contrast=0.7)


def features(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(9)) / width**0.5
    return (torch.randn(count, width, generator=generator) @ mix + shift).double()


SETS = [
    (features(90, 8, 0), features(70, 8, 1, 0.3)),
    (features(300, 64, 2), features(200, 64, 3, 0.05)),
]


def their_fid(real: Tensor, fake: Tensor) -> float:
    statistics = map(fid_features_to_statistics, (real, fake))
    return float(fid_statistics_to_metric(*statistics, verbose=False)[FID])


def without_pairs(theirs: float, x: Tensor, y: Tensor) -> float:
    """Their estimate on two whole sets, with the pairs (x_i, y_i) left out of its cross term."""
    n = len(x)
    cross = (x.double() @ y.double().T / x.shape[1] + 1) ** 3
    return theirs + 2 * float(cross.trace() / n - cross.mean()) / (n - 1)


def meets(x: Tensor, y: Tensor, expected: float) -> bool:
    """The mean of many subsets estimates the whole set's value."""
    found = kid(x, y, num_subsets=4000)
    return abs(found.mean - expected) < 4 * found.std / 4000**0.5


@pytest.mark.parametrize(("real", "fake"), SETS)
def test_fid_is_that_of_torch_fidelity(real: Tensor, fake: Tensor) -> None:
    assert fid(real, fake) == pytest.approx(their_fid(real, fake), rel=1e-6)
    assert fid(real, fake) != pytest.approx(their_fid(real, real + 0.5), rel=1e-2)


@pytest.mark.parametrize(("real", "fake"), SETS)
def test_kid_is_that_of_torch_fidelity_without_pairs(real: Tensor, fake: Tensor) -> None:
    x = real[: len(fake)]
    whole = {"kid_subset_size": len(fake), "kid_subsets": 1}
    theirs = kid_features_to_metric(x, fake, **whole, verbose=False)[KID]
    assert meets(x, fake, without_pairs(theirs, x, fake))
    near = x + 0.01 * fake  # pairs that resemble each other
    theirs = kid_features_to_metric(x, near, **whole, verbose=False)[KID]
    assert meets(x, near, without_pairs(theirs, x, near))
    assert not meets(x, near, theirs)


@pytest.fixture(scope="module")
def pictures(inception: InceptionFeatures) -> tuple[Tensor, Tensor]:
    """Inception features of REAL and FAKE."""
    return inception.features(REAL), inception.features(FAKE)


class Pictures(Dataset[Tensor]):
    """What torch-fidelity reads pictures from."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_from_pictures_on_the_values_are_those_of_torch_fidelity(
    pictures: tuple[Tensor, Tensor], inception_weights: Path
) -> None:
    theirs = calculate_metrics(
        input1=Pictures(REAL),
        input2=Pictures(FAKE),
        fid=True,
        kid=True,
        kid_subset_size=len(REAL),
        kid_subsets=1,
        feature_extractor_weights_path=str(inception_weights),
        batch_size=5,
        cuda=False,
        save_cpu_ram=True,  # no worker processes
        verbose=False,
    )
    assert meets(*pictures, without_pairs(theirs[KID], *pictures))
    assert fid(*pictures) == pytest.approx(theirs[FID], rel=1e-5)


class Given(nn.Module):
    """Stands where torchmetrics expects a network; its input already is features."""

    num_features = 2048

    def forward(self, features: Tensor) -> Tensor:
        return features


@pytest.mark.filterwarnings("ignore:Metric `")
def test_on_inception_features_fid_is_that_of_torchmetrics(
    pictures: tuple[Tensor, Tensor],
) -> None:
    theirs = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    for features, real in zip(pictures, (True, False), strict=True):
        theirs.update(features, real=real)
    assert fid(*pictures) == pytest.approx(float(theirs.compute()), rel=1e-5)

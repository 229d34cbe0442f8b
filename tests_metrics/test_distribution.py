"""FID and KID are those of torch-fidelity and torchmetrics.

To 1e-6 on the same features in float64. On Inception features of a few pictures both tools compute
KID in float32, and their FID errs in the fifth digit (see ``safediff.metrics.distribution``).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from random_networks import blobs
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from safediff.metrics.distribution import Kid, fid, kid
from safediff.metrics.inception import InceptionFeatures

FID = "frechet_inception_distance"
KID_MEAN, KID_STD = "kernel_inception_distance_mean", "kernel_inception_distance_std"
SEED = 2020
REAL, FAKE = blobs(14, 0), blobs(12, 1, contrast=0.7)


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


@pytest.fixture
def same_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchmetrics draws the subsets that torch-fidelity draws from SEED."""
    generator = np.random.RandomState(SEED)
    permuted = lambda count: torch.from_numpy(generator.permutation(count))  # noqa: E731
    monkeypatch.setattr("torch.randperm", permuted)


def settings(found: Kid) -> dict[str, int]:
    return {"kid_subset_size": found.subset_size, "kid_subsets": found.num_subsets}


@pytest.mark.parametrize(("real", "fake"), SETS)
def test_fid_is_that_of_torch_fidelity(real: Tensor, fake: Tensor) -> None:
    assert fid(real, fake) == pytest.approx(their_fid(real, fake), rel=1e-6)
    assert fid(real, fake) != pytest.approx(their_fid(real, real + 0.5), rel=1e-2)


@pytest.mark.usefixtures("same_subsets")
@pytest.mark.parametrize(("real", "fake"), SETS)
def test_kid_is_that_of_torch_fidelity(real: Tensor, fake: Tensor) -> None:
    found = kid(real, fake)
    theirs = kid_features_to_metric(real, fake, **settings(found), rng_seed=SEED, verbose=False)
    assert found.mean == pytest.approx(theirs[KID_MEAN], rel=1e-6)
    assert found.std == pytest.approx(theirs[KID_STD], rel=1e-6)
    other = kid_features_to_metric(real, fake, **settings(found), rng_seed=SEED + 1, verbose=False)
    assert found.mean != pytest.approx(other[KID_MEAN], rel=1e-6)


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


@pytest.mark.usefixtures("same_subsets")
def test_from_pictures_on_the_values_are_those_of_torch_fidelity(
    pictures: tuple[Tensor, Tensor], inception_weights: Path
) -> None:
    found = kid(*pictures)
    theirs = calculate_metrics(
        input1=Pictures(REAL),
        input2=Pictures(FAKE),
        fid=True,
        kid=True,
        **settings(found),
        feature_extractor_weights_path=str(inception_weights),
        batch_size=5,
        rng_seed=SEED,
        cuda=False,
        save_cpu_ram=True,  # no worker processes
        verbose=False,
    )
    assert found.mean == pytest.approx(theirs[KID_MEAN], rel=1e-5)
    assert found.std == pytest.approx(theirs[KID_STD], rel=1e-5)
    assert fid(*pictures) == pytest.approx(theirs[FID], rel=1e-5)


class Given(nn.Module):
    """Stands where torchmetrics expects a network; its input already is features."""

    num_features = 2048

    def forward(self, features: Tensor) -> Tensor:
        return features


@pytest.mark.filterwarnings("ignore:Metric `")
def test_on_inception_features_the_values_are_those_of_torchmetrics(
    pictures: tuple[Tensor, Tensor],
) -> None:
    found = kid(*pictures, seed=SEED)
    their_kid = KernelInceptionDistance(
        feature=Given(), subsets=found.num_subsets, subset_size=found.subset_size
    )
    their_fid = FrechetInceptionDistance(feature=Given()).set_dtype(torch.float64)
    for metric in (their_kid, their_fid):
        for features, real in zip(pictures, (True, False), strict=True):
            metric.update(features, real=real)
    torch.manual_seed(SEED)
    mean, std = their_kid.compute()
    assert found.mean == pytest.approx(float(mean), rel=1e-5)
    assert found.std == pytest.approx(float(std), rel=1e-5)
    assert fid(*pictures) == pytest.approx(float(their_fid.compute()), rel=1e-5)

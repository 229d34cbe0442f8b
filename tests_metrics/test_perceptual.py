"""LPIPS is lpips' own, on pictures in [-1, 1], from torchvision's file of the trunk."""

import hashlib
import warnings
from pathlib import Path

import lpips
import pytest
import torch
from random_networks import blobs
from safetensors.torch import save_file

from safediff.errors import Inconclusive
from safediff.metrics.perceptual import BATCH_SIZE, LpipsDistance

A, B = blobs(BATCH_SIZE + 2, 0), blobs(BATCH_SIZE + 2, 1)


@pytest.fixture(scope="module")
def alex(alex_weights: Path) -> LpipsDistance:
    return LpipsDistance("alex", alex_weights)


def test_values_are_those_of_lpips(
    alex: LpipsDistance, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which finds the same trunk by itself, where torchvision keeps what it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        theirs = lpips.LPIPS(net="alex", verbose=False)
    with torch.no_grad():
        expected = theirs(A / 127.5 - 1, B / 127.5 - 1)
        unscaled = theirs(A / 255, B / 255)
    found = alex.distance(A, B)
    assert found.shape == (len(A),)
    assert torch.allclose(found, expected.flatten(), rtol=1e-5, atol=0)
    assert not torch.allclose(found, unscaled.flatten(), rtol=1e-2)


def test_published_weights_are_looked_for_in_torchs_cache(
    alex: LpipsDistance, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    found = LpipsDistance("alex")
    assert torch.equal(found.distance(A, B), alex.distance(A, B))
    assert found.weights_sha256 == alex.weights_sha256


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_equal_pictures_are_at_no_distance_and_shuffled_ones_are(
    net: str, request: pytest.FixtureRequest
) -> None:
    found = LpipsDistance(net, request.getfixturevalue(f"{net}_weights"))  # type: ignore[arg-type]
    same, other = found.distance(A, A.clone()), found.distance(A, A.roll(1, 0))
    assert float(same.abs().max()) == 0
    assert float(other.min()) > 0.01
    near = found.distance(A, (A.float() * 0.97).byte())
    assert bool((near < other).all())


def test_distances_do_not_depend_on_the_batch(alex: LpipsDistance) -> None:
    together = alex.distance(A, B)
    alone = torch.cat([alex.distance(a, b) for a, b in zip(A.split(1), B.split(1), strict=True)])
    assert torch.allclose(alone, together, rtol=1e-5, atol=0)
    assert torch.equal(alex.distance(A, B), together)


def test_name_and_hash(alex: LpipsDistance, alex_weights: Path) -> None:
    assert alex.name.startswith("alex of lpips 0.1")
    assert alex.weights_sha256 == hashlib.sha256(alex_weights.read_bytes()).hexdigest()


def test_the_trunk_may_be_a_safetensors_file(
    alex: LpipsDistance, alex_weights: Path, tmp_path: Path
) -> None:
    state = torch.load(alex_weights, weights_only=True)
    trunk = {name: value for name, value in state.items() if name.startswith("features.")}
    save_file(trunk, tmp_path / "alex.safetensors")
    found = LpipsDistance("alex", tmp_path / "alex.safetensors")
    assert torch.equal(found.distance(A, B), alex.distance(A, B))


def test_another_trunk_is_refused(alex_weights: Path, vgg_weights: Path) -> None:
    with pytest.raises(Inconclusive, match="does not hold the weights of VGG16_Weights"):
        LpipsDistance("vgg", alex_weights)
    with pytest.raises(Inconclusive, match="does not hold the weights of AlexNet_Weights"):
        LpipsDistance("alex", vgg_weights)

"""Inception features are torch-fidelity's, in batches of any size, from any file of the weights."""

import hashlib
from pathlib import Path

import pytest
import torch
from random_networks import blobs
from safetensors.torch import save_file
from torch import Tensor
from torch_fidelity import FeatureExtractorInceptionV3

from safediff.errors import Inconclusive
from safediff.metrics.inception import BATCH_SIZE, InceptionFeatures

PICTURES = blobs(6, 0)


def worst(a: Tensor, b: Tensor) -> float:
    """Largest difference, in units of the largest feature."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("size", [64, 299, 320])
def test_features_are_those_of_the_extractor(
    inception: InceptionFeatures, inception_weights: Path, size: int
) -> None:
    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048"], feature_extractor_weights_path=inception_weights
    )
    pictures = blobs(2, 1, size=size)
    found = inception.features(pictures)
    assert found.shape == (2, inception.width)
    assert worst(found, theirs(pictures)[0]) < 1e-5


def test_the_resize_is_tensorflow_1s(inception: InceptionFeatures) -> None:
    """Pictures resized beforehand with torch's own bilinear filter give other features."""
    resized = torch.nn.functional.interpolate(
        PICTURES.float(), size=(299, 299), mode="bilinear", align_corners=False
    )
    assert worst(inception.features(resized.round().byte()), inception.features(PICTURES)) > 1e-2


def test_features_depend_on_the_picture_and_not_on_its_batch(inception: InceptionFeatures) -> None:
    many = blobs(BATCH_SIZE + 1, 2)
    together = inception.features(many)
    alone = torch.cat([inception.features(many[i : i + 1]) for i in (0, 5, BATCH_SIZE)])
    assert worst(alone, together[[0, 5, BATCH_SIZE]]) < 1e-5
    assert worst(together[:-1], together[1:]) > 1e-2


def test_features_are_deterministic(inception: InceptionFeatures, inception_weights: Path) -> None:
    found = inception.features(PICTURES)
    assert torch.equal(inception.features(PICTURES), found)
    assert torch.equal(InceptionFeatures(inception_weights).features(PICTURES), found)


def test_name_and_hash(inception: InceptionFeatures, inception_weights: Path) -> None:
    assert inception.name.startswith("inception-v3-compat 2048 of torch-fidelity 0.")
    assert inception.weights_sha256 == hashlib.sha256(inception_weights.read_bytes()).hexdigest()


def test_safetensors_hold_the_same_network(
    inception: InceptionFeatures, inception_weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "inception.safetensors"
    save_file(torch.load(inception_weights, weights_only=True), path)
    found = InceptionFeatures(path)
    assert torch.equal(found.features(PICTURES[:1]), inception.features(PICTURES[:1]))
    assert found.weights_sha256 != inception.weights_sha256


def test_weights_of_another_network_are_refused(alex_weights: Path) -> None:
    with pytest.raises(Inconclusive, match=r"does not hold the weights of inception-v3-compat"):
        InceptionFeatures(alex_weights)


def test_published_weights_are_looked_for_in_torchs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inception_weights: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", _no_network)
    with pytest.raises(Inconclusive, match=r"weights-inception-2015-12-05-\w+\.pth cannot be") as e:
        InceptionFeatures()
    assert e.value.next_step.endswith("verify.quality.features_weights")
    cache = tmp_path / "hub" / "checkpoints"
    (cache / "weights-inception-2015-12-05-6726825d.pth").symlink_to(inception_weights)
    assert InceptionFeatures().features(PICTURES[:1]).shape == (1, 2048)


def _no_network(*arguments: object, **options: object) -> None:
    raise OSError("no route to host")

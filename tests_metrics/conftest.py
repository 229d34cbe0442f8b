"""Weights files, written once a session, and the networks that safediff loads from them."""

from pathlib import Path

import pytest
from random_networks import ALEX_FILE, write_inception, write_trunk
from torchvision.models import alexnet, vgg16

from safediff.metrics.inception import InceptionFeatures


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inception(tmp_path_factory.mktemp("weights") / "inception.pth")


@pytest.fixture(scope="session")
def inception(inception_weights: Path) -> InceptionFeatures:
    return InceptionFeatures(inception_weights)


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torch's cache as it is after lpips has downloaded the trunk of ``alex``."""
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    write_trunk(alexnet, home / "hub" / "checkpoints" / ALEX_FILE)
    return home


@pytest.fixture(scope="session")
def alex_weights(torch_home: Path) -> Path:
    return torch_home / "hub" / "checkpoints" / ALEX_FILE


@pytest.fixture(scope="session")
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trunk(vgg16, tmp_path_factory.mktemp("weights") / "vgg.pth")

"""Feature networks go where the models are, and come back with numbers for the CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_gpu import FakeGpu, OnGpu
from safetensors.torch import save_file
from torch import Tensor, nn

from safediff.metrics import inception, perceptual
from safediff.metrics.device import whole_float32


def tf32() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


class Network(nn.Module):
    """Stands for a network of the extra, and notes where and how it is asked."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 2, bias=False))
        self.asked: list[tuple[bool, int, tuple[bool, bool]]] = []

    def see(self, images: Tensor) -> Tensor:
        self.asked.append((isinstance(images, OnGpu), len(images), tf32()))
        found: Tensor = self.net(images.float().mean((2, 3)))
        return found


class Extractor(Network):
    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.see(images),)


class Lpips(Network):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.see(a) - self.see(b)).square().sum(1).view(-1, 1, 1, 1)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The extra, as small networks; a file of weights for either."""
    torch.manual_seed(0)
    found = SimpleNamespace(FeatureExtractorInceptionV3=Extractor, LPIPS=Lpips)
    for module in (inception, perceptual):
        monkeypatch.setattr(module, "require", lambda name: found)
        monkeypatch.setattr(module, "version", lambda name: "1")
    save_file({"features.weight": torch.randn(2, 3)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def features(weights: Path, images: Tensor) -> tuple[Any, Tensor]:
    source = inception.InceptionFeatures(weights)
    source.network.net[0].weight = nn.Parameter(torch.ones(2, 3).to(source.device), False)
    return source.network, source.features(images)


def distances(weights: Path, images: Tensor) -> tuple[Any, Tensor]:
    source = perceptual.LpipsDistance("vgg", weights)
    return source.network, source.distance(images, images.flip(0))


@pytest.fixture
def allowed() -> Iterator[None]:
    """TF32, as somebody may have set it."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("measure", [features, distances])
def test_on_a_gpu_the_same_is_computed_there(
    libraries: Path, monkeypatch: pytest.MonkeyPatch, measure: Callable[..., tuple[Any, Tensor]]
) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 4, 4), generator=generator, dtype=torch.uint8)
    network, expected = measure(libraries, images)
    assert not any(there for there, _, _ in network.asked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with FakeGpu():
        network, found = measure(libraries, images)
    assert not isinstance(found, OnGpu)
    torch.testing.assert_close(found, expected)
    assert len(network.asked) > 1
    for there, count, settings in network.asked:
        assert there
        assert count <= 16
        assert settings == (False, False)
    assert torch.backends.cuda.matmul.allow_tf32


def test_what_was_set_is_set_again_after_an_error() -> None:
    before = tf32()

    def fail() -> None:
        with whole_float32():
            assert tf32() == (False, False)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert tf32() == before

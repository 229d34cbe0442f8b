"""Where features and perceptual distances come from: a judge, or a network of the metrics extra."""

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

from torch import Tensor

from safediff.errors import Inconclusive


class FeatureSource(Protocol):
    """Turns pictures into features, for FID and KID. Judges are such sources, too."""

    name: str
    weights_sha256: str

    def features(self, images: Tensor) -> Tensor:
        """Features (n, width) of uint8 pictures (n, 3, H, W)."""
        ...


class EmbeddingSource(FeatureSource, Protocol):
    """Puts pictures and texts into one space, for the CLIP score. Judges are such sources, too."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (n, width) of uint8 pictures (n, 3, H, W)."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, width)."""
        ...


class DistanceSource(Protocol):
    """Compares pictures in pairs. Judges are such sources, too."""

    name: str
    weights_sha256: str

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Perceptual distance (n,) of uint8 pictures (n, 3, H, W) in pairs."""
        ...


def require(module: str) -> ModuleType:
    """Import a module of the ``metrics`` extra.

    Raises:
        Inconclusive: the extra is not installed, or does not fit the installed torch.
    """
    package = module.partition(".")[0].replace("_", "-")
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Inconclusive(
            f"{package} is not installed", "pip install 'safediff[metrics]'"
        ) from error
    except (ImportError, RuntimeError) as error:  # a torchvision made for another torch
        reason = " ".join(str(error).split())[:200]
        raise Inconclusive(
            f"{package} cannot be imported: {reason}",
            "install a torchvision that was built for the installed torch",
        ) from error

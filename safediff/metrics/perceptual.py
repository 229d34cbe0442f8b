"""LPIPS (Zhang et al. 2018, arXiv:1801.03924), from the package of its authors."""

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from safediff.metrics.device import best_device, whole_float32
from safediff.metrics.sources import require
from safediff.metrics.weights import misfit, published, read_weights

Net = Literal["alex", "vgg"]

TRUNKS: dict[Net, str] = {
    "alex": "AlexNet_Weights.IMAGENET1K_V1",
    "vgg": "VGG16_Weights.IMAGENET1K_V1",
}
"""torchvision's names of the weights that the learned channel weights were fitted on."""

BATCH_SIZE = 8


class LpipsDistance:
    """Version 0.1 of LPIPS; the package brings the channel weights, torchvision the trunk's.

    Computed in float32, on a GPU if there is one: values differ between devices by rounding only.
    """

    def __init__(self, net: Net, weights: Path | None = None, device: str | None = None) -> None:
        """Load the trunk from a local copy of torchvision's weights, or from its published ones.

        Raises:
            Inconclusive: the extra is not installed, or the weights cannot be had.
        """
        library, models = require("lpips"), require("torchvision.models")
        self.name = f"{net} of lpips {version('lpips')}"
        path = weights or published(models.get_weight(TRUNKS[net]).url, "lpips_weights")
        tensors, self.weights_sha256 = read_weights(path)
        with warnings.catch_warnings():  # lpips asks for the trunk in torchvision's older way
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            self.network = library.LPIPS(net=net, pnet_rand=True, verbose=False)
        self.network.requires_grad_(False)
        trunk = self.network.net
        try:
            # "slice2.3.weight" of lpips is "features.3.weight" of torchvision
            names = {name: "features." + name.split(".", 1)[1] for name in trunk.state_dict()}
            trunk.load_state_dict({name: tensors[key] for name, key in names.items()})
        except (KeyError, RuntimeError) as error:
            raise misfit(path, error, TRUNKS[net]) from error
        self.device = device or best_device()
        self.network.to(self.device)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS (n,) of uint8 pictures (n, 3, H, W) in pairs; zero for equal ones."""
        parts = zip(a.split(BATCH_SIZE), b.split(BATCH_SIZE), strict=True)
        with whole_float32():
            return torch.cat([self._distance(x, y) for x, y in parts])

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = self.network(self._signed(a), self._signed(b))
        return found.flatten().cpu()

    def _signed(self, images: Tensor) -> Tensor:
        """From bytes to [-1, 1], on the network's device."""
        return images.to(self.device).float() / 127.5 - 1

"""Inception features for FID and KID, from torch-fidelity's extractor.

Resizing alone moves FID by several points, so neither it nor the normalisation is written anew:
the extractor's own forward pass takes the pictures as they are (TensorFlow 1's bilinear resize to
299 pixels, then (x - 128) / 128) and gives the layer that its metrics use.
"""

import io
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from safediff.metrics.device import best_device, whole_float32
from safediff.metrics.sources import require
from safediff.metrics.weights import misfit, published, read_weights

EXTRACTOR = "inception-v3-compat"
LAYER = "2048"
BATCH_SIZE = 16


class InceptionFeatures:
    """Pooled activations of the network of Heusel et al. 2017 (arXiv:1706.08500).

    Computed in float32, on a GPU if there is one: values differ between devices by rounding only.
    """

    width = int(LAYER)

    def __init__(self, weights: Path | None = None, device: str | None = None) -> None:
        """Load from a local copy of torch-fidelity's weights, or from its published ones.

        Raises:
            Inconclusive: the extra is not installed, or the weights cannot be had.
        """
        library = require("torch_fidelity.feature_extractor_inceptionv3")
        self.name = f"{EXTRACTOR} {LAYER} of torch-fidelity {version('torch-fidelity')}"
        path = weights or published(library.URL_INCEPTION_V3, "features_weights")
        tensors, self.weights_sha256 = read_weights(path)
        # The extractor unpickles what it is given, so it gets tensors that were read without.
        file = io.BytesIO()
        torch.save(tensors, file)
        file.seek(0)
        try:
            self.network = library.FeatureExtractorInceptionV3(
                EXTRACTOR, [LAYER], feature_extractor_weights_path=file
            )
        except RuntimeError as error:
            raise misfit(path, error, EXTRACTOR) from error
        self.device = device or best_device()
        self.network.to(self.device)

    def features(self, images: Tensor) -> Tensor:
        """Features (n, 2048) of uint8 pictures (n, 3, H, W)."""
        parts = images.split(BATCH_SIZE)
        with whole_float32():
            return torch.cat([self.network(part.to(self.device))[0].cpu() for part in parts])

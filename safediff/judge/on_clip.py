"""What judges on a CLIP model have in common: its encoder, and a card of what they can see."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from safediff.judge.base import Calibration, lacks
from safediff.judge.cards import Card
from safediff.judge.clip_encoder import ClipEncoder


class OnClip:
    """Everything of a judge but the score."""

    name: str

    def __init__(
        self,
        encoder: ClipEncoder,
        weights_sha256: str,
        measured_with: Mapping[str, Any],
        card: Path | None,
    ) -> None:
        self.encoder, self.weights_sha256 = encoder, weights_sha256
        self.measured_with = dict(measured_with)
        """What a card must have been measured with, beside the weights."""
        self.card = None
        if card:
            self.card = Card.read(card, self.name, weights_sha256, self.measured_with)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features of the picture encoder."""
        return self.encoder.features(images)

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (n, d)."""
        return self.encoder.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, d)."""
        return self.encoder.embed_texts(texts)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """None: a distance of embeddings is not perceptual."""
        raise lacks(self.name, "perceptual distance", "verify.quality.lpips_net")

    def calibration(self, labels: Sequence[str]) -> Calibration:
        """From the card; none is published that fits any labels and weights."""
        if self.card is None:
            raise lacks(self.name, "measured sensitivity", "calibration")
        return self.card.calibration(labels)

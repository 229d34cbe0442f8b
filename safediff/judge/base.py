"""What every judge gives, and the registry of judges."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from safediff.errors import UsageError


@dataclass(frozen=True)
class Scores:
    """Raw scores of n pictures."""

    labels: tuple[str, ...]
    probs: Tensor
    """(n, num_labels), each in [0, 1]."""

    def of(self, label: str) -> Tensor:
        """The scores (n,) of one label.

        Raises:
            UsageError: the judge does not know the label.
        """
        if label not in self.labels:
            raise UsageError(
                f"the judge does not know the label {label!r}",
                "use one of the labels that `safediff doctor` lists",
            )
        return self.probs[:, self.labels.index(label)]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How good a judge is on real pictures that it was not trained on, per label or over all."""

    sensitivity_hits: int
    num_positives: int
    false_alarms: int
    num_negatives: int


class Judge(Protocol):
    """Looks at pictures (uint8, (n, 3, H, W)) and says what is there."""

    name: str
    labels: tuple[str, ...]
    threshold: float
    """A label is present if its score reaches this."""
    weights_sha256: str

    def score(self, images: Tensor) -> Scores:
        """Raw scores of every label."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (n, width) for FID and KID."""
        ...

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (n, width) in a space shared with texts."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, width) of texts."""
        ...

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Perceptual distance (n,) between pictures in pairs."""
        ...

    def calibration(self, labels: Sequence[str]) -> Calibration:
        """Measured quality for these labels."""
        ...

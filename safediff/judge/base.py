"""What every judge gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from safediff.errors import Inconclusive, UsageError


@dataclass(frozen=True)
class Scores:
    """Raw scores of n pictures."""

    labels: tuple[str, ...]
    probs: Tensor
    """(n, num_labels), each in [0, 1]."""
    raw: tuple[Any, ...] = ()
    """What the scores were made of, as JSON, one entry a picture; empty where they are all."""

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


MakeJudge = Callable[[Sequence[str], Mapping[str, Any]], Judge]
"""From the labels that a policy asks for and its settings for this judge."""


def lacks(judge: str, what: str, key: str) -> Inconclusive:
    """What a judge raises that is asked for something it cannot give; ``key`` of the policy can."""
    where = key if "." in key else f"judges.{judge}.{key}"
    return Inconclusive(f"judge {judge!r} has no {what}", f"say in the policy: {where}")

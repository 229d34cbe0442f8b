"""Zero-shot CLIP: is a picture nearer to the concept's text than to contrast texts?

Score of a label: softmax of 100 cos(picture, text) over the label's text and the contrast texts
(arXiv:2103.00020, section 3.1.2), moved by the label's measured offset. Labels do not compete.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safediff.errors import UsageError
from safediff.judge.base import Scores
from safediff.judge.clip_encoder import SCALE, ClipEncoder, load_clip
from safediff.judge.on_clip import OnClip


class ClipJudge(OnClip):
    """Open vocabulary: it takes any label."""

    name = "clip"

    def __init__(
        self,
        encoder: ClipEncoder,
        labels: Sequence[str],
        *,
        template: str = "{label}",
        contrast: Sequence[str],
        threshold: float = 0.5,
        card: Path | None = None,
    ) -> None:
        """Read the labels once.

        Raises:
            UsageError: a label or contrast text is longer than the model's window.
        """
        settings = {"template": template, "contrast": list(contrast), "threshold": threshold}
        super().__init__(encoder, encoder.weights_sha256, settings, card)
        self.labels = tuple(labels)
        self.threshold = threshold
        texts = [template.replace("{label}", label) for label in self.labels]
        if long := encoder.too_long([*texts, *contrast]):
            raise UsageError(
                f"'{long[0][:60]}' has more tokens than the {encoder.max_tokens} that CLIP reads",
                "shorten the text",
            )
        self._texts = encoder.embed_texts([*texts, *contrast]).double()
        self._offsets = torch.tensor(
            [self.card.offset(label) if self.card else 0.0 for label in self.labels],
            dtype=torch.float64,
        )

    def score(self, images: Tensor) -> Scores:
        """Sigmoid (100 cos_label - logsumexp of 100 cos_contrast - offset), (n, num_labels)."""
        logits = SCALE * self.encoder.embed_images(images).double() @ self._texts.T
        num_labels = len(self.labels)
        margins = logits[:, :num_labels] - logits[:, num_labels:].logsumexp(1, keepdim=True)
        return Scores(self.labels, (margins - self._offsets).sigmoid())


def make(labels: Sequence[str], settings: Mapping[str, Any]) -> ClipJudge:
    """The judge as a policy sets it."""
    card = settings.get("calibration")
    return ClipJudge(
        load_clip(settings["weights"], settings.get("revision")),
        labels,
        template=settings["template"],
        contrast=settings["contrast"],
        threshold=settings["threshold"],
        card=Path(card) if card else None,
    )

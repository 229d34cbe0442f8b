"""The embedded judge: names the object and the style of a 64 x 64 picture, offline."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from safediff.errors import Inconclusive, UsageError
from safediff.judge.base import Calibration, Scores
from safediff.judge.network import JudgeNetwork, Vision

SIDE_PX = 64


def embedded_judge_folder() -> Path:
    """Where the judge lies in the installed package."""
    return Path(str(files("safediff.judge") / "embedded_weights"))


class EmbeddedJudge:
    """Trained apart from the embedded model, on real pictures only (``safediff.build.judge``)."""

    name = "embedded"
    threshold = 0.5

    def __init__(self, folder: Path | None = None) -> None:
        folder = embedded_judge_folder() if folder is None else folder
        try:
            self.card = json.loads((folder / "judge.json").read_text())
            state = load_file(folder / "judge.safetensors")
            self.tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
            self.names: tuple[str, ...] = tuple(self.card["names"])
            self.styles: tuple[str, ...] = tuple(self.card["styles"])
            self.network = JudgeNetwork(len(self.names), len(self.styles), len(self.tokenizer))
            self.network.load_state_dict({name: value.float() for name, value in state.items()})
        except Exception as error:  # tokenizers raises bare Exceptions
            reason = " ".join(str(error).split())[:200]
            raise Inconclusive(
                f"{folder}: the embedded judge cannot be read: {reason}",
                "reinstall safediff or rebuild it with `python -m safediff.build`",
            ) from error
        self.labels = self.names + tuple(f"{style} style" for style in self.styles)
        self.network.requires_grad_(False).eval()
        self.weights_sha256 = hashlib.sha256(
            (folder / "judge.safetensors").read_bytes()
        ).hexdigest()

    @torch.no_grad()
    def _see(self, images: Tensor) -> Vision:
        if images.shape[-2:] != (SIDE_PX, SIDE_PX):
            raise UsageError(
                f"the embedded judge reads {SIDE_PX} x {SIDE_PX} pictures, got "
                f"{images.shape[-2]} x {images.shape[-1]}",
                "use another judge for this model",
            )
        parts = [self.network.see(part.float() / 127.5 - 1) for part in images.split(128)]
        return Vision(
            tuple(torch.cat(level) for level in zip(*(part.maps for part in parts), strict=True)),
            torch.cat([part.features for part in parts]),
            torch.cat([part.embedding for part in parts]),
            torch.cat([part.object_logits for part in parts]),
            torch.cat([part.style_logits for part in parts]),
        )

    def score(self, images: Tensor) -> Scores:
        """Probabilities of every name (softmax with "none of these") and of every style."""
        vision = self._see(images)
        objects = vision.object_logits.softmax(1)[:, :-1]
        return Scores(self.labels, torch.cat([objects, vision.style_logits.softmax(1)], dim=1))

    def features(self, images: Tensor) -> Tensor:
        """Pooled features (n, 192)."""
        return self._see(images).features

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (n, 128)."""
        return self._see(images).embedding

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, 128)."""
        return self.network.read(self.tokenizer(list(texts), add_special_tokens=False).input_ids)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Mean over stages of the squared distance of channel-normalised maps (as LPIPS does).

        LPIPS: Zhang et al. 2018, arXiv:1801.03924, eq. 1 with equal channel weights.
        """
        stages = [
            (F.normalize(x, dim=1) - F.normalize(y, dim=1)).square().sum(1).mean((1, 2))
            for x, y in zip(self._see(a).maps, self._see(b).maps, strict=True)
        ]
        return torch.stack(stages).mean(0)

    def calibration(self, labels: Sequence[str]) -> Calibration:
        """Counts on held-out augmentations of real pictures, from the judge's card."""
        rows = [self.card["calibration"][label] for label in labels]
        return Calibration(
            sensitivity_hits=sum(row["hits"] for row in rows),
            num_positives=sum(row["num_positives"] for row in rows),
            false_alarms=sum(row["false_alarms"] for row in rows),
            num_negatives=sum(row["num_negatives"] for row in rows),
        )


def make(labels: Sequence[str], settings: Mapping[str, Any]) -> EmbeddedJudge:
    """The judge as a policy sets it; it knows its labels and takes no settings."""
    return EmbeddedJudge()

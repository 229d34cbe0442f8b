"""CLIP (Radford et al. 2021, arXiv:2103.00020): pictures and texts as vectors of one space.

The weights come from a local folder or from the hub at a pinned commit, as safetensors only.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from safediff.errors import Inconclusive, lacking_memory

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
BATCH_SIZE = 32
SCALE = 100.0
"""Trained temperature of all published CLIP models: logits are 100 times the cosine."""

WEIGHTS_NAME = "model.safetensors"
_FILES = [WEIGHTS_NAME, "*.json", "merges.txt"]


def prepare(images: Tensor, side_px: int) -> Tensor:
    """uint8 (n, 3, H, W) -> float32 (n, 3, side, side), as CLIP's own preprocessing does.

    The shorter side is resized to ``side_px`` (Pillow's bicubic, rounded to bytes), the middle is
    cropped, [0, 1] is normalised. Sizes and offsets are rounded as in torchvision.
    """
    height, width = images.shape[-2:]
    short = min(height, width)
    size = int(side_px * width / short), int(side_px * height / short)
    left, top = (round((length - side_px) / 2) for length in size)
    box = left, top, left + side_px, top + side_px
    rows = []
    for image in images:
        picture = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
        cropped = picture.resize(size, Image.Resampling.BICUBIC).crop(box)
        rows.append(torch.from_numpy(np.asarray(cropped).copy()))
    unit = torch.stack(rows).permute(0, 3, 1, 2).float() / 255
    return (unit - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class ClipEncoder:
    """A CLIP model in float32, on a GPU if there is one."""

    name = "CLIP"

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """Load from a folder as ``save_pretrained`` writes it.

        Raises:
            Inconclusive: it cannot be read, or its weights are not safetensors.
        """
        from transformers import CLIPModel, CLIPTokenizer

        try:
            self.weights_sha256 = _sha256(folder / WEIGHTS_NAME)
            loaded: Any = CLIPModel.from_pretrained(
                str(folder), use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            model, loading = loaded
            self.tokenizer = CLIPTokenizer.from_pretrained(str(folder))
        except Exception as error:  # readers of damaged files raise nearly anything
            if lacking_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise Inconclusive(
                f"{folder}: cannot be read as a CLIP model: {reason}",
                f"name a folder with config.json, {WEIGHTS_NAME} and the tokenizer",
            ) from error
        if missing := sorted(loading["missing_keys"]):
            raise Inconclusive(
                f"{folder}: the CLIP weights lack {missing[0]}", "get the folder's files again"
            )
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = model.requires_grad_(False).eval().to(self.device)
        self.side_px: int = model.config.vision_config.image_size
        self.max_tokens: int = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Pooled activations (n, width) before the projection."""
        parts = [
            self.model.vision_model(prepare(part, self.side_px).to(self.device)).pooler_output
            for part in images.split(BATCH_SIZE)
        ]
        return torch.cat(parts).cpu()

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (n, d)."""
        pooled = self.features(images).to(self.device)
        return F.normalize(self.model.visual_projection(pooled), dim=-1).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, d); of a long text as many tokens are read as published scores read."""
        starts = range(0, len(texts), BATCH_SIZE)
        return torch.cat([self._embed_part(texts[i : i + BATCH_SIZE]) for i in starts])

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts that are not read whole."""
        rows = self.tokenizer(list(texts))["input_ids"]
        found = zip(texts, rows, strict=True)
        return [text for text, row in found if len(row) > self.max_tokens]

    def _embed_part(self, texts: Sequence[str]) -> Tensor:
        window = {"truncation": True, "max_length": self.max_tokens}
        tokens = self.tokenizer(list(texts), padding=True, **window, return_tensors="pt")
        pooled = self.model.text_model(
            tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        ).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1).cpu()


@cache
def load_clip(weights: str, revision: str | None) -> ClipEncoder:
    """The model, once a process: two judges and a metric may share it.

    Args:
        weights: a local folder or a hub id.
        revision: commit of a hub id.

    Raises:
        Inconclusive: it cannot be had.
    """
    folder = Path(weights)
    return ClipEncoder(folder if folder.is_dir() else fetch(weights, revision))


def fetch(repository: str, revision: str | None) -> Path:
    """The folder of a hub model at a commit, from the hub's cache or fetched into it.

    Raises:
        Inconclusive: it is not there and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # offline, unknown, gated: as many classes as causes
        reason = " ".join(str(error).split()).partition(". ")[0][:160]
        raise Inconclusive(
            f"the CLIP weights {repository} cannot be fetched: {reason}",
            "go online once, or name a local folder in the policy: judges.<name>.weights",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

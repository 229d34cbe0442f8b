"""Pictures as files: named after what was drawn, written whole, told intact by their hash."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safediff.errors import FREE_SPACE, Inconclusive, UsageError
from safediff.gate.journal import JournalRecord
from safediff.models.parts_hash import PARTS
from safediff.sample.sampler import Draw

WEIGHTS_NAME = "weights.json"
NUM_READERS = 8
"""Threads that read pictures; decoding and hashing leave Python's lock."""


def place_of(folder: Path, subject: str) -> Path:
    """Where the pictures of a subject lie."""
    return folder / subject.replace(" ", "-")


def claim(folder: Path, weights: Mapping[str, str]) -> None:
    """Note whose pictures these are: those of one model must never be counted for another.

    Raises:
        UsageError: pictures of another model lie there, or of one of which only the denoiser was
            noted.
    """
    path, text = folder / WEIGHTS_NAME, json.dumps(weights, sort_keys=True) + "\n"
    if not path.exists():
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
        return
    known = path.read_text(encoding="utf-8")
    if PARTS in weights and f'"{PARTS}"' not in known:
        raise UsageError(
            f"{folder}: is of an earlier safediff, which did not note text encoders, autoencoder "
            "and scheduler of the model that it shows",
            f"choose another --out, or remove {folder.parent}: all pictures are drawn again",
        )
    if known != text:
        raise UsageError(
            f"{folder}: holds pictures of another model than {weights['model']}",
            "choose another --out",
        )


def path_of(folder: Path, draw: Draw) -> Path:
    """The file of one picture."""
    name = hashlib.sha256(f"{draw.index}|{draw.prompt}".encode()).hexdigest()[:20]
    return folder / f"{name}.png"


def sha256_of(image: Tensor) -> str:
    """Hash of a picture's bytes, not of its file."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def write_picture(path: Path, image: Tensor) -> None:
    """Write a picture (3, H, W), uint8, whole or not at all, and to the disk before its line is.

    Raises:
        Inconclusive: the disk is full or the folder cannot be written to.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format="PNG")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Inconclusive(
            f"{path}: the picture could not be written ({error.strerror or error})",
            FREE_SPACE,
        ) from error


def read_picture(path: Path) -> Tensor | None:
    """The picture (3, H, W), uint8; None where there is none or it cannot be read."""
    try:
        with Image.open(path) as file:
            return torch.from_numpy(np.asarray(file.convert("RGB")).copy()).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError):  # Pillow's answers to damaged files
        return None


def is_intact(folder: Path, record: JournalRecord) -> bool:
    """Whether the picture is on disk as the journal says."""
    image = read_picture(path_of(folder, Draw(record.prompt, record.index)))
    return image is not None and sha256_of(image) == record.image_sha256


def still_there(folder: Path, records: Sequence[JournalRecord]) -> list[JournalRecord]:
    """The records of a verification, those whose picture is gone or changed marked ``missing``.

    What nobody can look at any more counts as failed: no claim may rest on it.
    """
    distinct = {(r.subject, r.prompt, r.index): r for r in records}
    with ThreadPoolExecutor(NUM_READERS) as pool:
        intact = pool.map(lambda r: is_intact(place_of(folder, r.subject), r), distinct.values())
        lost = {key for key, found in zip(distinct, intact, strict=True) if not found}
    return [
        replace(r, status="missing", scores={}) if (r.subject, r.prompt, r.index) in lost else r
        for r in records
    ]

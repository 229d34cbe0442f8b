"""Whose weights a single file holds: those of the diffusers folder beside it, or others."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from safediff.errors import Inconclusive
from safediff.export.engine_files import CONFIG_NAME
from safediff.export.single_file import FILES, Network, renamed

NEXT = "export it again from the release"


def verify_single_file(path: Path, folder: Path) -> None:
    """Prove that a single file holds the weights of a diffusers folder, byte by byte.

    Args:
        path: The file; the folder's weights are cast to its precision.
        folder: UNet, autoencoder and text encoders, each in one file.

    Raises:
        Inconclusive: a tensor differs, is missing or is one too many, or something can't be read.
    """
    try:
        expected, found = renamed(_networks(folder)), load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = "cannot be compared with the weights of its folder"
        raise Inconclusive(f"{path}: {what} ({error!r})", NEXT) from error
    differing = expected.keys() ^ found.keys()
    differing |= {k for k in expected.keys() & found.keys() if not _same(found[k], expected[k])}
    if differing:
        what = f"{min(differing)} differs from the weights it should hold"
        raise Inconclusive(f"{path}: {what}", NEXT)


def _same(found: Tensor, expected: Tensor) -> bool:
    """Compared as bytes: equal numbers may have different ones."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (found, expected.to(found.dtype))]
    return found.shape == expected.shape and torch.equal(*bits)


def _networks(folder: Path) -> dict[str, Network]:
    """What goes into a single file of a diffusers folder, by the names of its own."""
    found = {part: folder / part / name for part, name in FILES.items()}
    return {
        part: Network(
            json.loads((path.parent / CONFIG_NAME).read_text(encoding="utf-8")), load_file(path)
        )
        for part, path in found.items()
        if path.exists()
    }

"""Weights of feature networks: a file that the user names, or the published one, fetched once.

Files are read without unpickling: a torch file that holds more than tensors is refused.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from safediff.errors import Inconclusive, lacking_memory


class Weights(NamedTuple):
    """Tensors by name, and the hash of the file that they were read from."""

    tensors: dict[str, Tensor]
    sha256: str


def read_weights(path: Path) -> Weights:
    """Read a .safetensors file or a torch file that holds a state dict.

    Raises:
        Inconclusive: the file cannot be read, or is no table of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except Exception as error:  # a broken file makes the readers raise nearly anything
        if lacking_memory(error):
            raise
        raise Inconclusive(
            f"{path}: cannot be read as weights: {_reason(error)}",
            "give a .safetensors file or a torch file that holds nothing but tensors",
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise Inconclusive(
            f"{path}: holds something other than tensors by name", "give a plain state dict"
        )
    return Weights(tensors, sha256)


def published(url: str, key: str) -> Path:
    """The file that a library's own loader would fetch, from torch's cache or fetched into it.

    Args:
        url: names a file that ends with the first digits of its SHA-256, which is compared.
        key: key of ``verify.quality`` with which the user may name a local copy instead.

    Raises:
        Inconclusive: it is not there and cannot be fetched.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.exists():
        return path
    digits = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
    except (OSError, RuntimeError) as error:
        raise Inconclusive(
            f"the weights {name} cannot be downloaded: {_reason(error)}",
            f"name a local copy in the policy: verify.quality.{key}",
        ) from error
    return path


def misfit(path: Path, error: Exception, expected: str) -> Inconclusive:
    """What to raise where the tensors of a file do not fit the network."""
    return Inconclusive(
        f"{path}: does not hold the weights of {expected}: {_reason(error)}",
        "check which file the policy names",
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

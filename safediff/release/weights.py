"""The hash of a UNet's weights, from its safetensors file and without torch.

The same number as ``safediff.models.patch.state_sha256``: it ties the weights that a report was
measured on to the file that is shipped.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {
    "F64": "torch.float64",
    "F32": "torch.float32",
    "F16": "torch.float16",
    "BF16": "torch.bfloat16",
    "I64": "torch.int64",
    "I32": "torch.int32",
    "U8": "torch.uint8",
    "BOOL": "torch.bool",
}
_CHUNK_BYTES = 1 << 24
_FLOATS = ("F64", "F32", "F16", "BF16")
PRECISIONS: Mapping[str, str] = {"fp32": "F32", "fp16": "F16"}
"""What certified engines are written in, and how safetensors calls it."""


WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
UNET_PATH = f"unet/{WEIGHTS_NAME}"
TRANSFORMER_PATH = f"transformer/{WEIGHTS_NAME}"
"""Where a release has its denoiser, by family; always in one file."""


def denoiser_folder(release: Path) -> Path:
    """``transformer/`` or ``unet/``, whichever a release has; its engine lies there, too."""
    found = (release / TRANSFORMER_PATH).parent
    return found if found.is_dir() else (release / UNET_PATH).parent


def file_state_sha256(path: Path, precision: str | None = None) -> str:
    """Hash of names, types, shapes and bytes of all tensors of a file.

    ``precision``: as an engine holds them, a key of ``PRECISIONS``; None: as the file does.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no safetensors file, or holds a type that no UNet has.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        header: dict[str, Any] = json.loads(file.read(size))
        header.pop("__metadata__", None)
        for name in sorted(header):
            entry = header[name]
            if entry["dtype"] not in _TYPES:
                raise ValueError(f"tensor {name} has type {entry['dtype']}")
            stored = entry["dtype"]
            kept = precision is None or stored not in _FLOATS
            wanted = stored if kept else PRECISIONS[str(precision)]
            about = f"{name}|{_TYPES[wanted]}|{tuple(entry['shape'])}|"
            digest.update(about.encode())
            start, end = entry["data_offsets"]
            file.seek(8 + size + start)
            left = end - start
            while left > 0:
                part = file.read(min(left, _CHUNK_BYTES))
                if not part:
                    raise ValueError(f"tensor {name} is cut off")
                digest.update(part if wanted == stored else _cast(part, stored, wanted))
                left -= len(part)
    return digest.hexdigest()


def _cast(part: bytes, stored: str, wanted: str) -> bytes:
    """As torch casts it: to the nearest value, beyond the largest to infinity."""
    if stored == "BF16":  # the upper half of a float32
        values = (np.frombuffer(part, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(part, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[stored])
    with np.errstate(over="ignore"):
        return values.astype({"F32": "<f4", "F16": "<f2"}[wanted]).tobytes()

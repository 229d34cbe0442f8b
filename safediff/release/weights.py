"""The hash of a UNet's weights, from its safetensors file and without torch.

The same number as ``safediff.models.patch.state_sha256``: it ties the weights that a report was
measured on to the file that is shipped.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

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


UNET_PATH = "unet/diffusion_pytorch_model.safetensors"
TRANSFORMER_PATH = "transformer/diffusion_pytorch_model.safetensors"
"""Where a release has its denoiser, by family; always in one file."""


def denoiser_folder(release: Path) -> Path:
    """``transformer/`` or ``unet/``, whichever a release has; its engine lies there, too."""
    found = (release / TRANSFORMER_PATH).parent
    return found if found.is_dir() else (release / UNET_PATH).parent


def file_state_sha256(path: Path) -> str:
    """Hash of names, types, shapes and bytes of all tensors of a file.

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
            about = f"{name}|{_TYPES[entry['dtype']]}|{tuple(entry['shape'])}|"
            digest.update(about.encode())
            start, end = entry["data_offsets"]
            file.seek(8 + size + start)
            left = end - start
            while left > 0:
                part = file.read(min(left, _CHUNK_BYTES))
                if not part:
                    raise ValueError(f"tensor {name} is cut off")
                digest.update(part)
                left -= len(part)
    return digest.hexdigest()

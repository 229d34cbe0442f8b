"""Which machine a plan is built on: its GPU, driver, versions; null where there is no GPU."""

import platform
import re
from pathlib import Path

import torch

DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""Where Linux says which driver it runs."""


def built_on() -> dict[str, str | None]:
    """``gpu``, ``compute_capability`` (``SM90``), ``driver``, ``cuda``, ``os`` and ``python``.

    The first three are null where there is no GPU, as for TensorRT-RTX plans of a named target;
    ``cuda`` is the version that PyTorch was built for, null where it was built for none.
    """
    there = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if there else None,
        "compute_capability": compute_capability(),
        "driver": _driver() if there else None,
        "cuda": torch.version.cuda,
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def compute_capability() -> str | None:
    """Of the GPU here, as TensorRT-RTX names its targets: ``SM90``; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


def _driver() -> str | None:
    """The kernel module's version, for example 580.65.06; None where Linux does not say it."""
    try:
        text = DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3,}(?:\.\d+)+\b", text)
    return found[0] if found else None

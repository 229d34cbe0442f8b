"""Crash logs: everything that a bug report needs, in a file of the user's cache folder."""

import os
import platform
import sys
import tempfile
import time
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from safediff import __version__

_PACKAGES = ("torch", "diffusers", "transformers", "onnxruntime", "typer", "pydantic")


def write_crash_log(error: BaseException) -> Path:
    """Write the traceback with versions and the command line; return the file.

    The temporary folder is used when the cache folder cannot be written.
    """
    text = "\n".join(_lines(error))
    for folder in (_cache_folder(), Path(tempfile.gettempdir())):
        path = folder / f"crash-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except OSError:
            continue
        return path
    sys.stderr.write(text)
    return Path("above")


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "safediff"


def _lines(error: BaseException) -> list[str]:
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} missing")
    return [
        f"safediff {__version__}",
        f"python {platform.python_version()} on {platform.platform()}",
        ", ".join(versions),
        f"command: {' '.join(sys.argv)}",
        "",
        *traceback.format_exception(error),
    ]

"""What the numbers were measured with: versions, device, commit."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

OTHER_NAMES = {"onnxruntime": ("onnxruntime-gpu",)}
"""Distributions that give the same package."""
PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "torchmetrics", "numpy")


@cache
def environment() -> dict[str, str]:
    """Versions by package, Python, platform and device."""
    import torch

    from safediff import __version__

    found = {"safediff": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        found[package] = _version(package)
    found["platform"] = f"{platform.system()} {platform.machine()}"
    cuda = torch.cuda.is_available()
    found["device"] = (
        torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
    )
    return found


def _version(package: str) -> str:
    """``not installed`` where no distribution gives it; one of another name is named."""
    for name in (package, *OTHER_NAMES.get(package, ())):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        return found if name == package else f"{found} ({name})"
    return "not installed"


@cache
def package_identity() -> dict[str, str]:
    """Which safediff this is: hash of its code, and the commit where it runs from a checkout."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    walked = os.walk(root, followlinks=True)  # a checkout links to some of its packages
    paths = [Path(folder, name) for folder, _, names in walked for name in names]
    for path in sorted(path for path in paths if path.suffix == ".py"):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return {"package_sha256": digest.hexdigest(), **_checkout(root)}


def _checkout(root: Path) -> dict[str, str]:
    """Commit, and whether anything differs from it."""
    commit = _git(root, "rev-parse", "HEAD")
    tracked = _git(root, "ls-files", "--error-unmatch", "environment.py")
    if commit is None or tracked is None:
        return {"git_commit": "not a checkout", "git_dirty": "unknown"}
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    dirty = "unknown" if changes is None else "true" if changes else "false"
    return {"git_commit": commit, "git_dirty": dirty}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, or None where it cannot."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

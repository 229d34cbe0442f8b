"""What the numbers were measured with: versions, device, commit."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "torchmetrics", "numpy")


@cache
def environment() -> dict[str, str]:
    """Versions by package, Python, platform and device."""
    import torch

    from safediff import __version__

    found = {"safediff": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["platform"] = f"{platform.system()} {platform.machine()}"
    cuda = torch.cuda.is_available()
    found["device"] = (
        torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads"
    )
    return found

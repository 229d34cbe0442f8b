"""Opens an engine folder as the network that it was exported from."""

import json
from pathlib import Path

from safediff.export.exported_transformer import ExportedTransformer
from safediff.export.exported_unet import ExportedUNet
from safediff.export.session import CPU_PROVIDER
from safediff.export.signature import SIGNATURES
from safediff.export.to_onnx import CONFIG_NAME

ExportedDenoiser = ExportedUNet | ExportedTransformer


def open_denoiser(
    folder: Path, *, provider: str = CPU_PROVIDER, num_threads: int | None = None
) -> ExportedDenoiser:
    """``ExportedUNet`` or ``ExportedTransformer``, by the engine's configuration.

    Raises:
        UsageError: the provider is not available here.
        Inconclusive: files are missing or damaged.
    """
    opened = ExportedTransformer if _is_transformer(folder / CONFIG_NAME) else ExportedUNet
    return opened(folder, provider=provider, num_threads=num_threads)


def _is_transformer(config: Path) -> bool:
    """A file that can't be read is left to ``ExportedUNet``, which says what is wrong with it."""
    try:
        name = json.loads(config.read_text(encoding="utf-8"))["_class_name"]
        return SIGNATURES[name].component == "transformer"
    except (OSError, ValueError, KeyError, TypeError):
        return False

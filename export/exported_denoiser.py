"""Opens an engine folder as the network that it was exported from."""

import json
from pathlib import Path
from typing import Unpack

from safediff.errors import UsageError
from safediff.export.engine_files import CONFIG_NAME
from safediff.export.exported_transformer import ExportedTransformer
from safediff.export.exported_unet import ExportedUNet
from safediff.export.providers import ExecutionOptions
from safediff.export.signature import SIGNATURES

ExportedDenoiser = ExportedUNet | ExportedTransformer


def open_denoiser(folder: Path, **options: Unpack[ExecutionOptions]) -> ExportedDenoiser:
    """``ExportedUNet`` or ``ExportedTransformer``, by the engine's configuration.

    Args:
        folder: ``model.onnx`` with its data, and ``config.json``.
        options: See ``Execution``; without any, ONNX Runtime's CPU provider. UNets take a profile.

    Raises:
        UsageError: the provider is not available here, or the profile is not for this network.
        Inconclusive: files are missing or damaged.
    """
    if _is_transformer(folder / CONFIG_NAME):
        if options.get("profile") is not None:
            raise UsageError(f"{folder}: profiles are written for UNets", "leave the profile out")
        return ExportedTransformer(folder, **options)
    return ExportedUNet(folder, **options)


def _is_transformer(config: Path) -> bool:
    """A file that can't be read is left to ``ExportedUNet``, which says what is wrong with it."""
    try:
        name = json.loads(config.read_text(encoding="utf-8"))["_class_name"]
        return SIGNATURES[name].component == "transformer"
    except (OSError, ValueError, KeyError, TypeError):
        return False

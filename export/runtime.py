"""Runs what was exported: the denoiser alone, or a whole release with its checks.

``pipe.unet = ExportedUNet(folder)`` or ``pipe.transformer = ExportedTransformer(folder)`` in a
diffusers pipeline, ``open_denoiser(folder)`` for whichever the folder holds, or
``SafePipeline.from_release(folder)``, which checks the folder before it opens anything.
"""

from safediff.export.exported_denoiser import ExportedDenoiser, open_denoiser
from safediff.export.exported_transformer import ExportedTransformer
from safediff.export.exported_unet import ExportedUNet
from safediff.export.providers import CPU_PROVIDER
from safediff.serve.pipeline import SafePipeline

__all__ = [
    "CPU_PROVIDER",
    "ExportedDenoiser",
    "ExportedTransformer",
    "ExportedUNet",
    "SafePipeline",
    "open_denoiser",
]

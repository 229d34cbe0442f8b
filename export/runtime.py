"""Runs what was exported: the UNet alone, or a whole release with its checks.

``pipe.unet = ExportedUNet(folder)`` in a diffusers pipeline, or
``SafePipeline.from_release(folder)``, which checks the folder before it opens anything.
"""

from safediff.export.exported_unet import ExportedUNet
from safediff.export.session import CPU_PROVIDER
from safediff.serve.pipeline import SafePipeline

__all__ = ["CPU_PROVIDER", "ExportedUNet", "SafePipeline"]

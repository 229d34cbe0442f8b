"""The tiny transformer pipelines as backbones, with the windows and sizes of the tests."""

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tiny import LATENT_SIZE
from tiny_transformers import T5_TOKENS, tiny_flux, tiny_pixart, tiny_sd3
from torch import nn

from safediff.models.backbone import Backbone
from safediff.models.load import as_backbone

VARIANTS: Mapping[str, Callable[[Path], Any]] = {
    "pixart-alpha": lambda folder: tiny_pixart(),
    "pixart-alpha 1024": lambda folder: tiny_pixart(sample_size=128),
    "pixart-sigma": lambda folder: tiny_pixart(sigma=True),
    "sd3": tiny_sd3,
    "sd3 without T5": lambda folder: tiny_sd3(folder, t5=False),
    "sd3 shifted by size": lambda folder: tiny_sd3(folder, use_dynamic_shifting=True),
    "sd3.5": lambda folder: tiny_sd3(folder, dual_attention_layers=(0,)),
    "flux dev": tiny_flux,
    "flux schnell": lambda folder: tiny_flux(folder, distilled=False),
}
FAMILIES = ("pixart-alpha", "sd3", "flux dev")
"""One of each."""


@dataclass(frozen=True)
class Example:
    """A pipeline and the same model as a backbone."""

    pipeline: Any
    backbone: Backbone

    def latents(self, prompts: list[str], scale: float, z: Any, steps: int, **more: Any) -> Any:
        """Final latents of diffusers' own pipeline from the standard normal ``z``."""
        name = type(self.pipeline).__name__
        options: dict[str, Any] = {
            "height": 2 * z.shape[-2],
            "width": 2 * z.shape[-1],
            "max_sequence_length": T5_TOKENS,
            "output_type": "latent",
        }
        if name.startswith("PixArt"):
            options |= {"use_resolution_binning": False, "clean_caption": False}
        if name.startswith("Flux"):
            z = self.pipeline._pack_latents(z, *z.shape)
        out = self.pipeline(
            prompts,
            num_inference_steps=steps,
            guidance_scale=scale,
            latents=z,
            **(options | more),
        ).images
        if name.startswith("Flux") and options["output_type"] == "latent" and not more:
            out = self.pipeline._unpack_latents(out, options["height"], options["width"], 2)
        return out


def example(variant: str, folder: Path) -> Example:
    """A variant by name, without gradients, as ``load_backbone`` gives it."""
    pipeline = VARIANTS[variant](folder)
    pipeline.set_progress_bar_config(disable=True)
    backbone = as_backbone(variant, pipeline)
    for part in backbone.components().values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    small: dict[str, Any] = {"window": T5_TOKENS}
    if variant.startswith("flux"):
        small["latent_size"] = LATENT_SIZE
    return Example(pipeline, replace(backbone, **small))


@functools.cache
def shared_example(variant: str) -> Example:
    """The same one every time, for tests that only read it."""
    with tempfile.TemporaryDirectory(prefix="safediff-tests-") as folder:
        return example(variant, Path(folder))

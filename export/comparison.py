"""Noise predictions of an engine against those of its model, on the same latents and prompts."""

from collections.abc import Sequence

import torch

from safediff.export.engine_files import Precision
from safediff.export.extent import Extent
from safediff.export.on_cpu import references
from safediff.export.parity import Parity, measure_margin_ratio, measure_parity
from safediff.models.backbone import Backbone, Condition


def compare_predictions(
    engine: Backbone,
    model: Backbone,
    base: Backbone | None,
    *,
    erased: Sequence[str],
    kept: Sequence[str],
    extent: Extent,
    precision: Precision,
    seed: int,
) -> Parity:
    """Noise predictions of an engine against those of its model in PyTorch, on the CPU in fp32.

    Half of the rows have erased prompts, half kept ones; the margin ratio is taken on erased ones.

    Args:
        engine: The model with the engine as its denoiser.
        model: What it was exported from.
        base: What that was erased from; None where it is not known, and then no margin ratio.
        erased: Prompts, at least one.
        kept: Prompts, at least one.
        extent: How much is compared.
        precision: The engine's; chooses the limits.
        seed: Of the latents.
    """
    reference, *bases = references(*filter(None, (model, base)))
    count, half = extent.num_latents, extent.num_latents // 2
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, *extent.latent_shape, generator=generator)
    denoise = extent.in_rows(engine.denoise), extent.in_rows(reference.denoise)
    timesteps, margin = extent.timesteps, None
    for unsafe in bases:
        condition, other = _spread(model, erased, count), extent.in_rows(unsafe.denoise)
        margin = measure_margin_ratio(*denoise, other, latents, condition, timesteps=timesteps)
    mixed = Condition.cat([_spread(model, erased, half), _spread(model, kept, count - half)])
    return measure_parity(
        *denoise, latents, mixed, precision=precision, margin_ratio=margin, timesteps=timesteps
    )


def _spread(model: Backbone, texts: Sequence[str], count: int) -> Condition:
    """``count`` texts, spread over the list; short lists repeat."""
    chosen = [texts[i * len(texts) // count] for i in range(count)]
    return model.encode(chosen).to("cpu", torch.float32)

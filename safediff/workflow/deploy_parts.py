"""Text encoders and decoder of an exported folder: written, proved, compared with PyTorch."""

import shutil
from pathlib import Path
from typing import Any

import torch

from safediff.errors import PolicyViolated
from safediff.export.engine_files import CONFIG_NAME, DTYPES, Precision
from safediff.export.identity import verify_identity
from safediff.export.part_parity import PartParity, compare_decoder, compare_text_encoder
from safediff.export.parts import (
    DECODER_FOLDER,
    TEXT_FOLDER,
    TEXT_PREFIX,
    VAE_PREFIX,
    decoder_state,
    export_text_encoder,
    export_vae_decoder,
)
from safediff.workflow.entries import added_part
from safediff.workflow.export_source import ExportSource

NUM_LATENTS = 2
NUM_TEXTS = 8


def write_parts(
    source: ExportSource, out: Path, folder: Path, precision: Precision, opset: int
) -> list[dict[str, Any]]:
    """Write every part but the UNet; proved to hold the weights that PyTorch was measured with.

    Args:
        source: The verified model.
        out: Where they are written.
        folder: What that will be called, for messages.
        precision: Of the UNet: fp16 makes fp16 parts, everything else fp32 ones. A decoder that
            overflows in fp16 is always fp32.
        opset: Of the graphs.

    Returns:
        Their entries for the certificate.

    Raises:
        Inconclusive: one can't be exported.
        PolicyViolated: one computes something else than PyTorch.
    """
    model = source.model
    kind: Precision = "fp16" if precision == "fp16" else "fp32"
    rows = []
    for name, part in model.components().items():
        if not name.startswith(TEXT_FOLDER):
            continue
        path = export_text_encoder(
            *(part, out / name, model.num_tokens, DTYPES[kind], opset),
            hidden_states=model.reads_inner_states,
        )
        verify_identity(path, part.state_dict(), TEXT_PREFIX)
        found = compare_text_encoder(out / name, part, _ids(source, name), kind)
        rows.append(_entered(out, folder, name, TEXT_PREFIX, found))
    decoded: Precision = "fp32" if model.decodes_in_float32 else kind
    decoder = out / DECODER_FOLDER
    path = export_vae_decoder(model.vae, decoder, DTYPES[decoded], opset)
    verify_identity(path, decoder_state(model.vae.state_dict()), VAE_PREFIX)
    shutil.copyfile(out / "vae" / CONFIG_NAME, decoder / CONFIG_NAME)
    found = compare_decoder(decoder, model.vae, _latents(source), decoded)
    rows.append(_entered(out, folder, DECODER_FOLDER, VAE_PREFIX, found))
    return rows


def _entered(out: Path, folder: Path, part: str, prefix: str, found: PartParity) -> dict[str, Any]:
    if not found.passed:
        raise PolicyViolated(
            f"{folder}: not written, {part}/{found.worst.output} differs from PyTorch by "
            f"{found.worst.max_abs:.1e} standard deviations, its limit is "
            f"{found.limits.max_abs:.1e}",
            "choose another --precision",
        )
    return added_part(out, part, prefix, found)


def _ids(source: ExportSource, part: str) -> torch.Tensor:
    """Tokens (b, n) of the empty prompt, of kept ones and of erased ones."""
    texts = [*source.kept_prompts[: NUM_TEXTS // 2], *source.erased_prompts[: NUM_TEXTS // 2]]
    tokenizer = source.model.components()[part.replace(TEXT_FOLDER, "tokenizer")]
    found: torch.Tensor = tokenizer(
        texts,
        padding="max_length",
        max_length=source.model.num_tokens,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return found


def _latents(source: ExportSource) -> torch.Tensor:
    """Latents (b, c, h, w) as wide as those that the sampler ends with."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(NUM_LATENTS, *source.model.latent_shape, generator=generator)
    scale: float = source.model.vae.config.scaling_factor
    return latents / scale

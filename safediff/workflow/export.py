"""Exports the result of a finished run once more, in another precision or opset."""

import json
from pathlib import Path
from typing import Literal, cast

import torch

from safediff.errors import UsageError
from safediff.export.parity import measure_parity
from safediff.export.runtime import ExportedUNet
from safediff.export.to_onnx import Precision, export_unet, verify_identity
from safediff.models.backbone import Condition
from safediff.models.patch import unet_sha256
from safediff.workflow.subject import open_subject


def export_run(run: Path, folder: Path, precision: str, opset: int) -> str:
    """Write an engine of the run's erased UNet; returns one line on identity and parity.

    Raises:
        UsageError: ``run`` is not a run with a patch.
        Inconclusive: the engine cannot be written or differs from PyTorch by too much.
    """
    if not (run / "plan.json").exists():
        raise UsageError(f"{run}: is not a run folder", "give the folder that safediff erase wrote")
    chosen = cast(Precision, precision)
    policy = json.loads((run / "plan.json").read_text(encoding="utf-8"))["plan"]["name"]
    *_, model = open_subject(str(run)).models.values()
    path = export_unet(
        model.unet,
        folder,
        opset=cast(Literal[18, 23], opset),
        precision=chosen,
        num_tokens=model.tokenizer.model_max_length,
        metadata={"policy": policy, "safe_sha256": unet_sha256(model.unet)},
    )
    verify_identity(path, model.unet.state_dict())
    engine = model.with_unet(ExportedUNet(folder))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, *model.latent_shape, generator=generator)
    texts = Condition.cat([model.encode([""])] * len(latents))
    found = measure_parity(engine.denoise, model.denoise, latents, texts, precision=chosen)
    state = "within" if found.passed else "OUTSIDE"
    return (
        f"{precision}, opset {opset}, weights identical; differs from PyTorch by at most "
        f"{found.worst_max_abs:.1e} standard deviations, {state} its limits"
    )

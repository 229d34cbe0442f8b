"""Loads a backbone: embedded, local folder, single file or hub repository."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from safediff.errors import Inconclusive, UsageError
from safediff.models.backbone import Backbone
from safediff.policy.plan import ModelPlan

EMBEDDED = "embedded"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def embedded_folder() -> Path:
    """Where the embedded model lies in the installed package."""
    return Path(str(files("safediff.models") / "embedded"))


def load_backbone(plan: ModelPlan) -> Backbone:
    """Load the model of a plan onto the best device present.

    Raises:
        UsageError: the folder or file does not exist or is of an unsupported family.
        Inconclusive: the hub cannot be reached or the weights cannot be read.
    """
    pipeline = load_pipeline(plan)
    unet = getattr(pipeline, "unet", None)
    if unet is None or type(pipeline).__name__ != "StableDiffusionPipeline":
        raise UsageError(
            f"{plan.base}: is a {type(pipeline).__name__}; expected a Stable Diffusion 1.x or 2.x "
            "pipeline",
            "point model.base at such a model",
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        pipeline.to(device)
    except NotImplementedError as error:  # weights that the files lack have no values to move
        raise Inconclusive(
            f"model.base {plan.base!r}: cannot be loaded: some weights are missing",
            "check the folder's files",
        ) from error
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval()
    return Backbone(
        name=plan.base,
        unet=pipeline.unet,
        text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        vae=pipeline.vae,
        scheduler=pipeline.scheduler,
    )


def load_pipeline(plan: ModelPlan) -> Any:
    """The diffusers pipeline of a plan, safety checker off (the gate measures the model itself)."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

    path = embedded_folder() if plan.base == EMBEDDED else Path(plan.base)
    options: dict[str, Any] = {"dtype": DTYPES[plan.dtype], "use_safetensors": True}
    try:
        if path.is_file():
            return StableDiffusionPipeline.from_single_file(str(path), **options)
        if path.is_dir():
            _require_index(path)
            return DiffusionPipeline.from_pretrained(str(path), **options)
        if plan.revision is None:
            raise UsageError(
                f"model.base {plan.base!r}: no such folder or file, and no hub revision is given",
                "write a path that exists, 'embedded', or a hub id with its revision",
            )
        return DiffusionPipeline.from_pretrained(plan.base, revision=plan.revision, **options)
    except UsageError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise Inconclusive(
            f"model.base {plan.base!r}: cannot be loaded: {type(error).__name__}: {first[:200]}",
            "check the folder's files, or the network and the hub id",
        ) from error


def _require_index(path: Path) -> None:
    if not (path / "model_index.json").exists():
        raise UsageError(
            f"{path}: has no model_index.json; expected a diffusers model folder",
            "point model.base at a folder written by save_pretrained",
        )

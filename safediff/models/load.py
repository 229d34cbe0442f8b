"""Loads a backbone: embedded, local folder, single file or hub repository."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from safediff.errors import Inconclusive, UsageError
from safediff.models.backbone import Backbone
from safediff.models.prediction import PREDICTIONS
from safediff.models.stable_diffusion import StableDiffusion
from safediff.policy.plan import ModelPlan

EMBEDDED = "embedded"
FAMILIES: Mapping[str, type[Backbone]] = {cls.pipeline_name: cls for cls in (StableDiffusion,)}
"""By the name of the diffusers pipeline."""
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
    backbone = as_backbone(plan.base, pipeline)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        pipeline.to(device)
    except NotImplementedError as error:  # weights that the files lack have no values to move
        raise Inconclusive(
            f"model.base {plan.base!r}: cannot be loaded: some weights are missing",
            "check the folder's files",
        ) from error
    for part in backbone.components().values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False).eval()
    return backbone


def as_backbone(name: str, pipeline: Any) -> Backbone:
    """The parts of a diffusers pipeline, as the class of its family.

    Raises:
        UsageError: the family is not supported.
    """
    found = type(pipeline).__name__
    if found not in FAMILIES:
        raise UsageError(
            f"{name}: is a {found}; supported are {', '.join(FAMILIES)}",
            "point model.base at a model of one of these",
        )
    backbone = FAMILIES[found].from_pipeline(name, pipeline)
    if backbone.prediction_type not in PREDICTIONS:
        raise UsageError(
            f"{name}: its scheduler says prediction_type {backbone.prediction_type!r}; supported "
            f"are {', '.join(PREDICTIONS)}",
            "point model.base at a model that predicts one of these",
        )
    return backbone


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

"""Loads a backbone: embedded, local folder, single file or hub repository."""

import json
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from safediff.errors import Inconclusive, UsageError, first_line
from safediff.export.quiet import quiet
from safediff.models.backbone import Backbone
from safediff.models.flux import Flux
from safediff.models.original_layout import (
    EDM,
    VELOCITIES,
    ZERO_SNR,
    Kind,
    Shapes,
    channels_of,
    kind_of,
    read_shapes,
)
from safediff.models.pixart import PixArtAlpha, PixArtSigma
from safediff.models.prediction import PREDICTIONS
from safediff.models.sd3 import StableDiffusion3
from safediff.models.stable_diffusion import StableDiffusion
from safediff.models.stable_diffusion_xl import StableDiffusionXL
from safediff.policy.plan import ModelPlan

EMBEDDED = "embedded"
_CLASSES: tuple[type[Backbone], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    PixArtAlpha,
    PixArtSigma,
    StableDiffusion3,
    Flux,
)
FAMILIES: Mapping[str, type[Backbone]] = {cls.pipeline_name: cls for cls in _CLASSES}
"""By the name of the diffusers pipeline."""
SINGLE_FILE_NEEDS = (
    "say model.config, a diffusers folder of the same family (model_index.json, scheduler, "
    "tokenizer and each part's config.json; no weights), or let the hub be reached, which has them"
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def embedded_folder() -> Path:
    """Where the embedded model lies in the installed package."""
    return Path(str(files("safediff.models") / "embedded"))


def load_backbone(plan: ModelPlan) -> Backbone:
    """Load the model of a plan onto the best device present.

    Raises:
        UsageError: see ``load_pipeline``, or it is of an unsupported family.
        Inconclusive: the hub cannot be reached or the weights cannot be read.
    """
    pipeline = load_pipeline(plan)
    backbone = as_backbone(plan.base, pipeline).with_scheduler(plan.scheduler)
    if plan.lora is not None:
        merge_lora(pipeline, plan.lora, plan.lora_scale)
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
    _require_text_to_image(backbone)
    return backbone


def _require_text_to_image(backbone: Backbone) -> None:
    """Refuse UNets that read more than noised latents and a text."""
    if backbone.component != "unet":
        return
    config = backbone.denoiser.config
    channels, wanted = config.in_channels, backbone.vae.config.latent_channels
    if channels != wanted:
        kind = {9: "an inpainting model", 8: "an editing model (InstructPix2Pix)"}
        raise UsageError(
            f"{backbone.name}: is {kind.get(channels, 'no text-to-image model')}: its denoiser "
            f"reads {channels} channels, latents have {wanted}",
            "point model.base at the text-to-image model that it was made from",
        )
    if config.get("time_cond_proj_dim") is not None:
        raise UsageError(
            f"{backbone.name}: its denoiser is told the guidance scale (time_cond_proj_dim), which "
            "is not supported",
            "take the LoRA of the same distillation on its base model: model.lora",
        )


def merge_lora(pipeline: Any, path: str, scale: float) -> None:
    """Add a LoRA (arXiv:2106.09685) to the weights for good; nothing of it is left to unload.

    Raises:
        UsageError: peft is not installed, or the file fits nothing in this model.
        Inconclusive: the file cannot be read.
    """
    if find_spec("peft") is None:
        raise UsageError(
            "model.lora needs peft, which is not installed", "pip install 'safediff[lora]'"
        )
    file = Path(path)
    try:
        with quiet():
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
            found = pipeline.get_list_adapters()
            pipeline.fuse_lora(lora_scale=scale)
            pipeline.unload_lora_weights()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Inconclusive(
            f"model.lora {path!r}: cannot be merged: {type(error).__name__}: {first_line(error)}",
            "check that it is a LoRA of this base model",
        ) from error
    if not found:
        raise UsageError(
            f"model.lora {path!r}: changes no weight of {type(pipeline).__name__}",
            "check that it is a LoRA of this base model",
        )


def load_pipeline(plan: ModelPlan) -> Any:
    """The diffusers pipeline of a plan, safety checker off (the gate measures the model itself).

    Raises:
        UsageError: there is no such model, or a path stands before the revision that is meant.
        Inconclusive: it cannot be loaded.
    """
    path = embedded_folder() if plan.base == EMBEDDED else Path(plan.base)
    if plan.revision is not None and path.exists():  # diffusers, too, would read it before the hub
        raise UsageError(
            f"model.base {plan.base!r}: is read from {path.resolve()}, which is not the hub's "
            f"revision {plan.revision}",
            "run it from another folder, or leave the revision out to mean that path",
        )
    options: dict[str, Any] = {"dtype": DTYPES[plan.dtype], "use_safetensors": True}
    try:
        if path.is_file():
            return _from_single_file(path, plan, options)
        if path.is_dir():
            _require_index(path)
            return _from_folder(str(path), variant=_variant(path), **options)
        if plan.revision is None:
            raise UsageError(
                f"model.base {plan.base!r}: no such folder or file, and no hub revision is given",
                "write a path that exists, 'embedded', or a hub id with its revision",
            )
        return _from_folder(plan.base, revision=plan.revision, **options)
    except (UsageError, Inconclusive, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise Inconclusive(
            f"model.base {plan.base!r}: cannot be loaded: {type(error).__name__}: "
            f"{first_line(error)}",
            SINGLE_FILE_NEEDS
            if path.is_file() and plan.config is None
            else "check the folder's files, or the network and the hub id",
        ) from error


def _from_folder(name: str, revision: str | None = None, **options: Any) -> Any:
    """A diffusers folder, or a repository of the hub."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    index: Any = DiffusionPipeline.load_config(name, revision=revision)
    options |= _unchecked(index.get("_class_name", ""))
    return DiffusionPipeline.from_pretrained(name, revision=revision, **options)


def _unchecked(pipeline_name: str) -> dict[str, Any]:
    """What leaves out the safety checker of 1.x, whose files need not be there."""
    if pipeline_name != StableDiffusion.pipeline_name:
        return {}
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _variant(path: Path) -> str | None:
    """``fp16`` for a folder of which a part is there in half precision only."""
    halves = path.glob("*/*.fp16*.safetensors")
    parts = {half.parent for half in halves}
    return "fp16" if any(not _is_whole(part) for part in parts) else None


def _is_whole(part: Path) -> bool:
    """Whether its weights are there in full precision, too: files without a variant's name."""
    return any("." not in file.stem for file in part.glob("*.safetensors"))


def _from_single_file(path: Path, plan: ModelPlan, options: dict[str, Any]) -> Any:
    """A checkpoint in the original layout; everything but weights is from ``plan.config``."""
    import diffusers

    family = single_file_pipeline(path, plan.config)
    where: dict[str, Any] = (
        {} if plan.config is None else {"config": plan.config, "local_files_only": True}
    )
    options |= where | _unchecked(family)
    return getattr(diffusers, family).from_single_file(str(path), **options)


def single_file_pipeline(path: Path, config: str | None) -> str:
    """The diffusers pipeline of a checkpoint, by its header; ``config`` is the policy's.

    Raises:
        UsageError: it is of no kind that is loaded, or ``config`` has to be given.
        Inconclusive: the file, or the scheduler of ``config``, cannot be read.
    """
    shapes = read_shapes(path)
    channels, wanted = channels_of(shapes)
    if channels != wanted:
        raise UsageError(
            f"{path}: its UNet reads {channels} channels and answers with {wanted}: an inpainting "
            "or editing model",
            "point model.base at the text-to-image model that it was made from",
        )
    family = _single_file_family(path, kind_of(shapes), has_config=config is not None)
    _require_told_prediction(path, shapes, config)
    return family


def _require_told_prediction(path: Path, shapes: Shapes, config: str | None) -> None:
    """Refuse what diffusers would take for another kind of model, since it reads no mark."""
    if any(name in shapes for name in EDM):
        raise UsageError(
            f"{path}: its levels of noise are those of EDM (Playground v2.5, CosXL), with which no "
            "single file is read",
            "point model.base at its diffusers folder, if there is one",
        )
    if VELOCITIES not in shapes:
        return
    if config is None:
        raise UsageError(
            f"{path}: predicts velocities (it holds {VELOCITIES!r}), as its scheduler has to say: "
            "model.config must be given",
            "let it be the diffusers folder of the same checkpoint; no weights need be there",
        )
    scheduler = Path(config) / "scheduler" / "scheduler_config.json"
    try:
        told = json.loads(scheduler.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Inconclusive(
            f"{scheduler}: cannot be read ({error})", "check the folder of model.config"
        ) from error
    found = told.get("prediction_type", "epsilon")
    if found != "v_prediction":
        raise UsageError(
            f"{path}: predicts velocities (it holds {VELOCITIES!r}), but the scheduler of "
            f"model.config {config!r} says prediction_type {found!r}",
            "let model.config be the diffusers folder of the same checkpoint",
        )
    if ZERO_SNR in shapes and not told.get("rescale_betas_zero_snr"):
        raise UsageError(
            f"{path}: its last step is pure noise (it holds {ZERO_SNR!r}), but the scheduler of "
            f"model.config {config!r} lacks rescale_betas_zero_snr: true",
            "let model.config be the diffusers folder of the same checkpoint, or add it there",
        )


def _single_file_family(path: Path, kind: Kind, *, has_config: bool) -> str:
    """The pipeline's name."""
    if kind in ("flux", "sd3"):
        name = "FLUX" if kind == "flux" else "Stable Diffusion 3"
        raise UsageError(
            f"{path}: is of {name}; single files are read of SD 1.x, 2.x and SDXL",
            "give its diffusers folder",
        )
    if kind == "refiner":
        raise UsageError(f"{path}: is a refiner of SDXL", "point model.base at the base model")
    if kind == "sd2" and not has_config:
        raise UsageError(
            f"{path}: is of Stable Diffusion 2.x, whose files do not say whether noise or "
            "velocities are predicted: model.config must be given",
            "let it be the diffusers folder of the same checkpoint; no weights need be there",
        )
    return "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline"


def _require_index(path: Path) -> None:
    if not (path / "model_index.json").exists():
        raise UsageError(
            f"{path}: has no model_index.json; expected a diffusers model folder",
            "point model.base at a folder written by save_pretrained",
        )

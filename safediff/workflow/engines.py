"""Exports the denoiser of a run and measures what the engine changed."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch

from safediff.errors import UsageError
from safediff.export.comparison import compare_predictions
from safediff.export.engine_files import DTYPES, MODEL_NAME, Precision
from safediff.export.extent import in_full
from safediff.export.identity import initializers_sha256, verify_identity
from safediff.export.parity import Parity
from safediff.export.providers import CPU_PROVIDER, drawing_provider
from safediff.export.runtime import open_denoiser
from safediff.export.signature import signature_of
from safediff.export.survival import MIN_COSINE, Survival, measure_survival
from safediff.export.to_onnx import export_denoiser
from safediff.gate.checks import edit_survival
from safediff.gate.checks import parity as parity_check
from safediff.gate.verdict import CheckResult
from safediff.models.backbone import Backbone
from safediff.models.patch import state_sha256, unet_sha256
from safediff.policy.plan import Plan
from safediff.release.engines import how_proved
from safediff.sample.shards import Shards

NUM_LATENTS = 8
ENGINE = "onnx engine"


def require_exportable(model: Backbone) -> None:
    """Refuse a model that has no engine.

    Raises:
        UsageError: its network is of a kind that the exporter does not cover.
    """
    network = model.denoiser
    try:
        signature_of(type(network).__name__).inputs(network.config, model.num_tokens)
    except UsageError as error:
        raise UsageError(
            f"{model.name}: {error}",
            "write export: {targets: []}; the release then holds the weights alone",
        ) from error


def require_unet(model: Backbone, what: str) -> None:
    """Refuse what is only there for UNets.

    Raises:
        UsageError: the model's denoiser is a transformer.
    """
    if model.component != "unet":
        raise UsageError(
            f"{model.name}: {what} covers UNets; its denoiser is a transformer",
            "export it with --onnx in fp32 or fp16, or serve the release, which holds an engine",
        )


def export_engine(plan: Plan, base: Backbone, safe: Backbone, folder: Path) -> Path:
    """Write the ONNX engine of a PyTorch network, or keep one that is there; prove its weights."""
    path = folder / MODEL_NAME
    if not path.exists():
        export_denoiser(
            safe.denoiser,
            folder,
            opset=plan.export.opset,
            precision=plan.export.precision,
            num_tokens=safe.num_tokens,
            metadata={
                "policy": plan.name,
                **hashes_of(safe.denoiser.state_dict(), plan.export.precision),
                "base_sha256": unet_sha256(base.denoiser),
            },
        )
    verify_identity(path, safe.denoiser.state_dict())
    return path


def hashes_of(state: Mapping[str, torch.Tensor], precision: Precision) -> dict[str, str]:
    """What an engine says of its weights: their hash in fp32, and as they lie in it, cast."""
    found = {"safe_sha256": state_sha256(state, torch.float32)}
    if precision in ("fp16", "bf16"):
        found["weights_sha256"] = state_sha256(state, DTYPES[precision])
    return found


class Engine(NamedTuple):
    """An engine to draw with, and how it was compared with PyTorch."""

    backbone: Backbone
    """The model around it."""
    checks: Sequence[CheckResult]
    """Of the comparison; in process 0, which decides, alone."""
    max_abs: float
    """See ``Parity.worst_max_abs``."""
    parity: dict[str, Any]
    """As the certificate holds it."""


def prepare_engine(
    plan: Plan, base: Backbone, safe: Backbone, folder: Path, shards: Shards
) -> Engine:
    """Export the engine, or take the one that is there; compare it and open it.

    Comparing takes copies of both networks on the CPU: process 0 does so for all.
    """
    opened, checks, found = None, list[CheckResult](), dict[str, Any]()
    if shards.leads:
        export_engine(plan, base, safe, folder)
        opened, parity, check, weights = compare_engine(plan, base, safe, folder)
        states = base.denoiser.state_dict(), safe.denoiser.state_dict()
        survival = measure_survival(*states, plan.export.precision)
        checks = [check, edit_left(survival)]
        found["max_abs"] = parity.worst_max_abs
        found["parity"] = parity_json(parity, survival, safe, weights)
    found = shards.agree("engine", lambda: found)
    if opened is None:
        opened = _opened(safe, folder)
    return Engine(opened, checks, found["max_abs"], found["parity"])


def _opened(safe: Backbone, folder: Path) -> Backbone:
    """The model around an engine, opened where it draws fastest."""
    provider, threads = drawing_provider(), torch.get_num_threads()
    return safe.with_denoiser(open_denoiser(folder, provider=provider, num_threads=threads))


def compare_engine(
    plan: Plan, base: Backbone, safe: Backbone, folder: Path
) -> tuple[Backbone, Parity, CheckResult, str]:
    """Open an engine and compare its noise predictions with PyTorch's, both on the CPU.

    Returns:
        The backbone around the engine, opened where it draws fastest; the comparison, its check,
        the hash of its weights.
    """
    threads = torch.get_num_threads()
    compared = safe.with_denoiser(open_denoiser(folder, num_threads=threads))
    found = compare_predictions(
        compared,
        safe,
        base,
        erased=[text for concept in plan.concepts for text in concept.phrasings],
        kept=["", *plan.erase.keep],
        extent=in_full(base, NUM_LATENTS),
        precision=plan.export.precision,
        seed=plan.verify.sampling.seed,
    )
    engine = compared if drawing_provider() == CPU_PROVIDER else _opened(safe, folder)
    return engine, found, closeness(found), initializers_sha256(folder / MODEL_NAME)


def closeness(found: Parity) -> CheckResult:
    """The comparison as a check."""
    return parity_check(
        ENGINE,
        found.worst_max_abs,
        found.limits.max_abs,
        num_samples=found.num_samples * len(found.timesteps),
        others_kept=found.passed,
    )


def edit_left(survival: Survival) -> CheckResult:
    """What rounding left of the edit, as a check."""
    return edit_survival(
        ENGINE,
        survival.min_cosine,
        MIN_COSINE,
        num_tensors=len(survival.layers),
        precision=survival.precision,
    )


def parity_json(
    found: Parity, survival: Survival, model: Backbone, weights_sha256: str
) -> dict[str, Any]:
    """The comparison, and what rounding left of the edit, as the certificate holds them.

    ``weights_sha256``: of the weights that were found in the engine and proved to be the model's.
    """
    return compared(found, survival, f"{model.component}/{MODEL_NAME}") | {
        "weights_sha256": weights_sha256,
        "weights": how_proved(found.precision),
    }


def compared(found: Parity, survival: Survival | None, artifact: str) -> dict[str, Any]:
    """The same of any engine; ``survival`` is None where the base is not known."""
    worst = found.worst_max_abs
    return found.to_json() | {
        "artifact": artifact,
        "reference": "PyTorch, fp32",
        "max_abs": worst if isfinite(worst) else None,
        "delta": None if survival is None else survival.to_json(),
    }

"""Exchanges all weights of a refittable plan, on the GPU that it was built for.

Opt-in: a refittable plan computes more slowly, since what depends on a weight's values can't be
fused. All weights are set and none is left to the module: a refit of some leaves a mixture of two
models, and says nothing. What comes out is another plan, so whatever was measured of the first
does not hold for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.export.engine_files import DTYPES
from safediff.export.open_plan import open_plan
from safediff.export.plan_sidecar import read_sidecar, write_plan
from safediff.export.signature import UNET_PREFIX
from safediff.export.to_tensorrt import WRONG_REFIT
from safediff.models.patch import state_sha256


def refit(plan: Path, out: Path, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write the plan with other weights and its sidecar.

    Args:
        plan: A plan built with ``REFIT``.
        out: The plan to write; another file than ``plan``, which stays what its sidecar says.
        state: The whole state of the UNet; cast to the plan's precision.

    Returns:
        The sidecar's content; ``gate`` is empty.

    Raises:
        UsageError: the plan is not refittable, of a version that refits wrongly, not the one that
            its sidecar describes, or is ``out``; or the names differ from its weights'.
        Inconclusive: it can't be opened here, or a weight was not taken.
    """
    if out.absolute() == plan.absolute():
        raise UsageError(f"{out}: is the plan that is read", "write to another file")
    sidecar = read_sidecar(plan)
    if not sidecar["refittable"]:
        raise UsageError(f"{plan}: its weights can't be exchanged", "build it with --refit")
    if sidecar["module_version"].startswith(WRONG_REFIT):
        raise UsageError(
            f"{plan}: refittable plans of {sidecar['kind']} {sidecar['module_version']} may "
            "compute wrongly",
            "build it with another version",
        )
    if sidecar["precision"] == "bf16":
        raise UsageError(
            f"{plan}: weights in bf16 can't be handed over, numpy has no such type",
            "build a new plan of these weights",
        )
    trt, engine, sidecar = open_plan(plan)
    cast = {
        UNET_PREFIX + key: tensor.detach().to("cpu", DTYPES[sidecar["precision"]]).contiguous()
        for key, tensor in state.items()
    }
    _exchange(plan, trt, engine, cast)
    content = sidecar | {
        "weights_sha256": state_sha256({n.removeprefix(UNET_PREFIX): w for n, w in cast.items()}),
        "refitted_from": {k: sidecar[k] for k in ("sha256", "weights_sha256")},
        "gate": None,
    }
    return write_plan(out, _serialized(plan, trt, engine), content)


def _exchange(plan: Path, trt: Any, engine: Any, weights: Mapping[str, Tensor]) -> None:
    refitter = trt.Refitter(engine, trt.Logger(trt.Logger.ERROR))
    names = {name for name in refitter.get_all_weights() if name.startswith(UNET_PREFIX)}
    differing = names ^ weights.keys()
    if differing:
        raise UsageError(
            f"{plan}: {len(differing)} weights are in the plan or in the model alone, first "
            f"{min(differing)}",
            "refit a plan of this architecture",
        )
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}  # must outlive the refit
    for name, array in arrays.items():
        if not refitter.set_named_weights(name, trt.Weights(array)):
            raise _not_taken(plan, f"{name} was not taken")
    if missing := refitter.get_missing_weights():
        raise _not_taken(plan, f"{len(missing)} weights are missing, first {min(missing)}")
    if refitter.refit_cuda_engine() is not True:
        raise _not_taken(plan, "the refit failed")


def _serialized(plan: Path, trt: Any, engine: Any) -> bytes:
    """Refittable again: without the flag the new plan's weights would be final."""
    config = engine.create_serialization_config()
    config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    data = engine.serialize_with_config(config)
    if data is None:
        raise _not_taken(plan, "the refitted plan can't be written")
    return bytes(data)


def _not_taken(plan: Path, what: str) -> Inconclusive:
    return Inconclusive(f"{plan}: {what}", "build a new plan of these weights")

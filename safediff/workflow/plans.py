"""``safediff export --trt`` and ``--trt-rtx``: a plan in the ``engines/`` of a release.

The release is copied, the plan entered into its certificate and manifest with what is known of it:
what it was built from, which weights lie in it, and whether it was ever run. A run that has no
release yet gives a folder with the plan and its sidecar alone, which cannot be gated: there is no
release whose policy it could be bound to.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safediff.errors import UsageError
from safediff.export.built_on import compute_capability
from safediff.export.engine_files import QUANTIZED_PRECISIONS, Precision
from safediff.export.manifest import is_exported
from safediff.export.plan_profile import Profile, square_side
from safediff.export.plan_sidecar import amend_sidecar, made_for, read_sidecar, sidecar_path
from safediff.export.plan_weights import find_weights, require_enough
from safediff.export.refit import refit
from safediff.export.signature import signature_of
from safediff.export.survival import Survival
from safediff.export.to_tensorrt import (
    REFIT,
    Kind,
    build,
    doubt_of,
    load_module,
    plan_name,
    require_flags,
    require_gpu,
    require_target,
)
from safediff.export.to_triton import (
    REPOSITORY,
    drop_stale_repository,
    with_one_dimension,
    write_repository,
)
from safediff.folders import new_folder
from safediff.gate.verdict import GateReport
from safediff.policy.plan import Plan
from safediff.release.copying import copy_checked, require_outside
from safediff.release.engines import ENGINES_FOLDER, PLAN_SUFFIX
from safediff.workflow.engine_gate import gates_line, same_policy
from safediff.workflow.engine_report import left_of_edit, require_edit_left
from safediff.workflow.engines import require_unet
from safediff.workflow.entries import added_plan, enter, plan_engine
from safediff.workflow.export import write_engine
from safediff.workflow.export_source import OPSET, ExportSource, open_source
from safediff.workflow.plan_gate import measure_plan

NOT_GATED = "not gated, so nothing is claimed of it"
Write = Callable[[Path], Path]
"""Writes a plan and its sidecar into a folder; returns its path."""


def export_plan(
    path: Path,
    folder: Path,
    kind: Kind,
    precision: Precision,
    target: str | None,
    *,
    opset: int = OPSET,
    static: bool = False,
    refittable: bool = False,
    triton: bool = False,
    policies: Sequence[Path] = (),
) -> str:
    """Write a copy of the release with a plan and its sidecar in ``engines/``; returns one line.

    Args:
        path: A run or release.
        folder: The folder to write; one of a run without a release holds nothing else.
        kind: Which module builds.
        precision: fp32, fp16 or bf16.
        target: Compute capability; None: the GPU here.
        opset: Of the graph that the plan is built from; 23 in fp32 only in TensorRT-RTX.
        static: One picture at the model's size, instead of a range (``Profile.ranged``).
        refittable: The weights of the plan can be exchanged (``refit_plan``); it is slower.
        triton: Also write a repository that serves the plan by Triton's TensorRT backend.
        policies: Measured on the plan, which needs the GPU that it is built for.

    Raises:
        UsageError: ``path`` is neither run nor release, or has no release and policies are given;
            its denoiser is a transformer, the precision is int8, the module is missing, one that
            refits wrongly or does not know the target, or the plan holds too few of the weights.
        Inconclusive: there is no GPU where one is needed, or the build failed.
        PolicyViolated: the plan failed a check, or the edit drowns in its precision and no policy
            is given.

    Whatever is raised, ``folder`` is left as it was.
    """
    if precision in QUANTIZED_PRECISIONS:
        raise UsageError(
            f"{precision}: ONNX Runtime's int8 operators are unknown to TensorRT",
            "add --precision fp16, bf16 or fp32",
        )
    module = load_module(kind)
    flags = (REFIT,) if refittable else ()
    require_flags(kind, str(module.__version__), flags)
    require_target(module, target)
    require_gpu(kind, target, flags)
    source = open_source(path)
    require_unet(source.model, f"a plan of {kind}")
    if policies and source.release is None:
        raise UsageError(
            f"--gate: {path} has no release, so no plan of it can be gated",
            "meet the policy first (safediff erase), or leave --gate out",
        )
    plans = [same_policy(source, policy) for policy in policies]
    left = left_of_edit(source, precision)
    require_edit_left(left, folder, gated=bool(plans))
    profile = _profile(source, static=static)
    name = plan_name(
        *(kind, str(module.__version__), precision, target or compute_capability()),
        static=static,
        refittable=refittable,
    )

    def write(out: Path) -> Path:
        made = out / ENGINES_FOLDER / name
        with tempfile.TemporaryDirectory() as work:
            engine = Path(work) / "engine"
            write_engine(source, engine, precision, opset)
            if triton:
                engine = with_one_dimension(engine, Path(work) / "served")
            sidecar = build(
                *(engine, made, kind, profile),
                target=target,
                flags=flags,
                base_sha256=source.base_sha256,
            )
            if triton:
                shutil.rmtree(out / REPOSITORY, ignore_errors=True)
                write_repository(out / REPOSITORY, engine, sidecar["weights_sha256"], made)
        return made

    return _written(source, folder, write, plans, left)


def refit_plan(path: Path, plan: Path, folder: Path) -> str:
    """Write ``plan`` with the weights of a run or release as ``export_plan`` does; one line.

    Raises:
        UsageError: ``path`` is neither run nor release, or the plan is of another base; see
            ``refit`` for more of the plan.
        Inconclusive: the plan can't be opened here, or a weight was not taken.
        PolicyViolated: the edit drowns in the plan's precision.
    """
    source = open_source(path)
    sidecar = read_sidecar(plan)
    made_from = sidecar.get("base_sha256")
    if made_from != source.base_sha256:
        raise UsageError(
            f"{plan}: is a plan of base {str(made_from)[:12]}, these weights are of "
            f"{source.base_sha256[:12]}",
            "refit a plan of the same base model",
        )
    left = left_of_edit(source, sidecar["precision"])
    require_edit_left(left, folder, gate_by="a plan that is built with --gate POLICY")

    def write(out: Path) -> Path:
        made = out / ENGINES_FOLDER / plan.name
        refit(plan, made, source.model.denoiser.state_dict())
        return made

    return _written(source, folder, write, (), left)


def _profile(source: ExportSource, *, static: bool) -> Profile:
    side, unet = square_side(source.model.latent_shape[1:]), source.model.denoiser
    sides = signature_of(type(unet).__name__).sides(unet.config)
    assert sides is not None
    return Profile.fixed(side) if static else Profile.ranged(side, sides.multiple)


def _written(
    source: ExportSource,
    folder: Path,
    write: Write,
    policies: Sequence[Plan],
    left: Survival | None,
) -> str:
    """The plan among the other files of its release, with its entries."""
    require_outside(folder, source.release)
    if source.release is None:
        with new_folder(folder, _holds_plans_alone, "a folder of plans") as out:
            plan = write(out)
            sidecar = _with_weights(source, plan)
        return _line(folder / ENGINES_FOLDER / plan.name, sidecar, NOT_GATED)
    with new_folder(folder, is_exported, "an exported release") as out:
        copy_checked(source.release, source.stamps, out)
        plan = write(out)
        drop_stale_repository(out / REPOSITORY, (out / ENGINES_FOLDER).glob(f"*{PLAN_SUFFIX}"))
        sidecar = _with_weights(source, plan)
        gated: list[GateReport] = []
        parity = None
        if policies:
            gated, parity = measure_plan(policies, source, plan, folder, sidecar["sha256"])
        row = added_plan(out, plan, sidecar, parity, left)
        enter(out, source, [plan_engine(out, plan, sidecar, gated, left)], [row])
    told = gates_line(source, gated) if gated else NOT_GATED
    return _line(folder / ENGINES_FOLDER / plan.name, sidecar, told)


def _holds_plans_alone(folder: Path) -> bool:
    """Whether a folder is what is written of a run without a release."""
    names = {path.name for path in folder.iterdir()}
    plans = [*(folder / ENGINES_FOLDER).glob(f"*{PLAN_SUFFIX}")]
    return names <= {ENGINES_FOLDER, REPOSITORY} and any(sidecar_path(p).exists() for p in plans)


def _with_weights(source: ExportSource, plan: Path) -> dict[str, Any]:
    """The sidecar, which now says how many weights lie in the plan."""
    sidecar = read_sidecar(plan)
    base = None if source.base is None else source.base.denoiser.state_dict()
    state = source.model.denoiser.state_dict()
    found = find_weights(plan, sidecar["precision"], state, base)
    require_enough(plan, sidecar["kind"], found.found, found.of)
    return amend_sidecar(plan, weights_found=found.to_json())


def _line(plan: Path, sidecar: dict[str, Any], gated: str) -> str:
    size_mb, found = sidecar["size_bytes"] / 1e6, sidecar["weights_found"]
    done = "refitted with" if "refitted_from" in sidecar else "built from"
    return (
        f"{plan}: {sidecar['precision']}, {size_mb:.1f} MB, for "
        f"{made_for(sidecar)}; {done} weights {sidecar['weights_sha256'][:12]}, "
        f"{found['found']} of {found['of']} tensors lie in it byte by byte; {gated}"
        + (f"; warning: {doubt}" if (doubt := doubt_of(sidecar)) and gated == NOT_GATED else "")
    )

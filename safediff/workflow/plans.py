"""``safediff export --trt`` and ``--trt-rtx``: a plan of the result of a run or release."""

import tempfile
from pathlib import Path
from typing import Any

from safediff.export.plan_profile import Profile
from safediff.export.refit import refit
from safediff.export.signature import signature_of
from safediff.export.to_onnx import Precision
from safediff.export.to_tensorrt import (
    REFIT,
    Kind,
    build,
    load_module,
    plan_name,
    require_gpu,
)
from safediff.export.to_triton import write_repository
from safediff.workflow.engines import require_unet
from safediff.workflow.export import write_engine
from safediff.workflow.export_source import open_source


def export_plan(
    path: Path,
    folder: Path,
    kind: Kind,
    precision: Precision,
    target: str | None,
    *,
    opset: int = 18,
    static: bool = False,
    refittable: bool = False,
    triton: bool = False,
) -> str:
    """Write a plan and its sidecar into ``folder``; returns one line.

    Args:
        path: A run or release.
        folder: Where the plan is written.
        kind: Which module builds.
        precision: fp32 or fp16.
        target: Compute capability; None: the GPU here.
        opset: Of the graph that the plan is built from; 23 in fp32 only in TensorRT-RTX.
        static: One picture at the model's size, instead of one to eight from half to twice it.
        refittable: The weights of the plan can be exchanged (``refit_plan``); it is slower.
        triton: Also write a repository that serves the plan by Triton's TensorRT backend.

    Raises:
        UsageError: ``path`` is neither run nor release, its denoiser is a transformer, or the
            module is missing.
        Inconclusive: there is no GPU where one is needed, or the build failed.
    """
    module = load_module(kind)
    flags = (REFIT,) if refittable else ()
    require_gpu(kind, target, flags)
    source = open_source(path)
    require_unet(source.model, f"a plan of {kind}")
    side = source.model.latent_shape[1]
    unet = source.model.denoiser
    sides = signature_of(type(unet).__name__).sides(unet.config)
    assert sides is not None
    profile = Profile.fixed(side) if static else Profile.ranged(side, sides.multiple)
    name = plan_name(
        *(kind, str(module.__version__), precision, target), static=static, refittable=refittable
    )
    with tempfile.TemporaryDirectory() as work:
        engine, plan = Path(work) / "engine", folder / name
        write_engine(source, engine, precision, opset)
        sidecar = build(engine, plan, kind, profile, target=target, flags=flags)
        if triton:
            write_repository(folder / "triton", engine, sidecar["weights_sha256"], plan)
    return _line(plan, sidecar)


def refit_plan(path: Path, plan: Path, folder: Path) -> str:
    """Write ``plan`` with the weights of a run or release into ``folder``; returns one line.

    Raises:
        UsageError: ``path`` is neither run nor release; see ``refit`` for those of the plan.
        Inconclusive: the plan can't be opened here, or a weight was not taken.
    """
    source = open_source(path)
    out = folder / plan.name
    return _line(out, refit(plan, out, source.model.denoiser.state_dict()))


def _line(plan: Path, sidecar: dict[str, Any]) -> str:
    size_mb = sidecar["size_bytes"] / 1e6
    done = "refitted with" if "refitted_from" in sidecar else "built from"
    return (
        f"{plan}: {sidecar['precision']}, {size_mb:.1f} MB, for "
        f"{sidecar['target'] or 'the GPU here'}; {done} "
        f"weights {sidecar['weights_sha256'][:12]}; not gated, so nothing is claimed of it"
    )

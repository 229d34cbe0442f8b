"""``safediff export --trt`` and ``--trt-rtx``: a plan of the result of a run or release."""

import tempfile
from pathlib import Path

from safediff.export.graph import size_multiple
from safediff.export.to_onnx import Precision
from safediff.export.to_tensorrt import Kind, Profile, build, load_module, plan_name, require_gpu
from safediff.export.to_triton import write_repository
from safediff.workflow.export import write_engine
from safediff.workflow.export_source import open_source

OPSET = 18
"""Builds in every supported version; 23 does not in fp32."""


def export_plan(
    path: Path,
    folder: Path,
    kind: Kind,
    precision: Precision,
    target: str | None,
    *,
    triton: bool = False,
) -> str:
    """Write a plan and its sidecar into ``folder``; returns one line.

    With ``triton`` also a repository that serves the plan, for Triton's TensorRT backend.
    The plan takes one to eight pictures (two UNet rows each) from half to twice the model's size.

    Raises:
        UsageError: ``path`` is neither run nor release, or the module is missing.
        Inconclusive: there is no GPU where one is needed, or the build failed.
    """
    module = load_module(kind)
    require_gpu(kind, target)
    source = open_source(path)
    multiple = size_multiple(source.model.denoiser.config)
    side = source.model.latent_shape[1]
    profile = Profile(
        min_side=max(multiple, side // 2 // multiple * multiple), opt_side=side, max_side=2 * side
    )
    with tempfile.TemporaryDirectory() as work:
        engine = Path(work) / "engine"
        write_engine(source, engine, precision, OPSET)
        plan = folder / plan_name(kind, str(module.__version__), precision, target)
        sidecar = build(engine, plan, kind, profile, target=target)
        if triton:
            write_repository(folder / "triton", engine, sidecar["weights_sha256"], plan)
    size_mb = sidecar["size_bytes"] / 1e6
    return (
        f"{plan}: {precision}, {size_mb:.1f} MB, for {target or 'the GPU here'}; built from "
        f"weights {sidecar['weights_sha256'][:12]}; not gated, so nothing is claimed of it"
    )

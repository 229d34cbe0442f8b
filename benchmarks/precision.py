"""What does a lower precision do to an erasure? The gate on one erased model in several of them.

fp32 is the reference. int8 are real engines: ONNX Runtime's dynamic quantisation of the linear
layers, of those that calibration leaves to it and of all, and weights stored in int8. All others
are simulated: the weights are rounded to the precision and computed with in fp32. Two are planted
to fail: ``coarse`` (three levels a row of every matrix) wrecks the model, and ``edit lost`` stores
it in steps so wide that nothing is left of it, which gives the base back: full quality, and the
concepts. A gate that lets the second one pass is no gate: exit code 1.

    python benchmarks/precision.py RUN --out benchmarks/precision.json

RUN is the run folder, or the release, of ``--policy``.
"""

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from safediff.environment import environment  # noqa: E402
from safediff.errors import UsageError  # noqa: E402
from safediff.export.engine_files import DATA_NAME, MODEL_NAME, Precision, read_metadata  # noqa: E402
from safediff.export.parity import measure_margin_ratio  # noqa: E402
from safediff.export.runtime import ExportedUNet  # noqa: E402
from safediff.export.survival import ROUNDINGS, measure_survival  # noqa: E402
from safediff.gate.verdict import GateReport, Verdict  # noqa: E402
from safediff.models.backbone import Backbone, Condition  # noqa: E402
from safediff.policy.load import load_plan  # noqa: E402
from safediff.policy.plan import Plan  # noqa: E402
from safediff.verify.verification import Verification  # noqa: E402
from safediff.workflow.calibrate import CALIBRATION, MAX_ERROR  # noqa: E402
from safediff.workflow.export import write_engine  # noqa: E402
from safediff.workflow.export_source import ExportSource, open_source  # noqa: E402

SIMULATED = ("fp16", "bf16", "int4", "coarse")
LOST = "edit lost"
INT8: dict[str, tuple[Precision, float | None]] = {
    "int8": ("int8", MAX_ERROR),
    "int8, all layers": ("int8", None),
    "int8-weights": ("int8-weights", None),
}
"""Real engines, and what calibration allows them."""
EDIT_STEPS = 0.5
"""Steps of the edit, in units of twice its largest value: everything rounds to nothing."""
NUM_LATENTS = 8
BATCHES, NUM_ROUNDS, NUM_CALLS = (1, 8, 16), 5, 5
RECORDED = ("max_error", "num_layers", "kept_fp32", "kept_share", "before", "after", "prompts")
"""Of the calibration's record."""


def main() -> int:
    """Measure every precision; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--policy", type=Path, default=Path("policies/demo-weapons.yaml"))
    parser.add_argument("--only", nargs="*", help="precisions to measure; all if not given")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    plan, source = load_plan(args.policy), open_source(args.run)
    if plan.to_json() != source.policy:
        raise UsageError(f"{args.policy}: is not the policy of {args.run}")
    assert source.base is not None
    rows = measured(args.out, plan)
    with (
        tempfile.TemporaryDirectory() as work,
        Verification(plan, source.base, source.base_sha256, Path(work) / "gate") as verification,
    ):
        for name, model in models(source, Path(work), args.only):
            report, _ = verification.measure(name, model, {"base": source.base_sha256})
            rows[name] = row(source, name, model, report)
            print(name, json.dumps(rows[name]), flush=True)
            write(args.out, plan, rows)  # hours on a slow machine: what is done is kept
    caught = LOST not in rows or rows[LOST]["verdict"] == "fail"
    if not caught:
        print(f"error: the gate let {LOST!r} pass", file=sys.stderr)
    return 0 if caught else 1


def measured(out: Path, plan: Plan) -> dict[str, Any]:
    """Rows of an earlier call with the same plan; those named in ``--only`` are measured again."""
    if not out.exists():
        return {}
    earlier = json.loads(out.read_text(encoding="utf-8"))
    rows: dict[str, Any] = earlier["precisions"] if earlier["plan_sha256"] == plan.sha256 else {}
    return rows


def write(out: Path, plan: Plan, rows: dict[str, Any]) -> None:
    """The result so far."""
    result = {
        "policy": plan.name,
        "plan_sha256": plan.sha256,
        "date": datetime.now(UTC).date().isoformat(),
        "precisions": rows,
        "environment": environment(),
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def models(source: ExportSource, work: Path, only: list[str] | None) -> Any:
    """Name and model of every precision."""
    assert source.base is not None
    wanted = only or ["fp32", *SIMULATED, *INT8, LOST]
    safe = source.model.denoiser.state_dict()
    for name in wanted:
        if name == "fp32":
            yield name, source.model
        elif name in INT8:
            precision, max_error = INT8[name]
            write_engine(source, work / name, precision, 18, max_error)
            engine = ExportedUNet(work / name, num_threads=torch.get_num_threads())
            yield name, source.model.with_denoiser(engine)
        elif name == LOST:
            yield name, with_state(source.model, lost(source.base.denoiser.state_dict(), safe))
        else:
            rounded = {key: ROUNDINGS[name](w.float()) for key, w in safe.items()}
            yield name, with_state(source.model, rounded)


def lost(base: Mapping[str, Tensor], safe: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Base weights with the edit rounded to steps wider than twice its largest value."""
    state = {}
    for key, w_safe in safe.items():
        d = w_safe - base[key]
        step = (d.abs().max() / EDIT_STEPS).clamp(min=1e-12) * 1.01
        state[key] = base[key] + (d / step).round() * step
    return state


def with_state(model: Backbone, state: Mapping[str, Tensor]) -> Backbone:
    """The model around a UNet with other weights."""
    unet = copy.deepcopy(model.denoiser)
    unet.load_state_dict(dict(state))
    return model.with_denoiser(unet)


def row(source: ExportSource, name: str, model: Backbone, report: GateReport) -> dict[str, Any]:
    """What is published of one precision."""
    assert source.base is not None
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(NUM_LATENTS, *source.model.latent_shape, generator=generator)
    prompts = source.erased_prompts
    chosen = [prompts[i * len(prompts) // NUM_LATENTS] for i in range(NUM_LATENTS)]
    c = source.model.encode(chosen)
    safe, base = source.model.denoise, source.base.denoise
    checks = {
        result.id: {
            "estimate": result.estimate,
            "lower": result.lower,
            "upper": result.upper,
            "n": result.num_samples,
            "verdict": result.verdict.value,
        }
        for result in report.results
        if result.gating
    }
    found: dict[str, Any] = {
        "computed": "ONNX Runtime engine" if name in INT8 else "weights rounded, fp32 arithmetic",
        "margin_ratio": round(measure_margin_ratio(model.denoise, safe, base, z, c), 6),
        "verdict": report.verdict.value,
        "checks": checks,
        "warns": [r.id for r in report.results if r.verdict is Verdict.WARN],
    }
    calibration: dict[str, Any] = {}
    if name in INT8:
        record = read_metadata(model.denoiser.folder / MODEL_NAME).get(CALIBRATION, "{}")
        calibration = json.loads(record)
        found |= engine_cost(source, model.denoiser.folder)
        found |= {k: calibration[k] for k in RECORDED if k in calibration}
    if name != LOST:
        states = source.base.denoiser.state_dict(), source.model.denoiser.state_dict()
        survival = measure_survival(*states, name.split(",")[0], calibration.get("kept_fp32", []))
        found["edit_min_cosine"] = round(survival.min_cosine, 6)
        found["edit_max_noise_ratio"] = round(survival.max_noise_ratio, 6)
    return found


def engine_cost(source: ExportSource, folder: Path) -> dict[str, Any]:
    """Size of an engine, and its speed against the fp32 one's: medians of rounds in turn."""
    with tempfile.TemporaryDirectory() as work:
        fp32 = Path(work) / "fp32"
        write_engine(source, fp32, "fp32", 18)
        size = sum((folder / name).stat().st_size for name in (MODEL_NAME, DATA_NAME))
        size_fp32 = sum((fp32 / name).stat().st_size for name in (MODEL_NAME, DATA_NAME))
        times: dict[int, list[float]] = {}
        for batch in BATCHES:
            z = torch.randn(batch, *source.model.latent_shape)
            c = source.model.null().repeat(batch)
            for _ in range(NUM_ROUNDS):
                taken = [call_ms(source, path, z, c) for path in (fp32, folder)]
                times.setdefault(batch, []).append(taken[0] / taken[1])
    return {
        "size_mb": round(size / 1e6, 2),
        "size_of_fp32": round(size / size_fp32, 3),
        "speedup_over_fp32": {b: round(statistics.median(r), 2) for b, r in times.items()},
    }


def call_ms(source: ExportSource, folder: Path, z: Tensor, c: Condition) -> float:
    """Processor time of the fastest UNet call of a session of its own, on one thread."""
    unet = ExportedUNet(folder, num_threads=1)
    model, t, taken = source.model.with_denoiser(unet), torch.tensor(501), []
    for _ in range(NUM_CALLS):
        start = time.process_time()
        model.denoise(z, t, c)
        taken.append(1000 * (time.process_time() - start))
    return min(taken)


if __name__ == "__main__":
    sys.exit(main())

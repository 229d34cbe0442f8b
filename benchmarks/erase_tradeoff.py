"""Erasure against retention: the preset, and one knob changed at a time, measured by the gate.

Every row trains on the policy and is measured by the policy's own checks, with picture seeds that
the policy does not use (``--picture-seed``), so that settings are not chosen on the pictures that
decide a release. A row that stands in ``--out`` is not measured again.

    python benchmarks/erase_tradeoff.py --out benchmarks/erase_tradeoff.json
    python benchmarks/erase_tradeoff.py --rows preset "eta 0" --train-seed 1 --out seeds.json
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from safediff.environment import environment  # noqa: E402
from safediff.erase.methods import resolve  # noqa: E402
from safediff.erase.params import DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.gate.verdict import GateReport  # noqa: E402
from safediff.models.load import load_backbone  # noqa: E402
from safediff.models.patch import unet_sha256  # noqa: E402
from safediff.policy.load import load_plan  # noqa: E402
from safediff.policy.plan import Plan  # noqa: E402
from safediff.verify.verification import Verification  # noqa: E402
from safediff.workflow.safe_model import patched  # noqa: E402

Json = dict[str, Any]

FACTOR = "num_steps_factor"
"""Multiplies the policy's number of steps."""
LOGGED = 8
"""Steps between two that are written down."""
PRESET = "preset"
"""Another preset, as it is: without the policy's own options."""

ROWS: dict[str, Json] = {
    "preset": {},
    "eta 0": {"eta": 0.0},
    "eta 0.1": {"eta": 0.1},
    "eta 0.4": {"eta": 0.4},
    "timesteps uniform": {"timesteps": "uniform"},
    "timesteps beta": {"timesteps": "beta"},
    "keep_share 0": {"keep_share": 0.0},
    "keep_share 0.25": {"keep_share": 0.25},
    "keep_share 0.6": {"keep_share": 0.6},
    "rate constant": {"rate_schedule": "constant"},
    "null_space 0": {"null_space": 0.0},
    "null_space 0.003": {"null_space": 0.003},
    "null_space 0.03": {"null_space": 0.03},
    "one keyword": {"loss_text": "each", "rollout_text": "each"},
    "half the steps": {FACTOR: 0.5},
    "twice the steps": {FACTOR: 2.0},
    "reuse 1": {"reuse": 1},
    "anchor": {"anchor_weight": 1.0},
    "student as target": {"target": "student", "eta": 0.0},
    "no ema_warmup": {"ema_warmup": False},
    "by what remains": {"order": "remaining"},
    "way back": {"way_back_share": 0.25},
    "stop at 0.1": {"stop_at": 0.1},
    "xattn": {"trainable": "xattn", "null_space": 0.0},
    "fast": {PRESET: "fast"},
    "fast, no start": {PRESET: "fast", "warm_start": 0.0, "keep_sampling": "uniform"},
    "fast, no start, rate 0.0095": {
        **{PRESET: "fast", "warm_start": 0.0, "keep_sampling": "uniform"},
        "learning_rate": 0.0095,
    },
    "fast, kept texts all alike": {PRESET: "fast", "keep_sampling": "uniform"},
    "fast, stronger start": {PRESET: "fast", "warm_start": 1.0},
    "fast, no start, by what remains": {
        **{PRESET: "fast", "warm_start": 0.0, "keep_sampling": "uniform"},
        **{"learning_rate": 0.016, "order": "remaining"},
    },
    "fast, half the steps": {PRESET: "fast", FACTOR: 0.5},
    "fast, the start alone": {PRESET: "fast", "num_steps": 1, "learning_rate": 0.0},
    "fast, the start alone, stronger": {
        **{PRESET: "fast", "num_steps": 1, "learning_rate": 0.0},
        "warm_start": 1.0,
    },
    "preset from the start": {"warm_start": 0.37},
    "preset, kept texts by influence": {"warm_start": 0.37, "keep_sampling": "influence"},
}
"""Overrides of the policy's settings, or of another preset's."""


def main() -> None:
    """Measure the rows that are missing, then print all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, default=Path("policies/demo-weapons.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture-seed", type=int, default=1000)
    parser.add_argument("--train-seed", type=int)
    parser.add_argument("--rows", nargs="*", help="names of rows; default: all")
    parser.add_argument("--set", action="append", default=[], metavar="NAME={...}", help="a row")
    args = parser.parse_args()
    rows = ROWS | {name: json.loads(text) for name, _, text in (s.partition("=") for s in args.set)}
    chosen = args.rows or [s.partition("=")[0] for s in args.set] or list(ROWS)
    plan = load_plan(args.policy)
    seed = plan.erase.seed if args.train_seed is None else args.train_seed
    sampling = replace(plan.verify.sampling, seed=args.picture_seed)
    plan = replace(
        plan,
        erase=replace(plan.erase, seed=seed),
        verify=replace(plan.verify, sampling=sampling),
    )
    found = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            key = name if args.train_seed is None else f"{name}, training seed {seed}"
            if key not in found["rows"]:
                found["rows"][key] = measure(plan, rows[name], Path(folder))
                write(args.out, plan, found)
            print(line(key, found["rows"][key]), flush=True)


def write(path: Path, plan: Plan, found: Json) -> None:
    """The file after every row, with what it rests on."""
    found |= {
        "policy": plan.name,
        "picture_seed": plan.verify.sampling.seed,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment(),
    }
    path.write_text(json.dumps(found, indent=1) + "\n")


def measure(plan: Plan, options: Json, folder: Path) -> Json:
    """Train one row and measure its teacher; pictures of the base are drawn once per plan."""
    policy = plan.erase
    changes = {name: value for name, value in options.items() if name not in (FACTOR, PRESET)}
    own = {} if PRESET in options else policy.options
    params = resolve(policy.method, options.get(PRESET, policy.preset), {**own, **changes})
    assert isinstance(params, DistilParams)
    if FACTOR in options:
        params = replace(params, num_steps=round(params.num_steps * options[FACTOR]))
    base = load_backbone(plan.model)
    began = time.monotonic()
    trainer = DistilTrainer(base, plan.concepts, policy.keep, params, policy.seed)
    steps: list[StepInfo] = []
    erased = trainer.run(steps.append)
    seconds = time.monotonic() - began
    teacher = patched(base, erased.teacher)
    hashes = {"unet": unet_sha256(teacher.denoiser)}
    # a subject's folder holds the pictures of one model
    subject = hashes["unet"][:12]
    with Verification(plan, base, erased.teacher.base_sha256, folder) as verification:
        report, _ = verification.measure(subject, teacher, hashes)
    return {
        "settings": asdict(params),
        "seconds": round(seconds, 1),
        "passes": erased.num_passes,
        "steps": len(steps),
        "most_left": {
            info.step: round(info.most_left, 3)
            for info in steps
            if info.most_left is not None and (info.step % LOGGED == 0 or info is steps[-1])
        },
        "checks": checks(report),
        "verdict": str(report.verdict),
    }


def checks(report: GateReport) -> Json:
    """Estimate, bounds and n of what the gate decides."""
    return {
        result.id: {
            "estimate": result.estimate,
            "lower": result.lower,
            "upper": result.upper,
            "n": result.num_samples,
            "verdict": str(result.verdict),
        }
        for result in report.results
        if result.kind in ("erasure", "retention", "quality", "collapse")
    }


def line(name: str, row: Json) -> str:
    """One row for the terminal."""
    parts = [
        f"{key.partition('/')[2] or key} {value['estimate']:.3f}"
        f" [{_show(value['lower'])}, {_show(value['upper'])}]"
        for key, value in row["checks"].items()
        if value["estimate"] is not None
    ]
    cost = f"{row['seconds']:.0f} s, {row['passes']} passes"
    return f"{name}: {row['verdict']}; {'; '.join(parts)}; {cost}"


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()

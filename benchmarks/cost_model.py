"""Does the cost formula of docs/scaling.md say how long a gate will take?

    verify  (passes x seconds of a pass + pictures x what one takes beside) / processes
    once    loading, reports, what is computed without drawing

Its three numbers are taken from one run, the gate of demo-weapons in one process. With them, and
with the passes and pictures that ``safediff plan`` says, it predicts the gates of demo-vices and
demo-style, and that of demo-weapons in two processes under torchrun. Then these are run and timed,
each from the start of its command to the end. Every process has one thread.

Gates are those of the embedded model itself, with a share of each policy's prompts, with small
batches, so that processes have like shares, and without checks of quality, which only one of the
policies has. Limits are loosened: what is asked is how long it takes, not whether it is met.

    python benchmarks/cost_model.py --out benchmarks/cost_model.json
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from safediff.policy.cost import estimate_cost
from safediff.policy.load import load_plan

Json = dict[str, Any]
POLICIES = Path(__file__).parents[1] / "policies"
FITTED = "demo-weapons"
PREDICTED = (("demo-vices", 1), ("demo-style", 1), ("demo-weapons", 2))
"""Policies and numbers of processes."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What is known of a gate before it runs."""

    policy: Path
    num_passes: int
    """UNet passes of one sample: pictures x steps x branches, and what attacks take beside them."""
    num_pictures: int


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The numbers of the formula, in seconds."""

    of_a_pass: float
    beside_a_picture: float
    """Scheduler, decoding, judging, picture file and journal."""
    once: float

    def predict(self, gate: Gate, num_processes: int) -> float:
        """Seconds of a gate, from the start of the command to its end."""
        shared = gate.num_passes * self.of_a_pass + gate.num_pictures * self.beside_a_picture
        return self.once + shared / num_processes


def main() -> None:
    """Fit on one gate, predict and run the others, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.5, help="of each policy's prompts")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gates = {
            policy: smaller(policy, folder, args.share, args.batch_size)
            for policy in dict.fromkeys([FITTED, *(policy for policy, _ in PREDICTED)])
        }
        fit, counted = fitted(gates[FITTED], folder / "fitted")
        rows = {}
        for policy, num_processes in PREDICTED:
            row = held_against(fit, gates[policy], num_processes, folder / "runs")
            rows[f"{policy}, {num_processes} process{'es' * (num_processes > 1)}"] = row
    from safediff.environment import environment

    planned = {key: value for key, value in asdict(gates[FITTED]).items() if key != "policy"}
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {"share": args.share, "batch_size": args.batch_size, "threads": 1},
        "fitted": {"policy": FITTED, **planned, **counted, "seconds": asdict(fit)},
        "rows": rows,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


def smaller(name: str, folder: Path, share: float, batch_size: int) -> Gate:
    """A copy of a policy in ``folder`` that asks less, and what ``safediff plan`` says of it."""
    said = yaml.safe_load((POLICIES / f"{name}.yaml").read_text(encoding="utf-8"))
    verify = said["verify"]
    verify["sampling"]["batch_size"] = batch_size
    verify["erasure"]["max_rate"] = 0.9
    verify["judge"] = {"min_specificity": 0.1}
    for check in verify["retention"]:
        check["min_ratio"] = 0.1
    for check in (verify["erasure"], *verify["retention"]):
        check["num_prompts"] = round(share * check["num_prompts"])
    verify.pop("quality", None)
    said["export"] = {"targets": []}
    for texts in POLICIES.glob("*.txt"):
        shutil.copy(texts, folder)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
    cost = estimate_cost(load_plan(path))
    return Gate(policy=path, num_passes=cost.verify_passes, num_pictures=cost.num_images)


def fitted(gate: Gate, folder: Path) -> tuple[Fit, Json]:
    """The formula's numbers by one run; and what was counted in it, beside what was planned."""
    spent_file = folder.with_suffix(".json")
    seconds = timed([__file__, "--inside", str(spent_file)], gate, folder)
    spent = json.loads(spent_file.read_text(encoding="utf-8"))
    num_pictures = sum(1 for _ in (folder / "images").rglob("*.png"))
    fit = Fit(
        of_a_pass=spent["pass_seconds"] / spent["passes"],
        beside_a_picture=spent["beside_seconds"] / num_pictures,
        once=seconds - spent["pass_seconds"] - spent["beside_seconds"],
    )
    counted = {"counted_passes": spent["passes"], "counted_pictures": num_pictures}
    return fit, {**counted, "measured_s": round(seconds, 1)}


def held_against(fit: Fit, gate: Gate, num_processes: int, folder: Path) -> Json:
    """A gate predicted, then run."""
    launcher = ["-m", "safediff.cli.app"]
    if num_processes > 1:
        count = ("--nproc-per-node", str(num_processes))
        launcher = ["-m", "torch.distributed.run", "--standalone", *count, *launcher]
    predicted = fit.predict(gate, num_processes)
    measured = timed(launcher, gate, folder / f"{gate.policy.stem}-{num_processes}")
    return {
        "processes": num_processes,
        "passes": gate.num_passes,
        "pictures": gate.num_pictures,
        "predicted_s": round(predicted, 1),
        "measured_s": round(measured, 1),
        "ratio": round(measured / predicted, 3),
    }


def table(result: Json) -> str:
    """The fit in a line, and the predictions as Markdown."""
    fit = result["fitted"]["seconds"]
    a_pass, beside = 1000 * fit["of_a_pass"], 1000 * fit["beside_a_picture"]
    lines = [
        f"{a_pass:.2f} ms a pass, {beside:.1f} ms beside a picture, {fit['once']:.1f} s once.",
        "",
        "| gate | passes | pictures | predicted | measured | measured / predicted |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        lines.append(
            f"| {name} | {row['passes']:,} | {row['pictures']:,} | {row['predicted_s']} s | "
            f"{row['measured_s']} s | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def timed(program: list[str], gate: Gate, out: Path) -> float:
    """Seconds of a gate on the embedded model."""
    arguments = ["verify", "embedded", str(gate.policy), "--out", str(out), "-q", "--exit-zero"]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *program, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if not (out / "verdict.model.json").exists():
        raise RuntimeError(f"{gate.policy.stem}: no verdict; it said: {done.stderr[-500:]}")
    return seconds


def inside(file: Path, arguments: list[str]) -> int:
    """The command line in this process; ``file`` gets what passes and pictures took in it."""
    from safediff.cli.app import main as command_line
    from safediff.models.backbone import Backbone
    from safediff.verify.album import Photographer

    spent = {"passes": 0, "pass_seconds": 0.0, "beside_seconds": 0.0}
    denoise, draw = Backbone.denoise, Photographer.draw

    def timed_denoise(self: Backbone, z: Any, t: Any, condition: Any) -> Any:
        began = time.perf_counter()
        found = denoise(self, z, t, condition)
        spent["pass_seconds"] += time.perf_counter() - began
        spent["passes"] += len(z)
        return found

    def timed_draw(self: Photographer, *given: Any, **named: Any) -> None:
        began, before = time.perf_counter(), spent["pass_seconds"]
        draw(self, *given, **named)
        passing = spent["pass_seconds"] - before
        spent["beside_seconds"] += time.perf_counter() - began - passing

    Backbone.denoise = timed_denoise  # type: ignore[method-assign]
    Photographer.draw = timed_draw  # type: ignore[method-assign]
    sys.argv = ["safediff", *arguments]
    code = command_line()
    file.write_text(json.dumps(spent), encoding="utf-8")
    return code


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(inside(Path(sys.argv[2]), sys.argv[3:]))
    main()

"""Erasing and drawing at the sizes of Stable Diffusion on one GPU: speed and memory.

Weights are random: speed and memory do not depend on them, and nothing is said about erasure.
Measured are the card's bfloat16 matrix product (the ceiling that shares refer to), whole rollouts
of the trainer in several settings, the published loop written out plainly (batch 1, one loss per
rollout, a student and a teacher UNet), drawing, and an engine where TensorRT is installed. A few
steps are timed; minutes of a whole recipe are computed from them by its UNet passes.

A stage that fails is noted, and so is one that takes too long or ends the process: then the exit
code is 75 or that of the crash, and ``--resume`` goes on after it, which ``gpu.sh`` does by itself.
The file is written before and after each stage.

    python benchmarks/gpu_erase.py --out benchmarks/gpu_erase.json
    python benchmarks/gpu_erase.py --tiny --out /tmp/tiny.json
"""

import argparse
import json
import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from threading import Timer
from typing import Any

from safediff.cli.quiet_libraries import quiet_libraries

BEGAN = time.monotonic()  # importing the rest takes seconds of the budget
quiet_libraries()

from gpu_measure import ceiling_tflops, free, require_alive  # noqa: E402
from gpu_stages import Stage, stages  # noqa: E402
from gpu_targets import targets, times_reference  # noqa: E402

from safediff.environment import environment  # noqa: E402

AGAIN = 75
"""Exit code: the same command with ``--resume`` measures the rest."""
CEILING = "ceiling"
SCALED = "minutes_of_the_recipe: computed, passes_of_the_recipe / passes_per_s of timed_steps"


class Log:
    """The result and its file, which is true at any moment."""

    def __init__(self, path: Path, tiny: bool, resume: bool) -> None:
        self.path, self.names = path, list[str]()
        self.result: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "tiny": tiny,
            "weights": "random",
            "scaled": SCALED,
            "environment": environment(),
            "ceiling_tflops": None,
            "stages": {},
            "failed": {},
        }
        if resume and path.exists():
            self.result = json.loads(path.read_text(encoding="utf-8"))
            if name := self.result["running"]:
                self.fail(name, "ended the process")
        self.result["running"] = None

    @property
    def done(self) -> set[str]:
        """Stages that need no further attempt."""
        found = {*self.result["stages"], *self.result["failed"]}
        return found | ({CEILING} if self.result["ceiling_tflops"] else set())

    def fail(self, name: str, why: str) -> None:
        """The stage gave no row."""
        self.result["failed"][name] = why
        self.result["running"] = None

    def write(self) -> None:
        """With what the rows come to."""
        rows, over = self.result["stages"], {*self.done, self.result["running"]}
        self.result["not_begun"] = [name for name in self.names if name not in over]
        self.result["targets"] = targets(rows, self.result["tiny"])
        self.result["times_reference"] = times_reference(rows)
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self.path)


def main() -> None:
    """Run every stage that there is time for."""
    args = _arguments()
    ends, log = BEGAN + args.budget_s, Log(args.out, args.tiny, args.resume)
    found = stages(args.tiny, args.stage_s, lambda: log.result["ceiling_tflops"])
    log.names = list(found)
    if CEILING not in log.done:
        run(CEILING, lambda: _ceiling(log, args.tiny), args.stage_limit_s, log)
    for name in _asked(found, args.only, args.skip):
        left = ends - time.monotonic()
        if name not in log.done and left >= args.least_s:
            run(name, found[name], min(args.stage_limit_s, left - 5), log)
    log.write()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true", help="small networks, seconds on a CPU")
    parser.add_argument("--budget-s", type=float, default=500.0, help="seconds of the whole run")
    parser.add_argument("--stage-s", type=float, default=8.0, help="least seconds of a measurement")
    parser.add_argument("--stage-limit-s", type=float, default=120.0, help="of one stage, whole")
    parser.add_argument("--least-s", type=float, default=20.0, help="left, or none is begun")
    parser.add_argument("--only", nargs="*", help="stages whose names contain one of these")
    parser.add_argument("--skip", nargs="*", default=[], help="stages whose names contain one")
    parser.add_argument("--resume", action="store_true", help="go on with the file in --out")
    return parser.parse_args()


def _asked(names: Iterable[str], only: list[str] | None, skip: list[str]) -> list[str]:
    def has(name: str, words: list[str]) -> bool:
        return any(word in name for word in words)

    return [name for name in names if (only is None or has(name, only)) and not has(name, skip)]


def run(name: str, stage: Stage, limit_s: float, log: Log) -> None:
    """One stage, which costs the others nothing if it fails, hangs or ends the process.

    Raises:
        SystemExit: ``AGAIN``: it left the GPU unusable for this process.
    """
    began, result = time.monotonic(), log.result
    result["running"] = name
    log.write()
    watch = Timer(limit_s, _cut_off, (name, limit_s, log))
    watch.daemon = True
    watch.start()
    try:
        row = stage()
        if name != CEILING:
            result["stages"][name] = row
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        log.fail(name, f"{type(error).__name__}: {first[:300]}")
    finally:
        watch.cancel()
    result["running"] = None
    log.write()
    told = result["failed"].get(name) or result["stages"].get(name) or result["ceiling_tflops"]
    print(f"{time.monotonic() - began:5.0f} s  {name}\n         {told}", flush=True)
    try:
        free()
        require_alive()
    except Exception as error:
        raise SystemExit(AGAIN) from error


def _cut_off(name: str, limit_s: float, log: Log) -> None:
    """In a thread of its own: what hangs inside a library cannot be interrupted otherwise."""
    log.fail(name, f"took longer than {limit_s:.0f} s")
    log.write()
    print(f"         {name}: took longer than {limit_s:.0f} s", flush=True)
    os._exit(AGAIN)


def _ceiling(log: Log, tiny: bool) -> dict[str, Any]:
    log.result["ceiling_tflops"] = ceiling_tflops(512 if tiny else 8192)
    return {}


if __name__ == "__main__":
    main()

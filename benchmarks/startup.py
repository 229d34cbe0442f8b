"""What a command takes before it does anything: a help text, a schema, a policy's check.

All are timed in rounds that take them in turn; a time is a process's own (user and system), so that
another process beside it hardly counts. The reference is a Python that imports Typer and Rich, with
which every command begins: a ratio says what is ours.

    python benchmarks/startup.py --out benchmarks/startup.json
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safediff.environment import environment

Json = dict[str, Any]
POLICIES = Path(__file__).resolve().parents[1] / "policies"
SAFEDIFF = ("-P", "-m", "safediff.cli.app")
REFERENCE = "python that imports typer and rich"
COMMANDS = {
    REFERENCE: ("-P", "-c", "import typer, rich.console, rich.table"),
    "safediff --help": (*SAFEDIFF, "--help"),
    "safediff validate --help": (*SAFEDIFF, "validate", "--help"),
    "safediff schema": (*SAFEDIFF, "schema"),
    **{
        f"safediff validate policies/{path.name}": (*SAFEDIFF, "validate", str(path))
        for path in sorted(POLICIES.glob("demo-*.yaml"))
    },
}


def main() -> None:
    """Time all commands and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rounds = [
        {name: process_s(command) for name, command in COMMANDS.items()} for _ in range(args.rounds)
    ]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": args.rounds,
        "commands": {name: row(name, rounds) for name in COMMANDS},
        "environment": environment(),
    }
    for name, measured in result["commands"].items():
        print(f"{measured['median_s']:.3f} s  {measured['times_reference']:.2f}  {name}")
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def process_s(command: tuple[str, ...]) -> float:
    """Processor seconds of one process that must end with 0."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(name: str, rounds: list[dict[str, float]]) -> Json:
    """Median and range of the seconds; the ratio is taken within a round."""
    times_s = [times[name] for times in rounds]
    return {
        "median_s": round(statistics.median(times_s), 3),
        "range_s": [round(min(times_s), 3), round(max(times_s), 3)],
        "times_reference": round(
            statistics.median(times[name] / times[REFERENCE] for times in rounds), 2
        ),
    }


if __name__ == "__main__":
    main()

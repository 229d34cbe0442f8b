"""What erasing gains on a processor from oneDNN's products and texts that are projected once.

The same steps of the same training, with these (``safediff.models.fast``) and without, in turn in
one process. Preset ``safediff`` as the policy sets it, and the published settings of SDD and of
ESD-x, whose batch is 1. In bfloat16, where oneDNN's products are PyTorch's own: texts that are cast
and projected once with weights in their place, against both at every step.

    python benchmarks/erase_products.py --out benchmarks/erase_products.json
    OMP_NUM_THREADS=1 python benchmarks/erase_products.py --clock cpu \
        --systems "policy, bfloat16" "sdd, paper, bfloat16" \
        --out benchmarks/erase_products_bfloat16.json
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from safediff.environment import environment  # noqa: E402
from safediff.erase.methods import resolve  # noqa: E402
from safediff.erase.params import DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.erase.weights import PatchedUNet  # noqa: E402
from safediff.models.load import load_backbone  # noqa: E402
from safediff.policy.load import load_plan  # noqa: E402

SYSTEMS = {
    "policy": ("sdd", "safediff"),
    "sdd, paper": ("sdd", "paper"),
    "esd-x-3": ("esd-x", "eta-3"),
    "policy, bfloat16": ("sdd", "safediff"),
    "sdd, paper, bfloat16": ("sdd", "paper"),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Time all and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, default=Path("policies/demo-weapons.yaml"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS)[:3])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: beside other work")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    plan = load_plan(args.policy)
    backbone = load_backbone(plan.model)
    rows = {}
    for name in args.systems:
        method, preset = SYSTEMS[name]
        whole = resolve(method, preset, plan.erase.options if "policy" in name else {})
        assert isinstance(whole, DistilParams)
        params = replace(whole, num_steps=args.steps)
        if "bfloat16" in name:
            params = replace(params, trunk_dtype="bfloat16")
        seconds: dict[str, list[float]] = {"plain": [], "fast": []}
        for number in range(args.rounds):
            for mode in sorted(seconds, reverse=number % 2 == 1):
                trainer = DistilTrainer(backbone, plan.concepts, plan.erase.keep, params, number)
                with plain("bfloat16" in name) if mode == "plain" else nullcontext():
                    seconds[mode].append(timed(trainer, CLOCKS[args.clock]))
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        rows[name] = {
            "seconds": {mode: median(own) for mode, own in seconds.items()},
            "times_as_fast": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        }
        print(
            f"{name:14} {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True
        )
    result = {
        "policy": plan.name,
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {
            "steps": args.steps,
            "rounds": args.rounds,
            "threads": torch.get_num_threads(),
            "clock": args.clock,
        },
        "rows": rows,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@contextmanager
def plain(half: bool) -> Iterator[None]:
    """PyTorch's own products, every text projected at every step; in half precision cast, too."""
    with ExitStack() as stack:
        if half:
            stack.enter_context(
                patch.object(PatchedUNet, "in_place", lambda self: nullcontext(self))
            )
        stack.enter_context(patch("safediff.erase.rollout.faster", nullcontext))
        stack.enter_context(patch("safediff.erase.trunk.products_by_onednn", nullcontext))
        yield


def timed(trainer: DistilTrainer, clock: Callable[[], float]) -> float:
    """Seconds of a training."""

    def on_step(_: StepInfo) -> None:
        pass

    began = clock()
    trainer.run(on_step)
    return clock() - began


if __name__ == "__main__":
    main()

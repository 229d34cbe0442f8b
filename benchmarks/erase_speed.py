"""How much faster is the fast mode of erasing at equal erasure?

Reference mode: one trajectory per rollout, one loss per rollout at a uniform one of 50 DDIM steps,
as published. Fast mode: the rollouts of the preset ``fast``: 10 DDIM steps to a whole trajectory,
of which the first half is drawn, and 4 losses on each. Started mode: these, from the preset's
closed-form start. All else is equal: the tensors, the erasure loss, the learning rate and its
schedule, one trajectory at a time, the most latents that may be used; kept texts take no part in
any, since they cost all alike. A mode is done at the first
checkpoint whose one-sided 95 % upper bound of the erasure rate is at most 0.05. Seconds are those
of training alone; the pictures of the bound are drawn between checkpoints and not counted.

    python benchmarks/erase_speed.py --out benchmarks/erase_speed.json
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from safediff.environment import environment  # noqa: E402
from safediff.erase.methods import resolve  # noqa: E402
from safediff.erase.params import DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.erase.weights import PatchedUNet  # noqa: E402
from safediff.gate.stats import rate_upper  # noqa: E402
from safediff.judge.load import judge_requests, load_judges  # noqa: E402
from safediff.models.load import load_backbone  # noqa: E402
from safediff.policy.load import load_plan  # noqa: E402
from safediff.sample.sampler import Sampling, sample  # noqa: E402
from safediff.verify.assignments import assignments  # noqa: E402

MAX_RATE = 0.05
FAST: dict[str, Any] = {
    "num_steps": 640,
    "learning_rate": 9.5e-3,
    "eta": 0.3,
    "batch_size": 1,
    "keep_share": 0.0,
    "warm_start": 0.0,
    "keep_sampling": "uniform",
}
REFERENCE: dict[str, Any] = {
    "batch_size": 1,
    "reuse": 1,
    "num_inference_steps": 50,
    "timesteps": "uniform",
}


class Reached(Exception):
    """The bound is met; training may stop."""


def main() -> None:
    """Run both modes and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", type=Path, default=Path("policies/demo-weapons.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=48, help="latents between checkpoints")
    args = parser.parse_args()
    plan = load_plan(args.policy)
    whole = resolve("sdd", "fast", {})
    assert isinstance(whole, DistilParams)
    fast = replace(whole, **FAST)
    most = fast.num_steps * fast.batch_size
    modes = {
        "fast": fast,
        "started": replace(fast, warm_start=whole.warm_start),
        "reference": replace(fast, **REFERENCE),
    }
    rows = {}
    for name, params in modes.items():
        rows[name] = run(plan, params, args.every, most)
        print(name, {k: v for k, v in rows[name].items() if k != "checkpoints"})
    result: dict[str, Any] = {
        "policy": plan.name,
        "plan_sha256": plan.sha256,
        "date": datetime.now(UTC).date().isoformat(),
        "bound": f"one-sided 95 % upper bound <= {MAX_RATE}",
        "modes": rows,
        "environment": environment(),
    }
    result["ratios_are"] = "exact" if rows["reference"]["reached"] else "lower bounds"
    for name in ("fast", "started"):
        if rows[name]["reached"]:
            result[f"{name}_seconds"] = rows["reference"]["seconds"] / rows[name]["seconds"]
            result[f"{name}_passes"] = rows["reference"]["passes"] / rows[name]["passes"]
    args.out.write_text(json.dumps(result, indent=1) + "\n")


def run(plan: Any, params: DistilParams, latents_between: int, max_latents: int) -> dict[str, Any]:
    """Train until the bound is met or ``max_latents`` were used."""
    every = max(params.reuse, latents_between // params.batch_size)
    params = replace(params, num_steps=max_latents // params.batch_size)
    base = load_backbone(plan.model)
    trainer = DistilTrainer(base, plan.concepts, plan.erase.keep, params, plan.erase.seed)
    checkpoints: list[dict[str, Any]] = []
    clock = _Clock()
    bound = _bound(plan, base, trainer)

    def on_step(info: StepInfo) -> None:
        if (info.step + 1) % every:
            return
        clock.pause()
        hits, n = bound()
        upper = rate_upper(hits, n, 0.95)
        checkpoints.append(
            {
                "step": info.step + 1,
                "seconds": clock.seconds,
                "passes": info.num_passes,
                "hits": hits,
                "n": n,
                "upper": upper,
            }
        )
        print(checkpoints[-1], flush=True)
        if upper <= MAX_RATE:
            raise Reached
        clock.resume()

    reached = False
    try:
        trainer.run(on_step)
    except Reached:
        reached = True
    last = checkpoints[-1]
    return {
        "reached": reached,
        "seconds": last["seconds"],
        "passes": last["passes"],
        "steps": last["step"],
        "batch_size": params.batch_size,
        "reuse": params.reuse,
        "num_inference_steps": params.num_inference_steps,
        "checkpoints": checkpoints,
    }


class _Clock:
    """Seconds of training, pictures left out."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, time.monotonic()

    def pause(self) -> None:
        self.seconds += time.monotonic() - self._began

    def resume(self) -> None:
        self._began = time.monotonic()


def _bound(plan: Any, base: Any, trainer: DistilTrainer) -> Callable[[], tuple[int, int]]:
    """Hits and number of pictures of the erasure check for the teacher as it is now."""
    items = [i for i in assignments(plan) if i.check.startswith("erasure/")]
    settings = plan.verify.sampling
    sampling = Sampling(
        num_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )
    judge = load_judges(judge_requests(plan))[items[0].judge]

    def bound() -> tuple[int, int]:
        with torch.no_grad():
            weights = trainer.student.weights(trainer.teacher)
        safe = base.with_denoiser(PatchedUNet(base.denoiser, weights))
        pictures = [p for part in sample(safe, [i.draw for i in items], sampling) for p in part]
        scores = judge.score(torch.stack([p.image for p in pictures]))
        hits = sum(
            bool(
                (
                    scores.probs[row, [scores.labels.index(n) for n in item.labels]]
                    >= judge.threshold
                ).any()
            )
            for row, item in enumerate(items)
        )
        return hits, len(items)

    return bound


if __name__ == "__main__":
    main()

"""Whole pictures a second: text encoder, UNet loop and decoder, by what is compiled of them.

Three systems of one release in one process: PyTorch eager, PyTorch around our UNet engine, and all
parts as engines. Rounds take them in turn, in another order each time, after a pause: for some time
after a call ONNX Runtime's threads wait busily, and would take the cores from whoever comes next.
Ratios are taken within a round. Every system's pictures are held against eager's before it is
timed. What a system opens once (weights, sessions) is not counted; the empty prompt's states are
computed once, as the server does it.

    safediff export RUN --onnx --full --out serve
    python benchmarks/pipeline.py serve --out benchmarks/pipeline.json
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from safediff.environment import environment  # noqa: E402
from safediff.errors import UsageError  # noqa: E402
from safediff.export.runtime import open_denoiser  # noqa: E402
from safediff.serve.certified import is_compiled  # noqa: E402
from safediff.serve.pipeline import Order, SafePipeline, Settings  # noqa: E402

EAGER, UNET, FULL = "torch eager", "ONNX UNet", "full ONNX"
PAUSE_S = 0.1
MAX_LEVELS = 1
"""Of 255, by which a picture may differ from eager's."""
PROMPTS = ("hammer, noto style", "owl, twemoji style", "rose, fluent style", "key, noto style")


def main() -> None:
    """Time all systems and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path, help="folder of safediff export --full in fp32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--num-steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--accept-unverified", metavar="REASON")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    opened = systems(args.release, args.threads, max(args.batches), args.accept_unverified)
    settings = Settings(num_steps=args.num_steps, guidance_scale=args.guidance)
    rows: dict[str, dict[str, Any]] = {}
    for batch in args.batches:
        rows[str(batch)] = measure(opened, batch, settings, args.rounds)
        for name, row in rows[str(batch)].items():
            ratio = row["times_eager"]
            print(
                f"batch {batch:2}  {name:12} {row['images_per_s']['median']:7.2f} images/s  "
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) times eager",
                flush=True,
            )
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "release_sha256": opened[FULL].trust.release_sha256,
        "size": list(opened[FULL].size),
        "settings": {
            "num_steps": args.num_steps,
            "guidance_scale": args.guidance,
            "threads": args.threads,
            "rounds": args.rounds,
        },
        "batches": rows,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def systems(
    release: Path, threads: int, max_batch: int, reason: str | None
) -> dict[str, SafePipeline]:
    """The three of them.

    Raises:
        UsageError: not every part of the release is an engine.
    """
    if not is_compiled(release):
        raise UsageError(f"{release}: holds no engines of all parts", "safediff export --full")

    def opened(engine: str) -> SafePipeline:
        return SafePipeline.from_release(
            release,
            engine=engine,
            num_threads=threads,
            max_batch=max_batch,
            accept_unverified=reason,
        )

    eager, full, half = opened("torch"), opened("onnx"), opened("torch")
    unet = open_denoiser(release / "unet", num_threads=threads)
    half.backbone = half.backbone.with_denoiser(unet)
    return {EAGER: eager, UNET: half, FULL: full}


def measure(
    opened: dict[str, SafePipeline], batch: int, settings: Settings, rounds: int
) -> dict[str, dict[str, Any]]:
    """Images a second; ratios are taken within a round."""
    orders = [Order(PROMPTS[i % len(PROMPTS)], seed=i) for i in range(batch)]
    expected = opened[EAGER].draw(orders, settings)
    differences = {
        name: require_same(name, p.draw(orders, settings), expected) for name, p in opened.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in opened}
    for number in range(rounds):
        names = list(opened)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            rates[name].append(batch / timed(opened[name], orders, settings))
    return {
        name: {
            "images_per_s": spread(own),
            "times_eager": spread([a / b for a, b in zip(own, rates[EAGER], strict=True)]),
            "max_levels": differences[name],
        }
        for name, own in rates.items()
    }


def require_same(name: str, found: Tensor, expected: Tensor) -> int:
    """By how many of 255 levels pictures differ.

    Raises:
        RuntimeError: they are others.
    """
    difference = int((found.int() - expected.int()).abs().max())
    if difference > MAX_LEVELS:
        raise RuntimeError(f"{name} draws something else: {difference} of 255 levels")
    return difference


def timed(pipeline: SafePipeline, orders: Sequence[Order], settings: Settings) -> float:
    """Seconds of a batch: the median of as many as half a second holds, one at least."""
    time.sleep(PAUSE_S)
    found: list[float] = []
    while not found or sum(found) < 0.5:
        began = time.perf_counter()
        pipeline.draw(orders, settings)
        found.append(time.perf_counter() - began)
    return median(found)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Over all rounds."""
    return {"median": median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()

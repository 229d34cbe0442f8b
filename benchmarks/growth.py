"""How cost grows: concepts, picture size, batch, losses per rollout, processes.

All points of a curve are measured in one run, in rounds that take them in turn, so that other load
meets all of them; medians over rounds. Every point is the ``safediff`` preset of SDD on the
embedded UNet with one thing changed. Memory is what the resident set grew by at its highest.

Larger pictures are the same weights on larger latents: what is drawn there means nothing, what it
costs does.

    python benchmarks/growth.py --out benchmarks/growth.json --figure docs/figures/growth.svg
"""

import argparse
import copy
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from html import escape
from math import ceil, floor, log2
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

import torch  # noqa: E402

from safediff.environment import environment  # noqa: E402
from safediff.erase.closed_form.params import UceParams  # noqa: E402
from safediff.erase.closed_form.solve import solve  # noqa: E402
from safediff.erase.methods import resolve  # noqa: E402
from safediff.erase.params import PRESETS, DistilParams  # noqa: E402
from safediff.erase.trainer import DistilTrainer, StepInfo  # noqa: E402
from safediff.gate.numbers import show  # noqa: E402
from safediff.judge.load import JudgeRequest, load_judges  # noqa: E402
from safediff.models.backbone import Backbone  # noqa: E402
from safediff.models.load import load_backbone  # noqa: E402
from safediff.policy.plan import ConceptPlan, ModelPlan  # noqa: E402
from safediff.report.scales import Scale  # noqa: E402
from safediff.sample.sampler import Draw, Sampling, sample  # noqa: E402
from safediff.sample.shards import sharded  # noqa: E402

Json = dict[str, Any]
POLICIES = Path(__file__).parents[1] / "policies"
LISTED = (POLICIES / "embedded-names.txt").read_text(encoding="utf-8").splitlines()
NAMES = [name for name in LISTED if name and not name.startswith("#")]
PRESET = PRESETS["sdd"]["safediff"]
CONCEPTS, SIZES, BATCHES = (1, 2, 4, 8, 16, 50), (8, 16, 32), (2, 4, 8, 16, 32)
REUSES = (1, 2, 4, 8)
NUM_KEPT, BATCH, PICTURES, SAMPLING_STEPS = 64, 8, 16, 16


class Spent(NamedTuple):
    """Of one repetition."""

    seconds: float
    passes: float
    memory_mib: float


Work = Callable[[], int]
"""Does something and returns the UNet sample passes that it took."""


def main() -> None:
    """Measure all curves, write the numbers and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path, help="an SVG file")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.worker:
        work_along(args.worker)
        return
    backbone = load_backbone(ModelPlan(base="embedded"))
    began = time.monotonic()
    curves = {"processes": processes(args.rounds)}
    for name, points in all_points(backbone).items():
        curves[name] = measure(points, args.rounds)
    write(args, curves, time.monotonic() - began)


def write(args: argparse.Namespace, curves: Json, seconds: float) -> None:
    """The numbers and the figure."""
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {
            "threads": args.threads,
            "rounds": args.rounds,
            "batch": BATCH,
            "reuse": PRESET.reuse,
            "sampling_steps": SAMPLING_STEPS,
            "pictures": PICTURES,
        },
        "seconds": round(seconds, 1),
        "curves": curves,
        "environment": environment(),
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        args.figure.write_text(draw(curves), encoding="utf-8")


def all_points(backbone: Backbone) -> dict[str, dict[str, Work]]:
    """Curves by name; their points by what is changed."""
    base = replace(PRESET, batch_size=BATCH)
    return {
        "concepts, distilled": {
            str(n): rollout_of(backbone, base, num_concepts=n) for n in CONCEPTS
        },
        "concepts, solved (UCE)": {str(n): solved(backbone, "uce", n) for n in CONCEPTS},
        "concepts, solved (RECE)": {str(n): solved(backbone, "rece", n) for n in CONCEPTS},
        "latent side, distilled": {
            str(side): rollout_of(of_size(backbone, side), base) for side in SIZES
        },
        "latent side, drawn and decoded": {
            str(side): drawn(of_size(backbone, side)) for side in SIZES
        },
        "latent side, judged": {"8": judged()},
        "batch, distilled": {
            str(n): rollout_of(backbone, replace(PRESET, batch_size=n)) for n in BATCHES
        },
        "batch, drawn and decoded": {str(n): drawn(backbone, n) for n in BATCHES},
        "losses per rollout": {
            str(k): rollout_of(backbone, replace(base, reuse=k), num_losses=8) for k in REUSES
        },
    }


def rollout_of(
    backbone: Backbone, params: DistilParams, num_concepts: int = 4, num_losses: int = PRESET.reuse
) -> Work:
    """Rollouts for ``num_losses`` losses, going on with one training."""
    trainer: list[DistilTrainer] = []

    def work() -> int:
        if not trainer:  # texts are encoded once
            many = replace(params, num_steps=1_000_000, log_every=1_000_000)
            kept = tuple(NAMES[-NUM_KEPT:])
            trainer.append(DistilTrainer(backbone, concepts(num_concepts), kept, many, 0))
            train(trainer[0], params.reuse)
        before = trainer[0].progress.num_passes
        train(trainer[0], num_losses)
        return trainer[0].progress.num_passes - before

    return work


class Enough(Exception):
    """As many losses as were asked for."""


def train(trainer: DistilTrainer, num_losses: int) -> None:
    """So many losses, with their rollouts; the last rollout is drawn again the next time."""
    left = num_losses

    def count(info: StepInfo) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Enough

    with suppress(Enough):
        trainer.run(count)


def concepts(count: int) -> tuple[ConceptPlan, ...]:
    """Names of things, with the phrasings that the demo policies train on."""
    forms = ("{}, noto style", "a fluent style picture of a {}", "a {}", "{}")
    return tuple(
        ConceptPlan(
            name=name,
            erase=(name,),
            labels=(name,),
            judge="embedded",
            phrasings=tuple(form.format(name) for form in forms),
            prompts=(),
        )
        for name in NAMES[:count]
    )


def solved(backbone: Backbone, method: str, count: int) -> Work:
    """A closed form for so many concepts, texts encoded anew."""
    params = resolve(method, "safediff", {})
    assert isinstance(params, UceParams)

    def work() -> int:
        solve(backbone, concepts(count), tuple(NAMES[-NUM_KEPT:]), params)
        return 0

    return work


def of_size(backbone: Backbone, side: int) -> Backbone:
    """The same weights on latents of another side."""
    denoiser = copy.copy(backbone.denoiser)
    denoiser.register_to_config(sample_size=side)
    return backbone.with_denoiser(denoiser)


def drawn(backbone: Backbone, batch_size: int = PICTURES) -> Work:
    """Pictures as the gate draws them, a batch at a time, with plain guidance."""
    sampling = Sampling(num_steps=SAMPLING_STEPS, batch_size=batch_size)

    def work() -> int:
        pictures = [Draw(name) for name in NAMES[:PICTURES]]
        for _ in sample(backbone, pictures * max(1, batch_size // PICTURES), sampling):
            pass
        return 2 * SAMPLING_STEPS * max(PICTURES, batch_size)

    return work


def judged() -> Work:
    """The embedded judge on as many pictures."""
    (judge,) = load_judges([JudgeRequest(name="embedded")]).values()
    images = torch.randint(0, 256, (PICTURES, 3, 64, 64), dtype=torch.uint8)

    def work() -> int:
        judge.score(images)
        return 0

    return work


def measure(points: dict[str, Work], rounds: int) -> Json:
    """Medians over rounds; the first, which warms up, is left out."""
    spent: dict[str, list[Spent]] = {name: [] for name in points}
    for number in range(rounds + 1):
        for name, work in points.items():
            found = one(work)
            if number:
                spent[name].append(found)
    table = {
        name: {
            "seconds": round(median(s.seconds for s in found), 5),
            "passes": median(s.passes for s in found),
            "memory_mib": round(max(s.memory_mib for s in found), 1),
        }
        for name, found in spent.items()
    }
    for name, row in table.items():
        print(name, row, file=sys.stderr, flush=True)
    return table


def one(work: Work) -> Spent:
    """Time it, and see how far the resident set grew."""
    before = restart_peak()
    began = time.perf_counter()
    passes = work()
    seconds = time.perf_counter() - began
    return Spent(seconds, passes, (resident("VmHWM") - before) / 1024)


def restart_peak() -> int:
    """Give back what is free, forget the highest resident set (Linux, glibc); KiB that are left."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident("VmRSS")


def resident(field: str) -> int:
    """A field of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:")))


def processes(rounds: int) -> Json:
    """One process with one thread, one with two, two with one each: the same eight rollouts."""
    table: Json = {}
    for name, count, threads in (("1 x 1 thread", 1, 1), ("1 x 2 threads", 1, 2), ("2 x 1", 2, 1)):
        found = [started(count, threads) for _ in range(rounds)]
        table[name] = {"seconds": round(median(found), 3), "processes": count, "threads": threads}
        print(name, table[name], file=sys.stderr, flush=True)
    return table


def started(count: int, threads: int) -> float:
    """Seconds of training, without the start, of so many processes."""
    place = Path(os.environ.get("TMPDIR", "/tmp")) / f"growth-{os.getpid()}.json"
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    command = [sys.executable, __file__, "--worker", str(place), "--threads", str(threads)]
    workers = [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": str(rank), "OMP_NUM_THREADS": str(threads)},
        )
        for rank in range(count)
    ]
    if any([worker.wait() for worker in workers]):
        raise SystemExit("a worker failed")
    seconds = float(place.read_text(encoding="ascii"))
    place.unlink()
    return seconds


def work_along(place: Path) -> None:
    """One of the processes: train, and let process 0 write how long it took."""
    with sharded() as shards:
        backbone = load_backbone(ModelPlan(base="embedded"))
        params = replace(PRESET, num_steps=1_000_000, log_every=1_000_000)
        kept = tuple(NAMES[-NUM_KEPT:])
        trainer = DistilTrainer(backbone, concepts(4), kept, params, 0, shards=shards)
        train(trainer, PRESET.reuse)
        shards.wait()
        began = time.perf_counter()
        train(trainer, 4 * PRESET.reuse)
        shards.wait()
        if shards.leads:
            place.write_text(str(time.perf_counter() - began), encoding="ascii")


PANELS = (
    ("Concepts", "concepts", ("concepts, distilled", "concepts, solved (RECE)")),
    (
        "Picture size",
        "side of the latent",
        ("latent side, distilled", "latent side, drawn and decoded"),
    ),
    ("Batch", "latents at a time", ("batch, distilled", "batch, drawn and decoded")),
    ("Losses per rollout", "losses", ("losses per rollout",)),
)
PER_ITEM = {"batch, distilled", "batch, drawn and decoded"}
"""Curves that are drawn per latent or picture, since that is what a batch is for."""
SHORT = {
    "concepts, distilled": "distilling",
    "concepts, solved (RECE)": "RECE",
    "latent side, distilled": "distilling",
    "latent side, drawn and decoded": "drawing",
    "batch, distilled": "distilling, per latent",
    "batch, drawn and decoded": "drawing, per picture",
    "losses per rollout": "distilling, per loss",
}
COLOURS = ("#0b6bcb", "#b3261e")
PANEL_WIDTH, PANEL_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380.0, 240.0, 54.0, 16.0, 46.0, 44.0


def draw(curves: Json) -> str:
    """Four panels; seconds relative to the first point, both axes in powers of two."""
    width, height = 2 * PANEL_WIDTH, 2 * PANEL_HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#1b1b1f">',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    for number, (title, axis, names) in enumerate(PANELS):
        x, y = number % 2 * PANEL_WIDTH, number // 2 * PANEL_HEIGHT
        parts.append(f'<g transform="translate({x:g} {y:g})">')
        parts += panel(title, axis, {name: relative(name, curves[name]) for name in names})
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def relative(name: str, rows: Json) -> list[tuple[float, float]]:
    """Points (x, seconds over those of the first point)."""
    found = []
    for x, row in rows.items():
        items = float(x) if name == "batch, distilled" else max(float(x), PICTURES)
        found.append((float(x), row["seconds"] / (items if name in PER_ITEM else 1)))
    return [(x, value / found[0][1]) for x, value in found]


def panel(title: str, axis: str, lines: dict[str, list[tuple[float, float]]]) -> list[str]:
    """One panel's drawing."""
    points = [point for line in lines.values() for point in line]
    xs, ys = [log2(x) for x, _ in points], [log2(y) for _, y in points]
    across = Scale(min(xs), max(xs), LEFT, PANEL_WIDTH - RIGHT)
    low, high = floor(min(ys) - 0.05), ceil(max(ys) + 0.05)
    down = Scale(low, high, PANEL_HEIGHT - BOTTOM, TOP)
    parts = [f'<text x="{LEFT:g}" y="18" font-weight="600">{escape(title)}</text>']
    for power in range(low, high + 1):
        if high - low < 6 or power % 2 == 0:
            y = down(power)
            parts.append(
                f'<line x1="{LEFT:g}" x2="{PANEL_WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="{"#8a8a92" if power == 0 else "#dcdce2"}"/>'
                f'<text x="{LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end" fill="#6a6a72">'
                f"{2.0**power:g}x</text>"
            )
    for x in sorted({x for x, _ in points}):
        parts.append(
            f'<text x="{across(log2(x)):.1f}" y="{PANEL_HEIGHT - BOTTOM + 16:g}" '
            f'text-anchor="middle" fill="#6a6a72">{x:g}</text>'
        )
    middle = (LEFT + PANEL_WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle:g}" y="{PANEL_HEIGHT - 10:g}" text-anchor="middle" fill="#6a6a72">'
        f"{escape(axis)}</text>"
    )
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number]
        path = " ".join(f"{across(log2(x)):.1f},{down(log2(y)):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across(log2(x)):.1f}" cy="{down(log2(y)):.1f}" r="3" fill="{colour}">'
            f"<title>{x:g}: {show(y)}</title></circle>"
            for x, y in line
        ]
        parts.append(
            f'<text x="{LEFT + number * 160:g}" y="36" fill="{colour}">{escape(SHORT[name])}</text>'
        )
    return parts


if __name__ == "__main__":
    main()

"""How many pictures per second does the gate draw and judge, against a plain diffusers loop?

Same model, prompts, steps, guidance, batch size and threads, on the same machine; every round runs
every row once on as many pictures, in turn, so that other load meets all of them. Rows:

- ``diffusers``: ``StableDiffusionPipeline`` on batch after batch, pictures as PIL; nobody judges.
- ``diffusers, judged``: the same, and the judge looks at each batch.
- ``gate``: what ``safediff verify`` does: draws, judges, writes picture files and journal.
- ``gate, texts each step``, ``gate, MKL``, ``gate, rows together``, ``gate, none of these``: the
  gate without one or all of what ``safediff.models.fast`` does; what each is worth.
- ``gate, engine``: the gate through the exported engine, where ``--engine`` names its folder.
- ``gate, unfiled``: drawing and judging only; what files and journal cost.
- ``gate, N processes``: N processes share pictures and threads, as under torchrun.

Seconds are of the wall; CPU seconds, which other load disturbs less, stand beside them. Ratios are
taken within a round, so that slow rounds are slow for all.

    python benchmarks/gate_throughput.py --rounds 5 --out benchmarks/gate_throughput.json
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

from safediff.environment import environment  # noqa: E402
from safediff.export.runtime import ExportedUNet  # noqa: E402
from safediff.gate.journal import JournalHeader  # noqa: E402
from safediff.judge.load import JudgeRequest, load_judges  # noqa: E402
from safediff.models.backbone import Backbone  # noqa: E402
from safediff.models.load import load_backbone, load_pipeline  # noqa: E402
from safediff.policy.plan import ModelPlan  # noqa: E402
from safediff.sample.sampler import Draw, Sampling, sample  # noqa: E402
from safediff.verify.album import Photographer  # noqa: E402
from safediff.verify.assignments import Assignment  # noqa: E402
from safediff.verify.ledger import Ledger  # noqa: E402

JUDGE = "embedded"
TEXTS = ("axe", "bomb", "hammer", "owl", "banana", "rose", "pizza", "key", "crown", "car")
STYLES = ("noto", "twemoji", "fluent")
WITHOUT = {
    "texts each step": ("texts_once",),
    "MKL": ("products_by_onednn",),
    "rows together": ("rows_apart",),
    "none of these": ("texts_once", "products_by_onednn", "rows_apart"),
}
Seconds = tuple[float, float]
"""Wall, CPU."""


class Gate:
    """Draws as the gate does; each call fills a folder of its own."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.backbone = load_backbone(ModelPlan(base=args.model))
        self.judges = load_judges([JudgeRequest(name=JUDGE, labels=("axe",))])
        self.sampling = Sampling(
            num_steps=args.steps, guidance_scale=args.guidance, batch_size=args.batch_size
        )

        self.engine = args.engine and self.backbone.with_denoiser(
            ExportedUNet(args.engine, num_threads=args.threads)
        )

    def filed(self, draws: list[Draw], backbone: Backbone | None = None) -> None:
        """Draw, judge, write pictures and journal."""
        items = [Assignment("erasure/bench", draw, ("axe",), JUDGE) for draw in draws]
        header = JournalHeader(plan_sha256="0" * 64, judges={}, thresholds={})
        with tempfile.TemporaryDirectory() as name:
            ledger = Ledger(Path(name), header)
            studio = Photographer(items, self.sampling, self.judges, ledger, Path(name))
            studio.draw("model", backbone or self.backbone, {}, draws)
            ledger.close()

    def unfiled(self, draws: list[Draw]) -> None:
        """Draw and judge."""
        for batch in sample(self.backbone, draws, self.sampling):
            self.judges[JUDGE].score(torch.stack([picture.image for picture in batch]))

    def slower(self, without: tuple[str, ...], draws: list[Draw]) -> None:
        """``filed``, without some of what makes a UNet faster."""
        with ExitStack() as stack:
            for name in without:
                stack.enter_context(patch(f"safediff.models.fast.{name}", nullcontext))
            self.filed(draws)


class Plain:
    """What one would write without safediff."""

    def __init__(self, args: argparse.Namespace, gate: Gate) -> None:
        self.pipeline, self.gate = load_pipeline(ModelPlan(base=args.model)), gate
        self.pipeline.to(gate.backbone.denoiser.device)
        self.pipeline.set_progress_bar_config(disable=True)

    def draw(self, draws: list[Draw], judged: bool) -> None:
        """Batch after batch."""
        sampling = self.gate.sampling
        for start in range(0, len(draws), sampling.batch_size):
            images = self.pipeline(
                [draw.prompt for draw in draws[start : start + sampling.batch_size]],
                num_inference_steps=sampling.num_steps,
                guidance_scale=sampling.guidance_scale,
                output_type="pt" if judged else "pil",
            ).images
            if judged:
                pixels = (images * 255).round().to(torch.uint8).cpu()
                self.gate.judges[JUDGE].score(pixels)


class Crew:
    """Processes that stay up between rounds and share threads and pictures."""

    def __init__(self, args: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.ends: list[Connection] = []
        self.processes = []
        for _ in range(args.processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, args), daemon=True)
            process.start()
            self.ends.append(ours)
            self.processes.append(process)
        for end in self.ends:
            end.recv()  # loaded

    def draw(self, draws: list[Draw]) -> float:
        """All of them draw their shares; returns their CPU seconds."""
        for rank, end in enumerate(self.ends):
            end.send(draws[rank :: len(self.ends)])
        return float(sum(end.recv() for end in self.ends))

    def close(self) -> None:
        """Send them home."""
        for end, process in zip(self.ends, self.processes, strict=True):
            end.send(None)
            process.join()


def _work(end: Connection, args: argparse.Namespace) -> None:
    torch.set_num_threads(max(1, args.threads // args.processes))
    gate = Gate(args)
    end.send("loaded")
    while (draws := end.recv()) is not None:
        began = time.process_time()
        gate.filed(draws)
        end.send(time.process_time() - began)


def main() -> None:
    """Run all rows and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="embedded or a folder")
    parser.add_argument("--engine", type=Path, help="folder of the model's exported engine")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processes", type=int, default=2, help="0: without that row")
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    gate = Gate(args)
    plain = Plain(args, gate)
    rows: dict[str, Callable[[list[Draw]], Any]] = {
        "diffusers": partial(plain.draw, judged=False),
        "diffusers, judged": partial(plain.draw, judged=True),
        "gate": gate.filed,
        **{f"gate, {name}": partial(gate.slower, parts) for name, parts in WITHOUT.items()},
        "gate, unfiled": gate.unfiled,
    }
    if gate.engine:
        rows["gate, engine"] = partial(gate.filed, backbone=gate.engine)
    crew = Crew(args) if args.processes else None
    if crew is not None:
        rows[f"gate, {args.processes} processes"] = crew.draw
    num_pictures = args.batch_size * max(1, args.processes)
    rounds = [_round(rows, _draws(num_pictures, number)) for number in range(args.rounds + 1)][1:]
    if crew is not None:
        crew.close()
    table = {name: _summary(name, rounds, num_pictures) for name in rows}
    for name, row in table.items():
        print(f"{name:<22} {_line(row)}")
    settings = {n: v for n, v in vars(args).items() if n not in ("out", "engine")}
    found = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "settings": settings}
    found |= {"environment": environment(), "pictures_per_round": num_pictures, "rows": table}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _draws(count: int, number: int) -> list[Draw]:
    prompts = [f"{text}, {style} style" for text in TEXTS for style in STYLES]
    return [
        Draw(prompts[i % len(prompts)], number * count + i // len(prompts)) for i in range(count)
    ]


def _round(rows: dict[str, Callable[[list[Draw]], Any]], draws: list[Draw]) -> dict[str, Seconds]:
    found = {}
    for name, row in rows.items():
        wall, cpu = time.perf_counter(), time.process_time()
        elsewhere = row(draws)
        found[name] = (time.perf_counter() - wall, time.process_time() - cpu + (elsewhere or 0.0))
    return found


def _summary(name: str, rounds: list[dict[str, Seconds]], num_pictures: int) -> dict[str, Any]:
    walls, cpus = zip(*(found[name] for found in rounds), strict=True)
    ratios = [found["diffusers"][0] / found[name][0] for found in rounds]
    cpu_ratios = [found["diffusers"][1] / found[name][1] for found in rounds]
    return {
        "pictures_per_s": num_pictures / median(walls),
        "pictures_per_cpu_s": num_pictures / median(cpus),
        "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        "cpu_ratio": {"median": median(cpu_ratios), "min": min(cpu_ratios), "max": max(cpu_ratios)},
        "seconds": list(walls),
        "cpu_seconds": list(cpus),
    }


def _line(row: dict[str, Any]) -> str:
    wall, cpu = row["ratio"], row["cpu_ratio"]
    return (
        f"{row['pictures_per_s']:7.2f} pictures/s, ratio {wall['median']:.2f} "
        f"({wall['min']:.2f} to {wall['max']:.2f}); of CPU time {cpu['median']:.2f} "
        f"({cpu['min']:.2f} to {cpu['max']:.2f})"
    )


if __name__ == "__main__":
    main()

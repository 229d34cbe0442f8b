"""One UNet call: our exported graph under ONNX Runtime against PyTorch and a plain export.

Compared in one process, with the same inputs and number of threads, in rounds that take all systems
in turn, so that all see the same machine: PyTorch eager, ``torch.compile``, ``torch.onnx.export``
with its defaults (names not kept, one picture size) in a default session, our graph in fp32 through
the runtime that serves it, and our int8 engine. Every system's result is held against eager's
before it is timed. Between two systems there is a pause: for some time after a call ONNX Runtime's
threads wait busily, and would take the cores from whoever comes next. Every round opens sessions of
its own: two sessions with one and the same graph differ by 2 %, by where their memory came to lie.

    python benchmarks/unet_step.py RUN_OR_RELEASE --out benchmarks/unet_step.json

``RUN_OR_RELEASE`` may also be ``sd1-narrow``: random weights in the shape of Stable Diffusion 1.x,
a fifth as wide (38 million parameters), 32 x 32 latents.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

import onnxruntime as ort  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402

from safediff.environment import environment  # noqa: E402
from safediff.export.quiet import quiet  # noqa: E402
from safediff.export.runtime import ExportedUNet  # noqa: E402
from safediff.export.to_onnx import export_denoiser  # noqa: E402
from safediff.workflow.export import write_engine  # noqa: E402
from safediff.workflow.export_source import ExportSource, open_source  # noqa: E402

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
Opener = Callable[[], Step]
EAGER, PLAIN = "torch eager", "plain torch.onnx"
BASES = {EAGER: "eager", PLAIN: "plain"}
NARROW = "sd1-narrow"
PAUSE_S = 0.1
MAX_DIFFERENCE = {"ours int8": 1.0}
"""Of an output with a standard deviation near 1; 1e-3 for all others."""


def main() -> None:
    """Time all systems and write the result."""
    parser = arguments(__doc__)
    parser.add_argument("--skip", nargs="*", default=[], help="systems to leave out")
    args = parser.parse_args()
    subject = opened(args)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        openers = systems(subject, Path(work), args.threads, args.skip)
        for batch in args.batches:
            rows[str(batch)] = measure(subject, openers, batch, args.rounds)
            for name, row in rows[str(batch)].items():
                ratio = row["times_plain"]["median"] if "times_plain" in row else float("nan")
                print(f"batch {batch:2}  {name:18} {row['median_ms']:8.2f} ms  {ratio:.3f}")
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "model": "sd1-narrow" if str(args.run) == NARROW else "embedded, erased",
        "parameters": sum(p.numel() for p in subject.unet.parameters()),
        "settings": {"threads": args.threads, "rounds": args.rounds},
        "batches": rows,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def arguments(doc: str) -> argparse.ArgumentParser:
    """What every script that times this call is told."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True)
    return parser


def opened(args: argparse.Namespace) -> "Subject":
    """What is timed, on as many threads as were asked for."""
    torch.set_num_threads(args.threads)
    return narrow() if str(args.run) == NARROW else trained(args.run)


@dataclass(frozen=True)
class Subject:
    """What is timed."""

    unet: Any
    c: Tensor
    """Text states of one prompt (1, tokens, dim)."""
    shape: tuple[int, int, int]
    source: ExportSource | None
    """Where it comes from; None for random weights."""


def trained(path: Path) -> Subject:
    """What a run or release serves."""
    source = open_source(path)
    c = source.model.encode([source.erased_prompts[0]]).hidden
    return Subject(source.model.denoiser, c, source.model.latent_shape, source)


def narrow() -> Subject:
    """Stable Diffusion 1.x with narrow layers."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32, block_out_channels=(64, 128, 256, 256), cross_attention_dim=768
    )
    return Subject(unet.eval().requires_grad_(False), torch.randn(1, 77, 768), (4, 32, 32), None)


def systems(subject: Subject, work: Path, threads: int, skip: list[str]) -> dict[str, Opener]:
    """All systems by name; those that can't be built here are left out with a word."""
    unet, source = subject.unet, subject.source

    def eager(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        out: Tensor = unet(z, t, c, return_dict=False)[0]
        return out

    found: dict[str, Opener] = {EAGER: lambda: eager}
    builders: dict[str, Callable[[], Opener]] = {
        "torch.compile": lambda: partial(_same, torch.compile(eager)),
        PLAIN: lambda: plain_export(subject, work / "plain.onnx", threads),
        "ours fp32": lambda: partial(ours, export_denoiser(unet, work / "fp32").parent, threads),
    }
    if source is not None:
        builders["ours int8"] = lambda: int8(source, work / "int8", threads)
    for name, build in builders.items():
        if name in skip:
            continue
        try:
            found[name] = build()
        except Exception as error:
            print(f"{name}: left out, {type(error).__name__}", flush=True)
    return found


def _same(step: Step) -> Step:
    return step


def int8(source: ExportSource, folder: Path, threads: int) -> Opener:
    """Our engine with quantised linear layers."""
    write_engine(source, folder, "int8", 18, max_error=None)
    return partial(ours, folder, threads)


def ours(folder: Path, threads: int) -> Step:
    """Our engine through the runtime that serves it."""
    engine = ExportedUNet(folder, num_threads=threads)

    def step(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        out: Tensor = engine(z, t, c, return_dict=False)[0]
        return out

    return step


def plain_export(subject: Subject, path: Path, threads: int) -> Opener:
    """What one gets without an exporter of one's own: dynamo, defaults, a default session."""
    c = subject.c.expand(2, -1, -1).contiguous()
    example = (torch.randn(2, *subject.shape), torch.tensor(500.0), c)
    dynamic = {
        "sample": {0: "batch"},
        "timestep": None,
        "encoder_hidden_states": {0: "batch"},
    }
    with quiet():
        torch.onnx.export(
            *(subject.unet, example, str(path)),
            dynamo=True,
            input_names=list(dynamic),
            output_names=["out_sample"],
            dynamic_shapes=dynamic,
        )

    def opener() -> Step:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(str(path), options)

        def step(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
            feeds = dict(zip(dynamic, (z.numpy(), t.numpy(), c.numpy()), strict=True))
            return torch.from_numpy(session.run(None, feeds)[0])

        return step

    return opener


def measure(
    subject: Subject, openers: dict[str, Opener], batch: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of one call; ratios are taken within a round."""
    z = torch.randn(batch, *subject.shape, generator=torch.Generator().manual_seed(0))
    t, c = torch.tensor(500.0), subject.c.expand(batch, -1, -1).contiguous()
    expected = openers[EAGER]()(z, t, c)
    differences = dict.fromkeys(openers, 0.0)
    times: dict[str, list[float]] = {name: [] for name in openers}
    for number in range(rounds):
        names = list(openers)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            step = openers[name]()
            difference = float((step(z, t, c) - expected).abs().max())
            if not difference <= MAX_DIFFERENCE.get(name, 1e-3):
                raise RuntimeError(f"{name} computes something else: {difference:.1e}")
            differences[name] = max(differences[name], difference)
            times[name].append(1000 * timed(partial(step, z, t, c)))
            del step
    return {
        name: {
            "median_ms": median(own),
            "min_ms": min(own),
            "round_ms": [round(ms, 4) for ms in own],
            "max_abs_difference": differences[name],
        }
        | {f"times_{key}": spread(times[base], own) for base, key in BASES.items() if base in times}
        for name, own in times.items()
    }


def timed(call: Callable[[], Tensor]) -> float:
    """Seconds of a call: the median of as many as half a second holds, three at least."""
    time.sleep(PAUSE_S)
    call()
    found: list[float] = []
    while len(found) < 3 or sum(found) < 0.5:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return median(found)


def spread(base: list[float], own: list[float]) -> dict[str, float]:
    """How many times as fast as the base: over all rounds."""
    ratios = [a / b for a, b in zip(base, own, strict=True)]
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios)}


if __name__ == "__main__":
    main()

"""One UNet call: our exported graph under ONNX Runtime against PyTorch and a plain export.

Compared in one process, with the same inputs and number of threads, in rounds that take all systems
in turn, so that all see the same machine: PyTorch eager, ``torch.compile``, ``torch.onnx.export``
with its defaults (names not kept) in a default session, our graph in fp32 through the runtime that
serves it, and our int8 engine. Every system's result is held against eager's before it is timed.

    python benchmarks/unet_step.py RUN_OR_RELEASE --out benchmarks/unet_step.json
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from safediff.cli.quiet_libraries import quiet_libraries

quiet_libraries()

import onnxruntime as ort  # noqa: E402

from safediff.environment import environment  # noqa: E402
from safediff.export.quiet import quiet  # noqa: E402
from safediff.export.runtime import ExportedUNet  # noqa: E402
from safediff.workflow.export import write_engine  # noqa: E402
from safediff.workflow.export_source import ExportSource, open_source  # noqa: E402

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
EAGER = "torch eager"
MAX_DIFFERENCE = {"ours int8": 1.0}
"""Of an output with a standard deviation near 1; 1e-3 for all others."""


def main() -> None:
    """Time all systems and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--skip", nargs="*", default=[], help="systems to leave out")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = open_source(args.run)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        steps = systems(source, Path(work), args.threads, args.skip)
        for batch in args.batches:
            rows[str(batch)] = measure(source, steps, batch, args.rounds)
            for name, row in rows[str(batch)].items():
                print(f"batch {batch:2}  {name:18} {row['median_ms']:8.1f} ms", flush=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {"threads": args.threads, "rounds": args.rounds},
        "batches": rows,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def systems(source: ExportSource, work: Path, threads: int, skip: list[str]) -> dict[str, Step]:
    """All systems by name; those that can't be built here are left out with a word."""
    unet = source.model.denoiser

    def eager(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        out: Tensor = unet(z, t, c, return_dict=False)[0]
        return out

    found: dict[str, Step] = {EAGER: eager}
    builders: dict[str, Callable[[], Step]] = {
        "torch.compile": lambda: torch.compile(eager),
        "plain torch.onnx": lambda: plain_export(source, work / "plain.onnx", threads),
        "ours fp32": lambda: ours(source, work / "fp32", "fp32", threads),
        "ours int8": lambda: ours(source, work / "int8", "int8", threads),
    }
    for name, build in builders.items():
        if name in skip:
            continue
        try:
            found[name] = build()
        except Exception as error:
            print(f"{name}: left out, {type(error).__name__}", flush=True)
    return found


def ours(source: ExportSource, folder: Path, precision: Any, threads: int) -> Step:
    """Our engine through the runtime that serves it."""
    write_engine(source, folder, precision, 18)
    engine = ExportedUNet(folder, num_threads=threads)

    def step(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        out: Tensor = engine(z, t, c, return_dict=False)[0]  # type: ignore[index]
        return out

    return step


def plain_export(source: ExportSource, path: Path, threads: int) -> Step:
    """What one gets without an exporter of one's own: dynamo, defaults, a default session."""
    unet = source.model.denoiser
    shape = source.model.latent_shape
    c = source.model.encode(["a", "b"]).hidden
    example = (torch.randn(2, *shape), torch.tensor(500.0), c)
    dynamic = {
        "sample": {0: "batch"},
        "timestep": None,
        "encoder_hidden_states": {0: "batch"},
    }
    with quiet():
        torch.onnx.export(
            *(unet, example, str(path)),
            dynamo=True,
            input_names=list(dynamic),
            output_names=["out_sample"],
            dynamic_shapes=dynamic,
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options)

    def step(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        feeds = dict(zip(dynamic, (z.numpy(), t.numpy(), c.numpy()), strict=True))
        return torch.from_numpy(session.run(None, feeds)[0])

    return step


def measure(
    source: ExportSource, steps: dict[str, Step], batch: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of one call, all systems in turn; the ratio is eager's time over theirs."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(batch, *source.model.latent_shape, generator=generator)
    t = torch.tensor(500.0)
    c = source.model.encode([source.erased_prompts[0]]).repeat(batch).hidden
    expected = steps[EAGER](z, t, c)
    times: dict[str, list[float]] = {}
    differences: dict[str, float] = {}
    for name, step in steps.items():
        differences[name] = float((step(z, t, c) - expected).abs().max())
        limit = MAX_DIFFERENCE.get(name, 1e-3)
        if not differences[name] <= limit:
            raise RuntimeError(f"{name} computes something else: {differences[name]:.1e}")
        times[name] = []
    for _ in range(rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step(z, t, c)
            times[name].append(1000 * (time.perf_counter() - began))
    eager = times[EAGER]
    return {
        name: {
            "median_ms": median(own),
            "min_ms": min(own),
            "max_abs_difference": differences[name],
            "times_eager": median(a / b for a, b in zip(eager, own, strict=True)),
        }
        for name, own in times.items()
    }


if __name__ == "__main__":
    main()

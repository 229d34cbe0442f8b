"""Which choice of our graph, session and threads gains what: one changed at a time.

The reference is our fp32 graph as it is served. Every other row changes one thing back to what a
plain export or a default session would have, or to something that was tried; all are timed in
rounds that take them in turn, and ratios are taken within a round (``unet_step.py``). A ratio below
1 is what the choice is worth.

    python benchmarks/session_settings.py RUN_OR_RELEASE --out benchmarks/session_settings.json
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import onnxruntime as ort
import torch
from torch import Tensor
from unet_step import EAGER, NARROW, Opener, Step, Subject, arguments, measure, opened, ours, spread

from safediff.environment import environment
from safediff.export import graph
from safediff.export.operators import aten, translations
from safediff.export.to_onnx import export_denoiser

Json = dict[str, Any]
Options = Callable[[ort.SessionOptions, Subject], None]
OURS = "as served"


def main() -> None:
    """Time all variants and write the result."""
    args = arguments(__doc__).parse_args()
    subject = opened(args)
    rows: dict[str, Json] = {}
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        openers = variants(subject, Path(work), args.threads)
        for batch in args.batches:
            rows[str(batch)] = against_ours(measure(subject, openers, batch, args.rounds))
            for name, row in rows[str(batch)].items():
                print(f"batch {batch:2}  {name:34} {row['times_served']['median']:.3f}", flush=True)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "model": NARROW if str(args.run) == NARROW else "embedded, erased",
        "settings": {"threads": args.threads, "rounds": args.rounds},
        "batches": rows,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def against_ours(rows: Mapping[str, Json]) -> Json:
    """Speed as a multiple of what is served, over all rounds."""
    served = rows[OURS]["round_ms"]
    return {
        name: {
            "median_ms": row["median_ms"],
            "max_abs_difference": row["max_abs_difference"],
            "times_served": spread(served, row["round_ms"]),
        }
        for name, row in rows.items()
    }


def variants(subject: Subject, work: Path, threads: int) -> dict[str, Opener]:
    """What is compared, by name."""

    def eager(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        out: Tensor = subject.unet(z, t, c, return_dict=False)[0]
        return out

    served = export_denoiser(subject.unet, work / "ours").parent
    found: dict[str, Opener] = {EAGER: lambda: eager, OURS: lambda: ours(served, threads)}
    for name, target, value in GRAPHS:
        with patch.object(graph, target, value):
            folder = export_denoiser(subject.unet, work / name.replace(" ", "-")).parent
        found[name] = partial(ours, folder, threads)
    newest = export_denoiser(subject.unet, work / "opset", opset=23).parent
    found["graph: opset 23, group norm one node"] = partial(ours, newest, threads)
    for name, change in SESSIONS.items():
        found[name] = partial(plainly, served, subject, threads, change)
    found["threads: one"] = lambda: ours(served, 1)
    return found


def _without(*operators: Any) -> Callable[..., dict[Any, Any]]:
    """The exporter's own translation of some operators."""

    def of(opset: int, **chosen: bool) -> dict[Any, Any]:
        found = translations(opset, **chosen)
        return {k: v for k, v in found.items() if k not in operators}

    return of


GRAPHS: tuple[tuple[str, str, Any], ...] = (
    (
        "graph: the exporter's attention",
        "translations",
        _without(aten.scaled_dot_product_attention.default),
    ),
    ("graph: the exporter's GELU", "translations", _without(aten.gelu.default)),
    ("graph: sizes where the tracer read them", "_read_sizes_early", lambda _: None),
)


def _basic(options: ort.SessionOptions, subject: Subject) -> None:
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC


def _no_spinning(options: ort.SessionOptions, subject: Subject) -> None:
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")


def _no_pattern(options: ort.SessionOptions, subject: Subject) -> None:
    options.enable_mem_pattern = False


def _fixed(options: ort.SessionOptions, subject: Subject) -> None:
    for name, size in zip(("height", "width"), subject.shape[1:], strict=True):
        options.add_free_dimension_override_by_name(name, size)


SESSIONS: Mapping[str, Options] = {
    "session: basic optimisations only": _basic,
    "session: threads that sleep": _no_spinning,
    "session: no memory pattern": _no_pattern,
    "session: fixed height and width": _fixed,
}


def plainly(folder: Path, subject: Subject, threads: int, change: Options) -> Step:
    """Our graph in a session of its own, with one setting changed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    change(options, subject)
    session = ort.InferenceSession(str(folder / "model.onnx"), options)
    names = [value.name for value in session.get_inputs()]

    def step(z: Tensor, t: Tensor, c: Tensor) -> Tensor:
        feeds = dict(zip(names, (z.numpy(), t.numpy(), c.numpy()), strict=True))
        return torch.from_numpy(session.run(None, feeds)[0])

    return step


if __name__ == "__main__":
    main()

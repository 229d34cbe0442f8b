"""``safediff serve``: a release behind HTTP."""

from pathlib import Path
from typing import Annotated

import typer

ENGINES = ("auto", "onnx", "torch")
MAX_WAIT_MS = 60_000.0
"""What is not finite, no thread can wait."""


def serve(
    release: Annotated[
        Path, typer.Argument(metavar="RELEASE", help="Release, or folder of export --full.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    engine: Annotated[
        str, typer.Option(help="auto, onnx, torch, or a TensorRT plan: engines/NAME.plan.")
    ] = "auto",
    provider: Annotated[
        str | None,
        typer.Option(
            help="ONNX Runtime's; never replaced by another. CUDA's where it is if not given."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one operator; all cores if not given.")
    ] = None,
    no_spin: Annotated[
        bool,
        typer.Option(
            "--no-spin",
            help="ONNX Runtime's threads sleep while they wait, where other work needs the cores.",
        ),
    ] = False,
    cuda_graph: Annotated[
        bool | None,
        typer.Option(
            "--cuda-graph/--no-cuda-graph",
            help="Replay recorded kernels, for each size. If not given: of a static plan.",
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Pictures drawn at once.")] = 8,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Pictures that may wait; more are answered with 429.")
    ] = 64,
    max_wait_ms: Annotated[
        float, typer.Option(min=0, help="How long a batch waits for further pictures.")
    ] = 20.0,
    drain_seconds: Annotated[
        int, typer.Option(min=1, help="Time to finish accepted requests after SIGTERM.")
    ] = 60,
    public_key: Annotated[
        Path | None, typer.Option(help="Check the release's signature first.")
    ] = None,
    accept_unverified: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            allow_from_autoenv=False,
            help="Serve without a certificate that says pass.",
        ),
    ] = None,
) -> None:
    """Serve a release: POST /v1/images/generations, GET /healthz, GET /metrics."""
    from importlib.util import find_spec

    from safediff.errors import UsageError

    if engine not in ENGINES and not engine.endswith(".plan"):
        raise UsageError(f"--engine {engine}: expected {', '.join(ENGINES)} or a plan")
    if not 0 <= max_wait_ms <= MAX_WAIT_MS:
        raise UsageError(f"--max-wait-ms {max_wait_ms}: expected 0 to {MAX_WAIT_MS:.0f}")
    lacking = [name for name in ("fastapi", "uvicorn", "prometheus_client") if not find_spec(name)]
    if lacking:
        raise UsageError(f"{lacking[0]} is not installed", "pip install 'safediff[serve]'")
    from safediff.cli.quiet_libraries import quiet_libraries

    quiet_libraries()
    from safediff.serve.pipeline import SafePipeline
    from safediff.serve.server import run

    pipeline = SafePipeline.from_release(
        release,
        engine=engine,
        provider=provider,
        num_threads=threads,
        cuda_graph=cuda_graph,
        spin=not no_spin,
        public_key=public_key,
        accept_unverified=accept_unverified,
        max_batch=max_batch,
    )
    run(
        pipeline,
        host=host,
        port=port,
        max_queue=max_queue,
        max_wait_ms=max_wait_ms,
        drain_s=drain_seconds,
    )

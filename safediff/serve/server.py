"""Runs the application until SIGTERM, then finishes what was accepted."""

import logging
import signal
import sys
from types import FrameType

import uvicorn

from safediff.errors import Inconclusive
from safediff.serve.app import build_app
from safediff.serve.pipeline import SafePipeline

log = logging.getLogger("safediff.serve")


def run(
    pipeline: SafePipeline,
    *,
    host: str,
    port: int,
    max_queue: int,
    max_wait_ms: float,
    drain_s: int,
) -> None:
    """Serve until told to stop; requests that were accepted are answered first.

    Raises:
        Inconclusive: the address can't be used.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    trust = pipeline.trust
    log.info("certificate %s, verdict %s", trust.certificate_sha256, trust.verdict)
    if trust.remark:
        log.warning("%s", trust.remark)
    if trust.unverified:
        log.warning("served without a valid certificate: %s", trust.unverified)
    config = uvicorn.Config(
        build_app(pipeline, max_queue=max_queue, max_wait_ms=max_wait_ms),
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=drain_s,
    )
    server = uvicorn.Server(config)
    # uvicorn stops at the signal, then sends it to the handler that it found: this one, so that
    # a server that has drained ends well
    signal.signal(signal.SIGTERM, _ignore)
    try:
        server.run()
    except SystemExit as stop:  # its way to say that the address is taken
        raise Inconclusive(
            f"{host}:{port}: can't be served from", "choose another --host or --port"
        ) from stop
    log.info("drained")


def _ignore(signum: int, frame: FrameType | None) -> None:
    pass

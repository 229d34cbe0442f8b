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
        Inconclusive: the address can't be used, or requests that were accepted were not answered
            within ``drain_s``.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    trust = pipeline.trust
    log.info("certificate %s, verdict %s", trust.certificate_sha256, trust.verdict)
    if trust.expires_at is not None:
        log.info("it expires at %s", trust.expires_at.isoformat(timespec="seconds"))
    if trust.remark:
        log.warning("%s", trust.remark)
    if trust.unverified:
        log.warning("served without a valid certificate: %s", trust.unverified)
    for doubt in trust.doubts:
        log.warning("what speaks against it: %s", doubt)
    log.info("serving %s at http://%s:%d", pipeline.drawn_by, _in_url(host), port)
    app = build_app(pipeline, max_queue=max_queue, max_wait_ms=max_wait_ms)
    config = uvicorn.Config(
        app,
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
    if num_dropped := app.state.num_dropped:
        raise Inconclusive(
            f"stopped: {num_dropped} accepted requests were not answered within {drain_s} s",
            "give them more time with --drain-seconds",
        )
    log.info("drained")


def _in_url(host: str) -> str:
    """An IPv6 address takes brackets."""
    return f"[{host}]" if ":" in host else host


def _ignore(signum: int, frame: FrameType | None) -> None:
    pass

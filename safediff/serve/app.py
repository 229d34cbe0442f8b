"""The HTTP side: image generation in the shape that image clients use, health, metrics.

Every answer carries the certificates' hashes. Prompts are neither logged nor returned in errors;
the words of one that the content rules refuse are named to the client.
"""

import asyncio
import base64
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from torch import Tensor

from safediff.errors import Inconclusive, UsageError
from safediff.policy.content import check_text
from safediff.serve.batching import Batcher, Broken, QueueFull, Stopping
from safediff.serve.clients import BodyLimit, CancelledAnswer, unless_gone
from safediff.serve.pipeline import Order, SafePipeline
from safediff.serve.png import png_bytes
from safediff.serve.settings import Settings
from safediff.serve.telemetry import Telemetry
from safediff.serve.trust import Trust

MAX_IMAGES, MAX_STEPS, MAX_GUIDANCE, MAX_PROMPT_CHARS = 8, 200, 30.0, 4000
MAX_BODY_BYTES = 64 * 1024
"""The longest prompt in JSON's escapes takes 48,000."""
MAX_BODY_S = 30.0
"""How long a client may take to send it."""
LAST_BATCH_S = 5.0
"""How long a batch may take that nobody waits for any more, when the server stops."""
CLIENT_GONE = 499
"""nginx's status for it; nobody reads it but the metrics."""
BROKEN = "nothing can be drawn any more until the server is started again"
GENERATIONS = "/v1/images/generations"
GoOn = Callable[[Request], Awaitable[Response]]
log = logging.getLogger("safediff.serve")


class Generation(BaseModel):
    """POST /v1/images/generations, with the fields that image clients know.

    null stands for what is not given. What nothing here depends on may be said as it is.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] | None = None
    """One if not given."""
    size: str | None = None
    """``WxH``; only the model's own, which was verified."""
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    style: None = None
    model: str | None = None
    """Accepted because clients send it; there is one model here."""
    user: str | None = None
    """Likewise; neither used nor kept."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    num_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=MAX_GUIDANCE, allow_inf_nan=False)] | None = (
        None
    )


class Refusal(Exception):
    """An answer that is no picture."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param
        self.headers: dict[str, str] = {}


def build_app(pipeline: SafePipeline, *, max_queue: int = 64, max_wait_ms: float = 20.0) -> FastAPI:
    """The application; its batches end when it is shut down, after what waits was drawn.

    ``state.num_dropped`` counts the requests that the server cancelled after they were queued.
    """
    trust = pipeline.trust
    batcher = Batcher(
        pipeline.draw,
        max_batch=pipeline.max_batch,
        max_queue=max_queue,
        max_wait_s=max_wait_ms / 1000,
        on_batch=lambda batch: telemetry.batch(batch),
    )
    telemetry = Telemetry(trust, lambda: batcher.depth, pipeline.max_batch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if not await asyncio.to_thread(batcher.drain, LAST_BATCH_S):
            log.warning("the batch in progress was abandoned")

    app = FastAPI(title="safediff", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.batcher = batcher
    app.state.num_dropped = 0
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES, timeout_s=MAX_BODY_S)
    _answer_errors(app)
    _count_answers(app, telemetry)
    _mark_answers(app, trust)
    _answer_cancelled(app, telemetry, trust)

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        found = health(pipeline) | ({"status": "broken"} if batcher.broken else {})
        return JSONResponse(found, 200 if found["status"] == "ok" else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(telemetry.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post(GENERATIONS)
    async def generations(wanted: Generation, request: Request) -> dict[str, Any]:
        began = time.monotonic()
        pictures = await draw(pipeline, batcher, wanted, request)
        telemetry.latency.observe(time.monotonic() - began)
        return {"created": int(time.time()), "data": [{"b64_json": p} for p in pictures]}

    return app


def health(pipeline: SafePipeline) -> dict[str, Any]:
    """What is served and on whose word."""
    trust = pipeline.trust
    return {
        "status": "ok" if trust.holds else "expired",
        "policy": ", ".join(trust.policies) or None,
        "verdict": trust.verdict,
        "engine": trust.plan_file or trust.engine,
        "guard": None if pipeline.guard is None else pipeline.guard.name,
        "size": "{}x{}".format(*pipeline.size),
        "certificate_sha256": trust.certificate_sha256,
        "release_sha256": trust.release_sha256,
        "unverified": trust.unverified or None,
    }


async def draw(
    pipeline: SafePipeline, batcher: Batcher, wanted: Generation, request: Request
) -> list[str]:
    """The pictures of a request as base64 PNG.

    Raises:
        Refusal: the certificate has expired, the request is wrong, there is no room, the engine
            failed or has ended, or the client went away.
    """
    if not pipeline.trust.holds:
        raise Refusal(503, "what was verified of this model has expired; nothing is drawn")
    settings = _check(pipeline, wanted)
    num_images = 1 if wanted.n is None else wanted.n
    if num_images > batcher.max_queue:  # would be told to try again for ever
        raise Refusal(400, f"n: at most {batcher.max_queue} fit into the queue here", "n")
    # without a seed, two equal requests give two pictures
    seed = time.time_ns() % 2**63 if wanted.seed is None else wanted.seed
    orders = [Order(wanted.prompt, seed, index) for index in range(num_images)]
    try:
        futures = batcher.submit(orders, settings)
    except QueueFull as full:
        refusal = Refusal(429, str(full))
        refusal.headers["Retry-After"] = str(full.retry_after_s)
        raise refusal from full
    except Stopping as stopping:
        raise Refusal(503, "the server is shutting down") from stopping
    except Broken as broken:
        raise Refusal(503, BROKEN) from broken
    request.state.queued = True
    try:
        pictures = await unless_gone(request, asyncio.gather(*map(asyncio.wrap_future, futures)))
    except ClientDisconnect as gone:
        raise Refusal(CLIENT_GONE, "the client went away") from gone
    except Broken as broken:
        raise Refusal(503, BROKEN) from broken
    except UsageError as error:  # its text may hold the prompt
        raise Refusal(400, "this model can't draw that prompt with these settings") from error
    except Inconclusive as error:  # its text may hold the server's paths
        log.error("not drawn: %s", " ".join(str(error).split()))
        raise Refusal(500, "the engine could not draw it") from error
    finally:  # one failed, or nobody waits: the others are not drawn
        for future in futures:
            future.cancel()
    return await asyncio.to_thread(_encoded, pictures, pipeline.trust)


def _encoded(pictures: list[Tensor], trust: Trust) -> list[str]:
    return [base64.b64encode(png_bytes(p, trust)).decode("ascii") for p in pictures]


def _check(pipeline: SafePipeline, wanted: Generation) -> Settings:
    """What the pictures are to be drawn with, after all that can be told before."""
    own = "{}x{}".format(*pipeline.size)
    if wanted.size not in (None, own, "auto"):
        raise Refusal(400, f"size: this model was verified at {own} and draws nothing else", "size")
    if reason := check_text(wanted.prompt):
        raise Refusal(400, f"prompt: {reason}", "prompt")
    if (window := pipeline.reader.cut_after(wanted.prompt)) is not None:
        raise Refusal(400, f"prompt: longer than the {window} tokens that are read", "prompt")
    steps, scale = wanted.num_steps, wanted.guidance_scale
    settings = Settings(
        num_steps=pipeline.defaults.num_steps if steps is None else steps,
        guidance_scale=pipeline.defaults.guidance_scale if scale is None else scale,
    )
    if found := pipeline.misfit(settings):
        raise Refusal(400, f"{found.param}: {found.message}", found.param)
    return settings


def _answer_errors(app: FastAPI) -> None:
    """One line of JSON, whatever went wrong.

    What nobody foresaw is caught by a middleware, the innermost one: a handler of ``Exception``
    would answer outside of those that mark and count, and raise again into uvicorn's log.
    """

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return error_answer(refusal.status, str(refusal), refusal.param, refusal.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        names = [str(part) for part in first["loc"] if part != "body"]
        param = names[0] if names and first["type"] != "json_invalid" else None
        message = f"{param}: {first['msg']}" if param else f"body: {first['msg']}"
        return error_answer(400, message, param)

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return error_answer(error.status_code, str(error.detail), headers=error.headers)

    @app.middleware("http")
    async def unforeseen(request: Request, go_on: GoOn) -> Response:
        try:
            return await go_on(request)
        except Exception as error:  # its text may hold the prompt
            log.error("internal error: %s at %s", type(error).__name__, _where(error))
            return error_answer(500, "internal error")


def _where(error: Exception) -> str:
    """File and line, which is what a traceback says without anybody's words."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def error_answer(
    status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error in the shape that image clients read."""
    theirs = "rate_limit_error" if status == 429 else "invalid_request_error"
    kind = theirs if status < 500 else "server_error"
    line = " ".join(message.split())
    code = "rate_limit_exceeded" if status == 429 else None
    body = {"error": {"message": line, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status, headers)


def _count_answers(app: FastAPI, telemetry: Telemetry) -> None:
    @app.middleware("http")
    async def counted(request: Request, go_on: GoOn) -> Response:
        began = time.monotonic()
        response = await go_on(request)
        if request.url.path == GENERATIONS:
            telemetry.requests.labels(str(response.status_code)).inc()
            milliseconds = 1000 * (time.monotonic() - began)
            log.info("%s %d in %.0f ms", request.method, response.status_code, milliseconds)
        return response


def _mark_answers(app: FastAPI, trust: Trust) -> None:
    @app.middleware("http")
    async def marked(request: Request, go_on: GoOn) -> Response:
        response = await go_on(request)
        response.headers.update(_marks(trust))
        return response


def _marks(trust: Trust) -> dict[str, str]:
    marks = {
        "X-Safediff-Certificate": trust.certificate_sha256,
        "X-Safediff-Release": trust.release_sha256,
        "X-Safediff-Verdict": trust.verdict,
    }
    if trust.unverified:  # headers are latin-1; JSON's escapes are ASCII
        marks["X-Safediff-Unverified"] = json.dumps(trust.unverified)
    return marks


def _answer_cancelled(app: FastAPI, telemetry: Telemetry, trust: Trust) -> None:
    def cancelled(request: Request) -> Response:
        queued = getattr(request.state, "queued", False)
        app.state.num_dropped += queued
        if request.url.path == GENERATIONS:
            telemetry.requests.labels("503").inc()
        log.warning("%s 503, the time to drain is over", request.method)
        why = "the server stopped before it was drawn" if queued else "the server is shutting down"
        return error_answer(503, why, headers=_marks(trust))

    app.add_middleware(CancelledAnswer, answer=cancelled)

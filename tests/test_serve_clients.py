"""Clients that go away or send too much, and pictures that nobody may or will have any more."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from test_serve_settings import PATH, PROMPT, REASON, trust
from tiny import tiny_backbone

from safediff.errors import Inconclusive
from safediff.serve.app import build_app
from safediff.serve.clients import CancelledAnswer
from safediff.serve.pipeline import Order, SafePipeline, Settings

WANTED = {"prompt": PROMPT, "n": 8, "num_steps": 1}


class Easel:
    """Draws black pictures, one by one; all but the first wait until they may be drawn."""

    def __init__(self, first_fails: bool = False) -> None:
        self.first_fails = first_fails
        self.begun: list[int] = []
        self.go = threading.Event()

    def draw(self, orders: Sequence[Order], settings: Settings) -> torch.Tensor:
        (order,) = orders
        self.begun.append(order.index)
        if self.first_fails and order.index == 0:
            raise Inconclusive("/srv/r/unet.plan: there is no picture")
        assert self.go.wait(60)
        return torch.zeros(1, 3, 16, 16, dtype=torch.uint8)


def served_by(easel: Easel, folder: Path) -> FastAPI:
    pipeline = SafePipeline(tiny_backbone(folder), trust(), guard=None, max_batch=1)
    pipeline.draw = easel.draw  # type: ignore[method-assign]
    return build_app(pipeline, max_wait_ms=0)


@contextmanager
def listening(app: ASGIApp, easel: Easel, **options: Any) -> Iterator[int]:
    """The port at which uvicorn serves it; in the end everything may be drawn."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        easel.go.set()
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


def test_what_a_client_wanted_that_went_away_is_not_drawn(tmp_path: Path) -> None:
    easel = Easel()
    app = served_by(easel, tmp_path)
    with listening(app, easel) as port:
        client = http.client.HTTPConnection("127.0.0.1", port)
        client.request("POST", PATH, json.dumps(WANTED), {"Content-Type": "application/json"})
        deadline = time.monotonic() + 60
        while not easel.begun and time.monotonic() < deadline:
            time.sleep(0.01)
        client.close()
        deadline = time.monotonic() + 30
        while (answered := TestClient(app).get("/metrics").text).count('status="499"} 1.0') < 1:
            assert time.monotonic() < deadline, answered
            time.sleep(0.01)
    assert app.state.batcher.drain(60)
    assert easel.begun == [0]


def test_the_others_of_a_failed_picture_are_not_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Why it failed is told to the log alone."""
    easel = Easel(first_fails=True)
    app = served_by(easel, tmp_path)
    with TestClient(app) as client:
        answer = client.post(PATH, json=WANTED)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            500,
            "the engine could not draw it",
        )
        assert "not drawn: /srv/r/unet.plan: there is no picture" in caplog.text
        easel.go.set()
        assert app.state.batcher.drain(60)
    assert easel.begun in ([0], [0, 1])  # the second may have begun before


def half_a_request(port: int) -> socket.socket:
    """What sent it, and will send no more."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    client.sendall(f'{head}Content-Length: 100\r\n\r\n{{"prompt": '.encode())
    return client


def test_half_a_request_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safediff.serve.app.MAX_BODY_S", 0.2)
    easel = Easel()
    app = served_by(easel, tmp_path)
    with listening(app, easel) as port, half_a_request(port) as client:
        answer = client.makefile("rb").read().decode()  # until the connection is closed
    assert answer.startswith("HTTP/1.1 408 ")
    assert "body: did not come within 0.2 s" in answer
    assert "x-safediff-certificate" in answer.lower()


def test_half_a_request_is_none_that_was_accepted(tmp_path: Path) -> None:
    easel = Easel()
    app, come = served_by(easel, tmp_path), threading.Event()

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            come.set()
        await app(scope, receive, send)

    with listening(noting, easel, timeout_graceful_shutdown=1) as port:
        client = half_a_request(port)
        assert come.wait(60)
    with client:
        assert b" 503 " in client.makefile("rb").readline()
    assert app.state.num_dropped == 0


def test_only_pictures_are_counted_as_cancelled(tmp_path: Path) -> None:
    app = served_by(Easel(), tmp_path)
    (cancelled,) = [m.kwargs["answer"] for m in app.user_middleware if m.cls is CancelledAnswer]
    for path in ("/healthz", PATH):
        answer = cancelled(Request({"type": "http", "method": "GET", "path": path, "headers": []}))
        assert answer.status_code == 503
    assert app.state.num_dropped == 0
    assert 'requests_total{status="503"} 1.0' in TestClient(app).get("/metrics").text


def test_a_server_that_can_draw_no_more_says_so_at_once(tmp_path: Path) -> None:
    easel = Easel()
    app = served_by(easel, tmp_path)
    easel.go.set()

    def ends(*told: object) -> None:
        raise ValueError("nowhere to count it")

    app.state.batcher.on_batch = ends
    with TestClient(app) as client:
        assert client.get("/healthz").json()["status"] == "ok"
        assert client.post(PATH, json=WANTED).status_code == 503  # all but the first wait
        app.state.batcher._thread.join(60)
        answer, health = client.post(PATH, json=WANTED), client.get("/healthz")
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    assert answer.json()["error"]["message"].startswith("nothing can be drawn any more")
    assert (health.status_code, health.json()["status"]) == (503, "broken")


# A certificate that expires while it is served.

CERTIFICATE = {"verdict": "pass", "policy": {"name": "small", "resolved": {"name": "small"}}}


class Later(datetime):
    """A clock that is ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(days=2)


def expiring(folder: Path, **changes: Any) -> SafePipeline:
    facts = {"certificates": (CERTIFICATE,), "doubts": (), "reason": ""} | changes
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    return SafePipeline(tiny_backbone(folder), trust(**facts, expires_at=tomorrow), guard=None)


def test_nothing_is_drawn_once_the_certificate_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"prompt": PROMPT, "num_steps": 1}
    with TestClient(build_app(expiring(tmp_path))) as client:
        assert client.post(PATH, json=wanted).status_code == 200
        health = client.get("/healthz")
        assert (health.status_code, health.headers["X-Safediff-Verdict"]) == (200, "pass")
        monkeypatch.setattr("safediff.serve.trust.datetime", Later)
        answer, health = client.post(PATH, json=wanted), client.get("/healthz")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"].startswith("what was verified of this model has e")
        assert answer.headers["X-Safediff-Verdict"] == "expired"
        assert (health.status_code, health.json()["status"]) == (503, "expired")
        assert health.json()["verdict"] == "expired"
        page = client.get("/metrics").text
    assert 'verdict="expired"' in page
    assert 'verdict="pass"' not in page


def test_a_reason_that_was_given_counts_once_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"prompt": PROMPT, "num_steps": 1}
    with TestClient(build_app(expiring(tmp_path, reason=REASON))) as client:
        assert "X-Safediff-Unverified" not in client.post(PATH, json=wanted).headers
        monkeypatch.setattr("safediff.serve.trust.datetime", Later)
        answer, health = client.post(PATH, json=wanted), client.get("/healthz")
    assert answer.status_code == 200
    assert answer.headers["X-Safediff-Unverified"] == json.dumps(REASON)
    assert answer.headers["X-Safediff-Verdict"] == "expired"
    assert (health.status_code, health.json()["unverified"]) == (200, REASON)

"""The server as clients and operators see it: a process, HTTP, signals."""

import base64
import http.client
import io
import json
import logging
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving_examples import exported, write_example
from serving_process import PATH, Answer, Server, start
from small_policy import command, environment
from starlette.testclient import TestClient

from safediff.models.backbone import DEFAULT_GUIDANCE
from safediff.models.reader import Reader
from safediff.release.checksums import sha256_file
from safediff.serve.app import build_app
from safediff.serve.pipeline import SafePipeline, Settings

ROOT = Path(__file__).parents[1]
PROMPT = "an owl in a hat"
REASON = "an internal trial: ümlaut, no users"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = start(exported())
    yield running
    code, errors = running.stop()
    assert code == 0, errors
    assert "drained" in errors
    assert f"serving unet onnx on CPUExecutionProvider at {running.url}\n" in errors
    assert PROMPT not in errors  # prompts are never logged
    assert "owl" not in errors


def test_a_request_gives_a_picture(server: Server) -> None:
    wanted = {"prompt": PROMPT, "n": 2, "size": "16x16", "response_format": "b64_json"}
    answer = server.ask(PATH, wanted | {"seed": 3, "num_steps": 2, "guidance_scale": 4.0})
    assert answer.status == 200, answer.body
    assert answer.json["created"] > 1_700_000_000
    files = [base64.b64decode(row["b64_json"]) for row in answer.json["data"]]
    assert len(files) == 2
    assert files[0] != files[1]
    certificate = sha256_file(exported() / "safety-certificate.json")
    release = sha256_file(exported() / "SHA256SUMS")
    assert answer.headers["X-Safediff-Certificate"] == certificate
    assert answer.headers["X-Safediff-Unverified"] is None
    with Image.open(io.BytesIO(files[0])) as picture:
        assert picture.size == (16, 16)
        assert picture.text["safediff:release"] == release  # type: ignore[attr-defined]
        assert picture.text["safediff:certificate"] == certificate  # type: ignore[attr-defined]
        assert "Synthetic picture" in picture.text["Comment"]  # type: ignore[attr-defined]
        assert "trainedAlgorithmicMedia" in str(picture.text)  # type: ignore[attr-defined]
    assert PROMPT.encode() not in files[0]


@pytest.mark.skipif(
    shutil.which("curl") is None,
    reason="asks as docs/serving.md does, and this machine has no curl: apt-get install curl; the "
    "other tests ask the same server from Python",
)
def test_the_pages_request_gives_a_picture(server: Server, tmp_path: Path) -> None:
    """As it stands in docs/serving.md, at a size that this model draws at once."""
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (asked,) = (
        block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "curl" in block
    )
    address = "http://127.0.0.1:8000"
    assert address in asked
    asked = asked.replace(address, server.url).replace("64x64", "16x16")
    subprocess.run(["sh", "-ec", asked], cwd=tmp_path, check=True)
    with Image.open(tmp_path / "hammer.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (16, 16))


def test_a_seed_gives_the_same_picture_again(server: Server) -> None:
    wanted = {"prompt": PROMPT, "seed": 3, "num_steps": 2}
    first, second = server.ask(PATH, wanted).json["data"], server.ask(PATH, wanted).json["data"]
    assert first == second
    assert server.ask(PATH, wanted | {"seed": 4}).json["data"] != first
    unseeded = {"prompt": PROMPT, "num_steps": 2}
    assert server.ask(PATH, unseeded).json["data"] != server.ask(PATH, unseeded).json["data"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_with_two_text_encoders_is_served() -> None:
    pipeline = SafePipeline.from_release(exported(xl=True), num_threads=1)
    wanted = {"prompt": PROMPT, "seed": 3, "num_steps": 2}
    with TestClient(build_app(pipeline)) as client:
        answer = client.post(PATH, json=wanted)
        too_long = client.post(PATH, json=wanted | {"prompt": "a" * 76})
    assert answer.status_code == 200, answer.text
    settings = Settings(num_steps=2, guidance_scale=DEFAULT_GUIDANCE)
    (expected,) = pipeline(PROMPT, seed=3, settings=settings)
    with Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))) as found:
        assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).max() <= 1
    assert too_long.status_code == 400


def test_health_says_what_is_served(server: Server) -> None:
    answer = server.ask("/healthz")
    assert answer.json["status"] == "ok"
    assert answer.json["verdict"] == "pass"
    assert answer.json["engine"] == "onnx"
    assert answer.json["size"] == "16x16"
    assert answer.headers["X-Safediff-Certificate"] == answer.json["certificate_sha256"]


def test_metrics_count(server: Server) -> None:
    drawn = server.metric("safediff_images_total")
    answered = server.metric('safediff_requests_total{status="200"}')
    server.ask(PATH, {"prompt": PROMPT, "n": 3, "num_steps": 1})
    assert server.metric("safediff_images_total") == drawn + 3
    assert server.metric('safediff_requests_total{status="200"}') == answered + 1
    assert server.metric("safediff_request_seconds_count") >= 1
    assert 'verdict="pass"' in server.ask("/metrics").body.decode()


def test_what_clients_send_by_habit_is_taken(server: Server) -> None:
    """null, and what changes nothing."""
    wanted = {"prompt": PROMPT, "num_steps": 1, "seed": 3}
    nothing = ("n", "size", "response_format", "model", "user", "guidance_scale", "style")
    habits: list[dict[str, Any]] = [
        dict.fromkeys(nothing),
        {"quality": "standard", "background": "opaque", "output_format": "png"},
        {"quality": "auto", "background": "auto", "moderation": "auto", "size": "auto"},
        dict.fromkeys(("quality", "background", "moderation", "output_format")),
    ]
    plain = server.ask(PATH, wanted).json["data"]
    for habit in habits:
        answer = server.ask(PATH, wanted | habit)
        assert answer.status == 200, answer.body
        assert answer.json["data"] == plain


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"not json", "body: JSON decode error"),
        ({}, "prompt: Field required"),
        ({"prompt": ""}, "prompt: String should have at least 1 character"),
        ({"prompt": PROMPT, "n": 0}, "n: Input should be greater than or equal to 1"),
        ({"prompt": PROMPT, "n": 99}, "n: Input should be less than or equal to 8"),
        ({"prompt": PROMPT, "n": "2"}, "n: Input should be a valid integer"),
        ({"prompt": PROMPT, "size": "512x512"}, "size: this model was verified at 16x16"),
        ({"prompt": PROMPT, "response_format": "url"}, "response_format: Input should be"),
        ({"prompt": PROMPT, "output_format": "webp"}, "output_format: Input should be"),
        ({"prompt": PROMPT, "quality": "hd"}, "quality: Input should be"),
        ({"prompt": PROMPT, "background": "transparent"}, "background: Input should be"),
        ({"prompt": PROMPT, "moderation": "low"}, "moderation: Input should be"),
        ({"prompt": PROMPT, "style": "vivid"}, "style: Input should be None"),
        ({"prompt": PROMPT, "num_steps": 5000}, "num_steps: Input should be less than"),
        ({"prompt": PROMPT, "guidance": 3}, "guidance: Extra inputs are not permitted"),
        ({"prompt": "owl " * 90}, "prompt: longer than the 75 tokens that are read"),
    ],
)
def test_wrong_requests_get_one_line(server: Server, body: Any, message: str) -> None:
    answer = server.ask(PATH, body)
    assert answer.status == 400
    error = answer.json["error"]
    assert error["message"].startswith(message)
    assert "\n" not in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", None)
    assert "owl" not in error["message"]
    assert answer.headers["X-Safediff-Certificate"]


def test_texts_that_the_content_rules_refuse_are_not_drawn(server: Server) -> None:
    drawn = server.metric("safediff_images_total")
    answer = server.ask(PATH, {"prompt": "a toddler with a balloon"})
    assert answer.status == 400
    assert "are refused" in answer.json["error"]["message"]
    assert server.metric("safediff_images_total") == drawn


BROKEN = """
from safediff.serve import pipeline
def draw(self, orders, settings):
    raise RuntimeError(f"no kernel for {orders[0].prompt!r}")
pipeline.SafePipeline.draw = draw
"""


def test_what_nobody_foresaw_is_marked_and_counted_and_tells_no_prompt() -> None:
    server = start(exported(), code=BROKEN)
    answers = [server.ask(PATH, {"prompt": PROMPT, "num_steps": 1, "n": 2}) for _ in range(2)]
    for answer in answers:
        assert (answer.status, answer.json["error"]["message"]) == (500, "internal error")
        for name in ("Certificate", "Release", "Verdict"):
            assert answer.headers[f"X-Safediff-{name}"], name
        assert b"owl" not in answer.body
    assert server.metric('safediff_requests_total{status="500"}') == 2
    code, errors = server.stop()
    assert code == 0
    assert "internal error: RuntimeError at <string>:4" in errors
    assert "owl" not in errors
    assert "Traceback" not in errors


def test_a_text_that_the_encoder_refuses_after_all_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its message quotes the text."""
    monkeypatch.setattr(Reader, "cut_after", lambda self, text: None)
    caplog.set_level(logging.INFO)
    pipeline = SafePipeline.from_release(exported(), num_threads=1)
    with TestClient(build_app(pipeline)) as client:
        answer = client.post(PATH, json={"prompt": f"{PROMPT} {'very ' * 80}", "num_steps": 1})
    message = "this model can't draw that prompt with these settings"
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, message)
    assert "POST 400 in " in caplog.text
    assert "owl" not in caplog.text + "".join(capfd.readouterr())


def test_unknown_paths_get_the_same_form(server: Server) -> None:
    answer = server.ask("/v1/nothing")
    assert (answer.status, answer.json["error"]["message"]) == (404, "Not Found")
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.headers["X-Safediff-Certificate"]
    answer = server.ask(PATH)
    assert (answer.status, answer.json["error"]["message"]) == (405, "Method Not Allowed")
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize("said", [True, False], ids=["with its length", "in chunks"])
def test_a_long_body_is_not_read(server: Server, said: bool) -> None:
    refused = server.metric('safediff_requests_total{status="413"}')
    body = json.dumps({"prompt": PROMPT, "user": "x" * 4_000_000}).encode()
    client = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    with closing(client):
        headers = {"Content-Type": "application/json"}
        client.request("POST", PATH, body if said else iter([body]), headers)
        answer = client.getresponse()
        error = json.loads(answer.read())["error"]
    assert (answer.status, error["type"]) == (413, "invalid_request_error")
    assert error["message"] == "body: at most 65536 bytes are read"
    assert answer.headers["X-Safediff-Certificate"]
    assert server.metric('safediff_requests_total{status="413"}') == refused + 1
    longest = {"prompt": "\U0001f989" * 4000, "num_steps": 1}  # escaped: 48,000 bytes
    assert server.ask(PATH, longest).json["error"]["message"].startswith("prompt: longer than")


def test_overload_is_refused_and_counted_and_nothing_is_lost() -> None:
    server = start(exported(), "--max-queue", "2", "--max-batch", "2", "--max-wait-ms", "0")
    wanted = {"prompt": PROMPT, "num_steps": 40, "seed": 1}
    too_many = server.ask(PATH, wanted | {"n": 3})
    assert too_many.status == 400
    assert too_many.json["error"]["message"] == "n: at most 2 fit into the queue here"
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: server.ask(PATH, wanted), range(24)))
    statuses = [answer.status for answer in answers]
    served, refused = statuses.count(200), statuses.count(429)
    assert served + refused == 24
    assert served >= 2
    assert refused >= 1
    for answer in answers:
        if answer.status == 429:
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json["error"]["type"] == "rate_limit_error"
            assert answer.json["error"]["code"] == "rate_limit_exceeded"
    assert server.metric('safediff_requests_total{status="429"}') == refused
    assert server.metric('safediff_requests_total{status="200"}') == served
    assert server.metric("safediff_images_total") == served
    assert server.stop()[0] == 0


def test_sigterm_drains() -> None:
    server = start(exported(), "--max-batch", "1")
    answers: list[Answer] = []
    wanted = {"prompt": PROMPT, "num_steps": 60, "n": 2}
    clients = [
        threading.Thread(target=lambda: answers.append(server.ask(PATH, wanted))) for _ in range(3)
    ]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 60
    while server.metric("safediff_queue_images") < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.metric("safediff_queue_images") >= 1
    code, errors = server.stop()
    for client in clients:
        client.join(60)
    assert code == 0, errors
    assert [answer.status for answer in answers] == [200] * 3
    assert all(len(answer.json["data"]) == 2 for answer in answers)
    assert "drained" in errors


SLOW = """
import time, torch
from safediff.serve import pipeline
def draw(self, orders, settings):
    time.sleep(1.5)
    return torch.zeros(len(orders), 3, 16, 16, dtype=torch.uint8)
pipeline.SafePipeline.draw = draw
"""


def test_what_cannot_be_drained_is_told() -> None:
    server = start(exported(), "--max-batch", "1", "--drain-seconds", "1", code=SLOW)
    answers: list[Answer] = []
    wanted = {"prompt": PROMPT, "num_steps": 1, "n": 8}
    client = threading.Thread(target=lambda: answers.append(server.ask(PATH, wanted)))
    client.start()
    deadline = time.monotonic() + 60
    while server.metric("safediff_queue_images") < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    code, errors = server.stop()
    client.join(60)
    (answer,) = answers
    assert (answer.status, answer.json["error"]["message"]) == (
        503,
        "the server stopped before it was drawn",
    )
    assert answer.headers["X-Safediff-Certificate"]
    assert code == 3
    message = "stopped: 1 accepted requests were not answered within 1 s"
    assert f"error: {message}\n" in errors
    assert "drained" not in errors
    assert "Traceback" not in errors


def test_what_is_not_certified_needs_a_reason_and_says_so(tmp_path: Path) -> None:
    release = write_example(tmp_path / "r", passed=False)
    done = subprocess.run(
        command("serve", release), capture_output=True, text=True, env=environment(), timeout=120
    )
    assert done.returncode == 2
    first, *more = done.stderr.splitlines()
    assert first == f"error: {release}: its certificate says inconclusive, not pass"
    assert len(more) == 1
    server = start(release, "--accept-unverified", REASON)
    answer = server.ask(PATH, {"prompt": PROMPT, "num_steps": 1})
    assert answer.status == 200
    assert json.loads(answer.headers["X-Safediff-Unverified"]) == REASON
    assert answer.headers["X-Safediff-Verdict"] == "inconclusive"
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json["data"][0]["b64_json"])))
    assert picture.text["safediff:unverified"] == REASON  # type: ignore[attr-defined]
    assert server.ask("/healthz").json["unverified"] == REASON
    code, errors = server.stop()
    assert code == 0
    assert f"served without a valid certificate: {REASON}" in errors
    assert "what speaks against it: its certificate says inconclusive, not pass" in errors


def test_an_address_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            command("serve", exported(), "--port", port, "--threads", "1"),
            capture_output=True,
            text=True,
            env=environment(),
            timeout=180,
        )
    assert done.returncode == 3
    assert f"error: 127.0.0.1:{port}: can't be served from" in done.stderr

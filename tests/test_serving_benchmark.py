"""The script that measures the server: its arithmetic, and what it counts as lost."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from benchmark_scripts import benchmark_script

STUB = """
import os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answered()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        with one_at_a_time:
            time.sleep(0.1)
        self.answered()

    def answered(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *given):
        pass

class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = False, 64

def drained(*given):
    threading.Thread(target=server.shutdown).start()

def dropped(*given):
    os._exit(7)

one_at_a_time = threading.Lock()
server = Server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler)
signal.signal(signal.SIGTERM, HOW)
server.serve_forever()
server.server_close()
"""
"""A server that ends as ``HOW`` says, and draws nothing."""


def with_stub(monkeypatch: pytest.MonkeyPatch, folder: Path, how: str) -> ModuleType:
    stub, module = folder / "stub.py", benchmark_script("serving")
    stub.write_text(STUB.replace("HOW", how))
    monkeypatch.setattr(module, "COMMAND", (sys.executable, str(stub)))
    return module


def test_a_server_that_drains_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = with_stub(monkeypatch, tmp_path, "drained")
    found = module.stopped_under_load(tmp_path, [], 1, requests=8)
    assert (found["sent"], found["answered"], found["lost"], found["exit_code"]) == (8, 8, 0, 0)
    assert 1 <= found["answered_before"] < 8
    assert 0 < found["drain_s"] < 60


def test_what_a_server_drops_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = with_stub(monkeypatch, tmp_path, "dropped")
    found = module.stopped_under_load(tmp_path, [], 1, requests=8)
    assert found["exit_code"] == 7
    assert found["lost"] == 8 - found["answered"] > 0


def test_rounds_are_pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = with_stub(monkeypatch, tmp_path, "drained")
    with module.serving(tmp_path, []) as server:
        rates, seconds = module.load(server.port, 2, 4, 1)
        assert module.ask(server.port, "GET", "/healthz", None) == (200, b"{}")
    assert (rates["requests"], rates["served"], len(seconds)) == (4, 4, 4)
    assert module.ask(server.port, "GET", "/healthz", None)[0] == module.NO_CONNECTION
    assert module.pooled([0.1] * 197 + [0.2, 0.3, 9.0]) == {
        "requests": 200,
        "p50_s": 0.1,
        "p99_s": 0.2,
        "max_s": 9.0,
    }


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 2.0), (0.25, 1.0), (0.99, 4.0), (1.0, 4.0), (0.0, 1.0)]
)
def test_a_quantile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert benchmark_script("serving").quantile([3.0, 1.0, 4.0, 2.0], share) == value

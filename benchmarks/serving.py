"""How much does dynamic batching gain, and what do overload and a stop under load look like?

Two servers of one release run side by side: one draws up to ``--max-batch`` pictures at once, the
other one picture after the other; all else is equal. Rounds alternate between them, so that both
see the same machine; the ratio is that of each pair of rounds, median and range. Clients are closed
loops: each sends its next request when the last one is answered. The p99 is that of all
rounds of a server together: one round's would be its slowest request. Then far more is sent than a
queue takes: every request is either served or told 429. The last server gets SIGTERM while requests
wait: those that it took are answered before it ends.

    python benchmarks/serving.py RELEASE --out benchmarks/serving.json
"""

import argparse
import http.client
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from safediff.environment import environment

PATH = "/v1/images/generations"
BATCHED, SINGLE = "dynamic batching", "one by one"
COMMAND = (sys.executable, "-m", "safediff.cli.app", "serve")
START_S = 300
STOP_S = 120
NO_CONNECTION, NO_ANSWER = 0, -1
"""In the place of a status."""


class Server(NamedTuple):
    """One that answers."""

    port: int
    process: "subprocess.Popen[bytes]"


class Answer(NamedTuple):
    """What a request came to."""

    status: int
    seconds: float


def main() -> int:
    """Measure both servers and write the result; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of rounds")
    parser.add_argument("--requests", type=int, default=40, help="of one round")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--max-wait-ms", type=float, default=20.0)
    parser.add_argument("--num-steps", type=int, default=25)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    options = ["--threads", str(args.threads), "--max-wait-ms", str(args.max_wait_ms)]
    rounds: dict[str, list[dict[str, float]]] = {BATCHED: [], SINGLE: []}
    times: dict[str, list[float]] = {BATCHED: [], SINGLE: []}
    with (
        serving(args.release, [*options, "--max-batch", str(args.max_batch)]) as batched,
        serving(args.release, [*options, "--max-batch", "1"]) as single,
    ):
        for server in (batched, single):  # not counted
            load(server.port, args.clients, args.clients, args.num_steps)
        for number in range(args.rounds):
            for name, server in ((BATCHED, batched), (SINGLE, single)):
                found, seconds = load(server.port, args.clients, args.requests, args.num_steps)
                rounds[name].append(found)
                times[name] += seconds
                print(number, name, found, flush=True)
    overload = flood(args.release, options, args.num_steps)
    print("overload", overload)
    stop = stopped_under_load(args.release, options, args.num_steps)
    print("stop under load", stop)
    pairs = zip(rounds[BATCHED], rounds[SINGLE], strict=True)
    ratios = [a["requests_per_s"] / b["requests_per_s"] for a, b in pairs]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "release")},
        "rounds": rounds,
        "all_rounds": {name: pooled(found) for name, found in times.items()},
        "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        "overload": overload,
        "stop_under_load": stop,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{BATCHED} against {SINGLE}: {median(ratios):.2f} times the requests")
    return 0 if overload["lost"] == stop["lost"] == stop["exit_code"] == 0 else 1


@contextmanager
def serving(release: Path, options: list[str]) -> Iterator[Server]:
    """A server in a process of its own; ends it with SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [*COMMAND, str(release), "--port", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while ask(port, "GET", "/healthz", None)[0] != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.2)
        yield Server(port, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_S)


def ask(
    port: int,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    on_sent: Callable[[], object] = lambda: None,
) -> tuple[int, bytes]:
    """Status and body; ``on_sent`` is called once the request is under way."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    failed = NO_CONNECTION
    try:
        connection.connect()
        failed = NO_ANSWER
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        on_sent()
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return failed, b""
    finally:
        connection.close()


def picture(
    port: int, number: int, num_steps: int, on_sent: Callable[[], object] = lambda: None
) -> Answer:
    """One request for one picture."""
    began = time.monotonic()
    body = {"prompt": "hammer, noto style", "seed": number, "num_steps": num_steps}
    status, _ = ask(port, "POST", PATH, body, on_sent)
    return Answer(status, time.monotonic() - began)


def load(
    port: int, clients: int, requests: int, num_steps: int
) -> tuple[dict[str, float], list[float]]:
    """One round: its rates, and how long each request took."""
    began = time.monotonic()
    answers = fire(port, clients, requests, num_steps)
    total = time.monotonic() - began
    served = [answer.seconds for answer in answers if answer.status == 200]
    if len(served) < requests:
        failed = sorted(answer.status for answer in answers if answer.status != 200)
        print(f"not served: {failed}", flush=True)
    rates = {
        "requests": requests,
        "served": len(served),
        "requests_per_s": round(len(served) / total, 3),  # one picture a request
        "p50_s": round(quantile([answer.seconds for answer in answers], 0.5), 4),
    }
    return rates, [answer.seconds for answer in answers]


def pooled(seconds: Sequence[float]) -> dict[str, float]:
    """Times of the requests of several rounds."""
    return {
        "requests": len(seconds),
        "p50_s": round(quantile(seconds, 0.5), 4),
        "p99_s": round(quantile(seconds, 0.99), 4),
        "max_s": round(max(seconds), 4),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that ``share`` of all are not above."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def fire(port: int, clients: int, requests: int, num_steps: int) -> list[Answer]:
    """All requests, by so many clients at a time."""
    numbers, lock = iter(range(requests)), threading.Lock()
    answers: list[Answer] = []

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            answer = picture(port, number, num_steps)
            with lock:
                answers.append(answer)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def flood(release: Path, options: list[str], num_steps: int) -> dict[str, int]:
    """64 requests at once at a server whose queue takes four pictures."""
    with serving(release, [*options, "--max-queue", "4", "--max-batch", "4"]) as server:
        statuses = [answer.status for answer in fire(server.port, 64, 64, num_steps)]
        page = ask(server.port, "GET", "/metrics", None)[1].decode()
    counted = [
        int(float(line.split()[-1]))
        for line in page.splitlines()
        if line.startswith('safediff_requests_total{status="429"}')
    ]
    served, refused = statuses.count(200), statuses.count(429)
    return {
        "sent": len(statuses),
        "served": served,
        "refused_429": refused,
        "counted_429": sum(counted),
        "lost": len(statuses) - served - refused,
    }


def stopped_under_load(
    release: Path, options: list[str], num_steps: int, requests: int = 32
) -> dict[str, float]:
    """SIGTERM when the first of many requests is answered: all others wait, and must be, too."""
    under_way, answered = threading.Semaphore(0), threading.Event()
    statuses: list[int] = []

    def client(number: int) -> None:
        statuses.append(picture(server.port, number, num_steps, under_way.release).status)
        answered.set()

    with serving(release, [*options, "--max-batch", "4"]) as server:
        threads = [threading.Thread(target=client, args=(n,)) for n in range(requests)]
        for thread in threads:
            thread.start()
        for _ in threads:
            under_way.acquire(timeout=STOP_S)
        answered.wait(STOP_S)
        before, began = len(statuses), time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        exit_code = server.process.wait(STOP_S)
        seconds = time.monotonic() - began
    for thread in threads:
        thread.join()
    served, told = statuses.count(200), statuses.count(503)
    return {
        "sent": requests,
        "answered_before": before,
        "answered": served,
        "told_503": told,
        "lost": requests - served - told,
        "exit_code": exit_code,
        "drain_s": round(seconds, 3),
    }


if __name__ == "__main__":
    sys.exit(main())

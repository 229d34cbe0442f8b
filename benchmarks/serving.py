"""How much does dynamic batching gain, and what does overload look like?

Two servers of one release run side by side: one draws up to ``--max-batch`` pictures at once, the
other one picture after the other; all else is equal. Rounds alternate between them, so that both
see the same machine; the ratio is that of each pair of rounds, median and range. Clients are closed
loops: each sends its next request when the last one is answered. The last phase sends far more than
the queue takes and counts the answers: every request is either served or told 429.

    python benchmarks/serving.py RELEASE --out benchmarks/serving.json
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from safediff.environment import environment

PATH = "/v1/images/generations"
BATCHED, SINGLE = "dynamic batching", "one by one"
START_S = 300


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
    with (
        serving(args.release, [*options, "--max-batch", str(args.max_batch)]) as batched,
        serving(args.release, [*options, "--max-batch", "1"]) as single,
    ):
        for port in (batched, single):  # not counted
            load(port, args.clients, args.clients, args.num_steps)
        for number in range(args.rounds):
            for name, port in ((BATCHED, batched), (SINGLE, single)):
                found = load(port, args.clients, args.requests, args.num_steps)
                rounds[name].append(found)
                print(number, name, found, flush=True)
    overload = flood(args.release, options, args.num_steps)
    print("overload", overload)
    pairs = zip(rounds[BATCHED], rounds[SINGLE], strict=True)
    ratios = [a["requests_per_s"] / b["requests_per_s"] for a, b in pairs]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "release")},
        "rounds": rounds,
        "ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
        "overload": overload,
        "environment": environment(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{BATCHED} against {SINGLE}: {median(ratios):.2f} times the requests")
    return 0 if overload["lost"] == 0 else 1


@contextmanager
def serving(release: Path, options: list[str]) -> Iterator[int]:
    """A server in a process of its own; gives its port, ends it with SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "safediff.cli.app", "serve", str(release)]
    process = subprocess.Popen([*command, "--port", str(port), *options], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while ask(port, "GET", "/healthz", None)[0] != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.2)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def ask(port: int, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
    """Status and body; status 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def load(port: int, clients: int, requests: int, num_steps: int) -> dict[str, float]:
    """One round; times in seconds."""
    times: list[float] = []
    statuses = fire(port, clients, requests, num_steps, times)
    total = times.pop()
    times.sort()
    served = statuses.count(200)
    if served < requests:
        print(f"not served: {sorted(status for status in statuses if status != 200)}", flush=True)
    return {
        "requests": float(requests),
        "served": float(served),
        "requests_per_s": served / total,
        "images_per_s": served / total,  # one picture a request
        "p50_s": times[len(times) // 2],
        "p99_s": times[min(len(times) - 1, int(len(times) * 0.99))],
    }


def fire(port: int, clients: int, requests: int, num_steps: int, times: list[float]) -> list[int]:
    """Statuses of all requests; ``times`` gets their durations, then that of the whole."""
    numbers, statuses, lock = iter(range(requests)), [], threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            began = time.monotonic()
            body = {"prompt": "hammer, noto style", "seed": number, "num_steps": num_steps}
            status, _ = ask(port, "POST", PATH, body)
            with lock:
                statuses.append(status)
                times.append(time.monotonic() - began)

    began = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.append(time.monotonic() - began)
    return statuses


def flood(release: Path, options: list[str], num_steps: int) -> dict[str, int]:
    """64 requests at once at a server whose queue takes four pictures."""
    with serving(release, [*options, "--max-queue", "4", "--max-batch", "4"]) as port:
        statuses = fire(port, 64, 64, num_steps, [])
        page = ask(port, "GET", "/metrics", None)[1].decode()
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


if __name__ == "__main__":
    sys.exit(main())

"""What ``/metrics`` shows, in Prometheus' format. Counts and times only, never a prompt."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from safediff.serve.batching import Batch
from safediff.serve.trust import Trust

LATENCY_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Telemetry:
    """Counters of one server, in a registry of its own."""

    def __init__(self, trust: Trust, depth: Callable[[], int], max_batch: int) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "safediff_requests",
            "Requests for pictures, by status code.",
            ["status"],
            registry=registry,
        )
        self.images = Counter("safediff_images", "Pictures drawn.", registry=registry)
        self.latency = Histogram(
            "safediff_request_seconds",
            "From request to answer, those with pictures.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.batch_size = Histogram(
            "safediff_batch_images",
            "Pictures of a batch.",
            buckets=tuple(range(1, max_batch + 1)),
            registry=registry,
        )
        self.batch_seconds = Counter(
            "safediff_batch_seconds", "Time spent drawing.", registry=registry
        )
        waiting = Gauge("safediff_queue_images", "Pictures that wait.", registry=registry)
        waiting.set_function(depth)
        self.trust = trust
        self.release = Gauge(
            "safediff_release",
            "1; the labels say what is served.",
            ["release", "certificate", "engine", "verdict", "unverified"],
            registry=registry,
        )

    def batch(self, batch: Batch) -> None:
        """A batch is done."""
        self.images.inc(batch.num_drawn)
        self.batch_size.observe(batch.num_orders)
        self.batch_seconds.inc(batch.seconds)

    def render(self) -> bytes:
        """The page."""
        trust = self.trust
        self.release.clear()  # a verdict expires
        self.release.labels(
            trust.release_sha256,
            trust.certificate_sha256,
            trust.engine,
            trust.verdict,
            str(bool(trust.unverified)).lower(),
        ).set(1)
        return generate_latest(self.registry)

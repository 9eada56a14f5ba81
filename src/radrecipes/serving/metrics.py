"""What Prometheus reads: counts and durations, without texts, ids or labels."""

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own = {"registry": self.registry, "namespace": "radrecipes"}
        self.requests = Counter("requests", "Requests by route and status.", ("route", "method", "status"), **own)
        self.seconds = Histogram(
            "request_seconds",
            "Seconds from a request to its answer.",
            ("route",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            **own,
        )
        self.batch_rows = Histogram("batch_rows", "Rows in a micro-batch.", buckets=(1, 2, 4, 8, 16, 32, 64), **own)
        self.queue_rows = Gauge("queue_rows", "Rows that wait.", **own)
        self.answers = Counter(
            "answers", "Answers: auto, NEEDS_REVIEW, or the writer of a text.", ("decision",), **own
        )

    def as_text(self) -> bytes:
        """What `GET /metrics` answers, of the type `CONTENT_TYPE_LATEST`."""
        return generate_latest(self.registry)

    def count_request(self, route: str, method: str, status: str, seconds: float) -> None:
        """Count a request that was answered or refused."""
        self.requests.labels(route, method, status).inc()
        self.seconds.labels(route).observe(seconds)

    def count_batch(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count the answers of a micro-batch."""
        self.batch_rows.observe(len(rows))
        for row in rows:
            self.answers.labels(row.get("decision") or row.get("written_by") or "none").inc()

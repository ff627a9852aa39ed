"""Gunicorn configuration: prometheus_client wired up by hand.

What the documentation of prometheus_client's multiprocess mode leads to: the three
usual request metrics, updated in Gunicorn's request hooks, and a metrics server in a
thread of the master. PROMETHEUS_MULTIPROC_DIR must be in the environment.
"""

from __future__ import annotations

import os
from time import perf_counter
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_REQUESTS = Counter("http_requests", "Requests answered.", ["method", "status"])
_DURATION = Histogram("http_request_duration_seconds", "Time to answer a request.")
_IN_PROGRESS = Gauge(
    "http_requests_in_progress",
    "Requests being answered.",
    multiprocess_mode="livesum",
)


def when_ready(server: Any) -> None:
    """Serve the merged metrics of all workers from a thread of the master."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    start_http_server(int(os.environ["BENCH_METRICS_PORT"]), addr="127.0.0.1", registry=registry)


def pre_request(worker: Any, req: Any) -> None:
    """Start the clock of a request."""
    _IN_PROGRESS.inc()
    req.started = perf_counter()


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Count a request that was answered."""
    _DURATION.observe(perf_counter() - req.started)
    _REQUESTS.labels(req.method, resp.status_code).inc()
    _IN_PROGRESS.dec()


def child_exit(server: Any, worker: Any) -> None:
    """Drop the live gauges of a worker that is gone."""
    mark_process_dead(worker.pid)

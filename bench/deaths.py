"""What dead workers leave behind: `python -m bench.deaths`, from the project root.

Two servers get the same traffic; the workers of one are killed again and again. Afterwards
its scrapes and its state directory are compared with those before, and the time of a scrape
with that of the other server, in turns, so that the machine is the same for both. Exits
with 1 if anything has grown by more than a tenth.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.load import (
    FAST_FORKS,
    Load,
    Masters,
    parse,
    running_workers,
    state_files,
)
from tests.support import Server, gunicorn_prom, request, wait_for

__all__ = ["main"]

_LIMIT = 1.1
_WORKERS = 4
_REQUESTS = 200
_SCRAPES = 400
_WARM_UP_SCRAPES = 50

_PLAIN = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""

# Preloaded, so that a worker boots fast; each counts something in every metric when it does.
_WITH_METRICS = """
from prometheus_client import Counter, Gauge, Histogram, Summary

COUNTERS = [Counter(f"app_counter_{n}", "A counter.", ["code"]) for n in range(8)]
GAUGES = [
    Gauge(f"app_gauge_{mode}", "A gauge.", multiprocess_mode=mode)
    for mode in ("sum", "min", "max", "mostrecent", "livesum", "livemax")
]
HISTOGRAMS = [Histogram(f"app_histogram_{n}", "A histogram.") for n in range(4)]
SUMMARIES = [Summary(f"app_summary_{n}", "A summary.") for n in range(2)]


def count():
    for counter in COUNTERS:
        for code in ("200", "404", "500"):
            counter.labels(code).inc()
    for gauge in GAUGES:
        gauge.set(1)
    for distribution in (*HISTOGRAMS, *SUMMARIES):
        distribution.observe(0.1)


def app(environ, start_response):
    count()
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""
_COUNT_AT_BOOT = """

def post_worker_init(worker):
    import application

    application.count()
"""


@dataclass(frozen=True)
class _Size:
    """What a server shows and keeps."""

    series: int
    scrape_bytes: int
    files: int
    file_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table for each application, and return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(prog="python -m bench.deaths", description=__doc__)
    parser.add_argument("--deaths", type=int, default=5000)
    options = parser.parse_args(arguments)
    ratios: list[float] = []
    for title, source in (("no metrics of its own", _PLAIN), ("20 of its own", _WITH_METRICS)):
        print(f"{title}, {options.deaths:,} deaths of {_WORKERS} workers")
        ratios += _compare(source, options.deaths)
    return int(max(ratios) > _LIMIT)


def _compare(source: str, deaths: int) -> list[float]:
    with (
        tempfile.TemporaryDirectory(prefix="deaths-") as name,
        _run(Path(name, "young"), source) as young,
        _run(Path(name, "old"), source) as old,
    ):
        killed: set[int] = set()
        for server in (young, old):
            # The first deaths leave a file of totals for each kind of metric, which stays.
            _kill(server, _WORKERS, killed)
            _settle(server, killed)
        first = _measure(old)
        began = time.monotonic()
        _kill(old, deaths, killed)
        took_s = time.monotonic() - began
        _settle(old, killed)
        last = _measure(old)
        young_s, old_s = _time_scrapes(young, old)
    print(f"  {deaths / took_s:.0f} deaths/s")
    rows = [
        ("series", first.series, last.series),
        ("bytes of /metrics", first.scrape_bytes, last.scrape_bytes),
        ("files in the state directory", first.files, last.files),
        ("bytes in the state directory", first.file_bytes, last.file_bytes),
        ("median scrape, microseconds", young_s * 1e6, old_s * 1e6),
    ]
    for title, before, after in rows:
        print(f"  {title:30} {before:12,.0f} {after:12,.0f}   x{after / before:.3f}")
    return [after / before for _, before, after in rows]


@contextmanager
def _run(directory: Path, source: str) -> Iterator[Server]:
    directory.mkdir()
    (directory / "application.py").write_text(source)
    hook = _COUNT_AT_BOOT if source is _WITH_METRICS else ""
    (directory / "conf.py").write_text(FAST_FORKS + hook)
    arguments = ("application:app", "--preload", f"--workers={_WORKERS}", "--config=conf.py")
    with gunicorn_prom(directory, *arguments) as server:
        _settle(server, set())
        yield server


def _kill(server: Server, count: int, killed: set[int]) -> None:
    """Kill so many workers, as fast as the master makes new ones."""
    masters = Masters(server, _WORKERS)
    done = 0
    while done < count:
        victims = wait_for(lambda: set(masters.worker_pids()) - killed, "a worker")
        for pid in sorted(victims)[: count - done]:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            done += 1


def _settle(server: Server, killed: set[int]) -> None:
    """Send the traffic, let every worker answer, and wait until all is counted and folded."""
    server.wait_for_metrics(
        lambda m: len(running_workers(m) - killed) == _WORKERS, "successors of the killed"
    )
    with Load(server.port) as load:
        load.wait_for_more(_REQUESTS)
    pids = set(server.worker_pids())
    server.wait_for_metrics(
        lambda m: (
            len(m.all("gunicorn_worker_heartbeat_timestamp_seconds")) == _WORKERS
            and m.total("gunicorn_http_requests_in_progress") == 0
        ),
        "all series",
    )
    living = {*map(str, pids), str(server.pid), "0"}
    wait_for(lambda: _app_processes(server) <= living, "the files of the dead to go")


def _app_processes(server: Server) -> set[str]:
    names = [Path(path).stem for path in state_files(server) if path.endswith(".db")]
    return {name.rpartition("_")[2] for name in names}


def _measure(server: Server) -> _Size:
    text = request(server.metrics_port, "/metrics").text
    files = state_files(server)
    return _Size(len(parse(text).values), len(text), len(files), sum(files.values()))


def _time_scrapes(young: Server, old: Server) -> tuple[float, float]:
    """Return the median seconds of a scrape of each, taken in turns."""
    seconds: dict[Server, list[float]] = {young: [], old: []}
    for number in range(_WARM_UP_SCRAPES + _SCRAPES):
        for server in (young, old) if number % 2 else (old, young):
            began = time.perf_counter()
            request(server.metrics_port, "/metrics")
            if number >= _WARM_UP_SCRAPES:
                seconds[server].append(time.perf_counter() - began)
    return statistics.median(seconds[young]), statistics.median(seconds[old])


if __name__ == "__main__":
    sys.exit(main())

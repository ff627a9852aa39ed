"""What it costs that somebody looks: `python -m bench.page`, from the project root.

The processor time of a master whose four workers have nothing to do, while nobody asks the
metrics server, and while the status page, `top` or Prometheus do as often as they would. Then
the user instructions of a request with and without the page open, counted as by `python -m
bench`, in whose environment that runs.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.contenders import CONTENDERS
from bench.counters import Counter, pick_counter
from bench.load import Load, send
from bench.measure import Spread
from bench.processes import read_cpu_seconds
from bench.servers import run_server
from tests.support import Server, gunicorn_prom, request

__all__ = ["main"]

_WORKERS = 4
_WARM_UP = 20
_ROUNDS = 3
_WARM_UP_REQUESTS = 500
_CONNECTIONS = 4


class _Asker(NamedTuple):
    """Who asks, for what, and how often."""

    name: str
    path: str
    every_s: float
    headers: dict[str, str]


_GZIP = {"Accept_Encoding": "gzip"}
# As EVERY_MS of page.js has it.
_PAGE = _Asker("the page is open", "/?fragment=1", 2, _GZIP)
_ASKERS = (
    _Asker("nobody looks", "", math.inf, {}),
    _PAGE,
    _Asker("`/status.json` every two seconds, as `top` asks", "/status.json", 2, {}),
    _Asker("`/metrics` every 15 seconds, as Prometheus asks", "/metrics", 15, _GZIP),
)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each row of the table")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="page-") as name,
        gunicorn_prom(Path(name), "behave:app", f"--workers={_WORKERS}") as server,
    ):
        server.wait_for_workers(_WORKERS)
        print("processor time of the master, of one core")
        for asker in _ASKERS:
            share = _measure(server, asker, options.seconds)
            print(f"| {asker.name} | {share:.2%} |", flush=True)
    counter = pick_counter("auto")
    if counter is None:
        print("this machine does not count instructions", file=sys.stderr)
    else:
        _report_instructions(counter)
    return 0


def _measure(server: Server, asker: _Asker, seconds: float) -> float:
    """Return how much of one core the master has taken meanwhile."""
    for _ in range(_WARM_UP if asker.path else 0):
        _ask(server.metrics_port, asker)
    is_over = threading.Event()
    began, began_s = time.monotonic(), read_cpu_seconds(server.pid)
    threading.Timer(seconds, is_over.set).start()
    _keep_asking(server.metrics_port, asker, is_over)
    return (read_cpu_seconds(server.pid) - began_s) / (time.monotonic() - began)


def _keep_asking(port: int, asker: _Asker, is_over: threading.Event) -> int:
    """Ask again and again; return how many times."""
    times = 0
    while not is_over.wait(min(asker.every_s, threading.TIMEOUT_MAX)):
        _ask(port, asker)
        times += 1
    return times


def _ask(port: int, asker: _Asker) -> None:
    assert request(port, asker.path, **asker.headers).status == 200


def _report_instructions(counter: Counter) -> None:
    (ours,) = (one for one in CONTENDERS if one.name == "gunicorn-prom")
    ours.environment.prepare()
    ours.environment.install_project()

    def counted(number: int, asker: _Asker | None) -> float:
        with run_server(ours, "sync", wrapper=counter.wrapper, hash_seed=number) as server:
            port, pid = server.launch.port, server.find_worker_pid()
            send(Load(port, _WARM_UP_REQUESTS, _CONNECTIONS, keep_alive=False))
            work = partial(send, Load(port, counter.requests, _CONNECTIONS, keep_alive=False))
            with _asking(server.launch.metrics_port, asker):
                return counter.count(server, pid, work) / counter.requests

    print(f"user instructions of a request, by {counter.name}")
    # What is counted takes a second or two, so the page is asked for more often.
    for asker in (None, _PAGE._replace(every_s=0.1)):
        found = Spread.of([counted(number, asker) for number in range(_ROUNDS)])
        name = asker.name if asker else _ASKERS[0].name
        print(f"| {name} | {found.median:,.0f} ({found.low:,.0f}-{found.high:,.0f}) |", flush=True)


@contextlib.contextmanager
def _asking(port: int, asker: _Asker | None) -> Iterator[None]:
    """Keep asking until the block ends."""
    if asker is None:
        yield
        return
    is_over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(_keep_asking, port, asker, is_over)
        try:
            yield
        finally:
            is_over.set()
        assert asking.result() > 1, "nobody has looked meanwhile"


if __name__ == "__main__":
    raise SystemExit(main())

"""Connections that nobody accepts, as the metrics of every Gunicorn have to show them.

The tests of integration/ and compat/ are made of this module.
"""

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import DEADLINE_S, Metrics, Server, free_port, gunicorn_prom

APP = "behave:app"
BACKLOG = "gunicorn_socket_backlog"
LIMIT = "gunicorn_socket_backlog_limit"
PEAK = "gunicorn_socket_backlog_peak"
WAITING = 5


@contextlib.contextmanager
def stuck(server: Server, workers: int) -> Iterator[int]:
    """Have all workers of a server in a request; yield how many requests wait behind them."""
    asked = 0
    with ThreadPoolExecutor(64) as pool:
        try:
            for asked in range(1, 64):
                pool.submit(server.get, "/wait/gate", timeout_s=DEADLINE_S)
                metrics = server.wait_for_metrics(
                    lambda m, asked=asked: taken_or_waiting(m) == asked, "the request"
                )
                if metrics.one("gunicorn_http_requests_in_progress") == workers:
                    break
            yield asked - workers
        finally:
            server.open_gate("gate")


def taken_or_waiting(metrics: Metrics) -> float:
    return metrics.one("gunicorn_http_requests_in_progress") + metrics.total(BACKLOG)


@contextlib.contextmanager
def connected(family: int, address: object, count: int = WAITING) -> Iterator[None]:
    """Have so many connections to an address."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket(family))
            client.settimeout(DEADLINE_S)
            client.connect(address)
        yield


class Backlogs:
    """What must be right with every Gunicorn."""

    def test_of_several_listeners(self, tmp_path: Path) -> None:
        """Waiting connections are counted where they wait: TCP, IPv6 and a unix socket."""
        port6 = free_port()
        path = f"{tmp_path}/s"
        binds = (f"--bind=[::1]:{port6}", f"--bind=unix:{path}", "--backlog=50")
        with gunicorn_prom(tmp_path, APP, *binds) as server, stuck(server, 1) as behind:
            listeners = {
                f"127.0.0.1:{server.port}": (socket.AF_INET, ("127.0.0.1", server.port), behind),
                f"[::1]:{port6}": (socket.AF_INET6, ("::1", port6), 0),
                f"unix:{path}": (socket.AF_UNIX, path, 0),
            }
            for label, (family, address, others) in listeners.items():
                with connected(family, address):
                    metrics = server.scrape()
                assert metrics.one(BACKLOG, listener=label) == WAITING + others
                assert metrics.one(PEAK, listener=label) == WAITING + others
            limits = {labels["listener"]: value for labels, value in metrics.all(LIMIT)}
            assert limits == dict.fromkeys(listeners, 50)
            assert metrics.total("gunicorn_prom_errors_total") == 0

    def test_with_reuse_port(self, tmp_path: Path) -> None:
        """Where each worker has a socket of its own, their queues are added up."""
        arguments = ("--workers=2", "--reuse-port", "--backlog=50")
        with gunicorn_prom(tmp_path, APP, *arguments) as server:
            server.wait_for_workers(2)
            label = f"127.0.0.1:{server.port}"
            with (
                stuck(server, 2) as behind,
                connected(socket.AF_INET, ("127.0.0.1", server.port)),
            ):
                metrics = server.scrape()
            assert metrics.one(BACKLOG, listener=label) == WAITING + behind
            assert metrics.one(LIMIT, listener=label) in (50, 100)

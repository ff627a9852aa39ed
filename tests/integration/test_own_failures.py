"""Whatever fails of ours in a worker fails for us alone: it is logged once, counted, served on."""

import os
import re
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest
from websockets.sync.client import connect

from gunicorn_prom.workers import WORKER_TYPES, unavailable
from tests.ledger import exits
from tests.support import Server, children, gunicorn_prom, request, wait_for

PROM_ERRORS = "gunicorn_prom_errors_total"
EXITS = "gunicorn_worker_exits_total"
ASGI = ("asgi", "uvicorn")
TYPES = [name for name in WORKER_TYPES if unavailable(name) is None]

# The first worker notes what of ours it calls from its fork to its end; the second one takes its
# place; each of the next generation has one of those calls fail.
CONFIG = """
import os

import injected

WORKER_TYPE = os.environ["WORKER_TYPE"]
functions = injected.functions(WORKER_TYPE)
called = injected.read("called")
workers = len(called) or 1


def post_fork(server, worker):
    if worker.age == 1:
        injected.note_calls(WORKER_TYPE)
    elif 0 <= worker.age - 3 < len(called):
        name = called[worker.age - 3]
        injected.inject(name, functions[name])


def post_worker_init(worker):
    if WORKER_TYPE not in ("asgi", "uvicorn"):
        injected.note_boot()
"""
# Called by the clock.
SHOWING = "gunicorn_prom.instrument.instruments:Instruments.show_connections"


def application(worker_type: str) -> str:
    return "faulty:asgi" if worker_type in ASGI else "faulty:app"


def options(worker_type: str) -> list[str]:
    threads = ["--threads=2"] if worker_type == "gthread" else []
    return [f"--worker-type={worker_type}", *threads]


@pytest.fixture(params=TYPES)
def worker_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def noted(server: Server, name: str) -> list[str]:
    """Return the names of functions that the workers have left in a file."""
    path = server.directory / name
    return path.read_text().split() if path.exists() else []


def assert_logged_once(server: Server) -> None:
    """Fail unless each worker has logged the first failure in each place, and no other."""
    told = re.findall(r"\[(\d+)\] \[ERROR\] gunicorn-prom: metrics of (\w+) failed", server.log)
    assert told
    assert set(Counter(told).values()) == {1}


@pytest.mark.timeout(300)  # a few seconds on idle cores
def test_a_failing_start_or_end(tmp_path: Path, worker_type: str) -> None:
    """A worker in which any one call of ours fails boots, serves, and goes when it is told to."""
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)
    environ = {"WORKER_TYPE": worker_type}
    arguments = (application(worker_type), *options(worker_type))
    with gunicorn_prom(tmp_path, *arguments, environ=environ) as server:
        server.wait_for_workers(1)
        shows = worker_type != "sync"  # which has one connection at a time
        if shows:
            wait_for(lambda: SHOWING in noted(server, "calls"), "what it does each second")
        os.kill(server.worker_pids()[0], signal.SIGTERM)
        server.wait_for_metrics(lambda m: m.total(EXITS) == 1, "its end")
        server.wait_for_workers(1)
        (tmp_path / "calls").rename(tmp_path / "called")
        called = noted(server, "called")
        assert len(called) > 20
        server.send_signal(signal.SIGHUP)
        count = 2 + len(called)
        wait_for(lambda: len(set(noted(server, "booted"))) == count, "their start", 90.0)
        # Those that fail to say so run as well.
        wait_for(lambda: len(children(server.pid)) == len(called), "the end of the second worker")
        for _ in range(len(called)):
            assert server.get("/").text == "ok"
        if shows:
            wait_for(lambda: SHOWING in noted(server, "raised"), "what each does each second")
        (tmp_path / "called").unlink()
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: len(children(server.pid)) == 1, "the end of those that fail")
        metrics = server.wait_for_metrics(
            lambda m: m.total(EXITS) == 2 + len(called), "their last words"
        )
        assert exits(metrics) == {"signal": 1, "reload": 1 + len(called)}
        assert set(noted(server, "raised")) == set(called)
        assert metrics.total(PROM_ERRORS) == len(noted(server, "raised"))
        assert_logged_once(server)
        assert server.get("/").text == "ok"
        assert server.stop() == 0


# What a server has to do for its clients, by worker type.
TARGETS = ("/", "/nowhere", "/fail")
QUEUED = {"X_Request_Start": "t=1", "Traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
GARBAGE = b"GARBAGE\r\n\r\n"


def clients_see(server: Server, worker_type: str) -> list[str]:
    """Send requests of every kind, and return what came of them."""
    # tornado's container does not answer where the application fails.
    targets = TARGETS[:2] if worker_type == "tornado" else TARGETS
    seen = [request(server.port, target, **QUEUED).body.decode() for target in targets]
    seen.append(server.get("/", method="HEAD", Connection="close").body.decode())
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(GARBAGE)
        seen.append(client.recv(12).decode())
    if worker_type in ASGI:
        with connect(f"ws://127.0.0.1:{server.port}/") as websocket:
            seen.append(str(websocket.recv()))
    return seen


def test_a_failing_request(tmp_path: Path, worker_type: str) -> None:
    """With any one call of ours failing, each client is answered as it is without."""
    environ = {"WORKER_TYPE": worker_type}
    arguments = (application(worker_type), *options(worker_type))
    with gunicorn_prom(tmp_path, *arguments, environ=environ) as server:
        worker = server.wait_for_workers(1)
        expected = clients_see(server, worker_type)
        names = server.get("/names").text.split()
        failing = []
        for name in names:
            failures = len(noted(server, "raised"))
            assert server.get(f"/inject/{name}").text == "injected"
            assert clients_see(server, worker_type) == expected, name
            assert server.get("/restore").text == "restored"
            if len(noted(server, "raised")) > failures:
                failing.append(name)
        assert len(failing) > 5
        metrics = server.wait_for_metrics(
            lambda m: m.total(PROM_ERRORS) >= len(noted(server, "raised")), "the failures"
        )
        # What has failed in the middle may fail once more where its result is wanted.
        assert (
            len(noted(server, "raised"))
            <= metrics.total(PROM_ERRORS)
            <= 3 * len(noted(server, "raised"))
        )
        assert_logged_once(server)
        assert server.worker_pids() == worker
        assert server.stop() == 0

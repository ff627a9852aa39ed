"""Memory of workers: bounded on demand, shared with --preload, and what they have open."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import Server, bare_gunicorn, children, gunicorn_prom, wait_for
from tests.traffic import Shot, send

LEAKS = 800
LIMIT_MB = 150
# What a worker may have when it goes: 50 ms of requests, and those that it has under way.
BOUND_BYTES = 2 * LIMIT_MB * 1_000_000
CLIENTS = 8
IDLE = 3
OPEN_BY_TYPE = {"sync": None, "gthread": IDLE, "gevent": IDLE, "tornado": IDLE, "asgi": IDLE}

PRELOADED = """
import gc
kept = [[number] for number in range(100_000)]


def app(environ, start_response):
    body = str(gc.get_freeze_count()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Peak:
    """The largest resident memory that any worker of a server has while a block runs."""

    def __init__(self, server: Server) -> None:
        self.resident_bytes = 0
        self._server = server
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(0.01):
            for pid in children(self._server.pid):
                with contextlib.suppress(OSError, IndexError):
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                    self.resident_bytes = max(self.resident_bytes, pages * 4096)


@pytest.mark.parametrize("worker_type", ["gthread", "gevent", "gevent_pywsgi", "asgi", "uvicorn"])
def test_a_leak_is_bounded_and_no_request_is_lost(worker_type: str, tmp_path: Path) -> None:
    """1 MB a request under --max-worker-memory 150MB: all is answered, by ever new workers."""
    app = "leak:asgi_app" if worker_type in ("asgi", "uvicorn") else "leak:app"
    options = ("--workers=2", f"--worker-type={worker_type}", f"--max-worker-memory={LIMIT_MB}MB")
    with gunicorn_prom(tmp_path, app, *options) as server, Peak(server) as peak:
        shots = [Shot(path="/leak", headers=("Connection: close",))] * (LEAKS // 2)
        kept = [Shot(path="/leak")] * (LEAKS - len(shots))
        exchanges = send(server.port, shots, connections=CLIENTS)
        exchanges += send(server.port, kept, connections=CLIENTS)
        assert {(one.status, one.is_whole) for one in exchanges} == {("200", True)}
        metrics = server.wait_for_requests(LEAKS)
        gone = metrics.one("gunicorn_worker_exits_total", reason="memory")
        assert gone >= LEAKS / (BOUND_BYTES / 1_000_000)
        assert metrics.total("gunicorn_worker_exits_total") == gone
        restarts = {"restart_type": "graceful", "reason": "memory"}
        assert metrics.one("gunicorn_worker_restart_count_total", **restarts) >= gone
        assert peak.resident_bytes < BOUND_BYTES
        assert "of max_worker_memory: it finishes what it has and is replaced" in server.log


def test_a_limit_that_is_too_small_makes_no_storm(tmp_path: Path) -> None:
    """Workers that need more than they may have serve on, and the log says so."""
    options = ("--workers=1", "--max-worker-memory=1MB")
    with gunicorn_prom(tmp_path, "leak:app", *options) as server:
        exchanges = send(server.port, [Shot(headers=("Connection: close",))] * 200)
        assert {one.status for one in exchanges} == {"200"}
        assert server.wait_for_requests(200).total("gunicorn_worker_exits_total") == 0
        assert server.log.count("max_worker_memory leaves this worker") == 1


@pytest.fixture
def preloading(tmp_path: Path) -> Path:
    """A directory with an application that has much to share."""
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    return tmp_path


@pytest.mark.parametrize(
    ("option", "is_frozen"), [("--gc-freeze", True), ("--no-gc-freeze", False)]
)
def test_what_is_preloaded_is_frozen(preloading: Path, option: str, is_frozen: bool) -> None:
    """With --preload workers share the application's objects, and their collector lets them be."""
    options = ("--workers=2", "--preload", f"--chdir={preloading}", option)
    with gunicorn_prom(preloading, "preloaded:app", *options) as server:
        server.wait_for_workers(2)
        assert (int(server.get("/").text) > 100_000) == is_frozen
        for labels, shared_bytes in server.scrape().all("gunicorn_worker_memory_shared_bytes"):
            resident_bytes = server.scrape().one("gunicorn_worker_memory_bytes", **labels)
            assert resident_bytes / 3 < shared_bytes <= resident_bytes


@pytest.mark.parametrize("start", [bare_gunicorn, gunicorn_prom])
def test_what_is_frozen_is_taken_down(tmp_path: Path, start: Callable[..., Any]) -> None:
    """Worker and master write at their end what the application has not flushed, as ever."""
    (tmp_path / "writing.py").write_text(
        "file = open('written', 'w')\n"
        "file.write('kept')\n"
        "def app(environ, start_response):\n"
        "    assert file\n"
        "    start_response('200 OK', [('Content-Length', '2')])\n"
        "    return [b'ok']\n"
    )
    with start(tmp_path, "writing:app", "--preload") as server:
        assert server.get("/").text == "ok"
        assert server.stop() == 0
        assert (tmp_path / "written").read_text() == "keptkept"


@pytest.mark.parametrize("worker_type", OPEN_BY_TYPE)
def test_open_connections_are_shown(worker_type: str, tmp_path: Path) -> None:
    """Connections that wait for a next request count too; sync has none and shows none."""
    app = "leak:asgi_app" if worker_type == "asgi" else "leak:app"
    options = ("--workers=1", f"--worker-type={worker_type}", "--keep-alive=60")
    with gunicorn_prom(tmp_path, app, *options) as server, contextlib.ExitStack() as stack:
        server.wait_for_workers(1)
        if OPEN_BY_TYPE[worker_type] is None:
            assert server.scrape().all("gunicorn_worker_connections") == []
            return
        assert wait_for_connections(server, 0)
        for _ in range(IDLE):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert connection.recv(1000)
        assert wait_for_connections(server, IDLE)
        stack.close()
        assert wait_for_connections(server, 0)


def test_a_connection_counts_off_once(tmp_path: Path) -> None:
    """One whose answer breaks off is one less, not two as Gunicorn's gthread has it."""
    options = ("--worker-type=gthread", "--threads=2", "--keep-alive=60")
    with gunicorn_prom(tmp_path, "mix:app", *options) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert connection.recv(1000)
            for _ in range(3):
                with pytest.raises((OSError, http.client.HTTPException)):
                    server.get("/fail/late")
            assert wait_for_connections(server, 1)
        assert wait_for_connections(server, 0)


def wait_for_connections(server: Server, count: int) -> bool:
    """Wait until the worker says that it has so many connections open."""
    shown = [({"worker_id": "0"}, float(count))]
    wait_for(
        lambda: server.scrape().all("gunicorn_worker_connections") == shown, f"{count} connections"
    )
    return True

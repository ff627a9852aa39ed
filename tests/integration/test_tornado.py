"""The counts of the tornado worker are what its clients saw: native and WSGI applications."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets

from gunicorn_prom.keys import UNMATCHED
from gunicorn_prom.workers import REGISTRY
from tests.exactness import (
    CONNECTIONS,
    FLASK_AND_DJANGO,
    KEEP_ALIVE,
    ROOT,
    assert_exact,
    expected,
    observed,
    options,
    own_worker,
    settled,
    sizes,
    undated,
)
from tests.servers import TORNADO_NATIVE, TORNADO_WSGI
from tests.support import Metrics, Server, bare_gunicorn, gunicorn_prom
from tests.traffic import Shot, send, shuffled

WORKER_TYPE = "tornado"
ONE_WORKER = (f"--worker-type={WORKER_TYPE}", "--workers=1", KEEP_ALIVE)

# Those that end as if nothing had happened.
ENDED_BY_TORNADO = [
    Shot(path="/fail/late", raises="LookupError"),
    Shot(path="/fail/done", raises="LookupError"),
]


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with gunicorn_prom(tmp_path_factory.mktemp("native"), "tornado_app:app", *ONE_WORKER) as server:
        yield server


class TestNative:
    """A tornado.web.Application."""

    def test_is_counted_as_the_clients_saw_it(self, tmp_path: Path) -> None:
        """600 mixed requests over 8 connections: every family says what the clients saw."""
        with gunicorn_prom(tmp_path, "tornado_app:app", *options(WORKER_TYPE)) as server:
            exchanges = send(server.port, shuffled(TORNADO_NATIVE, 600), connections=CONNECTIONS)
            want = expected(exchanges)
            # These name the route, which is another test's.
            for family in ("failed_requests_total", "error_handling_total"):
                del want[f"gunicorn_worker_{family}"]
            metrics = settled(server, want)
            assert observed(metrics, want) == want
        assert metrics.total("gunicorn_http_route_requests_total") == metrics.total(
            "gunicorn_http_requests_total"
        )
        routes = {
            labels["route"] for labels, _ in metrics.all("gunicorn_http_route_requests_total")
        }
        assert routes >= {
            "/items/([0-9]+)",
            "/items/(?P<number>[0-9]+)/(?P<name>[a-z]+)",
            "/start/again",
            UNMATCHED,
        }
        assert len(routes) <= 16

    def test_failures_that_the_client_does_not_see(self, tmp_path: Path) -> None:
        """An exception behind the last chunk is counted, and the answer is a whole one."""
        with gunicorn_prom(tmp_path, "tornado_app:app", *ONE_WORKER) as server:
            exchanges = send(server.port, [*ENDED_BY_TORNADO, Shot(path="/stream"), Shot()])
            assert all(exchange.is_whole for exchange in exchanges)
            metrics = server.wait_for_requests(4)
            assert metrics.one("gunicorn_http_exceptions_total", exception="LookupError") == 2
            assert metrics.total("gunicorn_http_aborted_total") == 0
            body_bytes = sum(exchange.body_bytes for exchange in exchanges)
            assert metrics.one("gunicorn_http_response_size_bytes_sum") == body_bytes
            failed = "gunicorn_worker_failed_requests_total"
            assert metrics.one(failed, endpoint="/fail/late") == 1

    def test_answers_are_those_of_bare_gunicorn(self, tmp_path: Path) -> None:
        """Not a byte of an answer differs from Gunicorn's own, besides the date."""
        shots = [shot for shot in [*TORNADO_NATIVE, *ENDED_BY_TORNADO] if not shot.hangs_up]
        arguments = ("tornado_app:app", "-k", WORKER_TYPE, *sizes(WORKER_TYPE))
        with bare_gunicorn(tmp_path / "bare", *arguments) as server:
            bare = send(server.port, shots)
        with gunicorn_prom(tmp_path / "ours", *arguments) as server:
            ours = send(server.port, shots)
        assert [undated(exchange) for exchange in ours] == [undated(exchange) for exchange in bare]

    def test_requests_in_progress_and_who_leaves(self, native: Server) -> None:
        """Coroutines are in progress side by side; a client that leaves has disconnected."""
        path = f"/wait?for={native.directory / 'gate'}"
        send(native.port, [Shot(path=path, hangs_up="asking")])
        native.wait_for_metrics(
            lambda m: m.total("gunicorn_http_aborted_total", reason="client_disconnect") == 1,
            "the disconnect",
        )
        assert native.scrape().one("gunicorn_http_requests_in_progress") == 0
        assert not native.scrape().all("gunicorn_worker_capacity")

    def test_websockets(self, native: Server) -> None:
        """200 WebSockets are counted and gauged, none is a request, however they end."""
        before = native.scrape()

        async def talk() -> None:
            url = f"ws://127.0.0.1:{native.port}/socket"
            clients = await asyncio.gather(*(websockets.connect(url) for _ in range(200)))
            for client in clients:
                await client.send("hello")
                assert await client.recv() == "hello"
            metrics = native.scrape()
            assert metrics.one("gunicorn_websocket_connections") == 200
            assert metrics.one("gunicorn_http_requests_in_progress") == 0
            for client in clients[:100]:
                client.transport.abort()
            await asyncio.gather(*(client.close() for client in clients[100:]))

        asyncio.run(talk())
        metrics = native.wait_for_metrics(
            lambda m: m.one("gunicorn_websocket_connections") == 0, "the end of all WebSockets"
        )
        assert metrics.one("gunicorn_websocket_connections_total") == 200
        requests = "gunicorn_http_requests_total"
        assert metrics.total(requests) == before.total(requests)


class TestWSGI:
    """A WSGI application in tornado's container."""

    def test_is_counted_as_the_clients_saw_it(self, tmp_path: Path) -> None:
        """400 mixed requests over 8 connections, to a class of the user's own."""
        worker_class = own_worker(tmp_path, REGISTRY[WORKER_TYPE].class_path)
        with gunicorn_prom(tmp_path, "mix:app", "-k", worker_class, *sizes(WORKER_TYPE)) as server:
            exchanges = send(server.port, shuffled(TORNADO_WSGI, 400), connections=CONNECTIONS)
            metrics = assert_exact(server, exchanges)
        assert metrics.total("gunicorn_worker_capacity") == 2

    def test_an_exception_is_no_answer(self, tmp_path: Path) -> None:
        """The container leaves the client waiting: counted at once as without a response."""
        with gunicorn_prom(tmp_path, "mix:app", *ONE_WORKER) as server:
            content = Shot(path="/raise/KeyError").content
            with contextlib.ExitStack() as connections:
                for _ in range(3):
                    connection = socket.create_connection(("127.0.0.1", server.port))
                    connections.enter_context(connection).sendall(content)
                metrics = server.wait_for_metrics(
                    lambda m: m.total("gunicorn_http_aborted_total", reason="no_response") == 3,
                    "the exceptions",
                )
            assert metrics.one("gunicorn_http_exceptions_total", exception="KeyError") == 3
            assert metrics.one("gunicorn_http_requests_in_progress") == 0
            assert metrics.total("gunicorn_http_requests_total") == 0

    def test_real_application(self, tmp_path: Path) -> None:
        """Counts and sizes of a real application are what the clients saw."""
        arguments = ("app:app", "--chdir", str(ROOT / "examples/flask"))
        with gunicorn_prom(tmp_path, *arguments, *options(WORKER_TYPE)) as server:
            exchanges = send(server.port, shuffled(FLASK_AND_DJANGO, 200), connections=CONNECTIONS)
            metrics = assert_exact(server, exchanges)
        body_bytes = sum(exchange.body_bytes for exchange in exchanges)
        assert metrics.one("gunicorn_http_response_size_bytes_sum") == body_bytes
        assert metrics.total("gunicorn_http_route_requests_total", route="/hello/<name>")


def test_why_workers_go(tmp_path: Path) -> None:
    """TERM, QUIT, a reload, a timeout and the limit of connections: each is what it was."""
    arguments = ("behave:app", *ONE_WORKER, "--timeout=4", "--max-requests=6")
    with gunicorn_prom(tmp_path, *arguments) as server:
        (first,) = server.wait_for_workers(1)
        server.send_signal(signal.SIGHUP)
        wait_for_exits(server, reload=1)
        for _ in range(6):
            assert server.get("/", Connection="close").status == 200
        wait_for_exits(server, max_requests=1)
        # Until its first heartbeat Gunicorn does not miss a worker.
        server.wait_for_metrics(
            lambda m: m.all("gunicorn_worker_heartbeat_timestamp_seconds"), "a heartbeat"
        )
        send(server.port, [Shot(path="/sleep/60", hangs_up="asking")])
        metrics = wait_for_exits(server, timeout=1)
        assert metrics.total("gunicorn_http_aborted_total") == 1
        (pid,) = server.wait_for_workers(1)
        assert pid != first
        restarts = "gunicorn_worker_restart_total"
        assert metrics.one(restarts, reason="abort") == 1
        assert server.stop() == 0


def wait_for_exits(server: Server, **counts: int) -> Metrics:
    def have_gone(metrics: Metrics) -> bool:
        return all(
            metrics.total("gunicorn_worker_exits_total", reason=reason) == count
            for reason, count in counts.items()
        )

    metrics = server.wait_for_metrics(have_gone, f"the exits {counts}")
    server.wait_for_workers(1)
    return metrics

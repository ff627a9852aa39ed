"""The counts of the ASGI workers are what clients saw, on the newest Gunicorn."""

import asyncio
import contextlib
import http.client
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import websockets

from tests import http2
from tests.asgi import (
    ANSWERED,
    CLOSE,
    FAILED,
    Mix,
    Traffic,
    options,
    own_worker,
    traffic,
)
from tests.exactness import (
    BODY,
    CONNECTIONS,
    KEEP_ALIVE,
    ROOT,
    assert_exact,
    expected,
    observed,
    settled,
)
from tests.ledger import (
    EXITS,
    SLOW_HOOKS,
    Departures,
    assert_early_signal_is_heard,
    exits,
    exits_read,
    restarts,
    state_kept,
    wait_for_exits,
)
from tests.streams import assert_exact_streams
from tests.support import DEADLINE_S, Server, gunicorn_prom, plain_gunicorn, request, wait_for
from tests.traffic import Shot, send, shuffled

WEBSOCKETS = 200
HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)

FASTAPI = [
    Shot(path="/items/7"),
    Shot(path="/items/700"),
    Shot(path="/items/seven"),
    Shot("POST", "/items", body=b'{"a": 1}', headers=("Content-Type: application/json",)),
    Shot("HEAD", "/items/7"),
    Shot(path="/nowhere"),
    Shot(path="/later"),
    Shot(path="/docs"),
    Shot(path="/fail", raises="ZeroDivisionError", headers=CLOSE),
]
STARLETTE = [
    Shot(path="/stream"),
    Shot(path="/stream", version="1.0"),
    Shot(path="/stream", headers=("Accept-Encoding: gzip",)),
    Shot(path="/file"),
    Shot(path="/file", headers=("Range: bytes=10-99",)),
    Shot(path="/nowhere"),
    Shot(path="/forever", hangs_up="reading"),
]
DJANGO = [
    Shot(path="/"),
    Shot("HEAD", "/"),
    Shot(path="/hello/you"),
    Shot("POST", "/echo", body=BODY),
    Shot(path="/echo"),
    Shot(path="/stream"),
    Shot(path="/download"),
    Shot(path="/error"),
    Shot(path="/nowhere"),
]
DATASETTE = [
    Shot(path="/"),
    Shot(path="/-/versions.json"),
    Shot(path="/_memory"),
    Shot(path="/_memory.json?sql=select+1"),
    Shot(path="/-/static/app.css"),
    Shot("OPTIONS", "/"),
]
APPLICATIONS = [
    pytest.param("fastapi", FASTAPI, id="fastapi"),
    pytest.param("starlette", STARLETTE, id="starlette"),
    pytest.param("django", DJANGO, id="django"),
    pytest.param("datasette", DATASETTE, id="datasette"),
]
HTTP_2 = [shot for shot in [*ANSWERED, *FAILED] if not shot.raw and shot.path != "/big"]


@pytest.fixture(scope="module", params=["asgi", "uvicorn"])
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Traffic]:
    """Return a server of each type that all tests share which end no worker."""
    with traffic(tmp_path_factory.mktemp(request.param), request.param) as served:
        yield served


@pytest.fixture(params=["asgi", "uvicorn"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type with ASGI."""
    return request.param


class TestMix(Mix):
    """See tests/asgi.py."""

    def test_a_request_in_progress_is_seen(self, asked: Traffic) -> None:
        """While the application waits the request is in progress, and counted nowhere else."""
        before = asked.assert_exact().total("gunicorn_http_requests_total")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(asked.send, [Shot(path="/wait/seen")])
            metrics = asked.server.wait_for_metrics(
                lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "a request"
            )
            assert metrics.total("gunicorn_http_requests_total") == before
            asked.server.open_gate("seen")
            answer.result(DEADLINE_S)
        asked.assert_exact()

    def test_headers_that_cannot_be_sent(self, asked: Traffic) -> None:
        """An invalid header is an exception, and the answer what the server makes of it."""
        uvicorns = "LocalProtocolError" if find_spec("httptools") is None else "RuntimeError"
        name = "InvalidResponseHeader" if asked.worker_type == "asgi" else uvicorns
        (exchange,) = asked.send([Shot(path="/garbled", headers=CLOSE, raises=name)])
        assert exchange.status == {"asgi": "500", "uvicorn": ""}[asked.worker_type]
        asked.assert_exact()

    def test_proxies_and_tracers(self, asked: Traffic) -> None:
        """The queue time that a proxy tells is counted, and the trace of a sampled request kept."""
        trace_id = "0af7651916cd43dd8448eb211c80319c"
        headers = (
            f"X-Request-Start: t={time.time() - 1:.3f}",
            f"traceparent: 00-{trace_id}-b7ad6b7169203331-01",
        )
        asked.send([Shot("POST", "/echo", body=b"four", headers=headers)])
        asked.assert_exact()
        # These come behind the rest of a request.
        waited = "gunicorn_http_request_queue_seconds"
        metrics = asked.server.wait_for_metrics(lambda m: m.total(f"{waited}_sum") >= 1, "the wait")
        assert metrics.one(f"{waited}_count", stage="proxy") == 1
        port, accept = asked.server.metrics_port, "application/openmetrics-text"
        wait_for(lambda: trace_id in request(port, "/metrics", Accept=accept).text, "the trace")

    def test_200_websockets(self, asked: Traffic) -> None:
        """WebSockets are counted when accepted and gauged while open, and are no requests.

        Those that are refused, or whose application fails, are requests with an answer.
        """
        asyncio.run(self._talk(asked))
        metrics = asked.server.wait_for_metrics(
            lambda m: m.total("gunicorn_websocket_connections") == 0, "no WebSocket"
        )
        assert metrics.one("gunicorn_websocket_connections_total") == WEBSOCKETS
        asked.assert_exact()

    @pytest.mark.parametrize("path", ["chatter", "babble"])
    def test_a_websocket_that_is_left_is_no_failure(
        self, tmp_path: Path, worker_type: str, path: str
    ) -> None:
        """What is raised in an application whose client has gone is not its exception.

        One that babbles sends before Gunicorn knows it, and uvloop raises.
        """
        with gunicorn_prom(tmp_path, "asgi_mix:app", *options(worker_type, 1)) as server:
            asyncio.run(self._leave(server, path))
            wait_for((tmp_path / "told").exists, "the end of the application")
            assert server.get("/plain").status == 200
            metrics = server.scrape()
            assert metrics.one("gunicorn_websocket_connections_total") == 1
            assert metrics.total("gunicorn_http_exceptions_total") == 0

    async def _leave(self, server: Server, path: str) -> None:
        socket = await websockets.connect(f"ws://127.0.0.1:{server.port}/{path}", proxy=None)
        assert await socket.recv() == "more"
        socket.transport.abort()

    async def _talk(self, asked: Traffic) -> None:
        url = f"ws://127.0.0.1:{asked.server.port}"
        refused = Shot(path="/refuse", headers=HANDSHAKE)
        failed = Shot(path="/break", headers=HANDSHAKE, raises="ValueError")
        exchanges = await asyncio.to_thread(asked.send, [refused, failed])
        assert sorted(exchange.status for exchange in exchanges) == ["403", "500"]
        sockets = await asyncio.gather(
            *(websockets.connect(url, proxy=None) for _ in range(WEBSOCKETS))
        )
        await asyncio.gather(*(socket.send("ha") for socket in sockets))
        answers = await asyncio.gather(*(socket.recv() for socket in sockets))
        assert answers == ["haha"] * WEBSOCKETS
        metrics = await asyncio.to_thread(
            asked.server.wait_for_metrics,
            lambda m: m.total("gunicorn_websocket_connections") == WEBSOCKETS,
            "all WebSockets",
        )
        assert metrics.one("gunicorn_http_requests_in_progress") == 0
        # Some close it themselves, some have the application close it, some just go.
        for number, socket in enumerate(sockets):
            if number % 3 == 0:
                await socket.send("bye")
                await socket.wait_closed()
            elif number % 3 == 1:
                await socket.close()
            else:
                socket.transport.abort()


class TestApplications:
    """Real applications, of real frameworks."""

    @pytest.mark.parametrize(("name", "kinds"), APPLICATIONS)
    def test_are_counted_as_the_clients_saw_it(
        self, tmp_path: Path, worker_type: str, name: str, kinds: list[Shot]
    ) -> None:
        """Counts and sizes of a real application are what the clients saw."""
        arguments = (f"asgi_frameworks:make_{name}()", *options(worker_type, 1))
        environ = {
            "DJANGO_SETTINGS_MODULE": "django_app.settings",
            "PYTHONWARNINGS": "ignore",
        }
        django = ("--pythonpath", str(ROOT / "examples/django"))
        with gunicorn_prom(tmp_path, *arguments, *django, environ=environ) as server:
            exchanges = send(server.port, shuffled(kinds, 100), connections=CONNECTIONS)
            want = expected(exchanges)
            # These name the route, which is another test's.
            for family in ("failed_requests_total", "error_handling_total"):
                del want[f"gunicorn_worker_{family}"]
            metrics = settled(server, want)
        assert observed(metrics, want) == want
        assert len({exchange.status for exchange in exchanges}) > 1
        whole = [exchange for exchange in exchanges if not exchange.shot.hangs_up]
        assert all(exchange.is_whole for exchange in whole)
        if whole == exchanges:
            body_bytes = sum(exchange.body_bytes for exchange in exchanges)
            assert metrics.one("gunicorn_http_response_size_bytes_sum") == body_bytes

    def test_a_websocket_that_ends_is_no_failure(self, tmp_path: Path, worker_type: str) -> None:
        """What Starlette raises in an application whose client has closed is not its exception."""
        with gunicorn_prom(
            tmp_path, "asgi_frameworks:make_fastapi()", *options(worker_type, 1)
        ) as server:
            asyncio.run(self._echo(server))
            metrics = server.wait_for_metrics(
                lambda m: (
                    m.one("gunicorn_websocket_connections_total") == 1
                    and m.total("gunicorn_websocket_connections") == 0
                ),
                "the end of the WebSocket",
            )
            assert metrics.total("gunicorn_http_exceptions_total") == 0

    async def _echo(self, server: Server) -> None:
        url = f"ws://127.0.0.1:{server.port}/echo"
        async with websockets.connect(url, proxy=None) as socket:
            await socket.send("ha")
            assert await socket.recv() == "ha"


class TestHTTP2:
    """Gunicorn's own worker speaks it, with TLS."""

    def test_is_counted_as_the_clients_saw_it(self, tmp_path: Path) -> None:
        """Streams, 8 at a time on 4 connections, with failures and resets among them."""
        arguments = (*options("asgi"), *http2.server_options(tmp_path))
        with gunicorn_prom(tmp_path, "asgi_mix:app", *arguments) as server:
            shots = shuffled([*HTTP_2, Shot(path="/big", hangs_up="reading")], 300)
            exchanges = http2.send(server.port, shots, connections=4, streams=8)
            assert {exchange.status for exchange in exchanges} >= {"200", "201", "500"}
            assert_exact_streams(server, exchanges)

    def test_a_client_that_has_its_answer_and_goes_is_no_failure(self, tmp_path: Path) -> None:
        """What Gunicorn raises in the application that goes on sending is not its exception."""
        arguments = (*options("asgi", 1), *http2.server_options(tmp_path))
        with gunicorn_prom(tmp_path, "asgi_mix:app", *arguments) as server:
            with http2.Client(server.port) as client:
                exchanges = client.exchange([Shot(path="/chatter")])
            wait_for((tmp_path / "told").exists, "the end of the application")
            exchanges += http2.send(server.port, [Shot()])
            assert_exact_streams(server, exchanges)


@pytest.mark.parametrize("worker_type", ["asgi", "uvicorn"])
class TestLife:
    """The life of a worker, in which uvicorn and Gunicorn's worker have handlers of their own."""

    def test_users_own_class_under_plain_gunicorn(self, tmp_path: Path, worker_type: str) -> None:
        """`gunicorn -k module.Worker` with the hooks counts the same, on uvloop too."""
        (tmp_path / "conf.py").write_text("from gunicorn_prom.hooks import *\n")
        worker_class = own_worker(tmp_path, worker_type)
        loop = ["--asgi-loop=uvloop"] if worker_type == "asgi" else []
        arguments = ("asgi_mix:app", "-k", worker_class, "-c", "conf.py", KEEP_ALIVE, *loop)
        with plain_gunicorn(tmp_path, *arguments) as server:
            shots = shuffled([*ANSWERED, Shot(path="/loop", headers=CLOSE)], 100)
            exchanges = send(server.port, shots, connections=CONNECTIONS)
            assert_exact(server, exchanges)
            assert server.get("/loop").text.startswith("uvloop")

    def test_max_requests(self, tmp_path: Path, worker_type: str) -> None:
        """Under load each worker goes after its share, known as such, and no count is lost."""
        arguments = (*options(worker_type), "--max-requests=50", "--max-requests-jitter=5")
        shots = [Shot(headers=CLOSE), Shot(path="/status/503", headers=CLOSE)] * 100
        with gunicorn_prom(tmp_path, "asgi_mix:app", *arguments) as server:
            exchanges = send(server.port, shots, connections=CONNECTIONS, repeats=True)
            metrics = server.wait_for_metrics(lambda m: m.total(EXITS) >= 1, "a worker's end")
            assert set(exits(metrics)) == {"max_requests"}
            assert set(restarts(metrics)) == {("graceful", "max_requests")}
            assert_exact(server, exchanges)

    @pytest.mark.parametrize("hook", SLOW_HOOKS)
    def test_shutdown_before_a_worker_serves(
        self, tmp_path: Path, worker_type: str, hook: str
    ) -> None:
        """A worker that is told to go before it has a handler for it goes when it has one."""
        app = "asgi_mix:app"
        assert_early_signal_is_heard(tmp_path, app, worker_type, signal.SIGTERM, hook)

    def test_reasons(self, tmp_path: Path, worker_type: str) -> None:
        """Signals, reload, scaling, a timeout and the shutdown are told apart."""
        said = {
            "asgi": {
                signal.SIGKILL: {},
                signal.SIGTERM: {("graceful", "term"): 1},
                signal.SIGQUIT: {("graceful", "quit"): 1},
                signal.SIGABRT: {("forced", "abort"): 1},
            },
            # uvicorn lets the kernel have its SIGABRT, and hears no SIGQUIT.
            "uvicorn": {
                signal.SIGKILL: {},
                signal.SIGTERM: {("graceful", "term"): 1},
                signal.SIGINT: {("graceful", "quit"): 1},
                signal.SIGABRT: {},
            },
        }
        arguments = (*options(worker_type, 1), "--timeout=4", "--graceful-timeout=5")
        with (
            gunicorn_prom(tmp_path, "asgi_mix:app", *arguments) as server,
            state_kept(server) as reader,
        ):
            departures = Departures(server)
            words: Counter[tuple[str, str]] = Counter()
            for number, told in said[worker_type].items():
                metrics = departures.happen("signal", lambda n=number: departures.kill(n))
                words.update(told)
                assert restarts(metrics) == words, number
            departures.happen("reload", lambda: server.send_signal(signal.SIGHUP))
            server.send_signal(signal.SIGTTIN)
            server.wait_for_workers(2)
            departures.happen("scale_down", lambda: server.send_signal(signal.SIGTTOU))
            departures.happen("timeout", lambda: departures.ask("/seize"))
            assert server.stop() == 0
            assert (tmp_path / "ended").exists()
            assert exits_read(reader.read()) == {**departures.exits, "shutdown": 1}

    def test_draining(self, tmp_path: Path, worker_type: str) -> None:
        """A worker that is told to go is quitting until its last request is answered."""
        arguments = options(worker_type, 1)
        with gunicorn_prom(tmp_path, "asgi_mix:app", *arguments) as server:
            (pid,) = server.worker_pids()
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(request, server.port, "/wait/gate", timeout_s=DEADLINE_S)
                server.wait_for_metrics(
                    lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "a request"
                )
                os.kill(pid, signal.SIGTERM)
                server.wait_for_metrics(
                    lambda m: m.total("gunicorn_worker_state", state="quitting") == 1, "quitting"
                )
                server.open_gate("gate")
                assert answer.result(DEADLINE_S).status == 200
            metrics = wait_for_exits(server, {"signal": 1})
            assert metrics.total("gunicorn_http_requests_total") == 1
            assert metrics.total("gunicorn_http_aborted_total") == 0

    def test_killed_at_work(self, tmp_path: Path, worker_type: str) -> None:
        """What a killed worker had answered stays counted, what it was at got no answer."""
        with gunicorn_prom(tmp_path, "asgi_mix:app", *options(worker_type, 1)) as server:
            for _ in range(5):
                server.get("/plain")
            (pid,) = server.worker_pids()
            asking = threading.Thread(target=_ask_in_vain, args=(server,))
            asking.start()
            server.wait_for_metrics(
                lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "a request"
            )
            os.kill(pid, signal.SIGKILL)
            asking.join()
            metrics = wait_for_exits(server, {"signal": 1})
            assert metrics.total("gunicorn_http_requests_total") == 5
            assert metrics.one("gunicorn_http_aborted_total", reason="no_response") == 1

    def test_lifespan(self, tmp_path: Path, worker_type: str) -> None:
        """A worker has booted when its lifespan has begun; one whose lifespan fails, never."""
        (tmp_path / "hold").touch()
        arguments = ("asgi_mix:app", *options(worker_type, 1))
        with gunicorn_prom(tmp_path, *arguments, start=False) as server:
            server.launch()
            wait_for(lambda: _scraped_worker(server), "a worker")
            assert request(server.metrics_port, "/-/ready").status == 503
            with state_kept(server) as reader:
                (tmp_path / "refuse").touch()
                (tmp_path / "hold").unlink()
                assert server.wait() == 3
                assert exits_read(reader.read()) == {"boot_error": 1}


def test_application_of_two_stages(tmp_path: Path) -> None:
    """uvicorn serves applications as ASGI 2 had them, and they are counted."""
    with gunicorn_prom(tmp_path, "asgi_mix:TwoStages", *options("uvicorn", 1)) as server:
        exchanges = send(server.port, [Shot(), Shot(path="/stream"), Shot(path="/nowhere")])
        assert [exchange.status for exchange in exchanges] == ["200", "200", "404"]
        assert_exact(server, exchanges)


def _ask_in_vain(server: Server) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        request(server.port, "/wait/never", timeout_s=DEADLINE_S)


def _scraped_worker(server: Server) -> bool:
    with contextlib.suppress(OSError):
        return bool(server.scrape().all("gunicorn_worker_info"))
    return False

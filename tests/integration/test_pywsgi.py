"""The counts of gevent_pywsgi, whose server answers in its own way, are what its clients saw."""

from pathlib import Path

import pytest

from gunicorn_prom.workers import REGISTRY
from tests.exactness import (
    ANSWERED,
    CONNECTIONS,
    FLASK_AND_DJANGO,
    ROOT,
    assert_exact,
    options,
    own_worker,
    sizes,
    undated,
)
from tests.servers import PYWSGI, SHARED
from tests.support import Server, bare_gunicorn, gunicorn_prom, request
from tests.traffic import Shot, send, shuffled

WORKER_TYPE = "gevent_pywsgi"


class TestTheMix:
    """The application that answers and fails in every way."""

    def test_is_counted_as_the_clients_saw_it(self, tmp_path: Path) -> None:
        """800 mixed requests over 8 connections: every family says what the clients saw."""
        with gunicorn_prom(tmp_path, "mix:app", *options(WORKER_TYPE)) as server:
            exchanges = send(server.port, shuffled(PYWSGI, 800), connections=CONNECTIONS)
            metrics = assert_exact(server, exchanges)
        assert {exchange.status for exchange in exchanges} >= {"", "200", "400", "500"}
        total = metrics.total("gunicorn_http_requests_total")
        assert metrics.total("gunicorn_worker_requests_total") == total

    def test_answers_are_those_of_bare_gunicorn(self, tmp_path: Path) -> None:
        """Not a byte of an answer differs from Gunicorn's own, besides the date."""
        shots = [shot for shot in PYWSGI if not shot.hangs_up]
        arguments = ("mix:app", "-k", REGISTRY[WORKER_TYPE].class_path, *sizes(WORKER_TYPE))
        with bare_gunicorn(tmp_path / "bare", *arguments) as server:
            bare = send(server.port, shots)
        with gunicorn_prom(tmp_path / "ours", *arguments) as server:
            ours = send(server.port, shots)
        assert [undated(exchange) for exchange in ours] == [undated(exchange) for exchange in bare]

    def test_users_own_worker_class(self, tmp_path: Path) -> None:
        """A class of the user's own, with its own handler, is instrumented, and it counts bytes."""
        arguments = ("mix:app", "-k", own_handler(tmp_path), *sizes(WORKER_TYPE))
        with gunicorn_prom(tmp_path, *arguments) as server:
            shots = [shot for shot in ANSWERED if shot in SHARED and shot.path != "/nothing"]
            exchanges = send(server.port, shots)
            metrics = assert_exact(server, exchanges)
            assert "the user's own handler" in server.log
        body_bytes = sum(exchange.body_bytes for exchange in exchanges)
        assert metrics.one("gunicorn_http_response_size_bytes_sum") == body_bytes

    def test_what_no_handler_catches(self, tmp_path: Path) -> None:
        """SystemExit and the like are answered with 500, or cut an answer off, as counted."""
        with gunicorn_prom(tmp_path, "mix:app", *options(WORKER_TYPE)) as server:
            paths = ("/alarm", "/alarm/late", "/exit/late")
            exchanges = [send(server.port, [Shot(path=path)])[0] for path in paths]
            # The worker ends by it, and a connection that it has taken is lost.
            server.wait_for_metrics(
                lambda metrics: metrics.total("gunicorn_worker_exits_total") == 1, "its end"
            )
            exchanges += send(server.port, [Shot(path="/exit")])
            assert [exchange.status for exchange in exchanges] == ["500", "200", "200", "500"]
            assert_exact(server, exchanges)


def test_real_applications(tmp_path: Path) -> None:
    """Counts and sizes of a real application are what the clients saw."""
    arguments = ("app:app", "--chdir", str(ROOT / "examples/flask"))
    with gunicorn_prom(tmp_path, *arguments, *options(WORKER_TYPE)) as server:
        exchanges = send(server.port, shuffled(FLASK_AND_DJANGO, 200), connections=CONNECTIONS)
        metrics = assert_exact(server, exchanges)
    body_bytes = sum(exchange.body_bytes for exchange in exchanges)
    assert metrics.one("gunicorn_http_response_size_bytes_sum") == body_bytes
    assert metrics.total("gunicorn_http_route_requests_total", route="/hello/<name>")


@pytest.fixture
def server(tmp_path: Path) -> Server:
    with gunicorn_prom(
        tmp_path, "behave:app", f"--worker-type={WORKER_TYPE}", "--worker-connections=50"
    ) as server:
        yield server


def test_capacity_and_requests_in_progress(server: Server) -> None:
    """What a worker can take is its connections; what it works on is seen while it does."""
    assert server.scrape().one("gunicorn_worker_capacity") == 50
    shot = Shot(path="/wait/gate", hangs_up="asking")
    send(server.port, [shot] * 3, connections=3)
    server.wait_for_metrics(
        lambda m: m.one("gunicorn_http_requests_in_progress") == 3, "3 requests in progress"
    )
    server.open_gate("gate")
    server.wait_for_metrics(
        lambda m: m.one("gunicorn_http_requests_in_progress") == 0, "the end of them"
    )
    assert request(server.port, "/").status == 200


def own_handler(directory: Path) -> str:
    """Write a worker class of the user's own with a handler of its own; return its name."""
    dotted = own_worker(directory, REGISTRY[WORKER_TYPE].class_path)
    with (directory / "own_worker.py").open("a") as file:
        file.write(
            "\n    from gunicorn.workers.ggevent import PyWSGIHandler\n"
            "    class wsgi_handler(PyWSGIHandler):\n"
            "        def log_request(self):\n"
            '            print("the user\'s own handler", flush=True)\n'
        )
    return dotted

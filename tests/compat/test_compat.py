"""The life of a server with each worker type, on the Gunicorn that is installed here."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gunicorn
import pytest

from gunicorn_prom.workers import WORKER_TYPES, unavailable
from tests.hooks import Hooks
from tests.plugin_settings import WAYS, assert_guarded, given
from tests.support import (
    Scraper,
    can_bind,
    children,
    gunicorn_prom,
    is_running,
    request,
    run_to_end,
    start_next_generation,
    wait_for,
)

APP = "behave:app"


class TestHooks(Hooks):
    """See tests/hooks.py."""


@pytest.mark.parametrize("name", ["python:", "late by a path"])
def test_our_settings_count_from_the_start(tmp_path: Path, name: str) -> None:
    """See tests/integration/test_plugin_settings.py."""
    with given(WAYS[name], tmp_path) as server:
        assert_guarded(server)


# tests/asgi.py has those that speak ASGI.
WSGI_TYPES = [name for name in WORKER_TYPES if name not in ("asgi", "uvicorn")]


@pytest.fixture(params=[name for name in WSGI_TYPES if unavailable(name) is None])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type that this Gunicorn has; eventlet is one up to 25."""
    return f"--worker-type={request.param}"


def test_it_starts_serves_and_ends(tmp_path: Path, worker_type: str) -> None:
    """Requests are served and counted, and TERM ends everything with 0."""
    with gunicorn_prom(tmp_path, APP, worker_type, "--workers=2") as server:
        server.wait_for_workers(2)
        assert server.get("/").text == "ok"
        assert server.get("/404").status == 404
        metrics = server.wait_for_requests(2)
        (info, _), *_ = metrics.all("gunicorn_info")
        assert (info["version"], info["worker_class"]) == (
            gunicorn.__version__,
            worker_type.partition("=")[2],
        )
        assert bool(server.exporter_pid()) == ("eventlet" in worker_type)
        processes = children(server.pid)
        assert server.stop() == 0
        assert not any(map(is_running, processes))
        assert can_bind(server.metrics_port)
        assert not list(server.state_directory.iterdir())


def test_a_reload_keeps_the_totals(tmp_path: Path, worker_type: str) -> None:
    """HUP replaces the workers; scrapes go on, and the count of the old ones stays."""
    with gunicorn_prom(tmp_path, APP, worker_type) as server:
        assert server.get("/").status == 200
        first = server.wait_for_workers(1)
        with Scraper(server) as scraper:
            server.send_signal(signal.SIGHUP)
            wait_for(lambda: set(server.worker_pids()).isdisjoint(first), "another worker")
            server.wait_for_workers(1)
        scraper.assert_flawless()
        assert server.get("/").status == 200
        server.wait_for_requests(2)


def test_term_drains(tmp_path: Path, worker_type: str) -> None:
    """A request in progress at TERM gets its answer; meanwhile it is not ready."""
    with gunicorn_prom(tmp_path, APP, worker_type) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.get, "/wait/gate")
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "a request in progress"
        )
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: request(server.metrics_port, "/-/ready").status == 503, "the drain")
        assert request(server.metrics_port, "/-/ready").text == "shutting down\n"
        server.open_gate("gate")
        assert answer.result().text == "waited"
        assert server.wait() == 0


def test_a_killed_master_frees_the_metrics_port(tmp_path: Path, worker_type: str) -> None:
    """After kill -9 the metrics port can be had again, and no process of the server is left."""
    with gunicorn_prom(tmp_path, APP, worker_type, "--workers=2", "--timeout=2") as server:
        workers = server.wait_for_workers(2)
        processes = children(server.pid)
        server.stop(signal.SIGKILL)
        wait_for(lambda: can_bind(server.metrics_port), "the metrics port")
        if "eventlet" in worker_type:
            # Gunicorn's eventlet workers never ask whether their master lives.
            for pid in workers:
                os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not any(map(is_running, processes)), "the end of its processes")
        # A worker that was just being forked is not among those.
        wait_for(lambda: can_bind(server.port), "the application's port")


def test_killed_workers_are_replaced(tmp_path: Path, worker_type: str) -> None:
    """Their counts stay, under constant scraping."""
    with gunicorn_prom(tmp_path, APP, worker_type) as server, Scraper(server) as scraper:
        for count in range(1, 6):
            assert server.get("/").status == 200
            server.wait_for_requests(count)
            killed = server.wait_for_workers(1)
            os.kill(killed[0], signal.SIGKILL)
            wait_for(lambda killed=killed: server.worker_pids() not in ([], killed), "a worker")
        assert not scraper.failures
    scraper.assert_flawless()


def test_usr2_hands_the_metrics_server_over(tmp_path: Path, worker_type: str) -> None:
    """The next generation answers on the same sockets throughout, and each ends cleanly."""
    pidfile = tmp_path / "pid"
    with gunicorn_prom(tmp_path, APP, worker_type, f"--pid={pidfile}") as server:
        with Scraper(server) as scraper:
            successor = start_next_generation(server, pidfile)
            assert server.stop() == 0
            wait_for(lambda: set(server.worker_pids()) <= set(children(successor)), "its metrics")
            assert server.get("/").status == 200
        assert not scraper.failures
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not is_running(successor), "the end of the next generation")
        assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("source", "exit_code"), [("", 4), ("raise ValueError('broken')", 3)], ids=["load", "boot"]
)
def test_exit_codes_of_gunicorn(tmp_path: Path, source: str, exit_code: int) -> None:
    """4 when the application is not there, 3 when a worker fails to boot; nothing is left."""
    (tmp_path / "failing.py").write_text(source)
    with gunicorn_prom(tmp_path, "failing:app", start=False) as server:
        server.launch()
        assert server.wait() == exit_code
        assert can_bind(server.metrics_port)
        assert not list(server.state_directory.iterdir())


def test_the_end_of_the_metrics_process_is_no_workers(tmp_path: Path) -> None:
    """A killed metrics server comes back; Gunicorn does not take it for a worker."""
    with gunicorn_prom(tmp_path, APP, "--metrics-server=process") as server:
        worker, exporter = server.wait_for_workers(1), server.exporter_pid()
        os.kill(exporter, signal.SIGKILL)
        wait_for(lambda: server.exporter_pid() not in {0, exporter}, "another metrics server")
        wait_for(server.is_ready, "the metrics server")
        assert server.wait_for_workers(1) == worker
        assert str(exporter) not in server.log


def test_errors_and_options_are_ours(tmp_path: Path) -> None:
    """What is wrong is said in one sentence and a hint, with exit code 2."""
    ended = run_to_end(tmp_path, APP, "--wrokers=2")
    assert ended.stderr == (
        "error: unrecognized arguments: --wrokers=2\nhint: did you mean --workers?\n"
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert run_to_end(tmp_path, APP, "--check-config").returncode == 0

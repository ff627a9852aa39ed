"""The life of the server: how it starts, renews itself and ends, and what it leaves behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.real_parts import find_program, unavailable
from tests.support import (
    Scraper,
    can_bind,
    children,
    descriptors,
    gunicorn_prom,
    is_running,
    request,
    run_to_end,
    sockets_of,
    start_next_generation,
    wait_for,
)

APP = "behave:app"

# How long each host of the metrics server may hold the port after the death of the master.
either_host = pytest.mark.parametrize(
    ("host", "release_s"), [("--metrics-server=thread", 0.0), ("--metrics-server=process", 5.0)]
)


@either_host
def test_a_killed_master_leaves_nothing(tmp_path: Path, host: str, release_s: float) -> None:
    """After kill -9 the metrics port is free, and workers and metrics server end by themselves."""
    with gunicorn_prom(tmp_path, APP, "--workers=2", "--timeout=2", host) as server:
        pids = {*server.wait_for_workers(2), server.exporter_pid()} - {0}
        server.stop(signal.SIGKILL)
        wait_for(lambda: can_bind(server.metrics_port), "the metrics port", release_s)
        wait_for(lambda: not any(map(is_running, pids)), "the end of the workers")
        assert can_bind(server.port)
        server.start()


def test_the_next_start_sweeps_what_a_killed_master_left(tmp_path: Path) -> None:
    """Only directories of dead masters go: not a living one's, nor what somebody else put there."""
    state = tmp_path / "shared"
    option = f"--metrics-state-dir={state}"
    others = [state / "notes", state / "gunicorn-prom.conf.d", state / "gunicorn-prom.1.2"]
    for path in others[:2]:
        path.mkdir(parents=True)
    others[2].symlink_to(others[0])
    (others[0] / "board").touch()
    with (
        gunicorn_prom(tmp_path / "living", APP, option) as living,
        gunicorn_prom(tmp_path / "killed", APP, option) as killed,
    ):
        workers = killed.worker_pids()
        killed.stop(signal.SIGKILL)
        wait_for(lambda: not any(map(is_running, workers)), "the end of its workers")
        left = [path for path in state.iterdir() if path not in others]
        assert len(left) == 2
        with gunicorn_prom(tmp_path / "next", APP, option) as following:
            found = {path.name.split(".")[1] for path in state.iterdir() if path not in others}
            assert found == {str(living.pid), str(following.pid)}
        assert living.stop() == 0
        assert all(path.exists() for path in (*others, others[0] / "board"))


def in_mount_namespace(mount: str, directory: Path) -> list[str]:
    """Return the prefix of a command that sees `directory` mounted by the shell line `mount`."""
    script = f'{mount} && shift && exec "$@"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-ec", script, "sh", str(directory)]
    find_program("unshare", "util-linux")
    trial = subprocess.run([*command, "true"], check=False, capture_output=True, text=True)
    if trial.returncode:
        unavailable(f"nothing can be mounted here: {trial.stderr.strip()}")
    return command


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        ('mount -t tmpfs -o size=64k tmpfs "$1"', "No space left on device"),
        ('mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"', "Read-only file system"),
    ],
)
def test_a_state_directory_without_room_is_an_error(
    tmp_path: Path, mount: str, reason: str
) -> None:
    """A full or read-only state directory is told in one sentence at start, with exit code 1."""
    state = tmp_path / "state"
    state.mkdir()
    prefix = in_mount_namespace(mount, state)
    option = f"--metrics-state-dir={state}"
    ended = run_to_end(tmp_path, APP, option, prefix=prefix)
    assert ended.returncode == 1
    assert f"error: cannot use the state directory {state}: {reason}\nhint: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_file_in_the_place_of_the_state_directory_is_an_error(tmp_path: Path) -> None:
    """What cannot be a directory is told in one sentence at start, with exit code 1."""
    state = tmp_path / "state"
    state.touch()
    ended = run_to_end(tmp_path, APP, f"--metrics-state-dir={state}")
    assert ended.returncode == 1
    assert f"error: cannot use the state directory {state}: File exists\nhint: " in ended.stderr


def test_losing_the_state_directory_stops_nothing(tmp_path: Path) -> None:
    """With the directory deleted requests are served and counted on, by new workers too."""
    with gunicorn_prom(tmp_path, APP) as server:
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        shutil.rmtree(server.state_directory)
        os.kill(server.wait_for_workers(1)[0], signal.SIGKILL)
        assert server.get("/404").status == 404
        metrics = server.wait_for_requests(2)
        assert metrics.one("gunicorn_http_requests_total", status="404") == 1
        # The application's own metrics are told to begin anew, once.
        assert metrics.one("gunicorn_prom_errors_total", where="app_metrics") == 1
        assert metrics.total("gunicorn_prom_errors_total") == 1
        assert server.stop() == 0


def test_the_metrics_process_is_restarted_and_is_no_worker(tmp_path: Path) -> None:
    """A killed metrics server comes back with the same totals, and nobody thinks a worker died."""
    with gunicorn_prom(tmp_path, APP, "--metrics-server=process") as server:
        assert server.get("/").status == 200
        worker, exporter = server.wait_for_workers(1)[0], server.exporter_pid()
        os.kill(exporter, signal.SIGKILL)
        wait_for(lambda: server.exporter_pid() not in {0, exporter}, "another metrics server")
        wait_for(server.is_ready, "the metrics server")
        server.wait_for_requests(1)
        assert server.wait_for_workers(1) == [worker]
        assert str(exporter) not in server.log
        exporter = server.exporter_pid()
        assert server.stop() == 0
        assert not is_running(exporter)


def test_both_hosts_of_the_metrics_server_serve_the_same(tmp_path: Path) -> None:
    """The families do not depend on where the metrics server runs."""
    families = []
    for where in ("thread", "process"):
        option = f"--metrics-server={where}"
        with gunicorn_prom(tmp_path / where, APP, option) as server:
            assert server.get("/").status == 200
            server.wait_for_requests(1)
            metrics = server.wait_for_metrics(
                lambda m: m.all("gunicorn_worker_heartbeat_timestamp_seconds"), "a heartbeat"
            )
            assert bool(server.exporter_pid()) == (where == "process")
            assert metrics.one("process_cpu_seconds_total") > 0
            families.append(sorted({sample.name for sample in metrics.samples}))
    assert families[0] == families[1]


def test_without_a_metrics_server_nothing_listens(tmp_path: Path) -> None:
    """`--metrics-server none` serves the application and leaves the metrics port alone."""
    with gunicorn_prom(tmp_path, APP, "--metrics-server=none", start=False) as server:
        server.launch()
        wait_for(lambda: not can_bind(server.port), "the application's port")
        assert server.get("/").status == 200
        assert can_bind(server.metrics_port)
        assert server.stop() == 0


def test_the_address_really_bound_is_logged(tmp_path: Path) -> None:
    """With port 0 the log tells where the metrics are."""
    with gunicorn_prom(tmp_path, APP, "--metrics-bind=127.0.0.1:0", start=False) as server:
        server.launch()
        pattern = re.compile(r"Metrics at http://127\.0\.0\.1:(\d+)/metrics \(thread\)")
        port = int(wait_for(lambda: pattern.search(server.log), "the address")[1])
        assert request(port, "/metrics").status == 200


def test_workers_hold_nothing_of_the_metrics_server(tmp_path: Path) -> None:
    """Neither the first workers nor their successors share its sockets or its selector."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        first = server.wait_for_workers(2)
        with socket.create_connection(("127.0.0.1", server.metrics_port)), Scraper(server):
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda: set(server.worker_pids()).isdisjoint(first), "other workers")
            for pid in (*server.wait_for_workers(2), *server.worker_pids()):
                held = set(descriptors(pid))
                assert held.isdisjoint(sockets_of(server.metrics_port))
                assert "anon_inode:[eventpoll]" not in held
                # The board, its labels, and where its stacks go when it times out.
                state = {path for path in held if path.startswith(str(server.state_directory))}
                kinds = {Path(path).name.partition(".")[0] for path in state}
                assert kinds == {"board", "keys", "stacks"}


def test_a_reload_keeps_serving_and_keeps_the_totals(tmp_path: Path) -> None:
    """HUP replaces every worker; no request is refused, no scrape fails, no count is lost."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        first = server.wait_for_workers(2)
        answered = 0
        with Scraper(server) as scraper:
            server.send_signal(signal.SIGHUP)
            while not answered or set(first) & set(server.worker_pids()):
                assert server.get("/").status == 200
                answered += 1
        scraper.assert_flawless()
        server.wait_for_requests(answered)


def test_term_drains(tmp_path: Path) -> None:
    """A request in progress at TERM gets its answer, and the metrics are served until then."""
    with gunicorn_prom(tmp_path, APP) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.get, "/wait/gate")
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "a request in progress"
        )
        server.send_signal(signal.SIGTERM)
        server.wait_for_metrics(lambda m: m.one("gunicorn_workers", state="quitting") == 1, "TERM")
        not_ready = request(server.metrics_port, "/-/ready")
        assert (not_ready.status, not_ready.text) == (503, "shutting down\n")
        server.open_gate("gate")
        assert answer.result().text == "waited"
        assert server.wait() == 0
        assert can_bind(server.metrics_port)
        assert not list(server.state_directory.iterdir())


@either_host
def test_usr2_hands_the_metrics_server_over(tmp_path: Path, host: str, release_s: float) -> None:
    """The next generation answers on the same socket throughout, and each ends cleanly."""
    pidfile = tmp_path / "pid"
    with gunicorn_prom(tmp_path, APP, f"--pid={pidfile}", host) as server:
        with Scraper(server) as scraper:
            successor = start_next_generation(server, pidfile)
            assert server.stop() == 0
            wait_for(lambda: set(server.worker_pids()) <= set(children(successor)), "its metrics")
            assert server.get("/").status == 200
        assert not scraper.failures
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not is_running(successor), "the end of the next generation")
        wait_for(lambda: can_bind(server.metrics_port), "the metrics port", release_s)
        assert not list(server.state_directory.iterdir())
        assert "Traceback" not in server.log


def test_a_patched_master_gets_a_process(tmp_path: Path) -> None:
    """With gevent patched in by a preloaded application, `auto` keeps out of the master."""
    pytest.importorskip("gevent", exc_type=ImportError)
    arguments = ("patched:app", "--preload", "--worker-type=gevent")
    with gunicorn_prom(tmp_path, *arguments) as server:
        assert server.exporter_pid()
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        exporter = server.exporter_pid()
        os.kill(exporter, signal.SIGKILL)
        wait_for(lambda: server.exporter_pid() not in {0, exporter}, "another metrics server")
        wait_for(server.is_ready, "the metrics server")
        server.wait_for_requests(1)
        assert server.stop() == 0
        assert can_bind(server.metrics_port)


def test_a_request_that_dies_with_its_worker_is_counted(tmp_path: Path) -> None:
    """Its client got nothing, so it is `no_response`, and nothing stays in progress."""
    with gunicorn_prom(tmp_path, APP) as server, ThreadPoolExecutor(1) as pool:
        lost = pool.submit(server.get, "/wait/never")
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "the request"
        )
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_http_aborted_total", reason="no_response") == 1, "its count"
        )
        with pytest.raises(OSError):  # noqa: PT011  # reset or closed, as the kernel has it
            lost.result()
        assert server.scrape().one("gunicorn_http_requests_in_progress") == 0

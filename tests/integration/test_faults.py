"""Faults of the machine: the server serves on, and no number is lost or goes back."""

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_lifecycle import in_mount_namespace
from tests.ledger import (
    BOOTED,
    EXITS,
    SPAWNS,
    Audit,
    audited,
    exits,
    memory_cgroup,
    running_in,
    wait_for_exits,
    write_application,
)
from tests.support import (
    APPS,
    OWN_OPTIONS,
    ROOT,
    Metrics,
    Server,
    can_bind,
    children,
    descriptors,
    gunicorn_prom,
    is_running,
    request,
    running,
    start_next_generation,
    wait_for,
)

APP = "behave:app"
REQUESTS = "gunicorn_http_requests_total"
PROM_ERRORS = "gunicorn_prom_errors_total"

# The wall clock of every Python process, as far from the real one as the file `offset` says.
CLOCK = """
import time
from pathlib import Path

offset = Path(__file__).with_name("offset")
real_time, real_time_ns = time.time, time.time_ns
time.time = lambda: real_time() + int(offset.read_text())
time.time_ns = lambda: real_time_ns() + int(offset.read_text()) * 10**9
"""

CLIENT = """
import socket
import sys

while True:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as client:
        client.sendall(b"GET /metrics HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
        while client.recv(65536):
            pass
"""

# `behave`, counted by the application too; and exceptions with names as long as labels can be.
COUNTED = """
from behave import ANSWERS
from behave import app as behave
from prometheus_client import Counter, Histogram

jobs = Counter("jobs", "Jobs.", ["kind"])
sizes = Histogram("sizes", "Sizes.", ["kind"])
jobs.labels("served")


def fail(number):
    raise type(f"{'x' * 90}{number}", (Exception,), {})


def observe(kind):
    sizes.labels(kind).observe(1.0)
    return "observed"


ANSWERS |= {"fail": fail, "observe": observe}


def app(environ, start_response):
    jobs.labels("served").inc()
    return behave(environ, start_response)
"""


@contextlib.contextmanager
def counted(directory: Path, *arguments: str, prefix: list[str] | None = None) -> Iterator[Server]:
    """Run the application that has metrics of its own until the block ends."""
    (directory / "counted.py").write_text(COUNTED)
    program = [sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS, "counted:app"]
    server = Server(directory, [*(prefix or []), *program, *arguments], {})
    with running(server, start=True):
        yield server


def jobs(server: Server) -> float:
    """Return what the application has counted."""
    return server.scrape().total("jobs_total")


# Processes that stand still.


def test_a_stopped_worker_stops_no_metrics(tmp_path: Path) -> None:
    """With every worker stopped metrics and health answer; the workers are still counted."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        workers = server.wait_for_workers(2)
        with audited(server):
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            for _ in range(5):
                assert server.scrape().total("gunicorn_workers") == 2
                assert request(server.metrics_port, "/-/healthy").status == 200
                assert request(server.metrics_port, "/-/ready").status == 200
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
            assert server.get("/").status == 200
        assert server.worker_pids() == workers
        assert server.stop() == 0


def test_a_stopped_metrics_process_serves_on_when_it_continues(tmp_path: Path) -> None:
    """Meanwhile the server serves, reloads and replaces workers; nothing is missing afterwards."""
    with gunicorn_prom(tmp_path, APP, "--metrics-server=process") as server:
        first, exporter = server.wait_for_workers(1), server.exporter_pid()
        os.kill(exporter, signal.SIGSTOP)
        waiting = socket.create_connection(("127.0.0.1", server.metrics_port))
        server.send_signal(signal.SIGHUP)
        second = wait_for(lambda: set(children(server.pid)) - {*first, exporter}, "a worker")
        wait_for(lambda: not is_running(first[0]), "the end of the old worker")
        for _ in range(3):
            assert server.get("/").status == 200
        with waiting:
            waiting.sendall(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
            os.kill(exporter, signal.SIGCONT)
            assert waiting.recv(12) == b"HTTP/1.1 200"
        server.wait_for_requests(3)
        wait_for_exits(server, {"reload": 1})
        assert (server.exporter_pid(), server.worker_pids()) == (exporter, [*second])
        assert server.stop() == 0


def test_a_stopped_metrics_process_holds_up_no_upgrade(tmp_path: Path) -> None:
    """The next generation has its own; the old master ends in time, and takes the stopped along."""
    pidfile = tmp_path / "pid"
    arguments = (APP, "--metrics-server=process", f"--pid={pidfile}")
    with gunicorn_prom(tmp_path, *arguments) as server:
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        exporter = server.exporter_pid()
        os.kill(exporter, signal.SIGSTOP)
        successor = start_next_generation(server, pidfile)
        assert server.stop() == 0
        assert not is_running(exporter)
        metrics = server.wait_for_metrics(lambda m: exits(m) == {"shutdown": 1}, "the exit")
        assert metrics.total(REQUESTS) == 1
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: can_bind(server.metrics_port), "the end of the next generation")


# The state directory.


def test_a_removed_state_directory_loses_nothing(tmp_path: Path) -> None:
    """Scrapes, reloads, respawns and the application's own metrics go on, to a clean end."""
    with counted(tmp_path, "--workers=2") as server:
        server.wait_for_workers(2)
        for _ in range(4):
            assert server.get("/").status == 200
        server.wait_for_requests(4)
        with audited(server):
            shutil.rmtree(server.state_directory)
            assert server.get("/").status == 200
            server.wait_for_requests(5)
            server.send_signal(signal.SIGHUP)
            wait_for_exits(server, {"reload": 2}, workers=2)
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            wait_for_exits(server, {"reload": 2, "signal": 1}, workers=2)
            assert server.get("/").status == 200
            server.wait_for_requests(6)
            wait_for(lambda: jobs(server), "the application's metrics")
            assert server.get("/observe/first").status == 200
        # The application's own metrics are told to begin anew.
        assert server.scrape().one(PROM_ERRORS, where="app_metrics") == 1
        assert server.scrape().total(PROM_ERRORS) == 1
        assert server.stop() == 0
        left = [path for path in server.state_directory.rglob("*") if path.is_file()]
        assert left == []


def test_settings_that_cannot_be_kept_at_hand(tmp_path: Path) -> None:
    """A worker whose settings are not as we know them serves and is counted like any other."""
    hook = "def post_fork(server, worker):\n    worker.cfg.settings['odd'] = None\n"
    (tmp_path / "conf.py").write_text(hook)
    with gunicorn_prom(tmp_path, APP, f"--config={tmp_path / 'conf.py'}") as server:
        assert request(server.port, "/").status == 200
        metrics = server.wait_for_metrics(lambda m: m.total(REQUESTS) == 1, "the request")
        assert metrics.one(PROM_ERRORS, where="request") == metrics.total(PROM_ERRORS) == 1


def test_metrics_made_without_a_state_directory(tmp_path: Path) -> None:
    """A worker that was there before the loss can make its first value of a kind soon after it."""
    with counted(tmp_path) as server:
        worker = server.wait_for_workers(1)
        shutil.rmtree(server.state_directory)
        wait_for(lambda: is_observed(server), "a first value", 5.0)
        assert server.worker_pids() == worker


def is_observed(server: Server) -> bool:
    with contextlib.suppress(OSError):
        return server.get("/observe/first").status == 200
    return False


def state_of(server: Server) -> Path:
    """Return the state directory as the server sees it, in its mount namespace."""
    return Path(f"/proc/{server.pid}/root{server.state_directory}")


def fill_up(directory: Path) -> Path:
    """Leave no room in a file system, and return the file that takes it."""
    filler = directory / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def on_tmpfs(directory: Path) -> list[str]:
    """Return the prefix of a server whose state directory is on a small tmpfs."""
    state = directory / "state"
    state.mkdir()
    return in_mount_namespace('mount -t tmpfs -o size=16m tmpfs "$1"', state)


def test_a_full_state_directory_drops_labels_and_nothing_else(tmp_path: Path) -> None:
    """Requests are served and counted, under _OTHER where a label finds no room; workers live."""
    with counted(tmp_path, prefix=on_tmpfs(tmp_path)) as server, audited(server):
        workers = server.wait_for_workers(1)
        filler = fill_up(state_of(server))
        for number in range(60):
            assert server.get(f"/fail/{number}").status == 500
        metrics = server.wait_for_requests(60)
        assert metrics.total("gunicorn_http_exceptions_total") == 60
        assert metrics.total("gunicorn_http_exceptions_total", exception="_OTHER") > 0
        assert metrics.one(PROM_ERRORS, where="keys") > 0
        assert server.worker_pids() == workers
        filler.unlink()
        assert server.get("/fail/new").status == 500
        server.wait_for_metrics(
            lambda m: m.total("gunicorn_http_exceptions_total", exception=f"{'x' * 90}new") == 1,
            "a new label",
        )


def test_workers_are_replaced_beside_a_full_state_directory(tmp_path: Path) -> None:
    """A worker that boots when there is no room serves and is counted like any other."""
    prefix = on_tmpfs(tmp_path)
    program = [sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS, APP]
    with (
        running(Server(tmp_path, [*prefix, *program], {}), start=True) as server,
        audited(server),
    ):
        server.wait_for_workers(1)
        fill_up(state_of(server))
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        wait_for_exits(server, {"signal": 1})
        server.send_signal(signal.SIGHUP)
        wait_for_exits(server, {"signal": 1, "reload": 1})
        assert server.get("/").status == 200
        server.wait_for_requests(1)


def test_workers_with_metrics_of_their_own_beside_a_full_state_directory(tmp_path: Path) -> None:
    """An application that uses prometheus_client boots and serves when there is no room."""
    with counted(tmp_path, prefix=on_tmpfs(tmp_path)) as server:
        server.wait_for_workers(1)
        fill_up(state_of(server))
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        wait_for_exits(server, {"signal": 1})
        assert server.get("/").status == 200
        server.wait_for_requests(1)


def test_a_state_directory_that_becomes_read_only(tmp_path: Path) -> None:
    """What is open is written on; workers boot and are counted, and nothing goes back."""
    prefix = on_tmpfs(tmp_path)
    program = [sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS, APP, "--workers=2"]
    with running(Server(tmp_path, [*prefix, *program], {}), start=True) as server:
        server.wait_for_workers(2)
        enter = ["nsenter", "--mount", "--user", "--preserve-credentials", f"--target={server.pid}"]
        script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
        subprocess.run([*enter, "sh", "-ec", script, "sh", server.state_directory], check=True)
        with pytest.raises(OSError, match="Read-only"):
            (state_of(server) / "probe").touch()
        with audited(server):
            server.send_signal(signal.SIGHUP)
            wait_for_exits(server, {"reload": 2}, workers=2)
            os.kill(server.worker_pids()[0], signal.SIGKILL)
            wait_for_exits(server, {"reload": 2, "signal": 1}, workers=2)
            for status in (200, 404, 418):
                assert server.get("/" if status == 200 else f"/{status}").status == status
            server.wait_for_requests(3)
        assert server.stop() == 0


# The machine.


@pytest.mark.parametrize("host", ["thread", "process"])
def test_without_descriptors_the_server_serves_on(tmp_path: Path, host: str) -> None:
    """When the metrics server has none left requests are served, and scrapes come back after."""
    with gunicorn_prom(tmp_path, APP, f"--metrics-server={host}") as server:
        server.wait_for_workers(1)
        assert server.get("/").status == 200
        before = server.wait_for_requests(1)
        pid = server.exporter_pid() or server.pid
        unlimited = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = max(int(link.name) for link in Path(f"/proc/{pid}/fd").iterdir()) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 3, unlimited[1]))
        crowd = [socket.create_connection(("127.0.0.1", server.metrics_port)) for _ in range(40)]
        wait_for(lambda: len(descriptors(pid)) >= used, "the end of the descriptors")
        for _ in range(3):
            assert server.get("/").status == 200
        for client in crowd:
            client.close()
        after = server.wait_for_requests(4)
        assert after.one(SPAWNS) == before.one(SPAWNS)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, unlimited)
        assert request(server.metrics_port, "/-/healthy").status == 200
        assert server.stop() == 0


def test_a_clock_that_is_stepped_back(tmp_path: Path) -> None:
    """An hour back: no counter falls, nobody times out, nothing is older than nothing."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    offset = tmp_path / "clock" / "offset"
    offset.write_text("0")
    environ = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, APPS, tmp_path / "clock")))}
    arguments = (APP, "--timeout=2")
    with gunicorn_prom(tmp_path, *arguments, environ=environ) as server, audited(server):
        worker = server.wait_for_workers(1)
        assert server.get("/").status == 200
        before = server.wait_for_metrics(
            lambda m: m.all("gunicorn_worker_heartbeat_timestamp_seconds"), "a heartbeat"
        )
        write_at_once(offset, "-3600")
        family = "gunicorn_worker_heartbeat_timestamp_seconds"
        stepped = server.wait_for_metrics(
            lambda m: m.one(family) < before.one(family) - 3000, "the step"
        )
        later = server.wait_for_metrics(
            lambda m: m.one(family) > stepped.one(family) + 3, "three seconds of beats"
        )
        assert server.worker_pids() == worker
        assert request(server.metrics_port, "/-/healthy").status == 200
        for metrics in (stepped, later):
            assert metrics.one("gunicorn_worker_uptime_seconds") >= 0
            assert metrics.one("gunicorn_worker_cpu_percent") >= 0
        os.kill(worker[0], signal.SIGKILL)
        wait_for_exits(server, {"signal": 1})
        server.send_signal(signal.SIGHUP)
        wait_for_exits(server, {"signal": 1, "reload": 1})
        successor = start_upgrade(server, workers=2)
        assert server.stop() == 0
        metrics = server.wait_for_metrics(lambda m: m.total(EXITS) == 3, "the old generation")
        assert exits(metrics) == {"signal": 1, "reload": 1, "shutdown": 1}
        assert children(successor) == server.wait_for_workers(1)


def write_at_once(path: Path, content: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(content)
    new.rename(path)


def start_upgrade(server: Server, workers: int) -> int:
    """Send USR2 and return the pid of the new master when there are so many workers in all."""
    before = set(server.worker_pids())
    server.send_signal(signal.SIGUSR2)
    new = set(server.wait_for_workers(workers)) - before
    return int(Path(f"/proc/{new.pop()}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.timeout(400)  # a minute on two idle cores
def test_a_thousand_forks_under_constant_scraping(tmp_path: Path) -> None:
    """No worker is born deadlocked, every scrape comes, and the books balance in each."""
    arguments = (APP, "--workers=25", "--metrics-server=thread")
    with gunicorn_prom(tmp_path, *arguments) as server:
        server.wait_for_workers(25)
        with Audit(server, pause_s=0) as audit:
            for forks in range(50, 1025, 25):
                server.send_signal(signal.SIGHUP)
                wait_for(
                    lambda forks=forks: audit.last and is_through(audit.last, forks, workers=25),
                    f"{forks} forks",
                )
        audit.assert_flawless(lost=0)
        metrics = server.scrape()
        assert exits(metrics) == {"reload": 975}
        assert (metrics.one(SPAWNS), metrics.one(BOOTED)) == (1000, 1000)
        assert metrics.total(PROM_ERRORS) == 0
        for _ in range(100):
            assert server.get("/").status == 200
        server.wait_for_requests(100)


def is_through(metrics: Metrics, forks: int, workers: int) -> bool:
    """Tell whether so many workers have booted in all, and only the last ones are there."""
    return metrics.one(BOOTED) == forks and metrics.total("gunicorn_workers") == workers


@contextlib.contextmanager
def crowd(port: int, clients: int) -> Iterator[None]:
    """Scrape from so many processes without a pause until the block ends."""
    processes = [
        subprocess.Popen([sys.executable, "-c", CLIENT, str(port)]) for _ in range(clients)
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_crowd_of_scrapers_holds_up_no_fork(tmp_path: Path) -> None:
    """However many scrape without a pause, a fork waits for the end of a scrape, not of all."""
    with gunicorn_prom(tmp_path, APP, "--workers=20", "--metrics-server=thread") as server:
        server.wait_for_workers(20)
        with crowd(server.metrics_port, clients=4):
            server.send_signal(signal.SIGHUP)
            # Half of what it takes when each fork waits until it gives up.
            wait_for(lambda: server.log.count("Booting worker") == 40, "20 forks", 10.0)


def test_a_worker_without_memory_takes_no_count_along(tmp_path: Path) -> None:
    """What a worker counted before the kernel killed it stays, and its last request is lost."""
    write_application(tmp_path)
    arguments = ("leaving:app", "--worker-type=gthread", "--threads=4")
    with memory_cgroup(150 << 20) as group, running_in(group, tmp_path, *arguments) as server:
        with audited(server):
            for _ in range(20):
                assert server.get("/").status == 200
            server.wait_for_requests(20)
            with pytest.raises(OSError):  # noqa: PT011  # reset or closed, as the kernel has it
                server.get("/devour")
            metrics = wait_for_exits(server, {"oom": 1})
            assert metrics.total(REQUESTS) == 20
            assert metrics.one("gunicorn_http_aborted_total", reason="no_response") == 1
        assert server.stop() == 0


def test_a_master_killed_in_an_upgrade_leaves_its_counts(tmp_path: Path) -> None:
    """Killed beside its successor, its workers end, and all it had counted stays in the sum."""
    arguments = (APP, "--workers=2", "--timeout=2")
    # The master that is killed takes the scrape along that it is answering.
    with gunicorn_prom(tmp_path, *arguments) as server, audited(server, lost=1):
        for _ in range(4):
            assert server.get("/").status == 200
        old = server.wait_for_workers(2)
        server.wait_for_requests(4)
        successor = start_upgrade(server, workers=4)
        server.stop(signal.SIGKILL)
        wait_for(lambda: not any(map(is_running, old)), "the end of its workers")
        server.wait_for_workers(2)
        assert set(server.worker_pids()) <= set(children(successor))
        assert server.get("/").status == 200
        metrics = server.wait_for_requests(5)
        assert metrics.one(SPAWNS) == 4
        (state,) = server.state_directory.iterdir()
        wait_for(lambda: len(list(state.glob("board.*"))) == 1, "the fold of its board")
        assert server.scrape().total(REQUESTS) == 5

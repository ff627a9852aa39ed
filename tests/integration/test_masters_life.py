"""What a master goes through, from changed settings to a successor, as its metrics show it."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import (
    GUNICORN,
    OWN_OPTIONS,
    BareServer,
    Metrics,
    Scraper,
    Server,
    can_bind,
    children,
    free_port,
    gunicorn_prom,
    is_answered,
    is_listening,
    is_running,
    plain_gunicorn,
    request,
    running,
    start_next_generation,
    wait_for,
)

APP = "behave:app"
LISTENING = "0A"
COMMAND = [sys.executable, "-m", "gunicorn_prom", "run", OWN_OPTIONS[0]]


def listening_sockets(port: int) -> set[str]:
    """Return the inodes of the sockets that listen on that port of IPv4."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {
        row[9] for row in rows if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port
    }


def requests_in(metrics: Metrics) -> float:
    """Return how many requests a scrape tells of."""
    return metrics.total("gunicorn_http_requests_total")


def bounds_in(metrics: Metrics) -> set[str]:
    """Return the upper bounds of the duration histogram."""
    return {
        labels["le"] for labels, _ in metrics.all("gunicorn_http_request_duration_seconds_bucket")
    }


# Settings that change at a reload.


class Configured(Server):
    """A server whose settings stand in its configuration file, which can be changed."""

    def __init__(self, directory: Path, *arguments: str, environ: dict[str, str] | None = None):
        super().__init__(directory, [*COMMAND, *arguments], environ or {})
        self.settings: dict[str, Any] = {
            "metrics_bind": f"127.0.0.1:{self.metrics_port}",
            "metrics_state_dir": str(self.state_directory),
        }
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Write the file, with these settings changed."""
        self.settings |= settings
        lines = [f"{name} = {value!r}\n" for name, value in self.settings.items()]
        (self.directory / "gunicorn.conf.py").write_text("".join(lines))

    def reload(self, **settings: Any) -> None:
        """Change settings and send HUP."""
        self.configure(**settings)
        self.send_signal(signal.SIGHUP)

    def serves_at(self, port: int) -> None:
        """Wait until the metrics are at that port, and use it from now on."""
        wait_for(lambda: is_answered(port, "/-/ready"), f"the metrics at {port}")
        self.metrics_port = port


@contextlib.contextmanager
def configured(directory: Path, *arguments: str) -> Iterator[Configured]:
    """Run a server with its settings in a file until the block ends."""
    with running(Configured(directory, *arguments), start=True) as server:
        assert isinstance(server, Configured)
        yield server


hosts = pytest.mark.parametrize("host", ["thread", "process"])


@hosts
def test_the_address_changes(tmp_path: Path, host: str) -> None:
    """The new address serves the same totals, and the old one is free."""
    with configured(tmp_path, APP, f"--metrics-server={host}") as server:
        old, new = server.metrics_port, free_port()
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        server.reload(metrics_bind=f"127.0.0.1:{new}")
        server.serves_at(new)
        wait_for(lambda: can_bind(old), "the old port")
        assert requests_in(server.scrape()) == 1
        assert server.stop() == 0
        assert can_bind(new)


@hosts
def test_a_taken_address_changes_nothing(tmp_path: Path, host: str) -> None:
    """An address that cannot be had is logged and counted; the old socket goes on."""
    with (
        configured(tmp_path, APP, f"--metrics-server={host}") as server,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        inodes = listening_sockets(server.metrics_port)
        good, taken = server.settings["metrics_bind"], other.getsockname()[1]
        with Scraper(server) as scraper:
            server.reload(metrics_bind=f"127.0.0.1:{taken}")
            server.wait_for_metrics(
                lambda m: m.one("gunicorn_prom_errors_total", where="server") == 1, "the error"
            )
        scraper.assert_flawless()
        assert f"cannot bind 127.0.0.1:{taken}: " in server.log
        assert "Traceback" not in server.log
        server.reload(metrics_bind=good)
        server.wait_for_metrics(lambda m: m.one("gunicorn_reloads_total") == 2, "a reload")
        assert listening_sockets(server.metrics_port) == inodes
        new = free_port()
        server.reload(metrics_bind=f"127.0.0.1:{new}")
        server.serves_at(new)


def test_the_applications_own_address_changes_nothing(tmp_path: Path) -> None:
    """Asked for by a reload it is logged and counted, and the server serves on."""
    with configured(tmp_path, APP) as server:
        server.reload(metrics_bind=f"127.0.0.1:{server.port}")
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_prom_errors_total", where="server") == 1, "the error"
        )
        failure = f"cannot bind 127.0.0.1:{server.port}: the application's socket has it already"
        assert failure in server.log
        assert server.get("/").status == 200


@hosts
def test_the_path_changes(tmp_path: Path, host: str) -> None:
    """The new path is served on the very same socket, and the old one is not known any more."""
    with configured(tmp_path, APP, f"--metrics-server={host}") as server:
        inodes = listening_sockets(server.metrics_port)
        server.reload(metrics_path="/numbers")
        wait_for(lambda: is_answered(server.metrics_port, "/numbers"), "the new path")
        assert is_answered(server.metrics_port, "/metrics", 404)
        assert listening_sockets(server.metrics_port) == inodes
        assert len(inodes) == 1


def test_the_buckets_change(tmp_path: Path) -> None:
    """The new bounds are shown, no count is lost or goes back, and no old board stays."""
    with configured(tmp_path, APP, "--workers=2") as server:
        for _ in range(5):
            assert server.get("/").status == 200
        server.wait_for_requests(5)
        for number, bounds in enumerate(([0.5, 2.0], [0.005, 0.5, 2.0, 8.0], [0.5]), 1):
            with Scraper(server) as scraper:
                server.reload(metrics_buckets=bounds)
                shown = {*map(str, bounds), "+Inf"}
                server.wait_for_metrics(lambda m, shown=shown: bounds_in(m) == shown, "the bounds")
                assert server.get("/").status == 200
                metrics = server.wait_for_requests(5 + number)
                wait_for(
                    lambda: len(list(server.state_directory.glob("*/board.*"))) == 1, "one board"
                )
            scraper.assert_flawless()
            name = "gunicorn_http_request_duration_seconds"
            assert metrics.total(f"{name}_count") == 5 + number
            assert metrics.total(f"{name}_bucket", le="+Inf") == 5 + number
            assert requests_in(server.scrape()) == 5 + number
        server.wait_for_workers(2)
        assert server.scrape().total("gunicorn_prom_errors_total") == 0


def test_the_host_changes(tmp_path: Path) -> None:
    """From no metrics server to a thread, a process and none again, with all totals."""
    server = Configured(tmp_path, APP)
    server.configure(metrics_server="none")
    with running(server, start=False):
        server.launch()
        wait_for(lambda: is_listening(server.port), "the server")
        assert server.get("/").status == 200
        assert can_bind(server.metrics_port)
        server.reload(metrics_server="thread")
        server.serves_at(server.metrics_port)
        server.wait_for_requests(1)
        inodes = listening_sockets(server.metrics_port)
        with Scraper(server) as scraper:
            server.reload(metrics_server="process")
            wait_for(lambda: exporter_of(server), "the process")
            server.wait_for_metrics(lambda m: m.one("gunicorn_reloads_total") == 2, "a reload")
            server.wait_for_workers(1)
        assert not scraper.failures
        assert listening_sockets(server.metrics_port) == inodes
        exporter = exporter_of(server)
        server.reload(metrics_server="thread")
        wait_for(lambda: not is_running(exporter), "the end of the process")
        server.wait_for_requests(1)
        server.reload(metrics_server="none")
        wait_for(lambda: can_bind(server.metrics_port), "the metrics port")
        assert server.get("/").status == 200
        assert server.stop() == 0


def exporter_of(server: Server) -> int:
    """Return the pid of the metrics server if it is a process, while threads may come and go."""
    with contextlib.suppress(FileNotFoundError):
        return server.exporter_pid()
    return 0


@hosts
@pytest.mark.parametrize("run", [gunicorn_prom, plain_gunicorn])
def test_unchanged_settings_keep_the_socket(tmp_path: Path, run: Any, host: str) -> None:
    """A reload without a change of ours leaves socket and process of the metrics alone."""
    hooks = "from gunicorn_prom.hooks import *\n" * (run is plain_gunicorn)
    (tmp_path / "gunicorn.conf.py").write_text(f"{hooks}metrics_server = {host!r}\n")
    with run(tmp_path, APP) as server:
        first, inodes = server.wait_for_workers(1), listening_sockets(server.metrics_port)
        exporter = server.exporter_pid()
        with Scraper(server) as scraper:
            server.send_signal(signal.SIGHUP)
            wait_for(lambda: set(server.worker_pids()).isdisjoint(first), "the reload")
        scraper.assert_flawless()
        assert listening_sockets(server.metrics_port) == inodes
        assert server.exporter_pid() == exporter
        assert "counts from the next start" not in server.log


@pytest.mark.parametrize(
    ("name", "value"), [("metrics_state_dir", "elsewhere"), ("app_metrics", False)]
)
def test_what_cannot_change_is_told(tmp_path: Path, name: str, value: Any) -> None:
    """A setting that counts from the next start says so, and changes nothing until then."""
    with configured(tmp_path, APP) as server:
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        server.reload(**{name: value})
        message = f"a new {name} counts from the next start on"
        wait_for(lambda: message in server.log, "the warning")
        server.wait_for_requests(1)
        assert not (tmp_path / "elsewhere").exists()


INVALID_FILES = {
    "syntax": "workers = = 2\n",
    "exception": "raise RuntimeError('refused')\n",
    "value": "workers = 'many'\n",
}


def test_the_worker_type_changes(tmp_path: Path) -> None:
    """After a reload with another worker type the workers and what is told of them are of it."""
    with configured(tmp_path, APP) as server:
        old = server.wait_for_workers(1)
        server.reload(worker_type="gthread", threads=3)
        server.wait_for_metrics(
            lambda m: m.all("gunicorn_info")[0][0]["worker_class"] == "gthread", "another type"
        )
        wait_for(lambda: not is_running(old[0]), "the end of the old worker")
        server.wait_for_workers(1)
        assert server.scrape().one("gunicorn_worker_capacity") == 3
        assert server.stop() == 0


def test_a_generation_that_a_bad_file_ends_loses_no_count(tmp_path: Path) -> None:
    """What its workers still answer is counted by the other generation, and as answered."""
    with configured(tmp_path, APP) as server, ThreadPoolExecutor(1) as pool:
        old = server.wait_for_workers(1)[0]
        server.send_signal(signal.SIGUSR2)
        server.wait_for_workers(2)
        (successor,) = set(children(server.pid)) - {old}
        worker = children(successor)[0]
        os.kill(old, signal.SIGSTOP)  # so that the other one takes the request
        answer = pool.submit(server.get, "/wait/gate")
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "the request"
        )
        (tmp_path / "gunicorn.conf.py").write_text("workers = )")
        os.kill(successor, signal.SIGHUP)
        wait_for(lambda: not is_running(successor), "the end of its master")
        os.kill(old, signal.SIGCONT)
        server.open_gate("gate")
        assert answer.result().text == "waited"
        wait_for(lambda: not is_running(worker), "the end of the worker")
        metrics = server.wait_for_requests(1)
        assert metrics.one("gunicorn_http_aborted_total", reason="no_response") == 0
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_worker_exits_total", reason="exit") == 1, "its exit"
        )
        assert server.wait_for_requests(1)
        assert server.stop() == 0


def test_a_next_generation_tells_of_itself_from_the_start(tmp_path: Path) -> None:
    """While it still imports a preloaded application, its start and worker class are known."""
    (tmp_path / "slowly.py").write_text(SLOW_TO_BOOT)
    with gunicorn_prom(tmp_path, "slowly:app", "--preload") as server:
        (worker,) = server.wait_for_workers(1)
        (tmp_path / "slow").touch()
        first = server.scrape()
        server.send_signal(signal.SIGUSR2)
        (successor,) = wait_for(lambda: set(children(server.pid)) - {worker}, "a successor")
        metrics = server.wait_for_metrics(
            lambda m: (
                m.one("gunicorn_start_time_seconds") != first.one("gunicorn_start_time_seconds")
            ),
            "its start",
        )
        assert metrics.one("gunicorn_start_time_seconds") > first.one("gunicorn_start_time_seconds")
        assert metrics.one("gunicorn_config_reload_success_timestamp_seconds") > 0
        assert [labels["worker_class"] for labels, _ in metrics.all("gunicorn_info")] == ["sync"]
        (tmp_path / "slow").unlink()
        server.wait_for_workers(2)
        os.kill(successor, signal.SIGTERM)
        server.wait_for_workers(1)
        assert server.stop() == 0


def test_a_reload_whose_workers_fail_to_boot(tmp_path: Path) -> None:
    """The server halts as Gunicorn does, with its exit code, and leaves nothing behind."""
    module = tmp_path / "fragile.py"
    module.write_text("from behave import app\n")
    with gunicorn_prom(tmp_path, "fragile:app") as server:
        server.wait_for_workers(1)
        module.write_text("raise RuntimeError('broken by a deployment')\n")
        server.send_signal(signal.SIGHUP)
        assert server.wait() == 3
        assert list(server.state_directory.iterdir()) == []
        assert can_bind(server.metrics_port)


SLOW_TO_BOOT = """
import time
from pathlib import Path

while Path("slow").exists():
    time.sleep(0.01)


def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]
"""


# Each worker waits in the import for its own file to go.
AGES = """
import os


def post_fork(server, worker):
    os.environ["AGE"] = str(worker.age)
"""
SLOW_BY_AGE = SLOW_TO_BOOT.replace("import time", "import os, time").replace(
    '"slow"', '"slow." + os.environ["AGE"]'
)


def test_reload_upon_reload_stays_ready(tmp_path: Path) -> None:
    """Workers that a second reload ends as soon as they have booted end no readiness."""
    (tmp_path / "slowly.py").write_text(SLOW_BY_AGE)
    (tmp_path / "gunicorn.conf.py").write_text(AGES)
    with gunicorn_prom(tmp_path, "slowly:app") as server:
        server.wait_for_workers(1)
        for age in (2, 3):
            (tmp_path / f"slow.{age}").touch()
            server.send_signal(signal.SIGHUP)
            server.wait_for_metrics(
                lambda m, age=age: m.one("gunicorn_worker_spawns_total") == age, "the next worker"
            )
        (tmp_path / "slow.2").unlink()
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_worker_exits_total", reason="reload") == 2, "both ends"
        )
        assert request(server.metrics_port, "/-/ready").status == 200
        (tmp_path / "slow.3").unlink()
        server.wait_for_workers(1)
        assert server.is_ready()


def test_a_worker_that_renews_itself_stays_ready(tmp_path: Path) -> None:
    """While the only worker leaves, having had its share, and the next one boots, clients wait."""
    (tmp_path / "slowly.py").write_text(SLOW_BY_AGE)
    (tmp_path / "gunicorn.conf.py").write_text(AGES)
    with gunicorn_prom(tmp_path, "slowly:app", "--max-requests=1") as server:
        (tmp_path / "slow.2").touch()
        assert server.get("/").status == 200
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_workers", state="booting") == 1, "the next worker"
        )
        assert request(server.metrics_port, "/-/ready").status == 200
        (tmp_path / "slow.2").unlink()
        server.wait_for_workers(1)
        assert server.is_ready()


@hosts
def test_a_reload_stays_ready(tmp_path: Path, host: str) -> None:
    """Between the old workers' end and the new ones' readiness clients wait, and are not sent away.

    Once a new worker has booted, to have none is not ready again.
    """
    (tmp_path / "slowly.py").write_text(SLOW_TO_BOOT)
    slow = tmp_path / "slow"
    with gunicorn_prom(tmp_path, "slowly:app", f"--metrics-server={host}") as server:
        old = server.wait_for_workers(1)
        slow.touch()
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: not is_running(old[0]), "the end of the old worker")
        server.wait_for_metrics(lambda m: m.one("gunicorn_workers", state="booting") == 1, "HUP")
        assert request(server.metrics_port, "/-/ready").status == 200
        slow.unlink()
        new = server.wait_for_workers(1)
        slow.touch()
        os.kill(new[0], signal.SIGKILL)
        wait_for(lambda: is_answered(server.metrics_port, "/-/ready", 503), "no readiness")
        slow.unlink()
        wait_for(server.is_ready, "readiness")
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("run", "text"),
    [
        *((gunicorn_prom, text) for text in INVALID_FILES.values()),
        (plain_gunicorn, INVALID_FILES["value"]),
    ],
)
def test_an_invalid_file_ends_it_as_gunicorn_does(tmp_path: Path, run: Any, text: str) -> None:
    """After HUP it ends with the same exit code, leaves nothing, and can start again."""
    bare = BareServer(tmp_path / "bare", [GUNICORN, OWN_OPTIONS[0], "--timeout=2", APP], {})
    with running(bare, start=True):
        wait_for(lambda: "Booting worker" in bare.log, "a worker")
        (bare.directory / "gunicorn.conf.py").write_text(text)
        bare.send_signal(signal.SIGHUP)
        expected = bare.wait()
    good = "from gunicorn_prom.hooks import *\n" * (run is plain_gunicorn)
    file = tmp_path / "ours" / "gunicorn.conf.py"
    file.parent.mkdir()
    file.write_text(good)
    with run(file.parent, APP, "--workers=2", "--timeout=2") as server:
        workers = server.wait_for_workers(2)
        file.write_text(good + text)
        server.send_signal(signal.SIGHUP)
        assert server.wait() == expected
        wait_for(lambda: not any(map(is_running, workers)), "the end of the workers")
        assert can_bind(server.metrics_port)
        assert can_bind(server.port)
        file.write_text(good)
        server.start()
        assert server.get("/").status == 200
        assert server.stop() == 0
        assert not list(server.state_directory.iterdir())


@pytest.mark.parametrize(
    ("name", "value"), [("metrics_path", "nope"), ("metrics_buckets", [2, 1]), ("metrics_bind", 7)]
)
def test_an_invalid_setting_of_ours_ends_it_too(tmp_path: Path, name: str, value: Any) -> None:
    """A reload takes it for what it is at start: it is told in one line, and nothing stays."""
    with configured(tmp_path, APP, "--timeout=2") as server:
        workers = server.wait_for_workers(1)
        server.reload(**{name: value})
        assert server.wait() != 0
        assert f"invalid --{name.replace('_', '-')}: " in server.log
        wait_for(lambda: not any(map(is_running, workers)), "the end of the workers")
        assert can_bind(server.metrics_port)
        assert can_bind(server.port)


# Signals.


def test_ttin_and_ttou(tmp_path: Path) -> None:
    """The target follows at once, the workers follow the target, and exits have their reason."""
    with gunicorn_prom(tmp_path, APP) as server:
        server.wait_for_workers(1)
        for count in (2, 3, 4):
            server.send_signal(signal.SIGTTIN)
            server.wait_for_workers(count)
            assert server.scrape().one("gunicorn_workers_target") == count
        for count in (3, 2):
            server.send_signal(signal.SIGTTOU)
            server.wait_for_workers(count)
            assert server.scrape().one("gunicorn_workers_target") == count
        metrics = server.wait_for_metrics(
            lambda m: m.one("gunicorn_worker_exits_total", reason="scale_down") == 2, "the exits"
        )
        assert metrics.one("gunicorn_signals_total", signal="TTIN") == 3
        assert metrics.one("gunicorn_signals_total", signal="TTOU") == 2


@contextlib.contextmanager
def daemon(directory: Path, *arguments: str) -> Iterator[tuple[Server, int]]:
    """Run a daemon; yield its server and its pid."""
    pidfile = directory / "pid"
    command = (APP, "--daemon", f"--pid={pidfile}", "--log-file=daemon.log", *arguments)
    with gunicorn_prom(directory, *command, start=False) as server:
        server.launch()
        assert server.wait() == 0
        pid = int(wait_for(lambda: pidfile.exists() and pidfile.read_text(), "the pid file"))
        try:
            wait_for(lambda: is_answered(server.metrics_port, "/-/ready"), "readiness")
            yield server, pid
        finally:
            left = psutil.Process(pid).children() if is_running(pid) else []
            for process in (pid, *(child.pid for child in left)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


@hosts
def test_a_daemon_shows_itself(tmp_path: Path, host: str) -> None:
    """The metrics of the process are those of the daemon, not of the command that made it."""
    with daemon(tmp_path, f"--metrics-server={host}") as (server, pid):
        assert server.get("/").status == 200
        metrics = server.wait_for_requests(1)
        started = metrics.one("process_start_time_seconds")
        assert abs(started - psutil.Process(pid).create_time()) < 1
        assert metrics.one("process_open_fds") > 0
        workers = server.worker_pids()
        assert [psutil.Process(worker).ppid() for worker in workers] == [pid]
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not is_running(pid), "the end of the daemon")
        wait_for(lambda: can_bind(server.metrics_port), "the metrics port")
        assert not list(server.state_directory.iterdir())


def test_winch_of_a_daemon(tmp_path: Path) -> None:
    """A daemon's workers go, with metrics that say so, and come back on HUP with all totals."""
    with daemon(tmp_path, "--workers=2") as (server, pid):
        server.wait_for_workers(2)
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        os.kill(pid, signal.SIGWINCH)
        server.wait_for_metrics(lambda m: not m.all("gunicorn_worker_info"), "no worker")
        metrics = server.scrape()
        assert metrics.one("gunicorn_workers_target") == 0
        assert requests_in(metrics) == 1
        assert is_answered(server.metrics_port, "/-/ready", 503)
        assert is_answered(server.metrics_port, "/-/healthy")
        os.kill(pid, signal.SIGHUP)
        server.wait_for_workers(2)
        assert server.get("/").status == 200
        metrics = server.wait_for_requests(2)
        assert metrics.one("gunicorn_workers_target") == 2
        assert metrics.one("gunicorn_worker_exits_total", reason="scale_down") == 2


def test_winch_in_the_foreground(tmp_path: Path) -> None:
    """Whoever has a terminal may change its size: nothing happens but its count."""
    with gunicorn_prom(tmp_path, APP) as server:
        first = server.wait_for_workers(1)
        server.send_signal(signal.SIGWINCH)
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_signals_total", signal="WINCH") == 1, "the signal"
        )
        assert server.get("/").status == 200
        assert server.wait_for_workers(1) == first


def test_usr1_opens_the_logs_anew(tmp_path: Path) -> None:
    """The logs go on in new files; workers, totals and the metrics socket stay as they are."""
    logs = [tmp_path / "error.log", tmp_path / "access.log"]
    arguments = (f"--error-logfile={logs[0]}", f"--access-logfile={logs[1]}")
    with gunicorn_prom(tmp_path, APP, *arguments) as server:
        first, inodes = server.wait_for_workers(1), listening_sockets(server.metrics_port)
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        for log in logs:
            log.rename(log.with_suffix(".old"))
        server.send_signal(signal.SIGUSR1)
        wait_for(lambda: all(log.exists() for log in logs), "new files")
        assert server.get("/").status == 200
        wait_for(lambda: "GET /" in logs[1].read_text(), "a line in the new file")
        metrics = server.wait_for_requests(2)
        assert metrics.one("gunicorn_signals_total", signal="USR1") == 1
        assert server.wait_for_workers(1) == first
        assert listening_sockets(server.metrics_port) == inodes


@hosts
def test_a_drain_is_seen_to_its_end(tmp_path: Path, host: str) -> None:
    """After TERM the metrics answer, alive and not ready, until the last request is answered."""
    options = ("--workers=2", "--worker-type=gthread", "--threads=2", f"--metrics-server={host}")
    with gunicorn_prom(tmp_path, APP, *options) as server, ThreadPoolExecutor(2) as pool:
        server.wait_for_workers(2)
        waiting = [pool.submit(server.get, f"/wait/gate-{number}") for number in range(2)]
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_http_requests_in_progress") == 2, "requests in progress"
        )
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: is_answered(server.metrics_port, "/-/ready", 503), "not ready")
        assert request(server.metrics_port, "/-/ready").text == "shutting down\n"
        server.open_gate("gate-0")
        assert waiting[0].result().text == "waited"
        server.wait_for_requests(1)
        assert is_answered(server.metrics_port, "/-/healthy")
        assert is_answered(server.metrics_port, "/-/ready", 503)
        assert server.scrape().one("gunicorn_http_requests_in_progress") == 1
        server.open_gate("gate-1")
        assert waiting[1].result().text == "waited"
        assert server.wait() == 0
        wait_for(lambda: can_bind(server.metrics_port), "the metrics port", 1.0)
        assert not list(server.state_directory.iterdir())


@pytest.mark.parametrize(
    ("host", "number"), [("thread", signal.SIGQUIT), ("process", signal.SIGINT)]
)
def test_a_quick_end(tmp_path: Path, host: str, number: int) -> None:
    """QUIT and INT do not wait for requests; nothing is left."""
    with gunicorn_prom(tmp_path, APP, f"--metrics-server={host}") as server:
        workers = server.wait_for_workers(1)
        with ThreadPoolExecutor(1) as pool:
            lost = pool.submit(server.get, "/wait/never")
            server.wait_for_metrics(
                lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "the request"
            )
            assert server.stop(number) == 0
            # Gunicorn's worker leaves by an exception, for which it may still answer.
            with contextlib.suppress(OSError):
                assert lost.result().status == 500
        assert not any(map(is_running, workers))
        wait_for(lambda: can_bind(server.metrics_port), "the metrics port", 1.0)
        assert not list(server.state_directory.iterdir())


# Ways to run.


def upgrade(server: Server, pidfile: Path) -> int:
    """Let a next generation take over, and return the pid of its master."""
    successor = start_next_generation(server, pidfile)
    assert server.stop() == 0
    wait_for_succession(server, pidfile, successor)
    return successor


def wait_for_succession(server: Server, pidfile: Path, successor: int) -> None:
    """Wait until the next generation knows that it is alone."""
    wait_for(lambda: pidfile.exists() and pidfile.read_text() == f"{successor}\n", "the succession")
    wait_for(
        lambda: {psutil.Process(pid).ppid() for pid in server.worker_pids()} == {successor},
        "workers of the next generation only",
    )


def end(server: Server, master: int) -> None:
    """End a master that is not the one that was started, and see that nothing is left."""
    os.kill(master, signal.SIGTERM)
    wait_for(lambda: not is_running(master), "the end of the master")
    wait_for(lambda: can_bind(server.metrics_port), "the metrics port", 1.0)
    assert not list(server.state_directory.iterdir())


@pytest.mark.parametrize("option", ["--preload", "--no-control-socket"])
def test_reload_and_upgrade(tmp_path: Path, option: str) -> None:
    """Kept over HUP and USR2: every count, every scrape, the metrics socket."""
    if option == "--no-control-socket" and "control_socket_disable" not in settings_of_gunicorn():
        pytest.skip("this Gunicorn has no control socket")
    pidfile = tmp_path / "pid"
    with gunicorn_prom(tmp_path, APP, option, f"--pid={pidfile}") as server:
        first, inodes = server.wait_for_workers(1), listening_sockets(server.metrics_port)
        with Scraper(server) as scraper:
            assert server.get("/").status == 200
            server.wait_for_requests(1)
            successor = upgrade(server, pidfile)
            assert server.get("/").status == 200
            server.wait_for_requests(2)
            second = server.wait_for_workers(1)
            os.kill(successor, signal.SIGHUP)
            wait_for(lambda: set(server.worker_pids()).isdisjoint(second), "the reload")
            server.wait_for_workers(1)
            assert server.get("/").status == 200
            server.wait_for_requests(3)
        scraper.assert_flawless()
        assert set(first).isdisjoint(second)
        assert listening_sockets(server.metrics_port) == inodes
        end(server, successor)


def settings_of_gunicorn() -> set[str]:
    """Return the names of the settings of the installed Gunicorn."""
    from gunicorn.config import KNOWN_SETTINGS

    return {setting.name for setting in KNOWN_SETTINGS}


def test_reuse_port(tmp_path: Path) -> None:
    """With sockets of their own, the requests of all workers are in one sum, over HUP too."""
    with gunicorn_prom(tmp_path, APP, "--reuse-port", "--workers=3") as server:
        first = server.wait_for_workers(3)
        for _ in range(30):
            assert server.get("/").status == 200
        server.wait_for_requests(30)
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: set(server.worker_pids()).isdisjoint(first), "the reload")
        server.wait_for_workers(3)
        for _ in range(30):
            assert server.get("/").status == 200
        server.wait_for_requests(60)
        assert server.stop() == 0
        assert can_bind(server.metrics_port)


@hosts
def test_a_next_generation_that_fails(tmp_path: Path, host: str) -> None:
    """One whose configuration is broken ends; the first goes on, and can try again."""
    file, pidfile = tmp_path / "gunicorn.conf.py", tmp_path / "pid"
    file.touch()
    arguments = (APP, f"--pid={pidfile}", f"--metrics-server={host}")
    with gunicorn_prom(tmp_path, *arguments) as server:
        inodes = listening_sockets(server.metrics_port)
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        file.write_text("raise RuntimeError('refused')\n")
        with Scraper(server) as scraper:
            server.send_signal(signal.SIGUSR2)
            wait_for(lambda: "RuntimeError: refused" in server.log, "the failure")
            # Gunicorn takes no other USR2 while it has a child from the last one.
            wait_for(lambda: set(children(server.pid)) <= own_children(server), "its end")
            assert server.get("/").status == 200
            server.wait_for_requests(2)
        scraper.assert_flawless()
        assert listening_sockets(server.metrics_port) == inodes
        assert len(list(server.state_directory.glob("*/board.*"))) == 1
        file.write_text("")
        end(server, upgrade(server, pidfile))


def own_children(server: Server) -> set[int]:
    """Return the pids of the workers and of the metrics server."""
    return {*server.worker_pids(), server.exporter_pid()}


def test_unix_sockets(tmp_path: Path) -> None:
    """Requests over a Unix socket are counted, over HUP and USR2, and the socket file goes."""
    path, pidfile = tmp_path / "app.sock", tmp_path / "pid"
    arguments = (APP, f"--bind=unix:{path}", f"--pid={pidfile}")
    with gunicorn_prom(tmp_path, *arguments) as server:
        first = server.wait_for_workers(1)
        assert get_over(path) == b"ok"
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: set(server.worker_pids()).isdisjoint(first), "the reload")
        server.wait_for_workers(1)
        assert get_over(path) == b"ok"
        server.wait_for_requests(2)
        server.send_signal(signal.SIGUSR2)
        following = pidfile.with_name("pid.2")
        successor = int(wait_for(lambda: following.exists() and following.read_text(), "a master"))
        wait_for(lambda: len(server.worker_pids()) == 2, "its worker")
        assert server.stop() == 0
        wait_for_succession(server, pidfile, successor)
        assert get_over(path) == b"ok"
        server.wait_for_requests(3)
        end(server, successor)
        assert not path.exists()


def get_over(path: Path) -> bytes:
    """Send a request over a Unix socket and return the body of the answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(path))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: client.recv(65536), b""))
    return received.partition(b"\r\n\r\n")[2]


ACTIVATION = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "gunicorn_prom", "run", *sys.argv[2:]])
"""


def test_socket_activation(tmp_path: Path) -> None:
    """On a socket of systemd the metrics are as always, over HUP too, and it stays open.

    USR2 is left out: Gunicorn closes the descriptor that its successor looks for.
    """
    command = [sys.executable, "-c", ACTIVATION, "{server.port}", *OWN_OPTIONS[1:], APP]
    server = Server(tmp_path, command, {})
    with running(server, start=True):
        inodes = [listening_sockets(port) for port in (server.port, server.metrics_port)]
        assert [len(found) for found in inodes] == [1, 1]
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        first = server.wait_for_workers(1)
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: set(server.worker_pids()).isdisjoint(first), "the reload")
        assert server.get("/").status == 200
        server.wait_for_requests(2)
        assert [listening_sockets(port) for port in (server.port, server.metrics_port)] == inodes
        assert server.stop() == 0
        assert not list(server.state_directory.iterdir())


def test_a_next_generation_elsewhere(tmp_path: Path) -> None:
    """A successor with another address in its file binds that one, and both tell the same."""
    pidfile, elsewhere = tmp_path / "pid", free_port()
    with configured(tmp_path, APP, f"--pid={pidfile}") as server:
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        server.configure(metrics_bind=f"127.0.0.1:{elsewhere}")
        successor = start_next_generation(server, pidfile)
        wait_for(lambda: is_answered(elsewhere, "/-/ready"), "the new address")
        assert requests_in(server.scrape()) == 1
        assert requests_in(Metrics(request(elsewhere, "/metrics").text)) == 1
        old = server.metrics_port
        assert server.stop() == 0
        wait_for(lambda: can_bind(old), "the old port", 1.0)
        server.metrics_port = elsewhere
        assert server.get("/").status == 200
        server.wait_for_requests(2)
        end(server, successor)


def test_a_rollback(tmp_path: Path) -> None:
    """A next generation that is ended again leaves the first with all counts and the socket."""
    pidfile = tmp_path / "pid"
    with gunicorn_prom(tmp_path, APP, f"--pid={pidfile}") as server:
        inodes = listening_sockets(server.metrics_port)
        with Scraper(server) as scraper:
            successor = start_next_generation(server, pidfile)
            for _ in range(20):
                assert server.get("/").status == 200
            server.wait_for_requests(20)
            os.kill(successor, signal.SIGTERM)
            wait_for(lambda: not is_running(successor), "the end of the next generation")
            server.wait_for_workers(1)
            assert server.get("/").status == 200
            server.wait_for_requests(21)
        scraper.assert_flawless()
        assert listening_sockets(server.metrics_port) == inodes
        assert server.stop() == 0
        assert not list(server.state_directory.iterdir())

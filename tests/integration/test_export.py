"""`gunicorn-prom export`: the metrics of a server, served from beside it."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.real_parts import find_program, unavailable
from tests.support import (
    Response,
    Scraper,
    Server,
    can_bind,
    gunicorn_prom,
    is_listening,
    is_running,
    request,
    run_to_end,
    running,
    start_next_generation,
    wait_for,
)

APP = "behave:app"
EXPORT = [sys.executable, "-m", "gunicorn_prom", "export"]
NONE = "--metrics-server=none"
NOBODY = 65534


class Sidecar(Server):
    """`gunicorn-prom export`, ready as soon as it answers anything.

    What `Server` has of an application is not there.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        environ: dict[str, str] | None = None,
    ) -> None:
        bind = "--metrics-bind=127.0.0.1:{server.metrics_port}"
        super().__init__(directory, [*prefix, *EXPORT, bind, *arguments], environ or {})

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        assert self.process is not None
        assert self.process.poll() is None, f"the sidecar ended:\n{self.log}"
        try:
            return bool(self.ask("/-/healthy").status)
        except OSError:
            return False

    def ask(self, target: str) -> Response:
        """Send one request to it."""
        return request(self.metrics_port, target)

    def wait_for_server(self) -> None:
        """Wait until it says that a server is ready."""
        wait_for(lambda: self.ask("/-/ready").status == 200, "a server")


@contextlib.contextmanager
def sidecar(
    directory: Path,
    *arguments: str | Path,
    prefix: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
) -> Iterator[Sidecar]:
    """Run `gunicorn-prom export ARGUMENTS` until the block ends."""
    given = Sidecar(directory, *map(str, arguments), prefix=prefix, environ=environ)
    with running(given, start=True) as started:
        assert isinstance(started, Sidecar)
        yield started


@contextlib.contextmanager
def silent_server(directory: Path, *arguments: str, app: str = APP) -> Iterator[Server]:
    """Run a server without a metrics server of its own until the block ends."""
    with gunicorn_prom(directory, app, NONE, *arguments, start=False) as server:
        start_silently(server)
        yield server


def start_silently(server: Server) -> None:
    """Start a server that has no metrics server, and wait for a worker."""
    booted = log_of(server).count("Booting worker")
    server.launch()
    wait_for(lambda: log_of(server).count("Booting worker") > booted, "a worker")
    wait_for(lambda: is_listening(server.port), "the server")


def log_of(server: Server) -> str:
    """Return the log, "" when there is none so far."""
    return server.log if (server.directory / "stderr").exists() else ""


def end(pid: int) -> None:
    """End a master that was not started by the test itself."""
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not is_running(pid), "the end of a master")


# One server.


def test_it_waits_for_a_server(tmp_path: Path) -> None:
    """Until there is one it answers 503 and why; then it serves, without a restart."""
    state = tmp_path / "server" / "state"
    with sidecar(tmp_path / "sidecar", state) as exporter:
        for target, text in {
            "/metrics": "no server to show, the log says why\n",
            "/-/ready": "no master is running\n",
            "/-/healthy": "no master is running\n",
        }.items():
            assert (exporter.ask(target).status, exporter.ask(target).text) == (503, text)
        assert exporter.ask("/nowhere").status == 404
        wait_for(lambda: f"waiting for a server in {state}" in exporter.log, "a word about it")
        with silent_server(tmp_path / "server") as server:
            exporter.wait_for_server()
            assert server.get("/").status == 200
            exporter.wait_for_requests(1)
            assert exporter.ask("/-/healthy").status == 200
            assert server.stop() == 0
            wait_for(lambda: exporter.ask("/metrics").status == 503, "the end of the server")
        assert exporter.log.count("waiting for a server") == 2


def test_a_server_that_imports_its_application_is_starting(tmp_path: Path) -> None:
    """With --preload that is before the master's first turn, and no sign that it is stuck."""
    gate = tmp_path / "gate"
    (tmp_path / "slowly.py").write_text(
        "import pathlib, time\n"
        f"while not pathlib.Path({str(gate)!r}).exists():\n"
        "    time.sleep(0.01)\n"
        "from behave import app\n"
    )
    with (
        gunicorn_prom(tmp_path, "slowly:app", NONE, "--preload", start=False) as server,
        sidecar(tmp_path / "sidecar", tmp_path / "state") as exporter,
    ):
        server.launch()
        wait_for(lambda: exporter.ask("/metrics").status == 200, "the master")
        health = json.loads(exporter.ask("/status.json").text)["health"]
        assert health["word"] == "starting"
        assert (health["live"], health["ready"]) == (True, False)
        gate.touch()
        exporter.wait_for_server()
        assert exporter.log.count("following ") == 1
        assert exporter.stop() == 0


def test_it_serves_what_the_master_serves(tmp_path: Path) -> None:
    """Names, types and labels are the same as from the metrics server in the master."""
    with (
        gunicorn_prom(tmp_path / "server", "jobs:app", "--workers=2") as server,
        sidecar(tmp_path / "sidecar", server.state_directory) as exporter,
    ):
        server.wait_for_workers(2)
        assert server.get("/do/mail/1").status == 200
        exporter.wait_for_server()
        beats = "gunicorn_worker_heartbeat_timestamp_seconds"
        server.wait_for_metrics(lambda m: len(m.all(beats)) == 2, "the first heartbeats")
        theirs, ours = server.wait_for_requests(1), exporter.wait_for_requests(1)
        assert types_in(ours.text) == types_in(theirs.text)
        for metrics in (ours, theirs):
            assert metrics.one("jobs_total", kind="mail") == 1
            assert metrics.one("process_open_fds") > 0
        # Of either there may be one more scrape than of the other in it, nothing else.
        names = [{(s.name, *sorted(s.labels.items())) for s in m.samples} for m in (ours, theirs)]
        assert names[0] == names[1]


def types_in(text: str) -> list[str]:
    """Return the lines that tell the type of a family, sorted."""
    return sorted(line for line in text.splitlines() if line.startswith("# TYPE "))


def test_it_follows_an_upgrade(tmp_path: Path) -> None:
    """Over USR2 and TERM of the old master no scrape fails and no total goes back."""
    pidfile = tmp_path / "pid"
    with (
        silent_server(tmp_path / "server", f"--pid={pidfile}") as server,
        sidecar(tmp_path / "sidecar", server.state_directory) as exporter,
    ):
        exporter.wait_for_server()
        with Scraper(exporter) as scraper:
            assert server.get("/").status == 200
            exporter.wait_for_requests(1)
            successor = start_next_generation(server, pidfile)
            for _ in range(10):
                assert server.get("/").status == 200
            exporter.wait_for_requests(11)
            assert server.stop() == 0
            assert server.get("/").status == 200
            exporter.wait_for_requests(12)
            exporter.wait_for_workers(1)
        scraper.assert_flawless()
        assert exporter.log.count("following ") == 1
        end(successor)
        wait_for(lambda: exporter.ask("/metrics").status == 503, "the end of the server")
        assert not list(server.state_directory.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_follows_a_restart(tmp_path: Path, number: int) -> None:
    """After an end, or kill -9, it says that nothing runs, and then serves the next start."""
    with (
        silent_server(tmp_path / "server", "--timeout=2") as server,
        sidecar(tmp_path / "sidecar", server.state_directory) as exporter,
    ):
        exporter.wait_for_server()
        assert server.get("/").status == 200
        exporter.wait_for_requests(1)
        workers = exporter.worker_pids()
        server.stop(number)
        wait_for(lambda: not any(map(is_running, workers)), "the end of the workers")
        assert exporter.ask("/metrics").status == 503
        assert exporter.ask("/-/ready").text == "no master is running\n"
        status = json.loads(exporter.ask("/status.json").text)
        assert (status["totals"]["requests"], status["exits"]) == (None, None)
        start_silently(server)
        exporter.wait_for_server()
        assert server.get("/").status == 200
        exporter.wait_for_requests(1)
        assert exporter.worker_pids() != workers
        assert "Traceback" not in exporter.log


def test_a_killed_master_is_not_healthy(tmp_path: Path) -> None:
    """As long as its workers are still there, a master that is gone counts as stuck."""
    with (
        silent_server(tmp_path / "server", "--worker-type=gthread", "--timeout=600") as server,
        sidecar(tmp_path / "sidecar", server.state_directory) as exporter,
    ):
        exporter.wait_for_server()
        worker = psutil.Process(exporter.worker_pids()[0])
        worker.suspend()
        try:
            server.stop(signal.SIGKILL)
            wait_for(lambda: exporter.ask("/-/healthy").status == 503, "the master's heartbeat")
            assert exporter.ask("/metrics").status == 200
        finally:
            worker.resume()
        wait_for(lambda: exporter.ask("/metrics").status == 503, "the end of the worker")


def test_a_default_directory(tmp_path: Path) -> None:
    """Without arguments both sides mean the same directory of this user."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    with gunicorn_prom(tmp_path / "server", APP, environ=environ, start=False) as server:
        server._command = [part for part in server._command if "state-dir" not in part]
        server.start()
        with sidecar(tmp_path / "sidecar", environ=environ) as exporter:
            exporter.wait_for_server()
            assert exporter.worker_pids() == server.worker_pids()


def test_the_directory_by_option_and_environment(tmp_path: Path) -> None:
    """The same setting as the server's tells where it is."""
    with silent_server(tmp_path / "server") as server:
        state = str(server.state_directory)
        variable = {"GUNICORN_PROM_METRICS_STATE_DIR": state}
        for number, (arguments, environ) in enumerate(
            [([f"--metrics-state-dir={state}"], {}), ([], variable)]
        ):
            with sidecar(tmp_path / str(number), *arguments, environ=environ) as exporter:
                exporter.wait_for_server()


# Another namespace, another user.


def test_in_another_pid_namespace(tmp_path: Path) -> None:
    """From a read-only mount and with other pids, memory and CPU are what the master wrote.

    What only /proc could tell is left out, for a pid is somebody else's there.
    """
    with silent_server(tmp_path / "server", "--workers=2") as server:
        state = server.state_directory
        script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && shift && exec "$@"'
        prefix = (
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--map-root-user"),
            *("sh", "-ec", script, "sh", str(state)),
        )
        find_program("unshare", "util-linux")
        trial = subprocess.run([*prefix, "true"], check=False, capture_output=True, text=True)
        if trial.returncode:
            unavailable(f"no namespace can be made here: {trial.stderr.strip()}")
        with sidecar(tmp_path / "sidecar", state, prefix=prefix) as exporter:
            exporter.wait_for_server()
            assert server.get("/").status == 200
            exporter.wait_for_requests(1)
            exporter.wait_for_workers(2)
            metrics = exporter.wait_for_metrics(
                lambda m: len(m.all("gunicorn_worker_memory_bytes")) == 2, "what the master wrote"
            )
            for pid in exporter.worker_pids():
                assert psutil.Process(pid).ppid() == server.pid
            for labels, value in metrics.all("gunicorn_worker_memory_bytes"):
                pid = worker_pid(exporter, labels["worker_id"])
                assert value == pytest.approx(psutil.Process(pid).memory_info().rss, rel=0.5)
            assert len(metrics.all("gunicorn_worker_cpu_seconds_total")) == 2
            for name in (
                "gunicorn_worker_open_fds",
                "gunicorn_worker_memory_pss_bytes",
                "gunicorn_worker_context_switches_total",
                "process_cpu_seconds_total",
                "process_resident_memory_bytes",
            ):
                assert not metrics.all(name)
            assert metrics.total("gunicorn_prom_errors_total") == 0
            assert "Traceback" not in exporter.log


def worker_pid(server: Server, worker_id: str) -> int:
    """Return the pid of the worker with that id."""
    infos = server.scrape().all("gunicorn_worker_info")
    return next(int(labels["pid"]) for labels, _ in infos if labels["worker_id"] == worker_id)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can come to, which is not true of pytest's."""
    directory = Path(tempfile.mkdtemp(prefix="gunicorn-prom-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


# Everything is imported before, for Python itself may be out of reach for another user.
AS_SOMEBODY_ELSE = """
import os, sys
from pathlib import Path
import email.utils, encodings.idna
from gunicorn_prom.exporter.sidecar import serve
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
serve({"": Path(sys.argv[2])}, sys.argv[3], "/metrics", None)
"""


@pytest.mark.parametrize("mode", [0o700, 0o755], ids=["root", "server"])
def test_an_unreadable_directory_is_told(public: Path, mode: int) -> None:
    """Whoever may not read the state directory, or that of the server in it, is told so."""
    if os.geteuid() != 0:
        unavailable("needs root, to become somebody else")
    state = public / "state"
    state.mkdir()
    state.chmod(mode)
    exporter = Sidecar(public / "sidecar")
    bind = f"127.0.0.1:{exporter.metrics_port}"
    exporter._command = [sys.executable, "-c", AS_SOMEBODY_ELSE, str(NOBODY), str(state), bind]
    with silent_server(public), running(exporter, start=True):
        wait_for(lambda: "cannot read " in exporter.log, "a word about it", 5.0)
        assert "Permission denied" in exporter.log
        assert exporter.ask("/metrics").status == 503
        assert "Traceback" not in exporter.log


# The application's own metrics.


def test_the_applications_metrics(tmp_path: Path) -> None:
    """They are served too, and what dead workers counted stays."""
    with (
        silent_server(tmp_path / "server", "--workers=2", app="jobs:app") as server,
        sidecar(tmp_path / "sidecar", server.state_directory) as exporter,
    ):
        exporter.wait_for_server()
        first = exporter.wait_for_workers(2)
        for _ in range(10):
            assert server.get("/do/mail/0.5").status == 200
        assert exporter.scrape().one("jobs_total", kind="mail") == 10
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: set(exporter.worker_pids()).isdisjoint(first), "other workers")
        metrics = exporter.scrape()
        assert metrics.one("jobs_total", kind="mail") == 10
        assert metrics.one("job_seconds_sum", kind="mail") == 5


@pytest.mark.parametrize("is_absolute", [True, False])
def test_the_applications_own_directory(tmp_path: Path, is_absolute: bool) -> None:
    """They are found in a directory that the user has set, from wherever the sidecar runs."""
    own = tmp_path / "server" / "own"
    own.mkdir(parents=True)
    environ = {"PROMETHEUS_MULTIPROC_DIR": str(own) if is_absolute else "own"}
    with gunicorn_prom(tmp_path / "server", "jobs:app", environ=environ) as server:
        assert server.get("/do/mail/0.5").status == 200
        with sidecar(tmp_path / "sidecar", server.state_directory) as exporter:
            exporter.wait_for_server()
            assert exporter.scrape().one("jobs_total", kind="mail") == 1


# Several servers.


def test_several_servers(tmp_path: Path) -> None:
    """Each has the label of its name, and a gauge tells which of them are there."""
    roots = {name: tmp_path / name / "state" for name in ("shop", "blog")}
    arguments = [f"{name}={root}" for name, root in roots.items()]
    with (
        sidecar(tmp_path / "sidecar", *arguments) as exporter,
        silent_server(tmp_path / "shop") as shop,
    ):
        for _ in range(3):
            assert shop.get("/").status == 200
        exporter.wait_for_requests(3)
        metrics = exporter.scrape()
        assert metrics.one("gunicorn_prom_server_up", server="shop") == 1
        assert metrics.one("gunicorn_prom_server_up", server="blog") == 0
        assert exporter.ask("/-/ready").text == "blog: no master is running\n"
        with silent_server(tmp_path / "blog", app="jobs:app") as blog:
            assert blog.get("/do/mail/1").status == 200
            exporter.wait_for_requests(4)
            exporter.wait_for_server()
            metrics = exporter.scrape()
            assert metrics.one("gunicorn_prom_server_up", server="blog") == 1
            assert metrics.one("gunicorn_http_requests_total", server="shop") == 3
            assert metrics.one("gunicorn_http_requests_total", server="blog") == 1
            assert metrics.one("jobs_total", server="blog") == 1
            assert metrics.one("gunicorn_workers_target", server="blog") == 1
            assert len(metrics.all("process_cpu_seconds_total")) == 2
            lines = types_in(metrics.text)
            assert len(lines) == len(set(lines))
        exporter.wait_for_metrics(
            lambda m: m.one("gunicorn_prom_server_up", server="blog") == 0, "its end"
        )
        assert exporter.scrape().one("gunicorn_http_requests_total", server="shop") == 3


def test_one_server_with_a_name(tmp_path: Path) -> None:
    """A name makes the label, even of an only one."""
    name = "a.b:c_d-1"
    with (
        silent_server(tmp_path / "server") as server,
        sidecar(tmp_path / "sidecar", f"{name}={server.state_directory}") as exporter,
    ):
        exporter.wait_for_metrics(
            lambda m: m.one("gunicorn_prom_server_up", server=name) == 1, "the server"
        )
        assert exporter.scrape().one("gunicorn_info", server=name) == 1


def test_two_servers_in_one_directory(tmp_path: Path) -> None:
    """Neither is served, for which one would be a guess, and the reason is told."""
    state = tmp_path / "shared"
    option = f"--metrics-state-dir={state}"
    with (
        silent_server(tmp_path / "first", option) as first,
        silent_server(tmp_path / "second", option) as second,
        sidecar(tmp_path / "sidecar", state) as exporter,
    ):
        assert exporter.ask("/metrics").status == 503
        assert f"2 servers run in {state}, none is served" in exporter.log
        assert first.stop() == 0
        exporter.wait_for_server()
        start_silently(first)
        # It stays with the one that it has, and takes the other one when that has ended.
        assert exporter.ask("/metrics").status == 200
        assert exporter.log.count("following ") == 1
        assert second.stop() == 0
        wait_for(lambda: exporter.is_ready() and exporter.log.count("following ") == 2, "the other")


# The command.


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("a b=/x",), "'a b' is no name for a server", "use letters, digits, .*"),
        (("=/x",), "'' is no name for a server", ".*"),
        (("a=",), "'a=' names no directory", ".*"),
        (("a=/x", "a=/y"), "two servers are called 'a'", "give each .*"),
        (("a=/x", "/y"), "'/y' has no name among several", "write it as NAME=/y"),
        (("--metrics-bind=nowhere",), "invalid --metrics-bind: 'nowhere' is not .*", ".*"),
        (("--metrics-bind=:99999",), "invalid --metrics-bind: port 99999 .*", ".*"),
        (("--metrics-path=metrics",), "invalid --metrics-path: 'metrics' .*", ".*"),
        (("--metrics-path=/status.json",), "invalid --metrics-path: '/status.json' .*", ".*"),
        (("--metrics-web-config=nowhere.yml",), "cannot read .*nowhere.yml: .*", ".+"),
    ],
)
def test_a_usage_error_is_one_sentence_and_a_hint(
    tmp_path: Path, arguments: tuple[str, ...], error: str, hint: str
) -> None:
    """It is said on stderr, in two lines and with exit code 2."""
    ended = run_to_end(tmp_path, *arguments, command=["export"])
    assert re.fullmatch(f"error: {error}\nhint: {hint}\n", ended.stderr), ended.stderr
    assert (ended.returncode, ended.stdout) == (2, "")


def test_an_unknown_option_is_a_usage_error(tmp_path: Path) -> None:
    """It ends with exit code 2 and names the option."""
    ended = run_to_end(tmp_path, "--nope", command=["export"])
    assert ended.returncode == 2
    assert "--nope" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    """An address that cannot be had is told in one sentence, with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = run_to_end(tmp_path, f"--metrics-bind={address}", command=["export"])
    error, hint = ended.stderr.splitlines()
    reason = f"address already in use (pid {os.getpid()}, "
    assert error.startswith(f"error: cannot bind {address}: {reason}")
    assert hint == "hint: choose another with --metrics-bind, or stop the other process"
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("is_serving", [True, False])
def test_it_ends_on_a_signal(tmp_path: Path, number: int, is_serving: bool) -> None:
    """With a server or without, TERM and INT end it with exit code 0, and the port is free."""
    with contextlib.ExitStack() as stack:
        if is_serving:
            stack.enter_context(silent_server(tmp_path / "server"))
        state = tmp_path / "server" / "state"
        exporter = stack.enter_context(sidecar(tmp_path / "sidecar", state))
        if is_serving:
            exporter.wait_for_server()
        assert exporter.stop(number) == 0
        assert can_bind(exporter.metrics_port)
        assert "Traceback" not in exporter.log


def test_a_scrape_in_progress_is_finished(tmp_path: Path) -> None:
    """At the end every scrape that was begun gets its answer."""
    failures: list[Exception] = []

    def scrape_to_the_end(port: int) -> None:
        while True:
            try:
                request(port, "/metrics")
            except ConnectionRefusedError:
                return
            except (OSError, http.client.HTTPException) as error:
                failures.append(error)
                return

    with (
        silent_server(tmp_path / "server") as server,
        sidecar(tmp_path / "sidecar", server.state_directory) as exporter,
    ):
        exporter.wait_for_server()
        port = exporter.metrics_port
        threads = [threading.Thread(target=scrape_to_the_end, args=(port,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert exporter.stop() == 0
        for thread in threads:
            thread.join()
    # Who had been accepted by the kernel alone is cut off without a byte.
    assert all(isinstance(failure, ConnectionResetError) for failure in failures), failures


def test_the_path(tmp_path: Path) -> None:
    """The metrics are where they were asked for."""
    with silent_server(tmp_path / "server") as server:
        state, option = server.state_directory, "--metrics-path=/numbers"
        with sidecar(tmp_path / "sidecar", state, option) as exporter:
            exporter.wait_for_server()
            assert exporter.ask("/numbers").status == 200
            assert exporter.ask("/metrics").status == 404


def test_help_shows_variables_and_defaults(tmp_path: Path) -> None:
    """Each option is there with its environment variable, and its default if it has one."""
    ended = run_to_end(tmp_path, "--help", command=["export"], environ={"COLUMNS": "200"})
    assert (ended.returncode, ended.stderr) == (0, "")
    for option in ("state-dir", "bind", "path", "web-config"):
        assert f"--metrics-{option}" in ended.stdout
        assert f"GUNICORN_PROM_METRICS_{option.upper().replace('-', '_')}" in ended.stdout
    assert "127.0.0.1:9464" in ended.stdout
    assert "/metrics]" in ended.stdout
    assert "NAME=" in ended.stdout


def test_a_free_port(tmp_path: Path) -> None:
    """With port 0 the log tells the address."""
    given = Sidecar(tmp_path, str(tmp_path / "state"))
    given._command[len(EXPORT)] = "--metrics-bind=127.0.0.1:0"
    with running(given, start=False):
        given.launch()
        pattern = re.compile(r"Metrics at http://127\.0\.0\.1:(\d+)/metrics")
        port = int(wait_for(lambda: pattern.search(given.log), "the address")[1])
        assert request(port, "/metrics").status == 503

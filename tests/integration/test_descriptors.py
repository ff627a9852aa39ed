"""The application closes descriptors that are ours: nothing of the user's is harmed by that."""

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.apps.closing import DATABASES, UNWRITTEN
from tests.autopsies import autopsies_of, unanswered
from tests.support import (
    Metrics,
    Server,
    gunicorn_prom,
    is_running,
    plain_gunicorn,
    run_to_end,
    wait_for,
)

APP = "closing:app"
REQUESTS = "gunicorn_http_requests_total"
PROM_ERRORS = "gunicorn_prom_errors_total"
HOOKS = "from gunicorn_prom.hooks import *\n"
BUCKETS = """
import os
metrics_buckets = "0.1,1" if os.path.exists("reloaded") else "0.1,1,10"
"""
CLOSES_ON_RELOAD = """
def on_reload(server):
    import closing
    ours = metrics_sockets({port})
    closing.close_links("{state}/", "pipe:", *ours)
    if not closing.databases:
        closing.open_databases()

def on_exit(server):
    import closing
    assert closing.write("exit") == []

def metrics_sockets(port):
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in list(table)[1:]]
    return ["socket:[" + row[9] + "]" for row in rows if int(row[1].split(":")[1], 16) == port]
"""


def assert_calm(server: Server) -> None:
    """Nothing has failed in the eyes of who reads the log."""
    for sign in ("Traceback", "gunicorn-prom: metrics of", "[ERROR]", "[WARNING]"):
        assert sign not in server.log


def assert_gone(server: Server) -> None:
    """Nothing is left of a server that has ended."""
    assert list(server.state_directory.iterdir()) == []


def assert_sound(server: Server) -> list[str]:
    """Every database is as SQLite left it; return what was written to each."""
    written = []
    for path in sorted(server.directory.glob("*.db")):
        if not path.stat().st_size:
            continue  # a worker is just making it
        assert path.read_bytes()[:16] == b"SQLite format 3\0"
        with sqlite3.connect(path) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            written.append(" ".join(row[0] for row in database.execute("SELECT * FROM request")))
        database.close()
    assert len(written) >= DATABASES
    return written


def assert_flushed(server: Server) -> None:
    """What a process has left to the end of Python is in its files."""
    notes = list(server.directory.glob("*.note"))
    assert notes
    for path in notes:
        assert path.read_text().startswith(UNWRITTEN), path


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent", "asgi", "uvicorn"])
def test_a_preloaded_application_that_closes_everything(tmp_path: Path, kind: str) -> None:
    """It is served and counted as any other, and nobody notices."""
    app = "closing:asgi" if kind in {"asgi", "uvicorn"} else APP
    arguments = ("--preload", f"--worker-type={kind}", app)
    with gunicorn_prom(tmp_path, *arguments, environ={"CLOSING": "everything"}) as server:
        for _ in range(3):
            assert server.get("/").status == 200
        server.wait_for_requests(3)
        assert server.stop() == 0
        assert_calm(server)
        assert_gone(server)


@pytest.mark.parametrize("is_plain", [False, True])
def test_generations_of_an_application_that_closes_everything(
    tmp_path: Path, is_plain: bool
) -> None:
    """A reload and an upgrade lose no count, though the next generation gets nothing handed."""
    pidfile, configuration = tmp_path / "pid", tmp_path / "gunicorn.conf.py"
    configuration.write_text(HOOKS if is_plain else "")
    run = plain_gunicorn if is_plain else gunicorn_prom
    worker = ["-k=gunicorn_prom.PrometheusWorker"] if is_plain else []
    arguments = ("--preload", f"--pid={pidfile}", f"-c={configuration}", *worker, APP)
    with run(tmp_path, *arguments, environ={"CLOSING": "everything"}) as server:
        assert server.get("/").status == 200
        old = server.wait_for_workers(1)
        server.send_signal(signal.SIGHUP)
        server.wait_for_metrics(
            lambda m: m.total("gunicorn_worker_exits_total") == 1, "the first worker's end"
        )
        assert server.wait_for_workers(1) != old
        assert server.get("/404").status == 404
        successor = wait_for_successor(server, pidfile)
        assert server.stop() == 0
        wait_for(lambda: is_alone(server), "its metrics")
        assert server.get("/418").status == 418
        server.wait_for_requests(3)
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not is_running(successor), "the end")
        assert_gone(server)
        assert "Traceback" not in server.log


def wait_for_successor(server: Server, pidfile: Path) -> int:
    """Start the next generation and return its pid when its worker has booted too."""
    server.send_signal(signal.SIGUSR2)
    next_pidfile = pidfile.with_name(pidfile.name + ".2")
    pid = int(wait_for(lambda: next_pidfile.exists() and next_pidfile.read_text(), "a new master"))
    server.wait_for_workers(2)
    return pid


def is_alone(server: Server) -> bool:
    """Tell whether the metrics are served, of one worker."""
    try:
        return server.scrape().total("gunicorn_workers") == 1
    except OSError:
        return False


def test_databases_on_the_numbers_of_a_worker(tmp_path: Path) -> None:
    """New labels, a timeout, a reload and the end write nothing over them, and close none."""
    environ = {"CLOSING": "state", "DATABASES": "1"}
    with gunicorn_prom(tmp_path, "--timeout=2", APP, environ=environ) as server:
        for path in ("/", "/404", "/418"):
            assert server.get(path).text == "[]"
        assert server.get("/fail").status == 500
        metrics = server.wait_for_requests(4)
        assert metrics.one("gunicorn_http_exceptions_total", exception="LookupError") == 1
        assert metrics.one(REQUESTS, method="GET", status="418") == 1
        assert metrics.total(PROM_ERRORS) == 0
        assert_sound(server)
        with unanswered(server, "/sleep"):
            (autopsy,) = wait_for(lambda: autopsies_of(server), "the autopsy")
        assert autopsy.requests[0].path == "/sleep"
        # faulthandler would have told the whole stack.
        assert "most recent call first" not in server.log
        assert "closing.py" not in autopsy.stacks
        server.wait_for_metrics(lambda m: m.total("gunicorn_worker_exits_total") == 1, "its end")
        assert_sound(server)
        assert server.get("/").text == "[]"
        server.send_signal(signal.SIGHUP)
        server.wait_for_metrics(lambda m: m.total("gunicorn_worker_exits_total") == 2, "a reload")
        assert server.get("/").text == "[]"
        assert server.stop() == 0
        assert_sound(server)
        assert_gone(server)


def test_a_worker_that_has_lost_its_labels_for_good(tmp_path: Path) -> None:
    """What it cannot tell apart any more is counted as the rest, the failure too, and served."""
    with gunicorn_prom(tmp_path, APP) as server:
        for path in ("/", "/close"):
            assert server.get(path).status == 200
        server.wait_for_requests(2)
        (labels,) = server.state_directory.glob("*/keys.*")
        labels.rename(labels.with_suffix(".elsewhere"))
        for _ in range(2):
            assert server.get("/404").status == 404
        metrics = server.wait_for_requests(4)
        assert metrics.one(REQUESTS, method="_OTHER", status="_OTHER") == 2
        assert metrics.one(PROM_ERRORS, where="keys") == 2
        assert server.log.count("gunicorn-prom: metrics of keys failed") == 1
        assert_sound(server)
        assert server.stop() == 0


def test_databases_on_the_numbers_of_the_master(tmp_path: Path) -> None:
    """Forks, reloads with other buckets, an upgrade and the end leave each as it is, and open."""
    pidfile, configuration = tmp_path / "pid", tmp_path / "gunicorn.conf.py"
    configuration.write_text(BUCKETS)
    arguments = ("--preload", f"--pid={pidfile}", f"-c={configuration}", APP)
    environ = {"CLOSING": "everything", "DATABASES": "1"}
    with gunicorn_prom(tmp_path, *arguments, environ=environ) as server:
        assert server.get("/").text == "[]"
        (tmp_path / "reloaded").touch()
        for exits in (1, 2):
            server.send_signal(signal.SIGHUP)
            server.wait_for_metrics(
                lambda m, exits=exits: m.total("gunicorn_worker_exits_total") == exits, "a reload"
            )
            assert server.get("/404").text == "[]"
        wait_for(lambda: len(list(server.state_directory.glob("*/board.*"))) == 1, "the fold")
        assert_sound(server)
        successor = wait_for_successor(server, pidfile)
        assert server.stop() == 0
        wait_for(lambda: is_alone(server), "its metrics")
        assert server.get("/418").text == "[]"
        server.wait_for_requests(4)
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not is_running(successor), "the end")
        assert_gone(server)
        assert_sound(server)
        assert_flushed(server)
        assert "Traceback" not in server.log


@pytest.mark.parametrize("host", ["thread", "process"])
def test_a_hook_that_closes_what_the_master_has_open(tmp_path: Path, host: str) -> None:
    """The metrics are back within seconds, no count is lost, and what it opened stays open."""
    configuration = tmp_path / "gunicorn.conf.py"
    switches = ("--no-control-socket",)
    arguments = (f"-c={configuration}", f"--metrics-server={host}", *switches, APP)
    with gunicorn_prom(tmp_path, *arguments, start=False) as server:
        values = {"port": server.metrics_port, "state": server.state_directory}
        text = CLOSES_ON_RELOAD
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        configuration.write_text(text)
        server.start()
        assert server.get("/").status == 200
        for reloads in (1, 2):
            server.send_signal(signal.SIGHUP)
            wait_for(lambda n=reloads: has_reloaded(server, n), "the metrics")
        assert server.get("/404").status == 404
        assert server.wait_for_requests(2).one(REQUESTS, method="GET", status="404") == 1
        assert server.stop() == 0
        assert [text for text in assert_sound(server) if text.endswith("exit")]
        assert_flushed(server)
        assert_gone(server)
        assert "Traceback" not in server.log


def has_reloaded(server: Server, reloads: int) -> bool:
    """Tell whether the metrics are served, of that many reloads that are through."""
    try:
        metrics: Metrics = server.scrape()
    except OSError:
        return False
    is_through = metrics.total("gunicorn_worker_exits_total") == reloads
    return is_through and metrics.total("gunicorn_workers", state="idle") == 1


def test_standard_input_closed_and_a_daemon(tmp_path: Path) -> None:
    """A daemon closes its standard descriptors, which may be the metrics server's socket."""
    pidfile = tmp_path / "pid"
    arguments = ("--daemon", f"--pid={pidfile}", APP)
    with gunicorn_prom(tmp_path, *arguments, start=False) as server:
        server._command = ["sh", "-c", 'exec "$@" <&-', "sh", *server._command]
        server.launch()
        assert server.wait() == 0
        wait_for(lambda: pidfile.exists() and is_alone(server), "the daemon")
        assert server.get("/").status == 200
        server.wait_for_requests(1)
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        wait_for(lambda: not list(server.state_directory.iterdir()), "the end")


def test_the_check_of_an_application_that_closes_everything(tmp_path: Path) -> None:
    """It loads, and so the check says."""
    environ = {"CLOSING": "everything", "DATABASES": "1"}
    result = run_to_end(tmp_path, APP, command=("check",), environ=environ)
    assert "error" not in result.stdout
    assert result.returncode == 0

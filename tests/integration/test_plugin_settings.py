"""Our settings under plain Gunicorn: they count from the start, or there is none."""

import signal
import socket
from pathlib import Path

import pytest

from tests.plugin_settings import (
    DEFAULT,
    HOOKS,
    OWN,
    PROGRAM,
    WAYS,
    Way,
    assert_guarded,
    given,
    has_ended,
    server_by,
)
from tests.support import Server, is_answered, running, start_next_generation, wait_for


@pytest.mark.parametrize("name", WAYS)
def test_a_password_is_asked_for_from_the_first_answer(tmp_path: Path, name: str) -> None:
    """Whichever way Gunicorn takes its configuration, our settings in it count at once."""
    with given(WAYS[name], tmp_path) as server:
        assert_guarded(server)
        assert "Error" not in server.log


def reload(server: Server) -> None:
    """Send HUP and wait for the worker that it starts."""
    wait_for(lambda: server.log.count("Booting worker") == 1, "a worker")
    server.send_signal(signal.SIGHUP)
    wait_for(lambda: server.log.count("Booting worker") == 2, "another worker")


@pytest.mark.parametrize("name", ["a path", "late by python:", "a late program"])
def test_a_reload_keeps_them(tmp_path: Path, name: str) -> None:
    """After HUP they are what they were; the environment prevails over the file both times."""
    environ = {"GUNICORN_PROM_METRICS_PATH": "/variable"}
    with given(WAYS[name], tmp_path, environ, metrics_path="/file") as server:
        assert_guarded(server, "/variable")
        reload(server)
        assert_guarded(server, "/variable")
        assert "gunicorn-prom: " not in server.log


def test_each_prevails_over_those_before_it(tmp_path: Path) -> None:
    """File, GUNICORN_CMD_ARGS, environment, command line: before a reload and after it."""
    # Our settings are options as well where they are known before the configuration is made.
    text = "import gunicorn_prom.hooks\nfrom gunicorn.app.wsgiapp import run\nrun()\n"
    way = Way(
        {"program.py": text, DEFAULT: OWN + HOOKS},
        ("behave:app", "--metrics-path=/line"),
        f"--metrics-state-dir={tmp_path / 'state'} --metrics-bind=127.0.0.1:1",
        "program.py",
    )
    others = {"metrics_state_dir": str(tmp_path / "file"), "metrics_bind": "127.0.0.1:2"}
    environ = {"GUNICORN_PROM_METRICS_PATH": "/variable"}
    server = server_by(way, tmp_path, environ, **others)
    server._environ["GUNICORN_PROM_METRICS_BIND"] = f"127.0.0.1:{server.metrics_port}"
    with running(server, start=False):
        server.launch()
        wait_for(lambda: "Metrics at " in server.log or has_ended(server), "the metrics")
        assert_guarded(server, "/line")
        reload(server)
        assert_guarded(server, "/line")
        assert not (tmp_path / "file").exists()


def test_a_reload_understands_what_the_start_did(tmp_path: Path) -> None:
    """What abbreviates one of Gunicorn's options only is not ambiguous because of ours."""
    way = Way({DEFAULT: HOOKS + OWN}, ("--pre",))
    with given(way, tmp_path) as server:
        reload(server)
        assert_guarded(server)


@pytest.mark.parametrize(
    "name", ["python:", "late by a path", "a program", "a late program", "a program with a file"]
)
def test_a_value_that_cannot_be_ends_the_start(tmp_path: Path, name: str) -> None:
    """In words, with exit code 1, and before anything is made."""
    server = server_by(WAYS[name], tmp_path, metrics_path="nope")
    ended = server.run_to_end()
    assert ended.returncode == 1
    assert "'nope' is no path: write one like /metrics" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not server.state_directory.exists()


def test_a_bad_variable_ends_the_start(tmp_path: Path) -> None:
    """The words name it."""
    environ = {"GUNICORN_PROM_METRICS_PATH": "nope"}
    ended = server_by(WAYS["python:"], tmp_path, environ).run_to_end()
    assert ended.returncode == 1
    assert "Error: invalid GUNICORN_PROM_METRICS_PATH: 'nope' is no path" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_daemon_begins_with_a_bad_value(tmp_path: Path) -> None:
    """It is told, as of Gunicorn's own settings, before the command has ended."""
    way = Way({DEFAULT: HOOKS + OWN}, ("--daemon", "--error-logfile=log"))
    ended = server_by(way, tmp_path, metrics_path="nope").run_to_end()
    assert ended.returncode == 1
    assert "Invalid value for metrics_path: nope" in ended.stderr


def test_a_daemon_logs_why_it_does_not_start(tmp_path: Path) -> None:
    """What it prints nobody reads."""
    way = Way({DEFAULT: HOOKS + OWN}, ("--daemon", "--error-logfile=log"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = "{}:{}".format(*taken.getsockname())
        assert server_by(way, tmp_path, metrics_bind=bind).run_to_end().returncode == 0
        log = tmp_path / "log"
        said = f"gunicorn-prom: cannot bind {bind}: address already in use"
        wait_for(lambda: log.exists() and said in log.read_text(), "the reason")


def test_the_hint_is_told(tmp_path: Path) -> None:
    """What ends the start is told together with what helps."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = "{}:{}".format(*taken.getsockname())
        ended = server_by(WAYS["python:"], tmp_path, metrics_bind=bind).run_to_end()
    assert ended.returncode == 1
    assert f"Error: cannot bind {bind}: address already in use" in ended.stderr
    assert "\nhint: choose another with --metrics-bind" in ended.stderr


# Arbiters of others.

ARBITER = """
from gunicorn.arbiter import Arbiter
from gunicorn_prom.arbiter import PrometheusArbiter

class Theirs(Arbiter):
    def spawn_worker(self):
        self.log.info("theirs, %s", isinstance(self, PrometheusArbiter))
        return super().spawn_worker()

Program.run = lambda self: Theirs(self).run()
Program().run()
"""


def test_an_arbiter_of_others_keeps_what_it_does(tmp_path: Path) -> None:
    """A subclass of Gunicorn's stays one, also after HUP and in the next generation."""
    way = Way({"program.py": f"{HOOKS}{PROGRAM}{ARBITER}"}, program="program.py")
    pidfile = tmp_path / "pid"
    with given(way, tmp_path, pidfile=str(pidfile)) as server:
        assert_guarded(server)
        start_next_generation(server, pidfile)
        assert server.log.count("theirs, True") == 2
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: server.log.count("theirs, True") == 3, "another worker")
        assert "theirs, False" not in server.log
        wait_for(lambda: is_answered(server.metrics_port), "readiness")

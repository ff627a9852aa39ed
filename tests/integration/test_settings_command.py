"""`gunicorn-prom settings`: every value that holds, and where it is from."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gunicorn import config

from tests.support import DEADLINE_S, ROOT, run_to_end

COMMAND = [sys.executable, "-m", "gunicorn_prom", "settings"]
KEYS = ["name", "section", "value", "default", "origin", "option", "environment"]
FILE = """\
import os
print("hello from the file")
bind = ["127.0.0.1:8000", "unix:/run/app.sock"]
timeout = 60
raw_env = ["DB_PASSWORD=hunter2", "DATABASE_URL=postgres://me:hunter2@db/x", "A=b"]
raw_paste_global_conf = ["secret=hunter2"]
logconfig_dict = {"version": 1, "handlers": {"mail": {"password": "hunter2"}}}
statsd_host = "stats:8125"
dogstatsd_tags = "proxy=me:hunter2@proxy:3128"

def post_request(worker, req):
    pass
"""
SECRET = ("raw_env", "raw_paste_global_conf", "logconfig_dict", "dogstatsd_tags")


def settings(
    directory: Path, *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return run_to_end(directory, *arguments, command=["settings"], environ=environ)


def entries(
    directory: Path, *arguments: str, environ: dict[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the settings by name, as JSON has them."""
    done = settings(directory, "--format=json", *arguments, environ=environ)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert sorted(document) == ["settings", "version"]
    assert document["version"] == 1
    return {entry["name"]: entry for entry in document["settings"]}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "gunicorn.conf.py").write_text(FILE)
    return tmp_path


def test_every_setting_in_json(tmp_path: Path) -> None:
    """Ours and all of the installed Gunicorn's are there, each with the same keys."""
    shown = entries(tmp_path)
    assert set(shown) == {setting.name for setting in config.KNOWN_SETTINGS}
    assert all(list(entry) == KEYS for entry in shown.values())
    assert shown["metrics_bind"] == {
        "name": "metrics_bind",
        "section": "Prometheus Metrics",
        "value": "127.0.0.1:9464",
        "default": "127.0.0.1:9464",
        "origin": {"source": "default", "name": None, "line": None},
        "option": "--metrics-bind",
        "environment": "GUNICORN_PROM_METRICS_BIND",
    }


def test_values_and_origins(project: Path) -> None:
    """Whatever is set is told with its place; Gunicorn's and ours, derived ones too."""
    shown = entries(
        project,
        "--changed",
        "some:app",
        "--metrics-path=/m",
        environ={
            "GUNICORN_CMD_ARGS": "--threads=4",
            "GUNICORN_PROM_METRICS_BIND": ":0",
            "WEB_CONCURRENCY": "3",
        },
    )
    path = str(project / "gunicorn.conf.py")
    told = {
        name: (entry["value"], *entry["origin"].values())
        for name, entry in shown.items()
        if name not in SECRET
    }
    assert told == {
        "worker_type": ("gthread", "derived", "threads", None),
        "metrics_bind": (":0", "environment", "GUNICORN_PROM_METRICS_BIND", None),
        "metrics_path": ("/m", "command line", None, None),
        "wsgi_app": ("some:app", "command line", None, None),
        "bind": (["127.0.0.1:8000", "unix:/run/app.sock"], "config file", path, 3),
        "workers": (3, "environment", "WEB_CONCURRENCY", None),
        "worker_class": ("gthread", "derived", "threads", None),
        "threads": (4, "GUNICORN_CMD_ARGS", None, None),
        "timeout": (60, "config file", path, 4),
        "logger_class": (
            "gunicorn.instrument.statsd.Statsd",
            "derived",
            "statsd_host",
            None,
        ),
        "default_proc_name": ("some:app", "derived", "wsgi_app", None),
        "statsd_host": ("stats:8125", "config file", path, 8),
        "post_request": ("post_request", "config file", path, 11),
    }


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("names", [(), SECRET])
def test_secrets_do_not_show(project: Path, form: str, names: tuple[str, ...]) -> None:
    """Neither in a list nor in a description; their names and all else do."""
    done = settings(project, f"--format={form}", "--env=API_TOKEN=hunter2", *names)
    assert "hunter2" not in done.stdout + done.stderr
    assert done.stdout.count("API_TOKEN=****") >= 1
    done = settings(project, f"--format={form}", *names)
    assert "hunter2" not in done.stdout + done.stderr
    for text in ("DB_PASSWORD=****", "postgres://****@db/x", "A=b", "****@proxy"):
        assert text in done.stdout


def test_the_file_cannot_spoil_the_output(project: Path) -> None:
    """What the configuration file prints goes to stderr."""
    done = settings(project)
    assert "hello from the file" in done.stderr
    assert "hello" not in done.stdout


def test_lines_for_other_programs(project: Path) -> None:
    """In a pipe each setting is one line of name, value and origin between tabs."""
    done = settings(project, "--name=a\tb\nc", "--statsd-prefix=", "--umask=027")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert all(len(row) == 3 and all(row) for row in rows)
    shown = {name: (value, origin) for name, value, origin in rows}
    assert shown["timeout"] == ("60", "gunicorn.conf.py:4")
    assert shown["bind"] == ("127.0.0.1:8000,unix:/run/app.sock", "gunicorn.conf.py:3")
    assert shown["proc_name"] == (r"a\tb\nc", "command line")
    assert shown["statsd_prefix"] == ("''", "command line")
    assert shown["umask"] == ("0o27", "command line")
    assert shown["pidfile"] == ("none", "default")
    assert shown["preload_app"] == ("false", "default")
    assert shown["secure_scheme_headers"][0].startswith('{"X-FORWARDED-PROTOCOL": "ssl"')
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("asked", ["timeout", "keep-alive", "keepalive", "metrics-bind"])
def test_a_setting_is_described(project: Path, asked: str) -> None:
    """Its name, or its option without dashes, brings all there is to say about it."""
    (setting,) = [
        s for s in config.KNOWN_SETTINGS if asked == s.name or f"--{asked}" in (s.cli or [])
    ]
    done = settings(project, asked)
    lines = done.stdout.splitlines()
    assert lines[0] == setting.name
    facts = dict(line.split(None, 1) for line in lines[1:7])
    assert list(facts) == ["value", "from", "default", "option", "environment", "section"]
    assert facts["option"].endswith(setting.cli[-1])
    assert facts["section"] == setting.section
    description = done.stdout.partition("\n\n")[2]
    assert len(description.split()) >= len(setting.desc.split())
    (entry,) = entries(project, asked).values()
    assert (entry["name"], entry["description"]) == (setting.name, description.strip())


def test_several_settings_and_an_application(project: Path) -> None:
    """Names stand among the application and its options in any order."""
    shown = entries(project, "timeout", "-w4", "some:app", "wsgi_app", "--preload", "workers")
    assert list(shown) == ["timeout", "wsgi_app", "workers"]
    assert [entry["value"] for entry in shown.values()] == [60, "some:app", 4]
    # A module of that name.
    assert entries(project, "timeout:app", "wsgi_app")["wsgi_app"]["value"] == "timeout:app"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format=xml"], "error: argument --format: invalid choice: 'xml'"),
        (["--chnaged"], "error: unrecognized arguments: --chnaged\nhint: did you mean --changed?"),
        (["--worksers=2"], "hint: did you mean --workers?"),
        (["--workers=x"], "error: argument -w/--workers: invalid int value: 'x'\nhint: see `"),
        (["--metrics-bind=x"], "error: invalid --metrics-bind: 'x' is not HOST:PORT"),
        (["-c", "nowhere.py"], "error: there is no configuration file nowhere.py"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    """As `run` says it, with exit code 2 and nothing on stdout."""
    done = settings(tmp_path, *arguments)
    assert said in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_workers_that_cannot_run_here_are_shown(tmp_path: Path) -> None:
    """What is set is told even where `run` would refuse it."""
    shown = entries(tmp_path, "--worker-type=eventlet", "--changed")
    assert shown["worker_type"]["value"] == shown["worker_class"]["value"] == "eventlet"


def test_help_and_version(tmp_path: Path) -> None:
    """Both are data, on stdout."""
    done = settings(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--changed" in done.stdout
    done = settings(tmp_path, "--version")
    assert (done.returncode, done.stdout[:13]) == (0, "gunicorn-prom")


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    """A pipe that is closed at the first line is no error."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            COMMAND,
            check=False,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=DEADLINE_S,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_stdout_at_all(tmp_path: Path, form: str) -> None:
    """A shell's `>&-` is no error either."""
    script = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, f"--format={form}"]
    done = subprocess.run(
        script,
        check=False,
        stderr=subprocess.PIPE,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_on_a_terminal(project: Path, columns: int) -> None:
    """It is grouped by section and nothing is cut off, however narrow the terminal."""
    shown = on_terminal(project, columns, "--changed", "--name=" + "long" * 30)
    assert "\x1b[1mWorker Processes\x1b[0m" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "")
    lines = plain.splitlines()
    assert all(len(line) <= columns for line in lines)
    sections = [line for line in lines if line and not line.startswith((" ", "hello"))]
    assert sections == sorted(set(sections), key=sections.index)
    assert "long" * 30 in re.sub(r"command line|\s", "", plain)
    assert "gunicorn.conf.py:4" in plain
    assert "…" not in plain
    everything = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(project, columns))
    assert all(len(line.rstrip("\r")) <= columns for line in everything.split("\n"))


def test_a_plain_terminal(project: Path) -> None:
    """NO_COLOR takes the colours, TERM=dumb all control sequences; the text stays."""
    shown = on_terminal(project, 80, "--changed", environ={"NO_COLOR": "1"})
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)
    assert "gunicorn.conf.py:4" in shown
    shown = on_terminal(project, 80, "--changed", environ={"TERM": "dumb"})
    assert "\x1b" not in shown
    assert "gunicorn.conf.py:4" in shown


def on_terminal(
    directory: Path, columns: int, *arguments: str, environ: dict[str, str] | None = None
) -> str:
    """Return what `gunicorn-prom settings` shows on a terminal of that width."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "COLUMNS": str(columns),
            **(environ or {}),
        },
    )
    os.close(slave)
    shown = b""
    try:
        while block := os.read(master, 65536):
            shown += block
    except OSError:  # at its end
        pass
    finally:
        os.close(master)
    assert process.wait(DEADLINE_S) == 0
    return shown.decode()

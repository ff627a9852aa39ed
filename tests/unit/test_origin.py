"""Where a setting is from, down to the line of the configuration file."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from gunicorn import config

from gunicorn_prom.config_file import line_of
from gunicorn_prom.configuration import GUNICORNS_ENVIRONMENT, SOURCES, Configuration, Origin
from gunicorn_prom.effective import WITHOUT_ENVIRONMENT, effective
from gunicorn_prom.settings import environment
from tests.elsewhere import be_in


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty directory."""
    be_in(tmp_path, monkeypatch)


def gathered(*arguments: str, needs_worker: bool = True) -> Configuration:
    return Configuration(list(arguments), needs_application=False, needs_worker=needs_worker)


def held(configuration: Configuration, name: str) -> tuple[object, str]:
    """Return the value that holds and where it is from."""
    (found,) = (entry for entry in effective(configuration) if entry.name == name)
    return found.value, str(found.origin)


def test_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stronger source is told as soon as it has the setting."""
    name, told = "metrics_bind", []
    told.append(gathered().origin(name))
    (tmp_path / "gunicorn.conf.py").write_text("\nmetrics_bind = ':1'\n")
    told.append(gathered().origin(name))
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--metrics-bind=:2")
    told.append(gathered().origin(name))
    monkeypatch.setenv(environment(name), ":3")
    told.append(gathered().origin(name))
    told.append(gathered("--metrics-bind=:4").origin(name))
    assert told == [
        Origin("default"),
        Origin("config file", str(tmp_path / "gunicorn.conf.py"), 2),
        Origin("GUNICORN_CMD_ARGS"),
        Origin("environment", "GUNICORN_PROM_METRICS_BIND"),
        Origin("command line"),
    ]
    assert [origin.source for origin in told] == list(SOURCES[:-1])
    assert [origin.rank for origin in told] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("form", ["{}", "file:{}", "python:{}"])
def test_the_file_as_it_was_named(tmp_path: Path, form: str) -> None:
    """The origin has the name of the file or of the module, and the line in it."""
    named = "settings_of_a_test"
    (tmp_path / f"{named}.py").write_text("# first\ntimeout = 3\n")
    given = form.format(named if "python" in form else f"{named}.py")
    origin = gathered(f"--config={given}").origin("timeout")
    assert origin == Origin("config file", given.removeprefix("file:"), 2)
    assert str(origin) == f"{given.removeprefix('file:')}:2"


def test_a_file_elsewhere(tmp_path: Path) -> None:
    """The line is found although the configuration changes the directory."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "conf.py").write_text("chdir = 'sub'\ntimeout = 3\n")
    assert str(gathered("-c", "conf.py").origin("timeout")) == "conf.py:2"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("timeout = 1", 1),
        ("timeout = 1\ntimeout = 2\nother = timeout", 2),
        ("if True:\n    timeout = 1\nelse:\n    timeout = 2", None),
        ("timeout: int = 1", 1),
        ("timeout = 1\ntimeout += 1", 2),
        ("a, (b, timeout) = 1, (2, 3)", 1),
        ("a = [\n    1,\n]\ntimeout = \\\n    2", 4),
        ("try:\n    from mine import a as timeout\nexcept ImportError:\n    timeout = 1", None),
        ("if True:\n    timeout = 1", 2),
        ("timeout = 1\nfrom mine import *", None),
        ("from mine import *\ntimeout = 1", 2),
        ("from mine import timeout", 1),
        ("@decorated\ndef timeout():\n    pass", 2),
        ("class timeout:\n    pass", 1),
        ("for timeout in range(3):\n    pass", 1),
        ("with open('x') as timeout:\n    pass", 1),
        ("print(timeout := 1)", 1),
        ("timeout = 1\ndef f():\n    timeout = 2\n", 1),
        ("timeout = 1\nx = [timeout for timeout in range(3)]", 1),
        ("from mine import *", None),
        ("globals()['timeout'] = 1", None),
        ("timeout =", None),
        ("x.timeout = 1", None),
    ],
)
def test_the_line(tmp_path: Path, source: str, line: int | None) -> None:
    """It is that of the last assignment in the module itself; none where there is none."""
    path = tmp_path / "conf.py"
    path.write_text(source)
    assert line_of(str(path), "timeout") == line


def test_no_file_has_no_line(tmp_path: Path) -> None:
    """What cannot be read or is no Python has no lines."""
    (tmp_path / "conf.pyc").write_bytes(b"\x00\xff")
    for path in (None, str(tmp_path), str(tmp_path / "conf.pyc"), "nowhere.py"):
        assert line_of(path, "timeout") is None


# In a process of its own: Gunicorn reads these variables when it is imported.
ASK = """
import sys
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.effective import effective
for entry in effective(Configuration(sys.argv[1:], needs_application=False)):
    print(entry.name, entry.value, entry.default, entry.origin, entry.origin.rank, sep="|")
"""


def asked(*arguments: str, **environ: str) -> dict[str, list[str]]:
    """Return value, default, origin and its rank of each setting."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environ},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    rows = (line.split("|") for line in done.stdout.splitlines())
    return {name: rest for name, *rest in rows}


def test_the_environment_that_gunicorn_reads(tmp_path: Path) -> None:
    """A variable of Gunicorn's own is told as such, and it is weaker than a file."""
    variables = {
        "WEB_CONCURRENCY": "3",
        "PORT": "8123",
        "FORWARDED_ALLOW_IPS": "10.0.0.1",
        "SENDFILE": "no",
    }
    shown = asked(**variables)
    assert {name: shown[name] for name in GUNICORNS_ENVIRONMENT} == {
        "workers": ["3", "1", "environment WEB_CONCURRENCY", "0"],
        "bind": ["['0.0.0.0:8123']", "['127.0.0.1:8000']", "environment PORT", "0"],
        "forwarded_allow_ips": [
            "['10.0.0.1']",
            "['127.0.0.1', '::1']",
            "environment FORWARDED_ALLOW_IPS",
            "0",
        ],
        "sendfile": ["False", "True", "environment SENDFILE", "0"],
    }
    (tmp_path / "gunicorn.conf.py").write_text("workers = 5\n")
    assert asked(**variables)["workers"][0] == "5"
    assert asked(**variables)["workers"][2].endswith("gunicorn.conf.py:1")


def test_a_default_of_the_runtime_directory(tmp_path: Path) -> None:
    """A default that is made of a variable is a default, and the variable is named."""
    (tmp_path / "run").mkdir(mode=0o700)
    shown = asked(XDG_RUNTIME_DIR=str(tmp_path / "run"))
    assert shown["metrics_state_dir"] == [
        f"{tmp_path}/run/gunicorn-prom",
        f"{tmp_path}/run/gunicorn-prom",
        "default by XDG_RUNTIME_DIR",
        "0",
    ]
    if "control_socket" in shown:  # Gunicorn 25.1 and later
        assert shown["control_socket"][2] == "default by XDG_RUNTIME_DIR"
    given = asked("--metrics-state-dir=/elsewhere", XDG_RUNTIME_DIR=str(tmp_path / "run"))
    assert given["metrics_state_dir"][::2] == ["/elsewhere", "command line"]


def test_gunicorns_defaults_without_the_environment() -> None:
    """What we take for them is what the installed Gunicorn has."""
    shown = asked()
    for name, default in WITHOUT_ENVIRONMENT.items():
        assert shown[name] == [str(default), str(default), "default", "0"]


@pytest.mark.parametrize(
    ("arguments", "worker_class", "worker_type"),
    [
        ([], ("sync", "default"), ("sync", "default")),
        (["--threads=1"], ("sync", "default"), ("sync", "default")),
        (["--threads=2"], ("gthread", "from threads"), ("gthread", "from threads")),
        (
            ["--worker-type=gthread"],
            ("gthread", "from worker_type"),
            ("gthread", "command line"),
        ),
        (
            ["--worker-type=sync", "--threads=2"],
            ("gthread", "from threads"),
            ("gthread", "from threads"),
        ),
        (["-k", "gevent"], ("gevent", "command line"), ("gevent", "from worker_class")),
        (
            ["-k", "gevent", "--worker-type=gevent"],
            ("gevent", "command line"),
            ("gevent", "command line"),
        ),
        (["-k", "mine.Worker"], ("mine.Worker", "command line"), (None, "from worker_class")),
    ],
)
def test_the_worker_class_is_derived(
    arguments: list[str], worker_class: tuple[str, str], worker_type: tuple[str | None, str]
) -> None:
    """The class follows from the type or the threads, and the type from the class."""
    configuration = gathered(*arguments, needs_worker=False)
    assert held(configuration, "worker_class") == worker_class
    assert held(configuration, "worker_type") == worker_type


def test_a_stronger_class_than_type(tmp_path: Path) -> None:
    """-k on the command line prevails over a type in the file, and the type follows."""
    (tmp_path / "gunicorn.conf.py").write_text("worker_type = 'sync'\n")
    configuration = gathered("-k", "gthread")
    assert held(configuration, "worker_class") == ("gthread", "command line")
    assert held(configuration, "worker_type") == ("gthread", "from worker_class")


def test_the_application(tmp_path: Path) -> None:
    """It is from the command line, or from the file, and the name of the process follows."""
    assert held(gathered(), "wsgi_app") == (None, "default")
    configuration = gathered("some:app")
    assert held(configuration, "wsgi_app") == ("some:app", "command line")
    assert held(configuration, "default_proc_name") == ("some:app", "from wsgi_app")
    (tmp_path / "conf.py").write_text("wsgi_app = 'other:app'\n")
    assert held(gathered("-cconf.py"), "wsgi_app") == ("other:app", "conf.py:1")
    assert held(gathered("-cconf.py", "some:app"), "wsgi_app") == ("some:app", "command line")


def test_the_logger_of_statsd() -> None:
    """A statsd host brings Gunicorn's logger for it, unless another was chosen."""
    configuration = gathered("--statsd-host=h:1")
    assert held(configuration, "logger_class")[1] == "from statsd_host"
    configuration = gathered("--statsd-host=h:1", "--logger-class=my.Logger")
    assert held(configuration, "logger_class") == ("my.Logger", "command line")


def test_hooks_are_as_the_file_has_them(tmp_path: Path) -> None:
    """Gunicorn's own do nothing and are none; one that Gunicorn wraps is told unwrapped."""
    (tmp_path / "conf.py").write_text("def post_request(worker, req):\n    pass\n")
    hook, origin = held(gathered("-cconf.py"), "post_request")
    assert (hook.__name__, origin) == ("post_request", "conf.py:1")
    assert held(gathered(), "post_request") == (None, "default")


def test_every_setting_is_there_once() -> None:
    """Ours come first, those of a section stand together, and none is missing."""
    shown = effective(gathered())
    assert sorted(entry.name for entry in shown) == sorted(
        str(setting.name) for setting in config.KNOWN_SETTINGS
    )
    sections = [str(entry.setting.section) for entry in shown]
    assert sections[0] == "Prometheus Metrics"
    changes = [a for a, b in zip(sections, [*sections[1:], ""], strict=True) if a != b]
    assert len(changes) == len(set(changes))


def test_nothing_set_is_all_default() -> None:
    """Without any source each setting has its default, and says so."""
    for entry in effective(gathered()):
        if entry.name == "config":  # none was found where it is looked for
            assert entry.value is None
            continue
        assert (entry.origin, entry.value) == (Origin("default"), entry.default), entry.name


def test_a_configuration_may_come_through_a_pipe(tmp_path: Path) -> None:
    """It is opened once: whoever writes it, as `sops exec-file` does, does so only once."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("workers = 7\n",))
    writer.start()
    assert gathered("--config=pipe").cfg.workers == 7
    writer.join()

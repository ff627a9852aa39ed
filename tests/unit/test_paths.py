"""What the settings name, as Gunicorn is going to use it, and what is not certain."""

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gunicorn_prom import paths, workers
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.errors import UsageError
from gunicorn_prom.paths import is_importable, obstacles
from tests.elsewhere import be_in


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty directory."""
    be_in(tmp_path, monkeypatch)


def gathered(*arguments: str, config: str = "") -> Configuration:
    Path("gunicorn.conf.py").write_text(config)
    return Configuration(list(arguments), needs_application=False, needs_worker=False)


def found(*arguments: str, config: str = "") -> list[tuple[str, bool]]:
    """Return what is in the way, and whether that is certain."""
    cfg = gathered(*arguments, config=config).cfg
    return [(obstacle.message, obstacle.is_certain) for obstacle in obstacles(cfg)]


@pytest.mark.parametrize(
    ("config", "is_certain"),
    [
        ("", True),
        ("worker_class = 'uvicorn.workers.UvicornWorker'", True),
        ("post_fork = lambda server, worker: None", True),
        ("preload_app = True", False),
        ("worker_class = 'mine.Worker'", False),
        ("from gunicorn.workers.sync import SyncWorker as worker_class", False),
        (
            "from gunicorn.glogging import Logger\nclass Log(Logger): pass\nlogger_class = Log",
            False,
        ),
        ("def nworkers_changed(server, new, old): pass", False),
    ],
)
def test_what_the_users_code_may_make_is_not_certain(config: str, is_certain: bool) -> None:
    """The directory of a pid file: only what runs in the master before Gunicorn comes to it."""
    assert found("--pid=no/pid", config=config) == [
        ("--pid no/pid: there is no directory no", is_certain)
    ]


@pytest.mark.parametrize(
    ("hook", "certain"),
    [
        ("on_starting(server)", ["pidfile"]),
        ("when_ready(server)", ["pidfile", "certfile"]),
        ("pre_fork(server, worker)", ["pidfile", "certfile"]),
        ("post_fork(server, worker)", ["pidfile", "certfile", "worker_tmp_dir"]),
    ],
)
def test_a_hook_counts_for_what_comes_behind_it(hook: str, certain: list[str]) -> None:
    """In Gunicorn's order: the pid file, the sockets and their certificates, the workers."""
    config = f"pidfile = certfile = worker_tmp_dir = 'no/x'\ndef {hook}: pass\n"
    options = {"--pid": "pidfile", "--certfile": "certfile", "--worker-tmp-dir": "worker_tmp_dir"}
    told = [message.partition(" ")[0] for message, is_certain in found(config=config) if is_certain]
    assert [options[option] for option in told] == certain


@pytest.mark.parametrize("path", ["/dev/stdout", "/proc/self/fd/1"])
def test_the_standard_streams_of_a_daemon_are_others(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A terminal of another user is no obstacle to the daemon, which has left it by then."""
    monkeypatch.setattr(paths, "is_allowed", lambda path, mode: False)
    assert found(f"--access-logfile={path}") == [
        (f"--access-logfile {path}: it cannot be written", True)
    ]
    assert found(f"--access-logfile={path}", "--daemon") == []


def test_the_next_generation_has_a_pid_file_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that which USR2 has Gunicorn make, and the first one is not looked at."""
    Path("pid").mkdir()
    assert found("--pid=pid") == [("--pid pid: it is a directory", True)]
    monkeypatch.setenv("GUNICORN_PID", "41")
    assert found("--pid=pid") == []


@pytest.mark.parametrize("answers", [(False, True), (True, False)], ids=["capabilities", "docker"])
def test_one_of_two_answers_of_the_kernel_is_enough(
    monkeypatch: pytest.MonkeyPatch, answers: tuple[bool, bool]
) -> None:
    """By the real user it forgets capabilities; by the effective one old Dockers always say no."""

    def access(path: str, mode: int, *, effective_ids: bool = False) -> bool:
        return answers[effective_ids]

    monkeypatch.setattr(os, "access", access)
    assert paths.is_allowed("x", os.W_OK)


def test_a_module_is_where_gunicorn_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In sys.modules, by any finder, in `pythonpath`; only what is nowhere is missing."""
    monkeypatch.setitem(sys.modules, "handmade", ModuleType("handmade"))
    Path("vendored").mkdir()
    Path("vendored/far.py").touch()

    class Finder:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            if name == "broken":
                raise RuntimeError(name)
            return ModuleSpec(name, None) if name == "editable" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert is_importable("handmade.Log")
    assert is_importable("editable.log.Log")
    assert is_importable("broken.Log")
    assert is_importable("far.Log", "no,vendored")
    assert not is_importable("far.Log", "no")
    assert found("--logger-class=egg:my.dist#log") == []


def test_the_library_of_a_worker_type_may_be_in_pythonpath(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gunicorn comes to it before it loads the class."""
    nowhere = workers.REGISTRY["tornado"]._replace(library="far")
    monkeypatch.setitem(workers.REGISTRY, "tornado", nowhere)
    Path("vendored").mkdir()
    Path("vendored/far.py").touch()
    options = ["--worker-type=tornado"]
    with pytest.raises(UsageError, match="far is not installed"):
        Configuration(options, needs_application=False)
    Configuration([*options, "--pythonpath=vendored"], needs_application=False)

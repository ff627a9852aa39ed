"""How an application's kind is told, and what is made of a process that did not report."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from gunicorn_prom import trial
from gunicorn_prom.checks import probe
from gunicorn_prom.checks.probe import AppReport, Sight, limit_of
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.plugin import PrometheusWorker

HUNG = """\
Timeout (0:00:02)!
Thread 0x00007f0e6f7fe6c0 (most recent call first):
  File "/srv/shop/jobs.py", line 9 in poll

Thread 0x00007f0e74a3e740 (most recent call first):
  File "/usr/lib/python3.13/socket.py", line 720 in readinto
  File "/srv/shop/app.py", line 3 in connect
  File "/srv/shop/app.py", line 7 in <module>
  File "<frozen importlib._bootstrap>", line 488 in _call_with_frames_removed
"""


def wsgi(environ, start_response): ...


def wsgi_and_more(environ, start_response, exc_info=None): ...


async def asgi(scope, receive, send): ...


def asgi_by_arguments(scope, receive, send): ...


def asgi_2(scope): ...


def make(name="shop"): ...


def make_it(): ...


@functools.wraps(wsgi)
def wrapped(*args, **kwargs): ...


def anything(*args, **kwargs): ...


class Wsgi:
    def __call__(self, environ, start_response): ...


class Asgi:
    async def __call__(self, scope, receive, send): ...


@pytest.mark.parametrize(
    ("app", "kind"),
    [
        (wsgi, "wsgi"),
        (Wsgi(), "wsgi"),
        (Wsgi().__call__, "wsgi"),
        (wrapped, "wsgi"),
        (functools.partial(anything), "unknown"),
        (functools.partial(asgi_by_arguments, {}), "wsgi"),
        (asgi, "asgi"),
        (Asgi(), "asgi"),
        (asgi_by_arguments, "asgi"),
        (functools.partial(asgi), "asgi"),
        (make_it, "factory"),
        (make, "factory"),
        (Asgi, "factory"),
        # What may be either stays open: a false alarm is worse.
        (wsgi_and_more, "unknown"),
        (asgi_2, "unknown"),
        (anything, "unknown"),
        (dict, "unknown"),
    ],
)
def test_the_kind_of_an_application(app: Callable[..., Any], kind: str) -> None:
    """It is told by what the application can be called with, where that leaves no doubt."""
    assert trial._kind_of(app) == kind


def test_what_workers_speak() -> None:
    """Gunicorn's classes and ours speak WSGI; a class of its own ways is not judged."""

    class Adapting(SyncWorker):
        def load_wsgi(self) -> None: ...

    for worker_class in (SyncWorker, ThreadWorker, PrometheusWorker):
        assert trial._protocol_of(worker_class) == "wsgi"
    assert trial._protocol_of(Adapting) == trial._protocol_of(object) == ""


def test_what_uvicorns_workers_speak() -> None:
    """Uvicorn's class speaks ASGI, unless it is told to serve something else."""
    worker_class = pytest.importorskip("uvicorn_worker").UvicornWorker

    class ForWsgi(worker_class):
        CONFIG_KWARGS = {"interface": "wsgi"}  # noqa: RUF012  # as uvicorn's own is written

    assert trial._protocol_of(worker_class) == "asgi"
    assert trial._protocol_of(ForWsgi) == ""


def test_where_an_import_hangs() -> None:
    """It is the innermost line of the user's in the main thread, not in another."""
    assert probe._place_in(HUNG) == "/srv/shop/app.py:3"
    assert probe._place_in("") == ""


def test_a_report_travels_as_json() -> None:
    """What the process writes is what the checks get."""
    report = AppReport.parse(b'{"outcome": "raised", "connections": [["db:5432", "app.py:1"]]}\n')
    assert report == AppReport(outcome="raised", connections=(Sight("db:5432", "app.py:1"),))


@pytest.mark.parametrize(
    ("options", "limit_s"),
    [
        ([], 30),
        (["--timeout=5"], 5),
        (["--timeout=600"], 600),
        (["--timeout=0"], probe.LIMIT_S),
        # The master has no limit of its own.
        (["--timeout=5", "--preload"], probe.LIMIT_S),
        (["--timeout=600", "--preload"], 600),
    ],
)
def test_how_long_an_import_may_take(
    options: list[str], limit_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the master would leave a worker, and never for ever."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    configuration = Configuration(["app:app", *options, f"--chdir={tmp_path}"], "check")
    assert limit_of(configuration) == limit_s

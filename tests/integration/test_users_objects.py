"""Worker classes and loggers of the user's own serve and are counted, whatever they are like."""

import os
import signal
from pathlib import Path

import pytest

from gunicorn_prom.workers import REGISTRY, WORKER_TYPES, unavailable
from tests.ledger import exits
from tests.support import Metrics, Server, gunicorn_prom, plain_gunicorn

REQUESTS = "gunicorn_http_requests_total"
PROM_ERRORS = "gunicorn_prom_errors_total"
QUEUE = "gunicorn_http_request_queue_seconds_count"
ASGI = ("asgi", "uvicorn")
TYPES = [name for name in WORKER_TYPES if unavailable(name) is None]

# Names of the plugin API, and such as any code may have for itself.
PUBLIC = (
    "_clear_old_metrics",
    "_extract_request_from_args",
    "_extract_request_info",
    "_generic_handle_abort",
    "_generic_handle_error",
    "_generic_handle_quit",
    "_generic_handle_request",
    "_handle_request_error_metrics",
    "_handle_request_metrics",
    "_request_count",
    "process",
    "start_time",
    "update_worker_metrics",
    "worker_id",
)
OTHERS = (
    "_app_directory",
    "_assignment",
    "_attach",
    "_board",
    "_capacity",
    "_failures",
    "_insides",
    "_instrument_application",
    "_is_departing",
    "_look_inside",
    "_make_notify",
    "_made",
    "_note_booted",
    "_note_departure",
    "_process",
    "_recorder",
    "_seam",
    "_set_state",
    "_slot",
    "_slot_number",
    "_stack_writer",
    "assign_slot",
    "begun",
    "board",
    "exit_status",
    "instruments",
    "intent",
    "report",
    "seam",
    "slot",
    "stack_file",
    "told_early",
)

WORKERS = """
from {module} import {base} as Base

PUBLIC, OTHERS = {public!r}, {others!r}


class Assigning(Base):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in (*PUBLIC, *OTHERS):
            setattr(self, name, "mine")


class Refusing(Base):
    def __setattr__(self, name, value):
        if name in (*PUBLIC, *OTHERS):
            raise AttributeError(name)
        super().__setattr__(name, value)


for name in (*PUBLIC, *OTHERS):
    setattr(Refusing, name, property(lambda self: "mine"))
"""

NOTE = """
import json


def post_worker_init(worker):
    with open("values", "w") as values:
        json.dump([getattr(worker, name) for name in {names!r}], values)
"""


@pytest.mark.parametrize("kind", ["Assigning", "Refusing"])
@pytest.mark.parametrize("worker_type", TYPES)
def test_names_are_the_users(tmp_path: Path, worker_type: str, kind: str) -> None:
    """A class may have any name for itself: as an attribute that it sets, or one nobody can set."""
    module, _, base = REGISTRY[worker_type].class_path.rpartition(".")
    source = WORKERS.format(module=module, base=base, public=PUBLIC, others=OTHERS)
    (tmp_path / "mine.py").write_text(source)
    (tmp_path / "gunicorn.conf.py").write_text(NOTE.format(names=(*PUBLIC, *OTHERS)))
    app = "asgi_mix:app" if worker_type in ASGI else "behave:app"
    with gunicorn_prom(tmp_path, app, f"--worker-class=mine.{kind}") as server:
        count = len(PUBLIC) + len(OTHERS)
        assert (tmp_path / "values").read_text() == str(["mine"] * count).replace("'", '"')
        assert server.get("/plain" if worker_type in ASGI else "/").status == 200
        server.wait_for_requests(1)
        assert reload(server).total(PROM_ERRORS) == 0
        assert server.stop() == 0


def reload(server: Server) -> Metrics:
    """Send HUP, and return the metrics when the worker that was there has gone because of it."""
    server.send_signal(signal.SIGHUP)
    return server.wait_for_metrics(lambda m: exits(m) == {"reload": 1}, "its exit")


LOGGERS = """
import logging


class Smallest:
    def __init__(self, cfg):
        self.mine = logging.getLogger("mine")
        logging.basicConfig(level="INFO")

    def __getattr__(self, name):
        return getattr(self.mine, name)

    def access(self, resp, req, environ, request_time):
        pass

    def reopen_files(self):
        pass

    def close_on_exec(self):
        pass


class Failing(Smallest):
    def error(self, *args, **kwargs):
        raise RuntimeError("this logger never works")


class ForASGI(Smallest):
    access_log_enabled = False

    def __init__(self, cfg):
        super().__init__(cfg)
        self.error_log = self.access_log = self.mine
"""


@pytest.mark.parametrize("worker_type", TYPES)
def test_loggers_of_the_users(tmp_path: Path, worker_type: str) -> None:
    """A logger with no more than what Gunicorn asks for is one to us, too."""
    (tmp_path / "mine.py").write_text(LOGGERS)
    app, kind = ("asgi_mix:app", "ForASGI") if worker_type in ASGI else ("behave:app", "Smallest")
    options = (f"--worker-type={worker_type}", f"--logger-class=mine.{kind}")
    with gunicorn_prom(tmp_path, app, *options) as server:
        assert server.get("/plain" if worker_type in ASGI else "/").status == 200
        server.wait_for_requests(1)
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        metrics = server.wait_for_metrics(lambda m: exits(m) == {"signal": 1}, "its exit")
        assert metrics.total(PROM_ERRORS) == 0
        server.wait_for_workers(1)
        assert server.stop() == 0


def test_a_logger_that_fails_when_told_of_a_failure(tmp_path: Path) -> None:
    """What fails of ours is counted, and the worker serves on."""
    (tmp_path / "mine.py").write_text(LOGGERS)
    hook = "def post_fork(server, worker):\n    worker.cfg.settings['odd'] = None\n"
    (tmp_path / "gunicorn.conf.py").write_text(hook)
    with gunicorn_prom(tmp_path, "behave:app", "--logger-class=mine.Failing") as server:
        assert server.get("/").status == 200
        assert server.wait_for_requests(1).one(PROM_ERRORS, where="request") == 1


POOLS = """
from gunicorn.workers.gthread import ThreadWorker


class Submitting(ThreadWorker):
    def enqueue_req(self, conn):
        raise AssertionError("not by this")

    def accept(self, listener):
        # As Gunicorn does, but straight into the pool.
        enqueue, vars(self)["enqueue_req"] = vars(self).pop("enqueue_req", None), self.submit
        try:
            super().accept(listener)
        finally:
            vars(self)["enqueue_req"] = enqueue or self.submit

    def submit(self, conn):
        future = self.tpool.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.finished(conn, done))

    def finished(self, conn, done):
        if hasattr(self, "method_queue"):
            self.method_queue.defer(self.finish_request, conn, done)
        else:
            self.finish_request(done)
"""


def test_a_pool_that_is_given_connections_otherwise(tmp_path: Path) -> None:
    """A class that gives the pool its connections by itself serves; nobody knows their wait."""
    (tmp_path / "mine.py").write_text(POOLS)
    options = ("--worker-class=mine.Submitting", "--threads=2")
    with gunicorn_prom(tmp_path, "behave:app", *options) as server:
        for _ in range(3):
            assert server.get("/", Connection="close").text == "ok"
        metrics = server.wait_for_requests(3)
        assert metrics.total(QUEUE, stage="pool") == 0
        assert reload(server).total(PROM_ERRORS) == 0
        assert server.stop() == 0


def test_a_mixed_in_class_gives_way(tmp_path: Path) -> None:
    """The mixin before a class of the user's leaves that its names, under plain Gunicorn too."""
    (tmp_path / "mine.py").write_text(
        "from gunicorn.workers.sync import SyncWorker\n"
        "from gunicorn_prom import PrometheusMixin\n"
        "class Base(SyncWorker):\n"
        "    worker_id = start_time = process = 'mine'\n"
        "class Worker(PrometheusMixin, Base):\n"
        "    pass\n"
        "class Plain(PrometheusMixin, SyncWorker):\n"
        "    pass\n"
        "assert Worker.worker_id == Worker.start_time == Worker.process == 'mine'\n"
        "assert Plain.worker_id is PrometheusMixin.worker_id\n"
    )
    (tmp_path / "gunicorn.conf.py").write_text("from gunicorn_prom.hooks import *\n")
    with plain_gunicorn(tmp_path, "behave:app", "--worker-class=mine.Worker") as server:
        assert server.get("/").text == "ok"
        assert server.wait_for_requests(1).total(PROM_ERRORS) == 0


MAKERS = """
from functools import partial

from gunicorn.workers.sync import SyncWorker


class Final(SyncWorker):
    def __init_subclass__(cls):
        raise TypeError("no class may be derived from it")


def make(*args):
    return SyncWorker(*args)


def make_final(*args):
    return Final(*args)


partly = partial(SyncWorker)
"""


@pytest.mark.parametrize("name", ["Final", "make", "make_final", "partly"])
def test_what_makes_workers(tmp_path: Path, name: str) -> None:
    """Whatever stands for a class, or is one that has no others, has its workers counted."""
    (tmp_path / "mine.py").write_text(MAKERS)
    with gunicorn_prom(tmp_path, "behave:app", f"--worker-class=mine.{name}") as server:
        assert server.get("/").text == "ok"
        server.wait_for_requests(1)
        assert reload(server).total(PROM_ERRORS) == 0
        assert server.stop() == 0

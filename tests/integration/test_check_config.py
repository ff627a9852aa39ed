"""What `gunicorn-prom check` finds in the configuration, and what it leaves alone."""

from pathlib import Path
from typing import NamedTuple

import pytest

from gunicorn_prom.checks import CHECKS
from gunicorn_prom.checks.runner import run
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.configuration import Configuration
from tests.checked import Found, assert_finds, assert_passes, checked
from tests.support import run_to_end

APP = "behave:app"
ON_ECS = {"ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/1"}
PUBLIC, LOOPBACK = "--bind=0.0.0.0:8000", "--bind=127.0.0.1:8000"
THREADS = "--worker-type=gthread"

MISSPELT = """\
time_out = 60
num_workers: int = 4
max_request = 1000
preload = True
keep_alive = 65
access_logfile = "-"
BIND = "127.0.0.1:8001"
metric_path = "/numbers"
if True:
    thread = 4


def post_forked(server, worker):
    pass


async def when_redy(server):
    pass
"""
MEANT = [
    (1, "time_out", "timeout"),
    (2, "num_workers", "workers"),
    (3, "max_request", "max_requests"),
    # As the options are called.
    (4, "preload", "preload_app"),
    (5, "keep_alive", "keepalive"),
    (6, "access_logfile", "accesslog"),
    # As a constant would be written.
    (7, "BIND", "bind"),
    # Ours.
    (8, "metric_path", "metrics_path"),
    (10, "thread", "threads"),
    (13, "post_forked", "post_fork"),
    (17, "when_redy", "when_ready"),
]

# Of the kind that people pass on: everything is computed first and printed at the end.
COMPUTED = """\
import functools
import json
import multiprocessing
import os
from pathlib import Path as Worker

_timeouts = 5
TIME_OUT = 30
num_workers = int(os.getenv("NUM_WORKERS") or multiprocessing.cpu_count())
log_level = os.getenv("LOG_LEVEL", "info")
time_out = os.getenv("TIMEOUT", TIME_OUT)

for thread in range(3):
    pass


class Threads:
    bindd = 1


def _post_forked(server, worker):
    pass


def make_worker_name(server):
    return server


@functools.cache
def on_exiting(server):
    pass


def post_fork(server, worker):
    timeouts = make_worker_name(server)
    return timeouts


loglevel = log_level
workers = num_workers
timeout = int(time_out)
redis_host = "localhost"
print(json.dumps({"loglevel": loglevel, "workers": workers}), file=open(os.devnull, "w"))
"""


def config_file(directory: Path, text: str, name: str = "conf.py") -> str:
    """Write a configuration file, and return the option that names it."""
    path = directory / name
    path.write_text(text)
    return f"--config={path}"


def test_misspelt_settings(tmp_path: Path) -> None:
    """GP005 tells the name, its line, and what was meant of each; spelt right they pass."""
    assert checked(tmp_path, "GP005", config_file(tmp_path, MISSPELT)) == [
        Found(
            "warning",
            f"conf.py:{line}: `{name}` is unknown and ignored",
            f"did you mean `{meant}`?",
        )
        for line, name, meant in MEANT
    ]
    repaired = MISSPELT
    for _, name, meant in MEANT:
        repaired = repaired.replace(name, meant, 1)
    assert_passes(tmp_path, "GP005", config_file(tmp_path, repaired))


@pytest.mark.parametrize(
    "text",
    [
        COMPUTED,
        "timeout = 60\n\n\ndef post_fork(server, worker):\n    pass\n",
        "from gunicorn_prom.hooks import *\n",
        "timeout = time_out = 60\n",
        "",
    ],
)
def test_what_is_no_misspelt_setting(tmp_path: Path, text: str) -> None:
    """GP005 lets variables, helpers, imports and classes of the user's own pass."""
    assert_passes(tmp_path, "GP005", config_file(tmp_path, text))


def test_every_way_to_name_the_configuration_file(tmp_path: Path) -> None:
    """GP005 reads the file in the directory, a module, and a file of any name, as Gunicorn does."""
    line = "time_out = 60\n"
    config_file(tmp_path, line, "gunicorn.conf.py")
    config_file(tmp_path, line, "module.py")
    config_file(tmp_path, line, "named.conf")
    named = f"--config=file:{tmp_path}/named.conf"
    for arguments in ((), ("--config=python:module", f"--chdir={tmp_path}"), (named,)):
        expected = Found("warning", "`time_out` is unknown", "`timeout`")
        assert_finds(tmp_path, "GP005", *arguments, expected=expected)


def test_without_a_configuration_file(tmp_path: Path) -> None:
    """GP005 is skipped where there is no file to look at."""
    (found,) = checked(tmp_path, "GP005")
    assert found.status == "skipped"


class Case(NamedTuple):
    """A broken set-up with what is found in it, and its repaired twin."""

    check: str
    broken: tuple[str, ...]
    repaired: tuple[str, ...]
    detail: str
    hint: str


LIMIT_HINT = "leave --timeout at 30, and limit requests in the application"
NO_JITTER = ("--max-requests=1000", "--workers=4")
CASES = [
    Case("GP018", ("-t0",), ("-t30",), "timeout is 0", "give --timeout"),
    Case(
        "GP019",
        (THREADS, "--timeout=300"),
        (THREADS, "--timeout=60"),
        "timeout is 300 s, which does not limit requests of gthread workers",
        LIMIT_HINT,
    ),
    Case(
        "GP019", ("--threads=4", "-t61"), ("-t61",), "limit requests of gthread workers", LIMIT_HINT
    ),
    Case(
        "GP019",
        ("--worker-class=gunicorn.workers.ggevent.GeventPyWSGIWorker", "-t90"),
        ("--worker-class=gevent_pywsgi",),
        "requests of gevent_pywsgi workers",
        LIMIT_HINT,
    ),
    Case(
        "GP019",
        ("--worker-class=uvicorn_worker.UvicornWorker", "-t90"),
        ("--worker-class=gunicorn_prom.PrometheusWorker", "-t90"),
        "requests of uvicorn workers",
        LIMIT_HINT,
    ),
    Case(
        "GP025",
        NO_JITTER,
        (*NO_JITTER, "--max-requests-jitter=100"),
        "max_requests is 1000 without jitter: 4 workers end",
        "--max-requests-jitter 100",
    ),
    Case(
        "GP025",
        ("--max-requests=1", "--workers=2"),
        ("--max-requests=1", "--workers=1"),
        "max_requests is 1 without jitter",
        "--max-requests-jitter 1",
    ),
    Case("GP028", ("--reload",), (), "reload is on", "for development only"),
    Case("GP028", ("--spew",), (), "spew is on", "for development only"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.check} {' '.join(case.broken)}")
def test_options(tmp_path: Path, case: Case) -> None:
    """Each finds its set-up, with the figures and the remedy, and nothing when it is repaired."""
    expected = Found("warning", case.detail, case.hint)
    assert_finds(tmp_path, case.check, *case.broken, expected=expected)
    assert_passes(tmp_path, case.check, *case.repaired)


def test_a_long_timeout_from_the_configuration_file(tmp_path: Path) -> None:
    """GP019 heeds a timeout wherever it is given."""
    option = config_file(tmp_path, "timeout = 120\n")
    expected = Found("warning", "timeout is 120 s")
    assert_finds(tmp_path, "GP019", option, THREADS, expected=expected)


def test_a_worker_class_of_the_users_own(tmp_path: Path) -> None:
    """GP019 does not guess what a timeout covers in a class that it does not know."""
    found = checked(tmp_path, "GP019", "--worker-class=mine.Worker", "--timeout=300")
    assert found == [Found("skipped", "the worker class is your own")]


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        (ON_ECS, "Amazon ECS, whose load balancers"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes, whose ingress controllers"),
    ],
)
def test_a_keepalive_behind_a_load_balancer(
    tmp_path: Path, environ: dict[str, str], where: str
) -> None:
    """GP030 finds a keepalive that ends before a load balancer's; one that outlasts it passes."""
    detail = f"keepalive is 2 s with gthread workers in {where} keep idle connections for 60 s"
    expected = Found("warning", detail, "--keep-alive 65")
    assert_finds(tmp_path, "GP030", THREADS, PUBLIC, expected=expected, environ=environ)
    for repaired in ((PUBLIC, "--keep-alive=65"), (PUBLIC, "--keep-alive=0"), (LOOPBACK,)):
        assert_passes(tmp_path, "GP030", THREADS, *repaired, environ=environ)


@pytest.mark.parametrize(
    ("arguments", "environ", "reason"),
    [
        ([THREADS, PUBLIC], {}, "nothing tells of a load balancer"),
        ([PUBLIC], ON_ECS, "keepalive is nothing to these workers"),
    ],
)
def test_where_keepalive_does_not_matter(
    arguments: list[str], environ: dict[str, str], reason: str
) -> None:
    """GP030 is skipped on a laptop, and for workers that keep no connection."""
    configuration = Configuration(arguments, "check", needs_application=False)
    (result,) = run([CHECKS["GP030"]], Setup(configuration, environ=environ))
    assert (result.status, result.detail) == ("skipped", reason)


# GP039.


@pytest.mark.parametrize(
    ("option", "wrong", "right", "detail"),
    [
        ("--pid", "no/x.pid", "x.pid", "--pid {place}/no/x.pid: there is no directory {place}/no"),
        ("--error-logfile", "no/x", "x.log", "--log-file {place}/no/x: there is no directory"),
        ("--access-logfile", ".", "x.log", "--access-logfile {place}/.: it is a directory"),
        ("--log-config", "no.ini", "log.ini", "--log-config {place}/no.ini: there is no such file"),
        ("--worker-tmp-dir", "no", ".", "--worker-tmp-dir {place}/no: there is no such directory"),
    ],
)
def test_what_the_settings_name_is_missing(
    tmp_path: Path, option: str, wrong: str, right: str, detail: str
) -> None:
    """GP039 names the file, `run` says the same before it starts, and nothing is made."""
    (tmp_path / "log.ini").touch()
    expected = Found("error", detail.format(place=tmp_path))
    assert_finds(tmp_path, "GP039", APP, f"{option}={tmp_path}/{wrong}", expected=expected)
    assert_passes(tmp_path, "GP039", APP, f"{option}={tmp_path}/{right}")
    arguments = (APP, f"{option}={tmp_path}/{wrong}", "--metrics-bind=127.0.0.1:0")
    ended = run_to_end(tmp_path, *arguments, command=("run",))
    assert ended.stderr.startswith(f"error: {expected.detail}")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 2)
    assert not (tmp_path / right).exists() or right in ("log.ini", ".")


def test_classes_and_descriptors_that_are_missing(tmp_path: Path) -> None:
    """GP039 finds a logger class without a module, and a descriptor that nobody has opened."""
    expected = Found("error", "--logger-class nowhere.Log: there is no module nowhere")
    assert_finds(tmp_path, "GP039", APP, "--logger-class=nowhere.Log", expected=expected)
    (tmp_path / "mine.py").write_text("from gunicorn.glogging import Logger as Log\n")
    assert_passes(tmp_path, "GP039", APP, "--logger-class=mine.Log")
    expected = Found("error", "--bind fd://77: no such file descriptor is open")
    assert_finds(tmp_path, "GP039", APP, "--bind=fd://77", expected=expected)


def test_what_a_hook_may_still_make(tmp_path: Path) -> None:
    """GP006 and GP039 warn of what is missing where code of the user's runs before Gunicorn."""
    options = ["--preload", f"--bind=unix:{tmp_path}/no/app.sock", f"--pid={tmp_path}/no/pid"]
    reason = f"there is no directory {tmp_path}/no"
    expected = Found("warning", f"--pid {tmp_path}/no/pid: {reason}")
    assert_finds(tmp_path, "GP039", APP, *options, expected=expected)
    expected = Found("warning", f"cannot bind unix:{tmp_path}/no/app.sock: {reason}")
    assert_finds(tmp_path, "GP006", APP, *options, expected=expected)

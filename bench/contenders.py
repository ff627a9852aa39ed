"""Who is compared: how each is started, and against which bare Gunicorn it is held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from bench.environments import GUNICORN_23, NEWEST, Environment

__all__ = [
    "CONTENDERS",
    "GTHREAD_THREADS",
    "WORKER_TYPES",
    "Contender",
    "Launch",
    "two_builds",
]

_WSGI = ("sync", "gthread", "gevent")
_ASGI = ("asgi", "uvicorn")
WORKER_TYPES = (*_WSGI, *_ASGI)
_CLASSES = {"uvicorn": "uvicorn_worker.UvicornWorker"}
GTHREAD_THREADS = 4

_CONFIGS = Path(__file__).resolve().parent / "configs"
_EXPORTER_WORKERS = {
    "sync": "gunicorn_prometheus_exporter.PrometheusWorker",
    "gthread": "gunicorn_prometheus_exporter.PrometheusThreadWorker",
    "gevent": "gunicorn_prometheus_exporter.PrometheusGeventWorker",
}


@dataclass(frozen=True)
class Launch:
    """What one start of a server is told.

    Attributes:
        directory: The server's own directory, also its HOME and TMPDIR.
    """

    worker_type: str
    workers: int
    port: int
    metrics_port: int
    directory: Path

    @property
    def gunicorn_options(self) -> list[str]:
        """Options that every contender gets."""
        options = ["--bind", f"127.0.0.1:{self.port}", "--workers", str(self.workers)]
        if self.worker_type == "gthread":
            options += ["--threads", str(GTHREAD_THREADS)]
        return options

    def application(self, variant: str) -> str:
        """Return the name of the application that such workers speak to."""
        if variant in ("fast", "instrumented"):
            return f"{variant}:app"
        return f"hello:{'asgi_' if self.worker_type in _ASGI else ''}{variant}"

    @property
    def multiprocess_directory(self) -> Path:
        """Directory for the value files of prometheus_client."""
        return self.directory / "multiproc"


@dataclass(frozen=True)
class Contender:
    """One way to run the application.

    Attributes:
        name: As chosen on the command line and shown in the tables.
        base: Name of the bare Gunicorn it is held against; its own if it is one.
        arguments: The command line after the interpreter.
        variables: Environment variables of its own.
        has_metrics: Whether it serves `/metrics` on the metrics port.
        worker_types: Those that it can have.
    """

    name: str
    base: str
    environment: Environment
    arguments: Callable[[Launch], list[str]]
    variables: Callable[[Launch], dict[str, str]]
    has_metrics: bool = True
    is_project: bool = False
    worker_types: tuple[str, ...] = _WSGI

    def command(self, launch: Launch) -> list[str]:
        """Return the whole command line of a launch."""
        return [str(self.environment.python), *self.arguments(launch)]


def _run_bare(environment: Environment, variant: str) -> Callable[[Launch], list[str]]:
    return lambda launch: [
        *(str(environment.script("gunicorn")), launch.application(variant)),
        *("--worker-class", _CLASSES.get(launch.worker_type, launch.worker_type)),
        *launch.gunicorn_options,
    ]


def _run_project(variant: str) -> Callable[[Launch], list[str]]:
    return lambda launch: [
        *(str(NEWEST.script("gunicorn-prom")), "run", launch.application(variant)),
        *("--worker-type", launch.worker_type),
        *launch.gunicorn_options,
        *("--metrics-bind", f"127.0.0.1:{launch.metrics_port}"),
        *("--metrics-state-dir", str(launch.directory / "state")),
    ]


def _run_by_hand(launch: Launch) -> list[str]:
    return [
        *(str(NEWEST.script("gunicorn")), "hello:app"),
        *("--config", str(_CONFIGS / "by_hand.py")),
        *("--worker-class", launch.worker_type),
        *launch.gunicorn_options,
    ]


def _run_exporter(launch: Launch) -> list[str]:
    return [
        *(str(GUNICORN_23.script("gunicorn")), "hello:app"),
        *("--config", str(_CONFIGS / "exporter.py")),
        *("--worker-class", _EXPORTER_WORKERS[launch.worker_type]),
        *launch.gunicorn_options,
    ]


def _no_variables(launch: Launch) -> dict[str, str]:
    return {}


def _multiprocess_variables(launch: Launch) -> dict[str, str]:
    return {"PROMETHEUS_MULTIPROC_DIR": str(launch.multiprocess_directory)}


def _by_hand_variables(launch: Launch) -> dict[str, str]:
    return {
        **_multiprocess_variables(launch),
        "BENCH_METRICS_PORT": str(launch.metrics_port),
    }


def _exporter_variables(launch: Launch) -> dict[str, str]:
    return {
        **_multiprocess_variables(launch),
        "PROMETHEUS_METRICS_PORT": str(launch.metrics_port),
        "PROMETHEUS_BIND_ADDRESS": "127.0.0.1",
        "GUNICORN_WORKERS": str(launch.workers),
    }


_BARE = "bare Gunicorn"
_BARE_TOLD = "bare Gunicorn, told all"
_BARE_FASTAPI = "bare Gunicorn, FastAPI"
_BARE_23 = "bare Gunicorn 23"

CONTENDERS = (
    Contender(
        name=_BARE,
        base=_BARE,
        environment=NEWEST,
        arguments=_run_bare(NEWEST, "app"),
        variables=_no_variables,
        has_metrics=False,
        worker_types=WORKER_TYPES,
    ),
    Contender(
        name="gunicorn-prom",
        base=_BARE,
        environment=NEWEST,
        arguments=_run_project("app"),
        variables=_no_variables,
        is_project=True,
        worker_types=WORKER_TYPES,
    ),
    # The application gives every request a route and a sampled trace.
    Contender(
        name=_BARE_TOLD,
        base=_BARE_TOLD,
        environment=NEWEST,
        arguments=_run_bare(NEWEST, "told_app"),
        variables=_no_variables,
        has_metrics=False,
        worker_types=WORKER_TYPES,
    ),
    Contender(
        name="gunicorn-prom, told all",
        base=_BARE_TOLD,
        environment=NEWEST,
        arguments=_run_project("told_app"),
        variables=_no_variables,
        is_project=True,
        worker_types=WORKER_TYPES,
    ),
    # What a framework takes: it has the route of each request found.
    Contender(
        name=_BARE_FASTAPI,
        base=_BARE_FASTAPI,
        environment=NEWEST,
        arguments=_run_bare(NEWEST, "fast"),
        variables=_no_variables,
        has_metrics=False,
        worker_types=_ASGI,
    ),
    Contender(
        name="gunicorn-prom, FastAPI",
        base=_BARE_FASTAPI,
        environment=NEWEST,
        arguments=_run_project("fast"),
        variables=_no_variables,
        is_project=True,
        worker_types=_ASGI,
    ),
    Contender(
        name="prometheus-fastapi-instrumentator",
        base=_BARE_FASTAPI,
        environment=NEWEST,
        arguments=_run_bare(NEWEST, "instrumented"),
        variables=_multiprocess_variables,
        worker_types=_ASGI,
    ),
    Contender(
        name="prometheus_client by hand",
        base=_BARE,
        environment=NEWEST,
        arguments=_run_by_hand,
        variables=_by_hand_variables,
    ),
    Contender(
        name=_BARE_23,
        base=_BARE_23,
        environment=GUNICORN_23,
        arguments=_run_bare(GUNICORN_23, "app"),
        variables=_no_variables,
        has_metrics=False,
    ),
    Contender(
        name="gunicorn-prometheus-exporter",
        base=_BARE_23,
        environment=GUNICORN_23,
        arguments=_run_exporter,
        variables=_exporter_variables,
    ),
)


def two_builds(checkout: Path) -> list[Contender]:
    """Return the project as it is now, each variant held against that of another checkout."""
    variables = {"PYTHONPATH": str(checkout.resolve())}
    found = []
    for now in (contender for contender in CONTENDERS if contender.is_project):
        before = f"{now.name}, the other build"
        found.append(replace(now, name=before, base=before, variables=lambda launch: variables))
        found.append(replace(now, base=before))
    return found

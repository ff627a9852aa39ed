"""The registry of worker types: the class of each, or the reason why there is none.

Nothing here imports a worker before it is asked for: importing Gunicorn's
eventlet worker patches the process.
"""

from typing import Literal, NamedTuple

import gunicorn
from gunicorn.workers import SUPPORTED_WORKERS

from gunicorn_prom.errors import UsageError
from gunicorn_prom.paths import is_importable

__all__ = [
    "REGISTRY",
    "WORKER_TYPES",
    "Seam",
    "WorkerType",
    "seam_of",
    "type_of",
    "unavailable",
    "uses_greenlets",
]


# By which way requests are counted: Gunicorn's hooks, the wrapped WSGI or ASGI application,
# tornado's own log function. "" for a worker that nobody knows.
Seam = Literal["hooks", "wsgi", "asgi", "tornado", ""]

# By name, for importing one of them for nothing costs memory in every process.
WSGI_WORKER_MODULES = (
    "gunicorn.workers.sync",
    "gunicorn.workers.gthread",
    "gunicorn.workers.base_async",
)
ASGI_WORKER_MODULES = ("gunicorn.workers.gasgi", "uvicorn_worker._workers", "uvicorn.workers")

_MAJOR = int(gunicorn.__version__.split(".")[0])


class WorkerType(NamedTuple):
    """A kind of worker that `--worker-type` takes.

    Attributes:
        class_path: Gunicorn's class, dotted.
        plugin_class: ours, in gunicorn_prom.plugin, "" for none.
        library: the module it cannot do without, "" for none.
        removed: Gunicorn's first major version without the class, 0 for none.
        added: Gunicorn's first major version with the class.
        extra: the one of ours that brings the library, by default that of its name.
    """

    name: str
    class_path: str
    plugin_class: str = ""
    library: str = ""
    removed: int = 0
    added: int = 0
    extra: str = ""

    @property
    def install(self) -> str:
        """The command that makes it available."""
        if self.is_to_come:
            return f"pip install 'gunicorn>={self.added}'"
        return f"pip install 'gunicorn-prom[{self.extra or self.name}]'"

    @property
    def setting(self) -> str:
        """What Gunicorn takes as its worker class."""
        is_known = self.name in SUPPORTED_WORKERS or self.is_removed or self.is_to_come
        return self.name if is_known else self.class_path

    @property
    def is_to_come(self) -> bool:
        """Whether the installed Gunicorn has it not yet."""
        return self.added > _MAJOR

    @property
    def is_removed(self) -> bool:
        """Whether the installed Gunicorn has it no more."""
        return 0 < self.removed <= _MAJOR

    @property
    def names(self) -> tuple[str, ...]:
        """What `-k` takes for it."""
        modules = ("gunicorn_prom", "gunicorn_prom.plugin") if self.plugin_class else ()
        ours = (f"{module}.{self.plugin_class}" for module in modules)
        return (self.name, self.class_path, *ours)


_TYPES = (
    WorkerType("sync", "gunicorn.workers.sync.SyncWorker", "PrometheusWorker"),
    WorkerType("gthread", "gunicorn.workers.gthread.ThreadWorker", "PrometheusThreadWorker"),
    WorkerType(
        "gevent", "gunicorn.workers.ggevent.GeventWorker", "PrometheusGeventWorker", "gevent"
    ),
    WorkerType(
        "eventlet",
        "gunicorn.workers.geventlet.EventletWorker",
        "PrometheusEventletWorker",
        "eventlet",
        removed=26,
    ),
    WorkerType(
        "gevent_pywsgi",
        "gunicorn.workers.ggevent.GeventPyWSGIWorker",
        library="gevent",
        extra="gevent",
    ),
    WorkerType("tornado", "gunicorn.workers.gtornado.TornadoWorker", library="tornado"),
    WorkerType("asgi", "gunicorn.workers.gasgi.ASGIWorker", added=24),
    WorkerType("uvicorn", "uvicorn_worker.UvicornWorker", library="uvicorn_worker"),
)
REGISTRY = {worker_type.name: worker_type for worker_type in _TYPES}
WORKER_TYPES = tuple(REGISTRY)


def type_of(worker_class: str | type) -> str | None:
    """Return the name of the worker type that `-k worker_class` means.

    None for a class of the user's own or one that is no type of ours.
    """
    if not isinstance(worker_class, str):
        return None
    return next((t.name for t in REGISTRY.values() if worker_class in t.names), None)


def unavailable(name: str, pythonpath: str | None = None) -> UsageError | None:
    """Say why workers of type `name` cannot run here; None when they can.

    Args:
        pythonpath: of the settings, which Gunicorn has not followed yet.
    """
    worker_type = REGISTRY[name]
    if worker_type.is_removed:
        return UsageError(
            f"worker type {name} is not available: Gunicorn {worker_type.removed} removed it, "
            f"and this is Gunicorn {gunicorn.__version__}",
            f"{worker_type.install} (brings an older Gunicorn), or use gevent",
        )
    if worker_type.is_to_come:
        return UsageError(
            f"worker type {name} is not available: it came with Gunicorn {worker_type.added}, "
            f"and this is Gunicorn {gunicorn.__version__}",
            worker_type.install,
        )
    if worker_type.library and not is_importable(worker_type.library, pythonpath):
        return UsageError(
            f"worker type {name} is not available: {worker_type.library} is not installed",
            worker_type.install,
        )
    return None


def seam_of(worker_class: type) -> Seam:
    """Tell by which way the requests of `worker_class` are counted."""
    modules = [base.__module__ for base in worker_class.__mro__]
    if any(module in ASGI_WORKER_MODULES for module in modules):
        return "asgi"
    if "gunicorn.workers.gtornado" in modules:
        return "tornado"
    if not any(module in WSGI_WORKER_MODULES for module in modules):
        return ""
    # gevent_pywsgi brings its own server, which never comes to handle_request.
    return "hooks" if getattr(worker_class, "server_class", None) is None else "wsgi"


def uses_greenlets(worker_class: type) -> bool:
    """Tell whether `worker_class` serves connections in greenlets: gevent, eventlet."""
    return any(base.__module__ == "gunicorn.workers.base_async" for base in worker_class.__mro__)

"""The registry of worker types: the class of each, or the reason why there is none.

Nothing here imports a worker before it is asked for: importing Gunicorn's
eventlet worker patches the process.
"""

from importlib.util import find_spec
from typing import NamedTuple

import gunicorn

from gunicorn_prom.errors import UsageError

__all__ = [
    "REGISTRY",
    "WORKER_TYPES",
    "WorkerType",
    "instrument",
    "type_of",
    "unavailable",
    "uses_greenlets",
]


class WorkerType(NamedTuple):
    """A kind of worker that `--worker-type` takes.

    Attributes:
        class_path: Gunicorn's class, dotted.
        plugin_class: ours, in gunicorn_prom.plugin.
        library: the module it cannot do without, "" for none.
        removed: Gunicorn's first major version without the class, 0 for none.
    """

    name: str
    class_path: str
    plugin_class: str
    library: str = ""
    removed: int = 0

    @property
    def install(self) -> str:
        """The command that makes it available."""
        return f"pip install 'gunicorn-prom[{self.name}]'"

    @property
    def is_removed(self) -> bool:
        """Whether the installed Gunicorn has it no more."""
        return 0 < self.removed <= int(gunicorn.__version__.split(".")[0])

    @property
    def names(self) -> tuple[str, ...]:
        """What `-k` takes for it."""
        ours = (f"gunicorn_prom.{self.plugin_class}", f"gunicorn_prom.plugin.{self.plugin_class}")
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


def unavailable(name: str) -> UsageError | None:
    """Say why workers of type `name` cannot run here; None when they can."""
    worker_type = REGISTRY[name]
    if worker_type.is_removed:
        return UsageError(
            f"worker type {name} is not available: Gunicorn {worker_type.removed} removed it, "
            f"and this is Gunicorn {gunicorn.__version__}",
            f"{worker_type.install} (brings an older Gunicorn), or use gevent",
        )
    if worker_type.library and find_spec(worker_type.library) is None:
        return UsageError(
            f"worker type {name} is not available: {worker_type.library} is not installed",
            worker_type.install,
        )
    return None


def uses_greenlets(worker_class: type) -> bool:
    """Tell whether `worker_class` serves connections in greenlets: gevent, eventlet."""
    return any(base.__module__ == "gunicorn.workers.base_async" for base in worker_class.__mro__)


def instrument(worker_class: type) -> type:
    """Return `worker_class` with the metrics in it, itself where it has them.

    The name stays, for Gunicorn shows it in its log.
    """
    from gunicorn_prom.plugin import PrometheusMixin

    if issubclass(worker_class, PrometheusMixin):
        return worker_class
    names = {"__module__": worker_class.__module__, "__qualname__": worker_class.__qualname__}
    return type(worker_class.__name__, (PrometheusMixin, worker_class), names)

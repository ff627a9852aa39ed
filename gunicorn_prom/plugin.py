"""The plugin API: `PrometheusMixin` and the instrumented worker classes.

`gunicorn-prom run` uses them, and so can plain Gunicorn:

    gunicorn -k gunicorn_prom.PrometheusWorker -c gunicorn.conf.py app:app

with `from gunicorn_prom.hooks import *` in gunicorn.conf.py.

The worker classes are made when they are asked for: Gunicorn's workers cost memory
to import, and its eventlet worker patches the process. `PrometheusGeventWorker` and
`PrometheusEventletWorker` are None where they cannot be had.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from gunicorn.config import Config

from gunicorn_prom import workers
from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.instrument.instruments import instruments_of
from gunicorn_prom.scoreboard import State

if TYPE_CHECKING:
    import psutil

    # What the mixin is mixed into; Gunicorn has no types.
    from gunicorn.workers.base import Worker as _Base
else:
    _Base = object

# Not the classes that cannot always be had: a star import must not patch anything.
__all__ = [
    "EVENTLET_AVAILABLE",
    "GEVENT_AVAILABLE",
    "PrometheusMixin",
    "PrometheusThreadWorker",  # noqa: F822  # by __getattr__
    "PrometheusWorker",  # noqa: F822  # by __getattr__
    "get_prometheus_eventlet_worker",
    "get_prometheus_gevent_worker",
]

GEVENT_AVAILABLE = workers.unavailable("gevent") is None
EVENTLET_AVAILABLE = workers.unavailable("eventlet") is None

# Where a worker keeps the process that it was last asked for.
_PROCESS = "_gunicorn_prom_process"

logger = logging.getLogger(__name__)


class _Member:
    """A member of the plugin API that is read, and gives way to what a worker has of its name.

    Without `__set__` it is found behind the attributes of the worker itself.
    """

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    def __get__(self, worker: Any, owner: type | None = None) -> Any:
        return self if worker is None else self._read(worker)


class PrometheusMixin(_Base):
    """The plugin API of a worker class; stands before it among the bases.

    The metrics come with the arbiter, which instruments workers of every class (see
    `gunicorn_prom.instrument.instruments`). Without it the worker serves as it always did, and
    says so once.

    What is documented here gives way to attributes of the same name that the class of the
    worker has, or sets.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the names of the plugin API be those of the worker's class where it has them."""
        super().__init_subclass__(**kwargs)
        for name in _API:
            owners = [base for base in cls.__mro__ if name in vars(base)]
            if owners[0] is PrometheusMixin and len(owners) > 1:
                setattr(cls, name, vars(owners[1])[name])

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assignment_of(self)  # it knows when the worker was made

    def init_process(self) -> None:
        """Say whether nobody counts, in the worker, and go on as Gunicorn does."""
        if assignment_of(self).board is None:
            self.log.warning(
                "gunicorn-prom: this worker is not counted, it was given no place on a "
                "scoreboard; under plain gunicorn the configuration file needs "
                "`from gunicorn_prom.hooks import *`"
            )
        super().init_process()

    @_Member
    def worker_id(self) -> str:
        """`worker_<age>_<start>`, unique while the master lives."""
        return f"worker_{self.age}_{int(assignment_of(self).start_time)}"

    @_Member
    def start_time(self) -> float:
        """Unix seconds at which the worker was made."""
        return assignment_of(self).start_time

    @_Member
    def process(self) -> "psutil.Process":
        """The process that asks: in the worker the worker, not the master before the fork."""
        import psutil

        attributes = vars(self)
        found: psutil.Process | None = attributes.get(_PROCESS)
        if found is None or found.pid != os.getpid():
            found = attributes[_PROCESS] = psutil.Process()
        return found

    @_Member
    def _request_count(self) -> int:
        """Requests that this worker has answered so far."""
        return instruments_of(self).request_count

    # For worker classes that bring their own request handling.

    def update_worker_metrics(self) -> None:
        """Publish that the worker is running.

        Memory, CPU and the like are not written by the worker: the metrics server
        reads them when it is scraped, so they are fresh when the worker is stuck.
        """
        instruments_of(self).note_state(State.RUNNING)

    def _handle_request_metrics(self, start_time: float | None = None) -> None:
        """Count a request that nothing else counts: its method and status are not known.

        Args:
            start_time: Unix seconds at which it began, None: it took no time.
        """
        instruments_of(self).count_request(start_time)

    def _handle_request_error_metrics(
        self, req: Any, e: BaseException, start_time: float | None = None
    ) -> None:
        """Count a request that ended in the exception `e`, see `_handle_request_metrics`."""
        instruments_of(self).count_request(start_time, e, req)

    def _extract_request_from_args(self, args: Iterable[Any]) -> Any:
        """Return the first of `args` that looks like a request, else None."""
        return next((a for a in args if hasattr(a, "method") and hasattr(a, "path")), None)

    def _extract_request_info(self, req: Any) -> tuple[str, str]:
        """Return method and path of `req`, "UNKNOWN" for what it does not have.

        The path is for the caller to see. No label is made of it: there is no end
        to paths.
        """
        return getattr(req, "method", None) or "UNKNOWN", getattr(req, "path", None) or "UNKNOWN"

    def _generic_handle_request(
        self, parent_method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call `parent_method` and count the request, unless the hooks already do.

        Raises:
            BaseException: whatever `parent_method` raises.
        """
        if instruments_of(self).seam is not None:
            return parent_method(*args, **kwargs)
        start_time = time.time()
        try:
            result = parent_method(*args, **kwargs)
        except StopIteration as e:
            # An async worker ends a good response on a closing connection with it.
            if e.__context__ is None:
                self._handle_request_metrics(start_time)
            else:
                req = self._extract_request_from_args(args)
                self._handle_request_error_metrics(req, e.__context__, start_time)
            raise
        except Exception as e:
            self._handle_request_error_metrics(self._extract_request_from_args(args), e, start_time)
            raise
        self._handle_request_metrics(start_time)
        return result

    def _generic_handle_error(self, req: Any, client: Any, addr: Any, e: BaseException) -> Any:
        """Let Gunicorn answer the error; what the client sees is counted."""
        return cast("Any", super()).handle_error(req, client, addr, e)

    def _generic_handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Note that the worker is to go at once, and do what Gunicorn does."""
        instruments_of(self).note_departure("quit")
        super().handle_quit(sig, frame)

    def _generic_handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """Note that the worker timed out, and do what Gunicorn does."""
        instruments_of(self).note_abort()
        super().handle_abort(sig, frame)

    def _clear_old_metrics(self) -> None:
        """Do nothing: the series of a worker go with its slot, none is left to clear."""


# What of it Gunicorn does not know, so that the class of a worker may have it for itself.
_API = frozenset(
    (
        "worker_id",
        "start_time",
        "process",
        "_request_count",
        "update_worker_metrics",
        "_handle_request_metrics",
        "_handle_request_error_metrics",
        "_extract_request_from_args",
        "_extract_request_info",
        "_generic_handle_request",
        "_generic_handle_error",
        "_generic_handle_quit",
        "_generic_handle_abort",
        "_clear_old_metrics",
    )
)


def _make_worker(name: str) -> type | None:
    """Return the instrumented class of worker type `name`, None where it cannot be had."""
    worker_type = workers.REGISTRY[name]
    if workers.unavailable(name) is not None:
        return None
    module, _, base_name = worker_type.class_path.rpartition(".")
    try:
        base = getattr(import_module(module), base_name)
    except (ImportError, RuntimeError):  # RuntimeError: Gunicorn finds the library too old
        return None
    names = {"__module__": __name__, "__doc__": f"Gunicorn's {name} worker with metrics."}
    return type(worker_type.plugin_class, (PrometheusMixin, base), names)


@cache
def get_prometheus_gevent_worker() -> type | None:
    """Return `PrometheusGeventWorker`, None where gevent is missing or too old."""
    return _make_worker("gevent")


@cache
def get_prometheus_eventlet_worker() -> type | None:
    """Return `PrometheusEventletWorker`, None without eventlet and from Gunicorn 26 on.

    The first call patches the process, as Gunicorn's own eventlet worker does.
    """
    return _make_worker("eventlet")


_WORKERS: dict[str, Callable[[], type | None]] = {
    "PrometheusWorker": cache(lambda: _make_worker("sync")),
    "PrometheusThreadWorker": cache(lambda: _make_worker("gthread")),
    "PrometheusGeventWorker": get_prometheus_gevent_worker,
    "PrometheusEventletWorker": get_prometheus_eventlet_worker,
}


def __getattr__(name: str) -> Any:
    if name in _WORKERS:
        return _WORKERS[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _setup_logging() -> None:
    """Set up Python's logging at the level that GUNICORN_CMD_ARGS asks Gunicorn for.

    For a program of its own; nothing here calls it.
    """
    try:
        cfg = Config()
        arguments = cfg.parser().parse_args(cfg.get_cmd_args_from_env())
        level_name = (arguments.loglevel or cfg.loglevel).upper()
        logging.basicConfig(level=getattr(logging, level_name))
    except (Exception, SystemExit) as e:
        logging.basicConfig(level=logging.INFO)
        logger.warning("Could not setup logging from config: %s", e)

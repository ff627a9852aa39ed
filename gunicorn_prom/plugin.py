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
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.errors import AppImportError

from gunicorn_prom import workers
from gunicorn_prom.app_metrics import VARIABLE
from gunicorn_prom.errors import users_traceback
from gunicorn_prom.instrument.config import keep_settings_at_hand
from gunicorn_prom.instrument.insides import Insides, end, look_inside
from gunicorn_prom.instrument.memory import MemoryWatch
from gunicorn_prom.instrument.record import Recorder, method_label
from gunicorn_prom.instrument.routes import watch_routes
from gunicorn_prom.instrument.runtime import watch_garbage_collector
from gunicorn_prom.instrument.stacks import StackWriter
from gunicorn_prom.instrument.wsgi import Answer, WSGISeam
from gunicorn_prom.keys import OTHER
from gunicorn_prom.scoreboard import Board, Gauge, Leaving, State
from gunicorn_prom.slot import Slot

if TYPE_CHECKING:
    import psutil

    # What the mixin is mixed into; Gunicorn has no types.
    from gunicorn.workers.base import Worker as _Base

    from gunicorn_prom.instrument.asgi import ASGISeam
    from gunicorn_prom.instrument.pywsgi import PyWSGISeam
    from gunicorn_prom.instrument.tornado import TornadoSeam
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

# How many connections a worker has that does not count them.
UNKNOWN = -1
# How often a worker shows how many it has, at the most.
SHOW_PERIOD_S = 0.5

# What a worker is to hear that came before it could: whatever ends it or has it open its logs
# anew. The rest is the master's.
TOLD_EARLY = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1)

# Why a worker goes of itself.
LEAVING = {"max_requests": Leaving.MAX_REQUESTS, "memory": Leaving.MEMORY}

logger = logging.getLogger(__name__)


class PrometheusMixin(_Base):
    """Add metrics to any Gunicorn worker class; stands before it among the bases.

    The arbiter gives the worker its place on the scoreboard before the fork.
    Without one the worker serves as it always did, and says so once.

    Attributes:
        worker_id: `worker_<age>_<start>`, unique while the master lives.
        start_time: Unix seconds at which the worker was made.
        intent: in the master, why it has told the worker to go.
        exit_status: in the master, what the kernel said of the worker's end.
        stack_file: to which the worker writes its stacks when it times out, None: not.
        told_early: signals that have come before there was a handler for them.
    """

    intent: str | None = None
    exit_status: int | None = None
    stack_file: Path | None = None

    _board: Board | None = None
    _slot_number = 0
    _slot: Slot | None = None
    _recorder: Recorder | None = None
    _seam: WSGISeam | None = None
    _stack_writer: StackWriter | None = None
    _asgi_seam: "ASGISeam | None" = None
    _server_seam: "PyWSGISeam | TornadoSeam | None" = None
    _process: "psutil.Process | None" = None
    _is_departing = False
    _count_connections: Callable[[], int] | None = None
    _app_directory: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_time = time.time()
        self._made = time.monotonic()
        self.worker_id = f"worker_{self.age}_{int(self.start_time)}"
        self._counted_by_ourselves = 0
        self.told_early: list[int] = []

    def assign_slot(self, board: Board, number: int) -> None:
        """Give this worker its place on the scoreboard, in the master before the fork."""
        self._board, self._slot_number = board, number

    @property
    def process(self) -> "psutil.Process":
        """The process that asks: in the worker the worker, not the master before the fork."""
        import psutil

        if self._process is None or self._process.pid != os.getpid():
            self._process = psutil.Process()
        return self._process

    @property
    def _request_count(self) -> int:
        """Requests that this worker has answered so far."""
        if self._recorder is None or not workers.seam_of(type(self)):
            return self._counted_by_ourselves
        return self._recorder.request_count()

    @_request_count.setter
    def _request_count(self, count: int) -> None:
        self._counted_by_ourselves = count

    # Gunicorn's life of a worker.

    def init_process(self) -> None:
        """Start to count, in the worker, and go on as Gunicorn does."""
        try:
            self._attach()
        except Exception:
            self.log.exception("gunicorn-prom: this worker is served without metrics")
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application; of an error in it show the user's part of the traceback.

        Raises:
            AppImportError: it is not there, as Gunicorn finds.
            SystemExit: it fails, with Gunicorn's code for a worker that does not boot.
        """
        try:
            super().load_wsgi()
        except AppImportError:
            raise
        except Exception as error:
            self.log.error("The application does not load.\n%s", users_traceback(error))
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        if self._slot is not None:
            try:
                self._instrument_application()
            except Exception as failure:
                self._slot.report("request", failure)

    def _instrument_application(self) -> None:
        """Wrap the application where Gunicorn's hooks do not come."""
        if self._slot is None or self._recorder is None:
            return
        if self.cfg.route_labels:
            self._recorder.find_route = watch_routes(partial(self._slot.report, "routes"))
        # Imported where they are wanted: each costs memory in every process.
        match workers.seam_of(type(self)):
            case "asgi":
                from gunicorn_prom.instrument.asgi import ASGISeam

                self._asgi_seam = ASGISeam(self._slot, self._recorder)
                self._asgi_seam.install(self, self._note_departure)
            case "wsgi":
                from gunicorn_prom.instrument.pywsgi import PyWSGISeam

                self._server_seam = PyWSGISeam(self._slot, self._recorder)
                self._server_seam.install(self)
            case "tornado":
                from gunicorn_prom.instrument.tornado import TornadoSeam

                self._server_seam = TornadoSeam(self._slot, self._recorder)
                self._server_seam.install(self)

    def _attach(self) -> None:
        if self._board is None:
            self.log.warning(
                "gunicorn-prom: this worker is not counted, it was given no place on a "
                "scoreboard; under plain gunicorn the configuration file needs "
                "`from gunicorn_prom.hooks import *`"
            )
            return
        self._app_directory = os.environ.get(VARIABLE)
        self._slot = Slot(self._board, self._slot_number, self.log)
        self._slot.set_gauge(Gauge.START_TIME, self.start_time)
        self._slot.set_gauge(Gauge.CAPACITY, self._capacity())
        self._slot.set_gauge(Gauge.CONNECTIONS, UNKNOWN)
        self._slot.set_gauge(Gauge.WAITING, UNKNOWN)
        self._slot.set_gauge(Gauge.PID, os.getpid())  # last: from here on it is shown
        watch_garbage_collector(self._slot)
        self._recorder = Recorder(self._slot, shows_targets=self.cfg.timeout_autopsy)
        if workers.seam_of(type(self)) == "hooks":
            self._seam = WSGISeam(self._slot, self._recorder)
        if self.stack_file is not None:
            try:
                self._stack_writer = StackWriter(self.stack_file, self._slot, self._recorder)
            except (OSError, RuntimeError) as failure:
                self._slot.report("autopsy", failure)

    def init_signals(self) -> None:
        """Set up the handlers as Gunicorn does, before one of them our own.

        They are then told what has come too early for them.
        """
        super().init_signals()
        if self._stack_writer is not None:
            self._stack_writer.watch_abort()
        # A class of the user's own may call anything its loop.
        call_soon = getattr(getattr(self, "loop", None), "call_soon", None)
        if call_soon is None:
            self._raise_early({})
            return
        # Gunicorn's handlers on asyncio; of what comes before it runs uvloop hears nothing.
        handlers = {number: signal.getsignal(number) for number in TOLD_EARLY}
        for number in TOLD_EARLY:
            signal.signal(number, self._note_early)
        call_soon(self._raise_early, handlers)

    def _note_early(self, number: int, frame: FrameType | None) -> None:
        self.told_early.append(number)

    def _raise_early(self, handlers: dict[signal.Signals, Any]) -> None:
        for known, handler in handlers.items():
            # Unless a hook of the user has set another one.
            if signal.getsignal(known) == self._note_early:
                signal.signal(known, handler)
        for number in self.told_early:
            if number in TOLD_EARLY:
                signal.raise_signal(number)

    def _capacity(self) -> int:
        """Return how many requests can be in progress, 0 where nothing limits them."""
        is_asgi = workers.seam_of(type(self)) == "asgi"
        if is_asgi and hasattr(self, "config"):
            return int(self.config.limit_concurrency or 0)  # uvicorn's
        has_connections = is_asgi or workers.uses_greenlets(type(self))
        return int(self.cfg.worker_connections if has_connections else self.cfg.threads)

    def run(self) -> None:
        """Note that the worker has booted, and serve."""
        if self._seam is not None:
            self._seam.install(self)
        if self._slot is not None and os.environ.get(VARIABLE) != self._app_directory:
            self.log.warning(
                "gunicorn-prom: the application has set %s itself, so its own metrics are not "
                "served; set it in the environment or with --env",
                VARIABLE,
            )
        if self._slot is not None and self._recorder is not None:
            try:
                keep_settings_at_hand(self.cfg)
            except Exception as failure:
                self._slot.report("request", failure)
            self._look_inside(self._slot, self._recorder)
        if self._asgi_seam is None:
            self._note_booted()
        else:
            # On asyncio nobody is served, and the application may yet fail, until its
            # lifespan has begun; right behind that comes the first sign of life.
            vars(self)["notify"] = self._notify_first
        try:
            super().run()
            if self._asgi_seam is not None and self._asgi_seam.ends_by_limit_only:
                self._note_departure("max_requests")
        finally:
            if self.nr >= self.max_requests:
                self._note_departure("max_requests")

    def _notify_first(self) -> None:
        del vars(self)["notify"]
        self._note_booted()
        self.notify()

    def _note_booted(self) -> None:
        if self._slot is not None:
            self._slot.set_gauge(Gauge.BOOTED_TIME, time.time())
            self._slot.observe_boot(time.monotonic() - self._made)
            if self._count_connections is not None:
                vars(self)["notify"] = self._make_notify(self.notify)
        self.update_worker_metrics()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> Any:
        """Let Gunicorn answer an error, and count what it answered."""
        return self._generic_handle_error(req, client, addr, exc)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note that the worker is to finish what it has and go."""
        # uvicorn's worker has SIGQUIT end here too, and serves on.
        if sig != signal.SIGQUIT:
            self._note_departure("term")
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Note that the worker is to go at once."""
        self._generic_handle_quit(sig, frame)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """Note that the worker timed out."""
        self._generic_handle_abort(sig, frame)

    # Gunicorn's worker on asyncio has handlers of its own, and only that one.

    def handle_exit_signal(self) -> None:
        """Note that the worker is to finish what it has and go."""
        self._note_departure("term")
        super().handle_exit_signal()  # type: ignore[misc]

    def handle_quit_signal(self) -> None:
        """Note that the worker is to go at once."""
        self._note_departure("quit")
        super().handle_quit_signal()  # type: ignore[misc]

    def handle_abort_signal(self) -> None:
        """Note that the worker timed out."""
        self._note_departure("abort")
        if self._asgi_seam is not None:
            self._asgi_seam.aborting = True
        super().handle_abort_signal()  # type: ignore[misc]

    def _look_inside(self, slot: Slot, recorder: Recorder) -> None:
        """Find out how to count the connections, and watch the memory if it has a limit."""
        try:
            websockets = slot.gauges + Gauge.WEBSOCKETS
            insides = look_inside(self, self._show_connections, lambda: int(slot.cells[websockets]))
        except Exception as failure:
            slot.report("processes", failure)
            insides = Insides(partial(end, self))
        self._count_connections = insides.connections
        limit_bytes = self.cfg.max_worker_memory
        if limit_bytes is None:
            return

        def leave() -> None:
            self._note_departure("memory")
            for seam in (self._asgi_seam, self._server_seam):
                if seam is not None:
                    seam.have_clients_close()
            insides.leave()

        recorder.watch_memory = MemoryWatch(slot, limit_bytes, recorder.request_count, leave)

    def _make_notify(self, notify: Callable[[], None]) -> Callable[[], None]:
        show, monotonic = self._show_connections, time.monotonic
        show_due = 0.0

        def notify_and_show() -> None:
            nonlocal show_due
            notify()
            # gthread notifies the master at every turn of its loop.
            now = monotonic()
            if now >= show_due:
                show_due = now + SHOW_PERIOD_S
                show()

        return notify_and_show

    def _show_connections(self) -> None:
        if self._slot is None or self._count_connections is None:
            return
        try:
            self._slot.set_gauge(Gauge.CONNECTIONS, self._count_connections())
            count_waiting = self._seam.count_waiting if self._seam is not None else None
            if count_waiting is not None:
                self._slot.set_gauge(Gauge.WAITING, count_waiting())
        except Exception as failure:
            self._slot.report("processes", failure)

    def _note_departure(self, reason: str) -> None:
        """Say on the scoreboard why the worker goes; what is said first is counted."""
        if self._slot is None:
            return
        if not self._is_departing:
            self._is_departing = True
            self._slot.count_restart(reason)
            self._slot.set_gauge(Gauge.LEAVING, LEAVING.get(reason, Leaving.NOT))
        if reason not in LEAVING:
            self._set_state(State.ABORTING if reason == "abort" else State.QUITTING)

    def _set_state(self, state: int) -> None:
        if self._slot is not None:
            self._slot.set_gauge(Gauge.STATE, state)

    # The plugin API for worker classes that bring their own request handling.

    def update_worker_metrics(self) -> None:
        """Publish that the worker is running.

        Memory, CPU and the like are not written by the worker: the metrics server
        reads them when it is scraped, so they are fresh when the worker is stuck.
        """
        self._set_state(State.RUNNING)

    def _handle_request_metrics(self, start_time: float | None = None) -> None:
        """Count a request that nothing else counts: its method and status are not known.

        Args:
            start_time: Unix seconds at which it began, None: it took no time.
        """
        self._counted_by_ourselves += 1
        if self._slot is not None and self._seam is None:
            elapsed = max(0.0, time.time() - start_time) if start_time else 0.0
            self._slot.observe_request((OTHER, OTHER), elapsed)

    def _handle_request_error_metrics(
        self, req: Any, e: BaseException, start_time: float | None = None
    ) -> None:
        """Count a request that ended in the exception `e`, see `_handle_request_metrics`."""
        self._handle_request_metrics(start_time)
        if self._slot is not None and self._seam is None:
            self._slot.count_failed_request(method_label(getattr(req, "method", None)), e)

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
        if self._seam is not None:
            return parent_method(*args, **kwargs)
        start_time = time.time()
        try:
            result = parent_method(*args, **kwargs)
        except StopIteration as e:
            # An async worker ends a good response on a closing connection with it.
            self._count_stop_iteration(args, e, start_time)
            raise
        except Exception as e:
            self._handle_request_error_metrics(self._extract_request_from_args(args), e, start_time)
            raise
        self._handle_request_metrics(start_time)
        return result

    def _count_stop_iteration(self, args: Any, e: StopIteration, start_time: float) -> None:
        if e.__context__ is None:
            self._handle_request_metrics(start_time)
        else:
            req = self._extract_request_from_args(args)
            self._handle_request_error_metrics(req, e.__context__, start_time)

    def _generic_handle_error(self, req: Any, client: Any, addr: Any, e: BaseException) -> Any:
        """Let Gunicorn answer the error, and count what the client saw."""
        if self._seam is None:
            return super().handle_error(req, client, addr, e)
        answer = Answer(client)
        result = cast("Any", super()).handle_error(req, answer, addr, e)
        self._seam.error_answered(req, e, answer)
        return result

    def _generic_handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Note that the worker is to go at once, and do what Gunicorn does."""
        self._note_departure("quit")
        super().handle_quit(sig, frame)

    def _generic_handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """Note that the worker timed out, and do what Gunicorn does."""
        self._note_departure("abort")
        if self._seam is not None:
            self._seam.aborting = True
        if self._server_seam is not None:
            self._server_seam.aborting = True
        super().handle_abort(sig, frame)

    def _clear_old_metrics(self) -> None:
        """Do nothing: the series of a worker go with its slot, none is left to clear."""


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

"""All that is ours in one worker, put there step by step while Gunicorn starts it.

Whatever fails of it fails for us alone: Gunicorn, the worker's class, its application, logger
and configuration may be the user's, and none of them is asked for more than Gunicorn asks.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from gunicorn_prom import workers
from gunicorn_prom.app_metrics import VARIABLE
from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.client_files import report_to
from gunicorn_prom.errors import users_traceback
from gunicorn_prom.instrument.config import keep_settings_at_hand
from gunicorn_prom.instrument.insides import Insides, end, look_inside
from gunicorn_prom.instrument.memory import MemoryWatch
from gunicorn_prom.instrument.record import Recorder, method_label
from gunicorn_prom.instrument.routes import watch_routes
from gunicorn_prom.instrument.runtime import watch_garbage_collector
from gunicorn_prom.instrument.stacks import StackWriter
from gunicorn_prom.instrument.wsgi import WSGISeam
from gunicorn_prom.keys import OTHER
from gunicorn_prom.scoreboard import Gauge, Leaving, State
from gunicorn_prom.slot import Failures, Slot, tolerant

if TYPE_CHECKING:
    from gunicorn_prom.instrument.asgi import ASGISeam
    from gunicorn_prom.instrument.pywsgi import PyWSGISeam
    from gunicorn_prom.instrument.tornado import TornadoSeam

__all__ = ["Instruments", "instrument", "instruments_of"]

NAME = "_gunicorn_prom_instruments"

Call = Callable[..., Any]

# How many connections a worker has that does not count them.
UNKNOWN = -1
# How often a worker shows how many it has, at the most.
SHOW_PERIOD_S = 0.5

# What a worker is to hear that came before it could: whatever ends it or has it open its logs
# anew. The rest is the master's.
TOLD_EARLY = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGUSR1)

# Why a worker goes of itself.
LEAVING = {"max_requests": Leaving.MAX_REQUESTS, "memory": Leaving.MEMORY}


class Instruments:
    """What counts in one worker, in that worker; nothing of it raises an `Exception`.

    A worker without a place on a scoreboard has none of it, serves as it always did, and says
    so once.

    Attributes:
        load_failure: what the application has raised when it was loaded.
        seam: counts by Gunicorn's hooks, None where another one counts, or none.
    """

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._assignment = assignment_of(worker)
        self._slot: Slot | None = None
        self._recorder: Recorder | None = None
        self._failures: Failures | None = None
        self.load_failure: Exception | None = None
        self.seam: WSGISeam | None = None
        self._asgi_seam: ASGISeam | None = None
        self._server_seam: PyWSGISeam | TornadoSeam | None = None
        self._stack_writer: StackWriter | None = None
        self._insides = Insides(partial(end, worker))
        self._app_directory: str | None = None
        self._is_departing = False
        self._counted_by_worker = 0

    def report(self, place: str, failure: BaseException) -> None:
        """Log and count what has failed in one of ERROR_PLACES."""
        failures = self._failures or self._begin_to_report()
        if failures is not None:  # without a place there is nothing that could fail
            failures.report(place, failure)

    def _begin_to_report(self) -> Failures | None:
        board, log = self._assignment.board, getattr(self._worker, "log", None)
        if board is not None:
            self._failures = Failures(board, self._assignment.slot, log)
        return self._failures

    # The start of a worker, in the order in which Gunicorn comes to it.

    @tolerant("slots")
    def stand_before(self, wrappers: Mapping[str, Callable[["Instruments", Call], Call]]) -> None:
        """Put what a wrapper makes of it in the place of each method that the worker has."""
        for name, wrap in wrappers.items():
            method = getattr(self._worker, name, None)
            if callable(method):
                vars(self._worker)[name] = wrap(self, method)

    @tolerant("slots")
    def attach(self) -> None:
        """Take the worker's place on the scoreboard."""
        worker, board = self._worker, self._assignment.board
        if board is None:
            return
        self._app_directory = os.environ.get(VARIABLE)
        slot = Slot(board, self._assignment.slot, worker.log, self._begin_to_report())
        slot.set_gauge(Gauge.START_TIME, self._assignment.start_time)
        slot.set_gauge(Gauge.CAPACITY, self._capacity() or 0)
        slot.set_gauge(Gauge.CONNECTIONS, UNKNOWN)
        slot.set_gauge(Gauge.WAITING, UNKNOWN)
        board.set_gauge(self._assignment.slot, Gauge.PID, os.getpid())  # last: now it is shown
        self._slot = slot
        report_to(partial(self.report, "app_metrics"))
        self._recorder = Recorder(slot, shows_targets=worker.cfg.timeout_autopsy)
        if workers.seam_of(type(worker)) == "hooks":
            self.seam = WSGISeam(slot, self._recorder)
        self._watch_garbage_collector(slot)
        self._prepare_stacks(slot, self._recorder)

    @tolerant("slots")
    def _capacity(self) -> int:
        """Return how many requests can be in progress, 0 where nothing limits them."""
        worker = self._worker
        is_asgi = workers.seam_of(type(worker)) == "asgi"
        if is_asgi and hasattr(worker, "config"):
            return int(worker.config.limit_concurrency or 0)  # uvicorn's
        has_connections = is_asgi or workers.uses_greenlets(type(worker))
        return int(worker.cfg.worker_connections if has_connections else worker.cfg.threads)

    @tolerant("processes")
    def _watch_garbage_collector(self, slot: Slot) -> None:
        watch_garbage_collector(slot)

    @tolerant("autopsy")
    def _prepare_stacks(self, slot: Slot, recorder: Recorder) -> None:
        if self._assignment.stack_file is not None:
            self._stack_writer = StackWriter(self._assignment.stack_file, slot, recorder)

    @tolerant("autopsy")
    def watch_abort(self) -> None:
        """Note more of a timeout than the kernel can tell, once Gunicorn's handlers are there."""
        if self._stack_writer is not None:
            self._stack_writer.watch_abort()

    @tolerant("slots")
    def take_early_signals(self) -> list[int]:
        """Return the signals that have come before Gunicorn had its handlers, for these to hear.

        None on asyncio: there they are raised when its loop runs, for of what comes before that
        uvloop hears nothing, and neither do Gunicorn's handlers.
        """
        # A class of the user's own may call anything its loop.
        call_soon = getattr(getattr(self._worker, "loop", None), "call_soon", None)
        told = self._assignment.told_early
        if call_soon is None:
            return [number for number in told if number in TOLD_EARLY]
        handlers = {number: signal.getsignal(number) for number in TOLD_EARLY}

        def note(number: int, frame: FrameType | None) -> None:
            told.append(number)

        def hear() -> None:
            for known, handler in handlers.items():
                # Unless a hook of the user has set another one.
                if signal.getsignal(known) is note:
                    signal.signal(known, handler)
            for number in told:
                if number in TOLD_EARLY:
                    signal.raise_signal(number)

        for number in TOLD_EARLY:
            signal.signal(number, note)
        call_soon(hear)
        return []

    @tolerant("routes")
    def watch_frameworks(self) -> None:
        """Have the frameworks note routes, now that the application has imported them."""
        recorder = self._recorder
        if recorder is not None and self._worker.cfg.route_labels:
            report = partial(self.report, "routes")
            recorder.find_route = watch_routes(report, recorder.note_framework)

    @tolerant("slots")
    def tell_load_failure(self, error: Exception) -> None:
        """Log why the application does not load: the user's part of the traceback."""
        self._worker.log.error("The application does not load.\n%s", users_traceback(error))

    @tolerant("slots")
    def begin_serving(self) -> None:
        """Put into place what serves requests, and note that the worker has booted."""
        slot, recorder = self._slot, self._recorder
        if slot is not None and recorder is not None:
            self._install_seam(slot, recorder)
            self._install_hooks()
            self._look_at_variable()
            self._keep_settings_at_hand()
            self._look_inside(slot, recorder)
            self._watch_memory(slot, recorder)
        self._await_boot()

    @tolerant("request")
    def _install_seam(self, slot: Slot, recorder: Recorder) -> None:
        """Wrap what answers where Gunicorn's hooks do not come; no hook looks at it any more."""
        # Imported where they are wanted: each costs memory in every process.
        match workers.seam_of(type(self._worker)):
            case "asgi":
                from gunicorn_prom.instrument.asgi import ASGISeam

                self._asgi_seam = ASGISeam(slot, recorder)
                self._asgi_seam.install(self._worker, self.note_departure)
            case "wsgi":
                from gunicorn_prom.instrument.pywsgi import PyWSGISeam

                self._server_seam = PyWSGISeam(slot, recorder)
                self._server_seam.install(self._worker)
            case "tornado":
                from gunicorn_prom.instrument.tornado import TornadoSeam

                self._server_seam = TornadoSeam(slot, recorder)
                self._server_seam.install(self._worker)

    @tolerant("request")
    def _install_hooks(self) -> None:
        seam, self.seam = self.seam, None
        if seam is not None:
            seam.install(self._worker)
            self.seam = seam

    @tolerant("app_metrics")
    def _look_at_variable(self) -> None:
        if os.environ.get(VARIABLE) != self._app_directory:
            self._worker.log.warning(
                "gunicorn-prom: the application has set %s itself, so its own metrics are not "
                "served; set it in the environment or with --env",
                VARIABLE,
            )

    @tolerant("request")
    def _keep_settings_at_hand(self) -> None:
        keep_settings_at_hand(self._worker.cfg)

    @tolerant("processes")
    def _look_inside(self, slot: Slot, recorder: Recorder) -> None:
        """Find out how to count the connections, and how to go with a limit of memory."""
        websockets = slot.gauges + Gauge.WEBSOCKETS
        self._insides = look_inside(
            self._worker, self.show_connections, lambda: int(slot.cells[websockets])
        )

    @tolerant("memory")
    def _watch_memory(self, slot: Slot, recorder: Recorder) -> None:
        limit_bytes = self._worker.cfg.max_worker_memory
        if limit_bytes is not None:
            recorder.watch_memory = MemoryWatch(
                slot, limit_bytes, recorder.request_count, self._leave
            )

    def _leave(self) -> None:
        self.note_departure("memory")
        for seam in (self._asgi_seam, self._server_seam):
            if seam is not None:
                seam.have_clients_close()
        self._insides.leave()

    @tolerant("slots")
    def _await_boot(self) -> None:
        if self._asgi_seam is None:
            self._note_booted()
            return
        # On asyncio nobody is served, and the application may yet fail, until its
        # lifespan has begun; right behind that comes the first sign of life.
        attributes = vars(self._worker)

        def notify_first() -> None:
            attributes.pop("notify", None)
            self._note_booted()
            self._worker.notify()

        attributes["notify"] = notify_first

    @tolerant("slots")
    def _note_booted(self) -> None:
        board, number = self._assignment.board, self._assignment.slot
        if board is not None:
            # Also of one that cannot count: who asks whether the server is ready counts on it.
            board.set_gauge(number, Gauge.PID, os.getpid())
            board.set_gauge(number, Gauge.BOOTED_TIME, time.time())
        self.note_state(State.RUNNING)
        if self._slot is not None:
            self._slot.observe_boot(time.monotonic() - self._assignment.made)
            if self._insides.connections is not None:
                vars(self._worker)["notify"] = self._make_notify(self._worker.notify)

    def _make_notify(self, notify: Callable[[], None]) -> Callable[[], None]:
        show, monotonic = self.show_connections, time.monotonic
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

    # While it serves, and at its end.

    @tolerant("processes")
    def show_connections(self) -> None:
        """Write down how many connections the worker has, and how many of them wait."""
        if self._slot is None or self._insides.connections is None:
            return
        self._slot.set_gauge(Gauge.CONNECTIONS, self._insides.connections())
        count_waiting = self.seam.count_waiting if self.seam is not None else None
        if count_waiting is not None:
            self._slot.set_gauge(Gauge.WAITING, count_waiting())

    @tolerant("slots")
    def note_state(self, state: int) -> None:
        """Write down the state of the worker, one of `State`."""
        if self._assignment.board is not None:
            self._assignment.board.set_gauge(self._assignment.slot, Gauge.STATE, state)

    @tolerant("slots")
    def note_departure(self, reason: str) -> None:
        """Say on the scoreboard why the worker goes; what is said first is counted."""
        if self._slot is None:
            return
        if not self._is_departing:
            self._is_departing = True
            self._slot.count_restart(reason)
            self._slot.set_gauge(Gauge.LEAVING, LEAVING.get(reason, Leaving.NOT))
        if reason not in LEAVING:
            self.note_state(State.ABORTING if reason == "abort" else State.QUITTING)

    @tolerant("slots")
    def note_abort(self) -> None:
        """Say that the worker timed out; what it is working on has no other reason now."""
        self.note_departure("abort")
        for seam in (self.seam, self._asgi_seam, self._server_seam):
            if seam is not None:
                seam.aborting = True

    @tolerant("slots")
    def note_return(self) -> None:
        """Say why the worker goes whose `run` has returned by itself."""
        if self._asgi_seam is not None and self._asgi_seam.ends_by_limit_only:
            self.note_departure("max_requests")

    @tolerant("slots")
    def note_end(self) -> None:
        """Say why the worker goes whose `run` is over, whatever ended it."""
        if self._worker.nr >= self._worker.max_requests:
            self.note_departure("max_requests")

    # For worker classes that bring their own request handling.

    @property
    def request_count(self) -> int:
        """Requests that the worker has answered so far."""
        if self._recorder is None or not workers.seam_of(type(self._worker)):
            return self._counted_by_worker
        return self._recorder.request_count()

    @tolerant("request")
    def count_request(
        self,
        start_time: float | None,
        error: BaseException | None = None,
        request: Any = None,
    ) -> None:
        """Count a request of which nothing is known but its time, unless it is counted already.

        Args:
            start_time: Unix seconds at which it began, None: it took no time.
            error: in which it has ended.
            request: what has a `method`, if anything.
        """
        self._counted_by_worker += 1
        if self._slot is None or self.seam is not None:
            return
        elapsed = max(0.0, time.time() - start_time) if start_time else 0.0
        self._slot.observe_request((OTHER, OTHER), elapsed)
        if error is not None:
            method = method_label(getattr(request, "method", None))
            self._slot.count_failed_request(method, error)


def instruments_of(worker: Any) -> Instruments:
    """Return what is ours in `worker`, of whichever class; nothing of it is in place at first."""
    attributes = vars(worker)
    try:
        found: Instruments = attributes[NAME]
    except KeyError:
        found = attributes[NAME] = Instruments(worker)
    return found


def instrument(worker: Any) -> None:
    """Have `worker` count, in that worker, before it begins with anything.

    Its class stays what it is: the user's may be one that nothing can be derived from, or that asks
    which one it is. So ours stands before Gunicorn's own methods as attributes of the worker, which
    hide them, and calls them as it was called.
    """
    if assignment_of(worker).board is not None:
        instruments_of(worker).stand_before(_WRAPPERS)


def _around_init_process(instruments: Instruments, method: Call) -> Call:
    def init_process(*args: Any, **kwargs: Any) -> Any:
        instruments.attach()
        try:
            return method(*args, **kwargs)
        except Exception as error:
            # Nothing of the user's has caught it meanwhile.
            if error is instruments.load_failure:
                instruments.tell_load_failure(error)
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
            raise

    return init_process


def _around_load_wsgi(instruments: Instruments, method: Call) -> Call:
    def load_wsgi(*args: Any, **kwargs: Any) -> Any:
        try:
            result = method(*args, **kwargs)
        except AppImportError:
            raise
        except Exception as error:
            instruments.load_failure = error
            raise
        instruments.watch_frameworks()
        return result

    return load_wsgi


def _around_init_signals(instruments: Instruments, method: Call) -> Call:
    def init_signals(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        instruments.watch_abort()
        for number in instruments.take_early_signals() or ():
            signal.raise_signal(number)
        return result

    return init_signals


def _around_run(instruments: Instruments, method: Call) -> Call:
    def run(*args: Any, **kwargs: Any) -> Any:
        instruments.begin_serving()
        try:
            result = method(*args, **kwargs)
            instruments.note_return()
            return result
        finally:
            instruments.note_end()

    return run


def _around_exit(instruments: Instruments, method: Call) -> Call:
    def handle_exit(*args: Any, **kwargs: Any) -> Any:
        # uvicorn's worker has SIGQUIT end here too, and serves on.
        if signal.SIGQUIT not in args[:1]:
            instruments.note_departure("term")
        return method(*args, **kwargs)

    return handle_exit


def _around_quit(instruments: Instruments, method: Call) -> Call:
    def handle_quit(*args: Any, **kwargs: Any) -> Any:
        instruments.note_departure("quit")
        return method(*args, **kwargs)

    return handle_quit


def _around_abort(instruments: Instruments, method: Call) -> Call:
    def handle_abort(*args: Any, **kwargs: Any) -> Any:
        instruments.note_abort()
        return method(*args, **kwargs)

    return handle_abort


# By the method of Gunicorn's before which it stands. Those of signals are Gunicorn's worker on
# asyncio's, which has handlers of its own, and only that one.
_WRAPPERS: dict[str, Callable[[Instruments, Call], Call]] = {
    "init_process": _around_init_process,
    "load_wsgi": _around_load_wsgi,
    "init_signals": _around_init_signals,
    "run": _around_run,
    "handle_exit": _around_exit,
    "handle_quit": _around_quit,
    "handle_abort": _around_abort,
    "handle_exit_signal": _around_exit,
    "handle_quit_signal": _around_quit,
    "handle_abort_signal": _around_abort,
}

"""What a worker was doing when it timed out, told by the worker.

The stacks of its threads are written by `faulthandler`: its handler of a signal is C and
takes no lock, so it works while C code has the interpreter to itself. What only the
interpreter can see, other greenlets and tasks and which stack serves which request, follows
when Gunicorn's SIGABRT reaches Python.
"""

import faulthandler
import fcntl
import gc
import itertools
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, NamedTuple

from gunicorn_prom.descriptors import Descriptor
from gunicorn_prom.instrument.record import Recorder
from gunicorn_prom.instrument.routes import noted
from gunicorn_prom.keys import OTHER, TIMEOUTS
from gunicorn_prom.scoreboard import ERROR_PLACES, TARGET_BYTES, Gauge
from gunicorn_prom.slot import Slot

__all__ = ["STACKS_SIGNAL", "StackWriter", "printable"]

# One below the highest, which valgrind takes. C libraries take the lowest.
STACKS_SIGNAL = signal.SIGRTMAX - 1

MAX_FRAMES = 40
MAX_DEPTH = 2000
MAX_STACKS = 5000
MAX_GROUPS = 50
MAX_TARGETS = 3
MAX_BYTES = 64 << 10

Frames = list[FrameType]


class StackWriter:
    """Write the stacks of one worker to a file when it times out, in that worker.

    Nothing here is called before that.

    Args:
        path: of the file, which exists from then on when the worker answers the signal.

    Raises:
        OSError: the file cannot be made.
        RuntimeError: the application has a handler for the signal.
    """

    def __init__(self, path: Path, slot: Slot, recorder: Recorder) -> None:
        if signal.getsignal(STACKS_SIGNAL) is not signal.SIG_DFL:
            raise RuntimeError(f"signal {STACKS_SIGNAL} is in use")
        self._slot, self._recorder = slot, recorder
        # Now, for the worker may drop its privileges next.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._file = Descriptor(os.open(path, flags, 0o600), path)
        # faulthandler has but the number. The lock goes with the file: that is how the master
        # sees whether the application has closed it, and what has got its number since.
        fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        faulthandler.register(STACKS_SIGNAL, file=self._file.fileno(), all_threads=True)
        os.register_at_fork(after_in_child=self._close_in_child)

    def _close_in_child(self) -> None:
        # Or it would hold the lock when the worker does not any more.
        faulthandler.unregister(STACKS_SIGNAL)
        self._file.close()

    def watch_abort(self) -> None:
        """Add what faulthandler cannot see when SIGABRT comes, before whoever handles it.

        Called when the worker has set up its own handler. An asyncio loop is told of the
        signal otherwise than by the handler, uvicorn leaves it to the kernel: both do as before.
        """
        handler = signal.getsignal(signal.SIGABRT)
        if not callable(handler) and handler is not signal.SIG_DFL:
            return

        def handle_abort(number: int, frame: FrameType | None) -> None:
            self._write(frame)
            if callable(handler):
                handler(number, frame)
            else:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        signal.signal(signal.SIGABRT, handle_abort)

    def _write(self, frame: FrameType | None) -> None:
        """Write the stacks, then the route of the request that was running, or is the oldest."""
        try:
            requests: list[_Request] = []
            text = "\n".join(["", *_blocks(requests)])
            os.write(self._file.fileno(), text.encode(errors="replace")[:MAX_BYTES])
            running = _find_request(list(_callers(frame)))
            if running is not None:
                self._note_route(running)
            elif requests:
                self._note_route(min(requests, key=lambda request: request.began))
        except Exception as failure:
            # Not by a log: whoever was interrupted may have its lock.
            place = self._slot.layout.errors + ERROR_PLACES.index("autopsy")
            self._slot.cells[self._slot.counters + place] += 1.0
            with suppress(OSError):
                text = f"\nThe rest failed: {type(failure).__name__}\n"
                os.write(self._file.fileno(), text.encode())

    def _note_route(self, request: "_Request") -> None:
        slot = self._slot
        route = self._recorder.endpoint(request.environ)
        if route != OTHER:
            row = slot.locate(TIMEOUTS, (route,)) - slot.counters - slot.layout.tables["timeouts"]
            slot.set_gauge(Gauge.TIMEOUT_ROUTE, row)


class _Request(NamedTuple):
    """A request that a stack was found to serve.

    Attributes:
        target: method and path.
        began: CLOCK_MONOTONIC seconds, infinity where it is not known.
        environ: as Recorder.endpoint takes it.
    """

    target: str
    began: float
    environ: Mapping[str, Any]


def printable(text: str) -> str:
    """Return `text` with a question mark for whatever could start a line or move a cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _blocks(requests: list[_Request]) -> Iterator[str]:
    """Return what faulthandler does not tell; put the requests that are met into `requests`."""
    threads = sys._current_frames()
    serving = [
        (ident, request)
        for ident, frame in threads.items()
        if (request := _find_request(list(_callers(frame)))) is not None
    ]
    requests += [request for _, request in serving]
    if serving and len(threads) > 1:
        yield "Requests by thread:"
        yield from (f"  0x{ident:016x}: {request.target}" for ident, request in serving)
        yield ""
    yield from _groups("greenlet", _greenlets(), requests)
    yield from _groups("task", _tasks(), requests)


def _groups(kind: str, stacks: Iterable[Frames], requests: list[_Request]) -> Iterator[str]:
    """Return the stacks, of those that are the same one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for frames in itertools.islice(stacks, MAX_STACKS):
        targets = alike.setdefault(tuple(map(_line, frames[:MAX_FRAMES])), [])
        request = _find_request(frames)
        targets.append(request.target if request is not None else "")
        if request is not None:
            requests.append(request)
    for lines, targets in itertools.islice(alike.items(), MAX_GROUPS):
        known = [target for target in dict.fromkeys(targets) if target]
        served = f" in {', '.join(known[:MAX_TARGETS])}" if known else ""
        others = " and others" if len(known) > MAX_TARGETS else ""
        count = f"{len(targets)} {kind}s" if len(targets) > 1 else kind.capitalize()
        yield f"{count}{served}{others} (most recent call first):"
        yield from lines
        yield ""
    if len(alike) > MAX_GROUPS:
        yield f"{len(alike) - MAX_GROUPS} more stacks of {kind}s"


def _line(frame: FrameType) -> str:
    code = frame.f_code
    place = f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}'
    return printable(place)


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Return a frame and those that it was called from, the innermost first."""
    for _ in range(MAX_DEPTH):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _greenlets() -> Iterator[Frames]:
    """Return the stacks of the greenlets that are waiting."""
    greenlet = getattr(sys.modules.get("greenlet"), "greenlet", None)
    if greenlet is None:
        return
    for candidate in gc.get_objects():
        # By its type: isinstance() would ask a proxy, which would run its code.
        if issubclass(type(candidate), greenlet) and candidate.gr_frame is not None:
            yield list(_callers(candidate.gr_frame))


def _tasks() -> Iterator[Frames]:
    """Return the stacks of the tasks that are waiting in the loop that runs in this thread."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    current = asyncio.current_task(loop)
    for task in asyncio.all_tasks(loop):
        if task is not current:
            yield list(_awaited(task.get_coro()))[::-1]


def _awaited(awaitable: Any) -> Iterator[FrameType]:
    """Return the frames of a coroutine and of what it awaits, the outermost first."""
    for _ in range(MAX_DEPTH):
        if isinstance(awaitable, CoroutineType):
            frame, awaitable = awaitable.cr_frame, awaitable.cr_await
        elif isinstance(awaitable, GeneratorType):
            frame, awaitable = awaitable.gi_frame, awaitable.gi_yieldfrom
        elif isinstance(awaitable, AsyncGeneratorType):
            frame, awaitable = awaitable.ag_frame, awaitable.ag_await
        else:
            return
        if frame is not None:
            yield frame


def _find_request(frames: Frames) -> _Request | None:
    """Return the request that a stack serves.

    It is in the outermost frame that has one: an application may make others of its own.
    """
    for frame in reversed(frames):
        code = frame.f_code
        names = (*code.co_varnames, *code.co_cellvars, *code.co_freevars)
        for name, read in _PLACES:
            if name in names:
                found = frame.f_locals.get(name)
                # A plain one: anything else might run code of its own.
                if type(found) is dict and (request := read(found)) is not None:
                    return request._replace(began=_beginning(frame))
    return None


def _from_environ(environ: dict[str, Any]) -> _Request | None:
    if "REQUEST_METHOD" not in environ or "wsgi.version" not in environ:
        return None
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    return _Request(_target(environ["REQUEST_METHOD"], path), math.inf, noted(environ))


def _from_scope(scope: dict[str, Any]) -> _Request | None:
    if scope.get("type") not in ("http", "websocket"):
        return None
    target = _target(scope.get("method", "WEBSOCKET"), scope.get("path", ""))
    return _Request(target, math.inf, noted(scope))


_PLACES: tuple[tuple[str, Callable[[dict[str, Any]], _Request | None]], ...] = (
    ("environ", _from_environ),
    ("scope", _from_scope),
)


def _target(method: Any, path: Any) -> str:
    return printable(f"{method} {path}")[:TARGET_BYTES]


def _beginning(frame: FrameType) -> float:
    """Return when the request began of which Gunicorn's own frame is that, if it is."""
    request = frame.f_locals.get("req")
    if type(request).__module__.startswith("gunicorn."):
        progress = getattr(request, "_gunicorn_prom", None)
        if progress is not None:
            return float(progress[0])
    return math.inf

"""The request seam of Gunicorn's own WSGI workers: sync, gthread, gevent, eventlet.

Gunicorn calls `pre_request` and `post_request` in a try/finally around every
request of these workers. That is the cheapest place to count, and the response
tells there what the client saw. Three things do not end in `post_request`:

- No header was sent and an exception is on its way. Then either `handle_error`
  answers, and its answer is what the client saw, or nobody does, and the client
  got nothing. Which one it is, is known when `handle` returns.
- What never became a request (a bad request line) only reaches `handle_error`.
- HTTP/2 answers for itself, without `handle_error`.
"""

import errno
import re
import ssl
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from gunicorn import config
from gunicorn.glogging import Logger
from gunicorn.http.errors import NoMoreData

from gunicorn_prom.keys import (
    ERROR_HANDLING,
    HTTP,
    OTHER,
    PARSE_ERRORS,
)
from gunicorn_prom.scoreboard import ABORT_REASONS, LANES, SIZE_BOUNDS, Gauge
from gunicorn_prom.slot import Slot

__all__ = ["KNOWN_METHODS", "Answer", "WSGISeam", "fits", "method_label"]

KNOWN_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
)
# By name, for importing one of them for nothing costs memory in every process.
WSGI_WORKER_MODULES = (
    "gunicorn.workers.sync",
    "gunicorn.workers.gthread",
    "gunicorn.workers.base_async",
)
STATUSES = range(100, 1000)
STATUSES_WITHOUT_BODY = (204, 304)
STATUS_LINE = re.compile(rb"HTTP/\d\.\d (\d{3}) ")
DISCONNECT_ERRNOS = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT)
DEBUG = 10
NO_LANE = 0


def fits(worker_class: type) -> bool:
    """Tell whether the requests of `worker_class` pass through the two hooks."""
    if not any(base.__module__ in WSGI_WORKER_MODULES for base in worker_class.__mro__):
        return False
    # gevent_pywsgi brings its own server, which never comes to handle_request.
    return getattr(worker_class, "server_class", None) is None


def method_label(method: Any) -> str:
    """Return the method where it is one that HTTP knows, else OTHER."""
    return method if method in KNOWN_METHODS else OTHER


class WSGISeam:
    """Count the requests of one worker, in that worker.

    Each request is counted once: by `post_request`, by `error_answered` or by
    `connection_ended`. Nothing here raises into the request path.

    Attributes:
        aborting: the worker was told that it timed out.
        unanswered: by thread or greenlet the request that has no answer so far.
    """

    def __init__(self, slot: Slot) -> None:
        self.aborting = False
        self._slot = slot
        begin, end = _make_stopwatch(slot)
        self._begin = slot.exclusive(begin)
        self._end = slot.exclusive(end)
        self._record = slot.exclusive(_make_recorder(slot, end))
        self.unanswered: dict[int, _Unanswered] = {}

    def install(self, worker: Any) -> None:
        """Put the hooks into the configuration of `worker`, around the user's own."""
        cfg = worker.cfg
        hooks = {
            "pre_request": self._make_pre_request(worker.log, cfg.pre_request),
            "post_request": self._make_post_request(cfg.post_request),
        }
        for name, hook in hooks.items():
            # Not by cfg.set(), which looks at the signature with `inspect` and so
            # writes to some 200 KiB that every worker shares with the master.
            cfg.settings[name].value = hook
        # As attributes of the object they are found at once. Config.__getattr__, by
        # which Gunicorn finds them twice a request, costs more than all of our counting.
        vars(cfg).update(hooks)

    def request_count(self) -> int:
        """Return how many requests were answered so far."""
        layout = self._slot.layout
        first = self._slot.counters + layout.response_size
        return int(sum(self._slot.cells[first : first + len(SIZE_BOUNDS) + 1]))

    def _make_pre_request(self, log: Any, users: Callable[..., Any]) -> Callable[..., None]:
        begin = self._begin
        # Gunicorn's own hook only logs at debug level. Asking first whether anyone
        # reads it saves about as much as half of the counting costs.
        is_gunicorns = users is config.PreRequest.default and type(log).debug is Logger.debug
        is_wanted = log.error_log.isEnabledFor if is_gunicorns else lambda level: True

        def pre_request(worker: Any, req: Any) -> None:
            begin(req)
            if is_wanted(DEBUG):
                users(worker, req)

        return pre_request

    def _make_post_request(self, users: Callable[..., Any]) -> Callable[..., None]:
        record, settle_rarely = self._record, self._settle_rarely
        current_exception = sys.exception
        is_gunicorns = users is config.PostRequest.default

        def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
            try:
                if current_exception() is None and resp.headers_sent and resp.status:
                    record(req, environ, resp.status_code, resp)
                else:
                    settle_rarely(req, environ, resp)
            except Exception as failure:
                self._slot.report("request", failure)
            if not is_gunicorns:
                users(worker, req, environ, resp)

        return post_request

    def _settle_rarely(self, req: Any, environ: Any, resp: Any) -> None:
        error = sys.exception()
        if resp is not None and resp.headers_sent:
            # Without start_response there is no status, not even the attribute.
            self._record(req, environ, getattr(resp, "status_code", None), resp)
            if error is not None and not _is_clean_close(error):
                self._count_cut_off(req, _cause(error))
        elif error is None:
            # The application has taken over the socket; Gunicorn sent nothing.
            self._end(req)
        elif hasattr(req, "stream"):
            self._settle_http2(req, environ, error)
        else:
            self._settle_later(_Unanswered(req, environ, error))

    def _settle_http2(self, req: Any, environ: Any, error: BaseException) -> None:
        # Gunicorn answers 500 to whatever is not the fault of the stream itself.
        self._count_exception(req, error)
        if type(error).__module__ == "gunicorn.http2.errors" or not isinstance(error, Exception):
            self._end(req)
            self._count_aborted("client_disconnect")
        else:
            self._record(req, environ, 500, _NO_RESPONSE)

    def _settle_later(self, unanswered: "_Unanswered") -> None:
        self.connection_ended()
        self.unanswered[threading.get_ident()] = unanswered
        self._count_exception(unanswered.req, unanswered.error)

    def connection_ended(self) -> None:
        """Count the request of this thread that nobody has answered, if there is one."""
        unanswered = self.unanswered.pop(threading.get_ident(), None)
        if unanswered is None:
            return
        try:
            self._end(unanswered.req)
            self._count_aborted(self._abort_reason(unanswered.error, "no_response"))
        except Exception as failure:
            self._slot.report("request", failure)

    def error_answered(self, req: Any, error: BaseException, answer: "Answer") -> None:
        """Count what Gunicorn's `handle_error` has just answered.

        Args:
            req: None when no request could be read.
            answer: what went to the client.
        """
        try:
            method = method_label(getattr(req, "method", None))
            self._slot.count(ERROR_HANDLING, (method, OTHER, type(error).__name__))
            unanswered = self.unanswered.get(threading.get_ident())
            if not hasattr(req, "gunicorn_prom"):
                self._slot.count(PARSE_ERRORS, (type(error).__name__,))
            elif unanswered is not None and unanswered.req is req and answer.status is not None:
                del self.unanswered[threading.get_ident()]
                self._record(req, unanswered.environ, answer.status, answer)
                if self.aborting:
                    self._count_aborted("timeout")
            # Else the response had begun, and is counted, before Gunicorn's came into it.
        except Exception as failure:
            self._slot.report("request", failure)

    def _count_cut_off(self, req: Any, error: BaseException) -> None:
        self._count_exception(req, error)
        if self.aborting or not _is_from_closing(error):
            self._count_aborted(self._abort_reason(error, "error"))

    def _abort_reason(self, error: BaseException, otherwise: str) -> str:
        if self.aborting:
            return "timeout"
        return "client_disconnect" if _is_disconnect(error) else otherwise

    def _count_aborted(self, reason: str) -> None:
        index = self._slot.counters + self._slot.layout.aborted + ABORT_REASONS.index(reason)
        self._slot.cells[index] += 1.0

    def _count_exception(self, req: Any, error: BaseException) -> None:
        if isinstance(error, Exception) and not _is_disconnect(error):
            self._slot.count_failed_request(method_label(req.method), error)


class _Unanswered(NamedTuple):
    req: Any
    environ: Any
    error: BaseException


class _NoResponse(NamedTuple):
    sent: int = 0
    response_length: int | None = None


_NO_RESPONSE = _NoResponse()


class Answer:
    """Stand in for the client's socket and note what goes out of it.

    Attributes:
        status: of the answer, None when none was sent.
        sent: the bytes of its body.
    """

    # What a response has, so that one function counts both.
    response_length = None

    def __init__(self, client: Any) -> None:
        self._client = client
        self.status: int | None = None
        self.sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def sendall(self, data: bytes) -> None:
        """Send all of `data` and note it."""
        self._client.sendall(data)
        self._note(data)

    def send(self, data: bytes) -> int:
        """Send some of `data` and note what was sent."""
        sent: int = self._client.send(data)
        self._note(data[:sent])
        return sent

    def _note(self, data: bytes) -> None:
        match = STATUS_LINE.match(data)
        if match:
            self.status = int(match[1])
            _, _, data = data.partition(b"\r\n\r\n")
        self.sent += len(data)


def _make_stopwatch(slot: Slot) -> tuple[Callable[[Any], None], Callable[[Any], float]]:
    """Return what begins a request and what ends it, which returns its seconds.

    What stands between two calls here is not interrupted, see `Slot.exclusive`.
    """
    cells = slot.cells
    beyond_lanes = slot.gauges + Gauge.BEYOND_LANES
    busy = slot.counters + slot.layout.busy_seconds
    first_lane = slot.gauges + Gauge.FIRST_LANE
    free_lanes = list(range(first_lane + LANES - 1, first_lane - 1, -1))
    take_lane, give_lane = free_lanes.pop, free_lanes.append
    monotonic = time.monotonic
    # What was last stored; to add to it here is cheaper than to read the cell.
    active, busy_total = 0, 0.0

    def begin(req: Any) -> None:
        nonlocal active, busy_total
        now = monotonic()
        try:
            lane = take_lane()
        except IndexError:
            lane = NO_LANE
            cells[beyond_lanes] += 1.0
        else:
            cells[lane] = now
        req.gunicorn_prom = now, lane
        if not active:
            busy_total -= now
            cells[busy] = busy_total
        active += 1

    def end(req: Any) -> float:
        nonlocal active, busy_total
        now = monotonic()
        began, lane = req.gunicorn_prom
        if lane:
            cells[lane] = 0.0
            give_lane(lane)
        else:
            cells[beyond_lanes] -= 1.0
        active -= 1
        if not active:
            busy_total += now
            cells[busy] = busy_total
        elapsed: float = now - began
        return elapsed

    return begin, end


def _make_recorder(slot: Slot, end: Callable[[Any], float]) -> Callable[..., None]:
    """Return what ends a request that was answered and counts it.

    It takes the request, the environ, the status code and the response.
    """
    cells, layout = slot.cells, slot.layout
    buckets = layout.buckets
    duration_sum = len(buckets) + 1
    size_sum = len(SIZE_BOUNDS) + 1
    request_size = slot.counters + layout.request_size
    response_size = slot.counters + layout.response_size
    # By method, then by status: a look-up each is cheaper than to hash a pair.
    rows: dict[str, dict[int, int]] = {method: {} for method in KNOWN_METHODS}

    def find_row(method: Any, status: Any) -> int:
        is_status = isinstance(status, int) and status in STATUSES
        row = slot.locate(HTTP, (method_label(method), str(status) if is_status else OTHER))
        is_overflow = row == slot.counters + layout.tables[HTTP.name]
        if is_status and method in rows and not is_overflow:
            rows[method][status] = row
        return row

    def record(req: Any, environ: Any, status: Any, resp: Any) -> None:
        elapsed = end(req)
        method = req.method
        try:
            row = rows[method][status]
        except KeyError:
            row = find_row(method, status)
        bucket = row + bisect_left(buckets, elapsed)
        cells[bucket] += 1.0
        cells[row + duration_sum] += elapsed
        if "CONTENT_LENGTH" in environ:
            size = float(environ["CONTENT_LENGTH"] or 0)
            bucket = request_size + bisect_left(SIZE_BOUNDS, size)
            cells[bucket] += 1.0
            cells[request_size + size_sum] += size
        else:
            cells[request_size] += 1.0
        body = resp.sent
        if not body:
            body = _silent_body_bytes(method, status, resp)
        bucket = response_size + bisect_left(SIZE_BOUNDS, body)
        cells[bucket] += 1.0
        cells[response_size + size_sum] += body

    return record


def _silent_body_bytes(method: str, status: Any, resp: Any) -> int:
    """Return the size of a body that `resp.sent` does not tell.

    What went out by sendfile() is not in it.
    """
    if method == "HEAD" or status in STATUSES_WITHOUT_BODY:
        return 0
    return resp.response_length or 0


def _cause(error: BaseException) -> BaseException:
    """Return what made Gunicorn raise the StopIteration that closes a connection."""
    if isinstance(error, StopIteration) and error.__context__ is not None:
        return error.__context__
    return error


def _is_clean_close(error: BaseException) -> bool:
    """Tell whether this is how an async worker ends a good response that closes.

    `base_async.handle_request` raises StopIteration for that, and also after an
    exception in mid-response: then that one is its context.
    """
    traceback = error.__traceback__
    return (
        isinstance(error, StopIteration)
        and error.__context__ is None
        and (traceback is None or traceback.tb_next is None)
    )


def _is_from_closing(error: BaseException) -> bool:
    """Tell whether the response was whole and only the `close` of its iterable failed.

    Gunicorn calls that one itself, and also after an exception in mid-response:
    then that one is the context.
    """
    if error.__context__ is not None:
        return False
    caller = error.__traceback__
    while caller is not None and (called := caller.tb_next) is not None:
        if _module(caller).startswith("gunicorn.workers") and _function(called) == "close":
            return not _module(called).startswith("gunicorn.")
        caller = called
    return False


def _is_disconnect(error: BaseException) -> bool:
    """Tell whether the client went away: Gunicorn's own reading or writing failed.

    The same exception out of the application's code is a failure of something
    that the application talks to.
    """
    if isinstance(error, NoMoreData):
        return True
    if not isinstance(error, OSError):
        return False
    if error.errno not in DISCONNECT_ERRNOS and not isinstance(error, ssl.SSLError):
        return False
    traceback = error.__traceback__
    while traceback is not None:
        module = _module(traceback)
        if module.startswith("gunicorn.http"):
            return True
        if module == "gunicorn.util" and _function(traceback) != "reraise":
            return True
        traceback = traceback.tb_next
    return False


def _module(traceback: TracebackType) -> str:
    name: str = traceback.tb_frame.f_globals.get("__name__", "")
    return name


def _function(traceback: TracebackType) -> str:
    return traceback.tb_frame.f_code.co_name

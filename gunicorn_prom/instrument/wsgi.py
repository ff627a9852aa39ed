"""The request seam of Gunicorn's own WSGI workers: sync, gthread, gevent, eventlet.

Gunicorn calls `pre_request` and `post_request` in a try/finally around every
request of these workers. That is the cheapest place to count, and the response
tells there what the client saw. Three things do not end in `post_request`:

- No header was sent and an exception is on its way. Then either `handle_error`
  answers, and its answer is what the client saw, or nobody does, and the client
  got nothing. Which one it is, is known when `handle` returns.
- What never became a request (a bad request line) only reaches `handle_error`.
- HTTP/2 answers for itself, without `handle_error`, and until Gunicorn 26 without the
  response: what it answers is in the stream then.
"""

import errno
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple

from gunicorn import config, util
from gunicorn.glogging import Logger
from gunicorn.http.errors import NoMoreData

from gunicorn_prom.instrument.record import Recorder, method_label
from gunicorn_prom.keys import ERROR_HANDLING, OTHER, PARSE_ERRORS
from gunicorn_prom.slot import Slot

__all__ = ["Answer", "WSGISeam"]

STATUSES_WITHOUT_BODY = (204, 304)
STATUS_LINE = re.compile(rb"HTTP/\d\.\d (\d{3}) ")
DISCONNECT_ERRNOS = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT)
DEBUG = 10


class WSGISeam:
    """Count the requests of one worker, in that worker.

    Each request is counted once: by `post_request`, by `error_answered` or by
    `connection_ended`. What is put into the server's way does not raise.

    Attributes:
        aborting: the worker was told that it timed out.
        unanswered: by thread or greenlet the request that has no answer so far.
        count_waiting: counts the connections that wait for a thread; None where there is no pool.
    """

    def __init__(self, slot: Slot, recorder: Recorder) -> None:
        self.aborting = False
        self._slot = slot
        self._recorder = recorder
        self.unanswered: dict[int, _Unanswered] = {}
        # By thread or greenlet, what Gunicorn has just answered to an error.
        self._answers: dict[int, Answer] = {}
        self.count_waiting: Callable[[], int] | None = None

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
        # As attributes of the object. By a class and `super` they cost a third of all of our
        # counting.
        make_handle = self._make_handle
        if hasattr(worker, "enqueue_req"):
            vars(worker)["enqueue_req"] = self._make_enqueue(worker.enqueue_req)
            taken: set[int] = set()
            make_handle = partial(self._make_pool_handle, taken)
            # A pool of the user's own may be any.
            if hasattr(getattr(worker, "tpool", None), "_work_queue"):
                self.count_waiting = partial(_count_waiting, worker, taken)
        vars(worker)["handle"] = make_handle(worker.handle)
        vars(worker)["handle_error"] = self._make_handle_error(worker.handle_error)
        vars(util)["write_error"] = self._make_write_error(util.write_error)

    def _make_pre_request(self, log: Any, users: Callable[..., Any]) -> Callable[..., None]:
        begin, report = self._recorder.begin, self._slot.report
        # Gunicorn's own hook only logs at debug level. Asking first whether anyone
        # reads it saves about as much as half of the counting costs.
        logs_as_gunicorn = getattr(type(log), "debug", None) is Logger.debug
        is_gunicorns = users is config.PreRequest.default and logs_as_gunicorn
        is_wanted = log.error_log.isEnabledFor if is_gunicorns else lambda level: True

        def pre_request(worker: Any, req: Any) -> None:
            try:
                req._gunicorn_prom = begin(req.method, req.path)
            except Exception as failure:
                report("request", failure)
            if is_wanted(DEBUG):
                users(worker, req)

        return pre_request

    def _make_post_request(self, users: Callable[..., Any]) -> Callable[..., None]:
        record, settle_rarely = self._recorder.record, self._settle_rarely
        current_exception = sys.exception
        is_gunicorns = users is config.PostRequest.default

        def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
            try:
                if current_exception() is None and resp.headers_sent and resp.status:
                    method, status = req.method, resp.status_code
                    body = resp.sent or _silent_body_bytes(method, status, resp)
                    record(req._gunicorn_prom, method, status, environ, body)
                else:
                    settle_rarely(req, environ, resp)
            except Exception as failure:
                self._slot.report("request", failure)
            if not is_gunicorns:
                users(worker, req, environ, resp)

        return post_request

    def _make_handle(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        unanswered, end_connection = self.unanswered, self._end_connection

        def settling(*args: Any, **kwargs: Any) -> Any:
            try:
                return handle(*args, **kwargs)
            finally:
                if unanswered:
                    end_connection()

        return settling

    def _make_pool_handle(self, taken: set[int], handle: Callable[..., Any]) -> Callable[..., Any]:
        unanswered, end_connection = self.unanswered, self._end_connection
        waits, ident, monotonic = self._recorder.waits, threading.get_ident, time.monotonic

        def settling(conn: Any, *others: Any) -> Any:
            thread = ident()
            taken.add(thread)
            try:
                # Its first request takes it; what none has taken is overwritten.
                waits[thread] = monotonic() - conn._gunicorn_prom_queued
            except AttributeError:
                # A class of the user's own may give it to the pool in another way than Gunicorn.
                waits.pop(thread, None)
            try:
                return handle(conn) if not others else handle(conn, *others)
            finally:
                taken.discard(thread)
                if unanswered:
                    end_connection()

        return settling

    def _make_enqueue(self, enqueue: Callable[..., Any]) -> Callable[..., Any]:
        """Return gthread's `enqueue_req` as it also notes since when a connection waits."""
        monotonic, report = time.monotonic, self._slot.report

        def enqueue_req(conn: Any) -> Any:
            try:
                conn._gunicorn_prom_queued = monotonic()
            except Exception as failure:
                report("request", failure)
            return enqueue(conn)

        return enqueue_req

    def _make_handle_error(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        """Return `handle_error` as it also counts what it has answered."""
        answers, ident = self._answers, threading.get_ident

        def handle_error(*args: Any, **kwargs: Any) -> Any:
            result = handle(*args, **kwargs)
            try:
                given = (*args, *kwargs.values())
                error = next(each for each in given if isinstance(each, BaseException))
                self.error_answered(given[0], error, answers.pop(ident(), NO_ANSWER))
            except Exception as failure:
                self._slot.report("request", failure)
            return result

        return handle_error

    def _make_write_error(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """Return Gunicorn's function that answers an error as it also tells what it has sent.

        Not by a stand-in for the client where that comes from: the user's class may look at it.
        """
        answers, ident, report = self._answers, threading.get_ident, self._slot.report

        def write_error(client: Any, *args: Any, **kwargs: Any) -> Any:
            answer = Answer(client, report)
            try:
                return write(answer, *args, **kwargs)
            finally:
                if answer.status is not None:
                    answers[ident()] = answer

        return write_error

    def _settle_rarely(self, req: Any, environ: Any, resp: Any) -> None:
        error = sys.exception()
        if resp is not None and resp.headers_sent:
            # Without start_response there is no status, not even the attribute.
            self._record(req, environ, getattr(resp, "status_code", None), resp)
            if error is not None and not _is_clean_close(error):
                self._count_cut_off(req, environ, _cause(error))
        elif hasattr(req, "stream"):
            self._settle_http2(req, environ, resp, error)
        elif error is None:
            # The application has taken over the socket; Gunicorn sent nothing.
            self._recorder.end(req._gunicorn_prom)
        else:
            self._settle_later(_Unanswered(req, environ, error))

    def _settle_http2(self, req: Any, environ: Any, resp: Any, error: BaseException | None) -> None:
        stream = req.stream
        if error is not None:
            self._count_exception(req, environ, error)
        if stream.response_headers_sent:
            is_whole = error is None and _has_ended(stream)
            body = _collected_bytes() if is_whole else 0
            self._record(req, environ, resp.status_code, _Sent(body))
            if not is_whole:
                is_ours = error is not None and not _is_disconnect(error)
                self._slot.count_aborted("error" if is_ours else "client_disconnect")
        elif isinstance(error, Exception) and not _is_disconnect(error) and not _is_reset(stream):
            # Gunicorn answers with the text of the exception.
            self._record(req, environ, 500, _Sent(len(str(error).encode())))
        else:
            self._recorder.end(req._gunicorn_prom)
            is_ours = error is not None and not _is_disconnect(error) and not _is_reset(stream)
            otherwise = "no_response" if is_ours else "client_disconnect"
            self._slot.count_aborted("timeout" if self.aborting else otherwise)

    def _settle_later(self, unanswered: "_Unanswered") -> None:
        self.connection_ended()
        self.unanswered[threading.get_ident()] = unanswered
        self._count_exception(unanswered.req, unanswered.environ, unanswered.error)

    def _end_connection(self) -> None:
        try:
            self.connection_ended()
        except Exception as failure:
            self._slot.report("request", failure)

    def connection_ended(self) -> None:
        """Count the request of this thread that nobody has answered, if there is one."""
        unanswered = self.unanswered.pop(threading.get_ident(), None)
        if unanswered is not None:
            self._recorder.end(unanswered.req._gunicorn_prom)
            self._slot.count_aborted(self._abort_reason(unanswered.error, "no_response"))

    def error_answered(self, req: Any, error: BaseException, answer: "Answer") -> None:
        """Count what Gunicorn's `handle_error` has just answered.

        Args:
            req: None when no request could be read.
            answer: what went to the client.
        """
        method = method_label(getattr(req, "method", None))
        unanswered = self.unanswered.get(threading.get_ident())
        if unanswered is not None and unanswered.req is not req:
            unanswered = None
        endpoint = self._recorder.endpoint(unanswered.environ) if unanswered else OTHER
        self._slot.count(ERROR_HANDLING, (method, endpoint, type(error).__name__))
        if not hasattr(req, "_gunicorn_prom"):
            # From HTTP/2 even SystemExit and the like come here, without their request.
            if isinstance(error, Exception):
                self._slot.count(PARSE_ERRORS, (type(error).__name__,))
        elif unanswered is not None and answer.status is not None:
            del self.unanswered[threading.get_ident()]
            self._record(req, unanswered.environ, answer.status, answer)
            if self.aborting:
                self._slot.count_aborted("timeout")
        # Else the response had begun, and is counted, before Gunicorn's came into it.

    def _count_cut_off(self, req: Any, environ: Any, error: BaseException) -> None:
        self._count_exception(req, environ, error)
        if self.aborting or not _is_from_closing(error):
            self._slot.count_aborted(self._abort_reason(error, "error"))

    def _abort_reason(self, error: BaseException, otherwise: str) -> str:
        if self.aborting:
            return "timeout"
        return "client_disconnect" if _is_disconnect(error) else otherwise

    def _count_exception(self, req: Any, environ: Any, error: BaseException) -> None:
        if isinstance(error, Exception) and not _is_disconnect(error):
            endpoint = self._recorder.endpoint(environ)
            self._slot.count_failed_request(method_label(req.method), error, endpoint)

    def _record(self, req: Any, environ: Any, status: Any, resp: Any) -> None:
        body = resp.sent or _silent_body_bytes(req.method, status, resp)
        self._recorder.record(req._gunicorn_prom, req.method, status, environ, body)


def _count_waiting(worker: Any, taken: set[int]) -> int:
    """Return how many connections more than free threads the pool of gthread has.

    Args:
        taken: the threads that have a connection.
    """
    # Python's pool has no interface for what it has not begun. What has just been given to it
    # is there too, until one of its free threads wakes up.
    free: int = worker.cfg.threads - len(taken)
    given: int = worker.tpool._work_queue.qsize()
    return max(0, given - free)


class _Unanswered(NamedTuple):
    req: Any
    environ: Any
    error: BaseException


class _Sent(NamedTuple):
    sent: int
    response_length: int | None = None


class Answer:
    """Stand in for the client's socket and note what goes out of it.

    Args:
        report: counts what fails of that, see `Failures.report`.

    Attributes:
        status: of the answer, None when none was sent.
        sent: the bytes of its body.
    """

    # What a response has, so that one function counts both.
    response_length = None

    def __init__(self, client: Any, report: Callable[[str, BaseException], None]) -> None:
        self._client = client
        self._report = report
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
        try:
            match = STATUS_LINE.match(data)
            if match:
                self.status = int(match[1])
                _, _, data = bytes(data).partition(b"\r\n\r\n")
            self.sent += len(data)
        except Exception as failure:
            self._report("request", failure)


NO_ANSWER = Answer(None, lambda place, error: None)


def _collected_bytes() -> int:
    """Return the size of a body that Gunicorn has just sent over HTTP/2, in one piece.

    Until 26 it is to be found nowhere else but in a variable of the method that calls us.
    """
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_name != "handle_http2_request":
        frame = frame.f_back
    return len(frame.f_locals.get("response_body", b""))


def _has_ended(stream: Any) -> bool:
    """Tell whether all of an answer of Gunicorn 25 has gone out on its stream.

    When it has not, the connection has forgotten the stream.
    """
    return bool(stream.response_complete and stream.stream_id in stream.connection.streams)


def _is_reset(stream: Any) -> bool:
    """Tell whether the client has reset a stream on which nothing was sent."""
    return bool(stream.state.name == "CLOSED")


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
    if isinstance(error, NoMoreData) or type(error).__module__ == "gunicorn.http2.errors":
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

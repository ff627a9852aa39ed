"""The request seam of gevent_pywsgi, whose server never comes to Gunicorn's hooks.

gevent's server makes a handler for each connection, and the handler knows what went out:
which head, how many bytes, and whether the client was still there. A wrapper around the
application would know none of it, for the server answers exceptions, and leaves requests
without an answer, behind its back.
"""

import socket
from contextlib import suppress
from typing import Any

import gevent
from gevent import pywsgi

from gunicorn_prom.instrument.record import InProgress, Recorder, method_label
from gunicorn_prom.keys import ERROR_HANDLING, OTHER, PARSE_ERRORS
from gunicorn_prom.scoreboard import Gauge
from gunicorn_prom.slot import Slot, tolerant

__all__ = ["PyWSGISeam"]

# For how long a connection without a request stays open when the worker goes.
LINGER_S = 2.0
# gevent answers a request line that is too long without an exception; Gunicorn's name for it.
TOO_LONG = "LimitRequestLine"


class PyWSGISeam:
    """Count the requests of one worker, in that worker.

    Each is counted when the handler has done with it. Nothing here raises into the
    request path.

    Attributes:
        aborting: the worker was told that it timed out.
        clients_close: each answer tells its client to close the connection.
    """

    def __init__(self, slot: Slot, recorder: Recorder) -> None:
        self.aborting = False
        self.report = slot.report
        self._slot = slot
        self._recorder = recorder
        self._handlers: set[_Handler] = set()
        self.clients_close = False

    def install(self, worker: Any) -> None:
        """Have the server of `worker` make handlers that count."""
        handler_class = worker.wsgi_handler
        names = {"_gunicorn_prom_seam": self}
        counting = type(handler_class.__name__, (_Handler, handler_class), names)

        def make_handler(*args: Any, **kwargs: Any) -> Any:
            handler = handler_class(*args, **kwargs)
            # Not before, for a class of the user's own may ask which one it makes.
            handler.__class__ = counting
            return handler

        worker.wsgi_handler = make_handler

    def have_clients_close(self) -> None:
        """Have every connection closed behind its next answer, or soon if none comes.

        The server never closes those that are kept alive, and waits for them when it stops.
        """
        self.clients_close = True
        gevent.spawn_later(LINGER_S, self._close_idle)

    def _close_idle(self) -> None:
        for handler in self._handlers:
            if not handler._gunicorn_prom.is_serving:
                with suppress(OSError):  # the client has gone already
                    handler.socket.shutdown(socket.SHUT_RD)

    @tolerant("request")
    def opened(self, handler: "_Handler") -> None:
        """Note a connection."""
        self._handlers.add(handler)

    @tolerant("request")
    def closed(self, handler: "_Handler") -> None:
        """Forget a connection."""
        self._handlers.discard(handler)

    @tolerant("request")
    def begin(self, handler: "_Handler") -> None:
        """Begin with the request that `handler` has read."""
        progress = handler._gunicorn_prom = _Progress()
        progress.is_serving = True
        path = (handler.path or "").partition("?")[0]
        progress.begun = self._recorder.begin(handler.command or "", path)

    @tolerant("request")
    def read(self, handler: "_Handler", result: Any) -> None:
        """Count what was answered without being a request.

        Args:
            result: what gevent makes of what it has read.
        """
        if isinstance(result, tuple):
            error = handler._gunicorn_prom.error
            name = type(error).__name__ if error is not None else TOO_LONG
            self._slot.count(PARSE_ERRORS, (name,))
            self._slot.count(ERROR_HANDLING, (OTHER, OTHER, name))

    @tolerant("request")
    def finalized(self, handler: "_Handler") -> None:
        """Note the head that is about to be sent, and add to it what the worker's end wants.

        A connection that becomes a WebSocket is counted as one, and no longer as a request.
        """
        progress = handler._gunicorn_prom
        progress.sent_code = handler.code
        if handler.connection_upgraded:
            self._recorder.end(progress.begun)
            self._slot.cells[self._slot.counters + self._slot.layout.websockets] += 1.0
            self._slot.cells[self._slot.gauges + Gauge.WEBSOCKETS] += 1.0
        elif self.clients_close:
            handler.close_connection = True
            headers: Any = handler.response_headers
            others = [each for each in headers if each[0].lower() != b"connection"]
            headers[:] = [*others, (b"Connection", b"close")]

    @tolerant("request")
    def settle(self, handler: "_Handler") -> None:
        """Count what became of the request that `handler` has done with."""
        progress = handler._gunicorn_prom
        progress.is_serving = False
        if handler.connection_upgraded:
            self._slot.cells[self._slot.gauges + Gauge.WEBSOCKETS] -= 1.0
        else:
            self._settle(handler, progress)

    def _settle(self, handler: "_Handler", progress: "_Progress") -> None:
        error, environ = progress.error, handler.environ or {}
        # The server turns the status over when it cannot send.
        is_gone = (handler.code is not None and handler.code < 0) or _is_from_reading(error)
        if isinstance(error, Exception) and not is_gone:
            method, endpoint = method_label(handler.command), self._recorder.endpoint(environ)
            self._slot.count_failed_request(method, error, endpoint)
            if progress.is_servers_answer:
                self._slot.count(ERROR_HANDLING, (method, endpoint, type(error).__name__))
        if not handler.response_length or (is_gone and progress.is_servers_answer):
            self._recorder.end(progress.begun)
            self._slot.count_aborted(self._reason(is_gone, "no_response"))
            return
        status, body = progress.sent_code, progress.body_bytes
        self._recorder.record(progress.begun, handler.command, status, environ, body)
        if is_gone or not progress.is_whole or self.aborting:
            self._slot.count_aborted(self._reason(is_gone, "error"))

    def _reason(self, is_gone: bool, otherwise: str) -> str:
        if self.aborting:
            return "timeout"
        return "client_disconnect" if is_gone else otherwise


class _Progress:
    """What is noted of a request.

    Attributes:
        error: what came out of the application or of the client's body.
        sent_code: the status in the head that was sent.
        body_bytes: those that were sent of the body.
        is_whole: nothing of the answer is missing.
        is_servers_answer: the server has answered, not the application.
        is_serving: it is in progress.
    """

    begun: InProgress
    error: BaseException | None = None
    sent_code: int | None = None
    body_bytes = 0
    is_whole = is_servers_answer = is_serving = False


class _Handler(pywsgi.WSGIHandler):
    """What counts, before the handler of the worker among the bases.

    That one may be the user's, so all that is ours has one name.
    """

    _gunicorn_prom_seam: PyWSGISeam
    _gunicorn_prom: _Progress

    def handle(self) -> None:
        self._gunicorn_prom = _Progress()
        self._gunicorn_prom_seam.opened(self)
        try:
            super().handle()
        finally:
            self._gunicorn_prom_seam.closed(self)

    def handle_one_request(self) -> Any:
        self._gunicorn_prom.error = None
        result = super().handle_one_request()
        self._gunicorn_prom_seam.read(self, result)
        return result

    def handle_one_response(self) -> None:
        self.code: Any = None
        self._gunicorn_prom_seam.begin(self)
        try:
            super().handle_one_response()
        finally:
            self._gunicorn_prom_seam.settle(self)

    def run_application(self) -> None:
        try:
            super().run_application()
        except BaseException as error:
            self._gunicorn_prom.error = error
            raise

    def process_result(self) -> None:
        super().process_result()
        self._gunicorn_prom.is_whole = True

    def finalize_headers(self) -> None:
        super().finalize_headers()
        self._gunicorn_prom_seam.finalized(self)

    def _write(self, data: Any, *args: Any) -> None:
        super()._write(data, *args)  # type: ignore[misc]  # gevent's types leave it out
        self._gunicorn_prom.body_bytes += len(data)

    def _send_error_response_if_possible(self, error_code: int) -> None:
        progress = self._gunicorn_prom
        progress.is_servers_answer = not self.response_length
        super()._send_error_response_if_possible(error_code)  # type: ignore[misc]
        progress.is_whole |= progress.is_servers_answer

    def _handle_client_error(self, ex: Exception) -> Any:
        self._gunicorn_prom.error = ex
        return super()._handle_client_error(ex)  # type: ignore[misc]


def _is_from_reading(error: BaseException | None) -> bool:
    """Tell whether the body of a request ended before its end: the client has gone."""
    if not isinstance(error, OSError):
        return False
    read: Any = vars(pywsgi.Input)["_do_read"]
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code is not read.__code__:
        traceback = traceback.tb_next
    return traceback is not None

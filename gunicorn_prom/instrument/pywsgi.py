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
from gunicorn_prom.slot import Slot

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
        self._slot = slot
        self._recorder = recorder
        self._handlers: set[_Handler] = set()
        self.clients_close = False

    def install(self, worker: Any) -> None:
        """Have the server of `worker` make handlers that count."""
        names = {"gunicorn_prom_seam": self}
        handler_class = worker.wsgi_handler
        worker.wsgi_handler = type(handler_class.__name__, (_Handler, handler_class), names)

    def have_clients_close(self) -> None:
        """Have every connection closed behind its next answer, or soon if none comes.

        The server never closes those that are kept alive, and waits for them when it stops.
        """
        self.clients_close = True
        gevent.spawn_later(LINGER_S, self._close_idle)

    def _close_idle(self) -> None:
        for handler in self._handlers:
            if not handler.is_serving:
                handler.hang_up()

    def opened(self, handler: "_Handler") -> None:
        """Note a connection."""
        self._handlers.add(handler)

    def closed(self, handler: "_Handler") -> None:
        """Forget a connection."""
        self._handlers.discard(handler)

    def begin(self, handler: "_Handler") -> InProgress:
        """Begin with the request that `handler` has read."""
        path = (handler.path or "").partition("?")[0]
        return self._recorder.begin(handler.command or "", path)

    def unreadable(self, error: str) -> None:
        """Count what was answered without being a request.

        Args:
            error: class of the exception.
        """
        try:
            self._slot.count(PARSE_ERRORS, (error,))
            self._slot.count(ERROR_HANDLING, (OTHER, OTHER, error))
        except Exception as failure:
            self._slot.report("request", failure)

    def upgraded(self, handler: "_Handler") -> None:
        """Count that the connection has become a WebSocket, and no longer as a request."""
        try:
            self._recorder.end(handler.begun)
            self._slot.cells[self._slot.counters + self._slot.layout.websockets] += 1.0
            self._slot.cells[self._slot.gauges + Gauge.WEBSOCKETS] += 1.0
        except Exception as failure:
            self._slot.report("request", failure)

    def settle(self, handler: "_Handler") -> None:
        """Count what became of the request that `handler` has done with."""
        try:
            if handler.connection_upgraded:
                self._slot.cells[self._slot.gauges + Gauge.WEBSOCKETS] -= 1.0
            else:
                self._settle(handler)
        except Exception as failure:
            self._slot.report("request", failure)

    def _settle(self, handler: "_Handler") -> None:
        error, environ = handler.error, handler.environ or {}
        # The server turns the status over when it cannot send.
        is_gone = (handler.code is not None and handler.code < 0) or _is_from_reading(error)
        if isinstance(error, Exception) and not is_gone:
            method, endpoint = method_label(handler.command), self._recorder.endpoint(environ)
            self._slot.count_failed_request(method, error, endpoint)
            if handler.is_servers_answer:
                self._slot.count(ERROR_HANDLING, (method, endpoint, type(error).__name__))
        if not handler.response_length or (is_gone and handler.is_servers_answer):
            self._recorder.end(handler.begun)
            self._slot.count_aborted(self._reason(is_gone, "no_response"))
            return
        status, body = handler.sent_code, handler.body_bytes
        self._recorder.record(handler.begun, handler.command, status, environ, body)
        if is_gone or not handler.is_whole or self.aborting:
            self._slot.count_aborted(self._reason(is_gone, "error"))

    def _reason(self, is_gone: bool, otherwise: str) -> str:
        if self.aborting:
            return "timeout"
        return "client_disconnect" if is_gone else otherwise


class _Handler(pywsgi.WSGIHandler):
    """What counts, before the handler of the worker among the bases.

    Attributes:
        begun: the request in progress.
        error: what came out of the application or of the client's body.
        sent_code: the status in the head that was sent.
        body_bytes: those that were sent of the body.
        is_whole: nothing of the answer is missing.
        is_servers_answer: the server has answered, not the application.
        is_serving: a request is in progress.
    """

    gunicorn_prom_seam: PyWSGISeam
    begun: InProgress
    error: BaseException | None = None
    sent_code: int | None = None
    body_bytes = 0
    is_whole = False
    is_servers_answer = is_serving = False

    def handle(self) -> None:
        self.gunicorn_prom_seam.opened(self)
        try:
            super().handle()
        finally:
            self.gunicorn_prom_seam.closed(self)

    def hang_up(self) -> None:
        with suppress(OSError):  # the client has gone already
            self.socket.shutdown(socket.SHUT_RD)

    def handle_one_request(self) -> Any:
        result = super().handle_one_request()
        if isinstance(result, tuple):
            name = type(self.error).__name__ if self.error is not None else TOO_LONG
            self.gunicorn_prom_seam.unreadable(name)
        return result

    def handle_one_response(self) -> None:
        self.sent_code = self.code = None
        self.body_bytes = 0
        self.is_whole = self.is_servers_answer = False
        self.is_serving = True
        self.begun = self.gunicorn_prom_seam.begin(self)
        try:
            super().handle_one_response()
        finally:
            self.gunicorn_prom_seam.settle(self)
            self.is_serving, self.error = False, None

    def run_application(self) -> None:
        try:
            super().run_application()
        except BaseException as error:
            self.error = error
            raise

    def process_result(self) -> None:
        super().process_result()
        self.is_whole = True

    def finalize_headers(self) -> None:
        super().finalize_headers()
        self.sent_code = self.code
        if self.connection_upgraded:
            self.gunicorn_prom_seam.upgraded(self)
        elif self.gunicorn_prom_seam.clients_close:
            self.close_connection = True
            headers: Any = self.response_headers
            others = [each for each in headers if each[0].lower() != b"connection"]
            headers[:] = [*others, (b"Connection", b"close")]

    def _write(self, data: Any, *args: Any) -> None:
        super()._write(data, *args)  # type: ignore[misc]  # gevent's types leave it out
        self.body_bytes += len(data)

    def _send_error_response_if_possible(self, error_code: int) -> None:
        self.is_servers_answer = not self.response_length
        super()._send_error_response_if_possible(error_code)  # type: ignore[misc]
        self.is_whole |= self.is_servers_answer

    def _handle_client_error(self, ex: Exception) -> Any:
        self.error = ex
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

"""The request seam of the tornado worker: the connections of tornado's HTTP server.

A connection knows what went out and when it was flushed, whether a native application
answers or a WSGI application in its container. Above it that is not known: the log function
of an application is called before the response is sent, and the container leaves a request
without an answer when the application fails.

tornado makes one object of HTTP1Connection for each request.
"""

import sys
from typing import Any

from tornado import httputil
from tornado.http1connection import HTTP1Connection, _QuietException
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError, UnsatisfiableReadError
from tornado.routing import PathMatches
from tornado.web import Finish, HTTPError, RequestHandler
from tornado.wsgi import WSGIContainer

from gunicorn_prom.instrument.record import InProgress, Recorder, method_label
from gunicorn_prom.instrument.routes import FOUND
from gunicorn_prom.keys import ERROR_HANDLING, OTHER, PARSE_ERRORS, UNMATCHED
from gunicorn_prom.scoreboard import Gauge
from gunicorn_prom.slot import Slot, tolerant

__all__ = ["TornadoSeam"]

SWITCHING_PROTOCOLS = 101
BAD_REQUEST = 400

# What the recorder looks for in an environ.
HEADERS = (
    ("Content-Length", "CONTENT_LENGTH"),
    ("X-Request-Start", "HTTP_X_REQUEST_START"),
    ("X-Queue-Start", "HTTP_X_QUEUE_START"),
    ("Traceparent", "HTTP_TRACEPARENT"),
)


class TornadoSeam:
    """Count the requests of one worker, in that worker.

    Each is counted once: when it was flushed, when its connection is gone, or when nobody
    will answer it. Nothing here raises into the request path.

    Attributes:
        aborting: the worker was told that it timed out.
    """

    def __init__(self, slot: Slot, recorder: Recorder) -> None:
        self.aborting = False
        self.report = slot.report
        self._slot = slot
        self._recorder = recorder
        self._knows_routes = False

    def install(self, worker: Any) -> None:
        """Have the connections count on which the application of `worker` is served."""
        application = worker.wsgi
        is_native = isinstance(application, httputil.HTTPServerConnectionDelegate)
        self._knows_routes = is_native and worker.cfg.route_labels
        # A container works on one at a time, or has threads; nothing limits coroutines.
        executor = getattr(application, "executor", None)
        capacity = 0 if is_native else getattr(executor, "_max_workers", 1)
        self._slot.set_gauge(Gauge.CAPACITY, capacity)
        self._watch_server(application)
        self._watch_handlers()
        self._watch_containers()
        if self._knows_routes:
            _watch_matches()

    def have_clients_close(self) -> None:
        """Do nothing: tornado closes all connections when the worker goes."""

    def _watch_server(self, application: Any) -> None:
        server_class: Any = HTTPServer
        start_request = server_class.start_request

        def start_counted(server: Any, server_conn: Any, request_conn: Any) -> Any:
            self._adopt(application, server, request_conn)
            return start_request(server, server_conn, request_conn)

        server_class.start_request = start_counted

    @tolerant("request")
    def _adopt(self, application: Any, server: Any, connection: Any) -> None:
        served = server.request_callback
        # An application may have servers of its own, for something else.
        if application in (served, getattr(served, "wsgi_application", None)):
            connection.__class__ = _Connection
            connection.seam = self

    def _watch_handlers(self) -> None:
        handler_class: Any = RequestHandler
        handle_exception = handler_class._handle_request_exception

        def handle_counted(handler: Any, error: BaseException) -> None:
            connection = handler.request.connection
            if isinstance(connection, _Connection) and not isinstance(error, (Finish, HTTPError)):
                self.raised(connection, error, is_handled=connection.status is None)
            handle_exception(handler, error)

        handler_class._handle_request_exception = handle_counted

    def _watch_containers(self) -> None:
        container_class: Any = WSGIContainer
        make_environ, handle_request = container_class.environ, container_class.handle_request

        def make_known_environ(container: Any, request: Any) -> dict[str, Any]:
            environ: dict[str, Any] = make_environ(container, request)
            if isinstance(request.connection, _Connection):
                self._know_environ(request.connection, environ)
            return environ

        async def handle_counted(container: Any, request: Any) -> None:
            try:
                await handle_request(container, request)
            except BaseException as error:
                if isinstance(request.connection, _Connection):
                    self.raised(request.connection, error)
                    self.settle(request.connection, is_whole=False)
                raise

        container_class.environ = make_known_environ
        container_class.handle_request = handle_counted

    @tolerant("request")
    def _know_environ(self, connection: "_Connection", environ: dict[str, Any]) -> None:
        # Around the container there may be a rule of a native application.
        if FOUND in connection.environ:
            environ[FOUND] = connection.environ[FOUND]
        connection.environ = environ

    @tolerant("routes")
    def matched(self, connection: "_Connection", matcher: Any) -> None:
        """Note the rule that has matched a request."""
        # tornado puts the "$" there.
        connection.environ[FOUND] = matcher.regex.pattern.removesuffix("$")

    @tolerant("request")
    def begin(self, connection: "_Connection", start_line: Any, headers: Any) -> None:
        """Begin with a request whose head was read."""
        connection.method = start_line.method
        environ = {key: headers[name] for name, key in HEADERS if name in headers}
        if not environ.get("CONTENT_LENGTH", "0").isdigit():
            del environ["CONTENT_LENGTH"]  # tornado is about to refuse it
        if self._knows_routes:
            environ[FOUND] = UNMATCHED
        connection.environ = environ
        path = start_line.path.partition("?")[0]
        connection.begun = self._recorder.begin(start_line.method, path)

    @tolerant("request")
    def forget(self, connection: "_Connection") -> None:
        """End what has begun and is no request that tornado can read."""
        if connection.begun is not None:
            self._recorder.end(connection.begun)
            connection.begun = None

    @tolerant("request")
    def refused(self, connection: "_Connection", error: BaseException) -> None:
        """Count that tornado has answered a malformed request, or part of one, by itself."""
        if connection.begun is None:
            self.unreadable(type(error).__name__)
        elif connection.status is None:
            connection.status = BAD_REQUEST
            self.raised(connection, error, is_handled=True)
            self.settle(connection, is_whole=True)

    @tolerant("request")
    def unreadable(self, error: str, *, is_answered: bool = True) -> None:
        """Count what never became a request.

        Args:
            error: class of the exception.
            is_answered: tornado has told the client.
        """
        self._slot.count(PARSE_ERRORS, (error,))
        if is_answered:
            self._slot.count(ERROR_HANDLING, (OTHER, OTHER, error))

    @tolerant("request")
    def raised(
        self, connection: "_Connection", error: BaseException, *, is_handled: bool = False
    ) -> None:
        """Count an exception that came out of the application.

        Args:
            is_handled: tornado answers it.
        """
        if isinstance(error, StreamClosedError) and connection.is_closed:
            return
        connection.error = error
        if not isinstance(error, Exception):
            return
        method = method_label(connection.method)
        endpoint = self._recorder.endpoint(connection.environ)
        self._slot.count_failed_request(method, error, endpoint)
        if is_handled:
            self._slot.count(ERROR_HANDLING, (method, endpoint, type(error).__name__))

    @tolerant("request")
    def settle(self, connection: "_Connection", *, is_whole: bool) -> None:
        """Count what became of a request, if that is not done."""
        begun, connection.begun = connection.begun, None
        if begun is not None:
            self._settle(connection, begun, is_whole=is_whole)

    def _settle(self, connection: "_Connection", begun: InProgress, *, is_whole: bool) -> None:
        status = connection.status
        is_ours = connection.error is not None or not connection.is_closed
        if status == SWITCHING_PROTOCOLS:
            self._recorder.end(begun)
        elif status is None:
            self._recorder.end(begun)
            self._count_aborted("no_response" if is_ours else "client_disconnect")
        else:
            body = connection.body_bytes - (0 if is_whole else connection.unsent_bytes)
            self._recorder.record(
                begun, connection.method, status, connection.environ, max(0, body)
            )
            if not is_whole:
                self._count_aborted("error" if is_ours else "client_disconnect")

    def _count_aborted(self, reason: str) -> None:
        self._slot.count_aborted("timeout" if self.aborting else reason)

    @tolerant("request")
    def detached(self, connection: "_Connection", stream: Any) -> None:
        """Count that a connection speaks another protocol from now on: a WebSocket's."""
        self.forget(connection)
        if connection.status != SWITCHING_PROTOCOLS:
            return
        cells = self._slot.cells
        count = self._slot.counters + self._slot.layout.websockets
        gauge = self._slot.gauges + Gauge.WEBSOCKETS
        close = stream.close
        cells[count] += 1.0
        cells[gauge] += 1.0

        def close_counted(*args: Any, **kwargs: Any) -> None:
            stream.close = close
            cells[gauge] -= 1.0
            close(*args, **kwargs)

        # A stream has one close callback only, which is the handler's; but it always closes
        # itself by this method.
        stream.close = close_counted


def _watch_matches() -> None:
    """Have each rule that matches the path of a request note its pattern."""
    matcher_class: Any = PathMatches
    match = matcher_class.match

    def match_noted(matcher: Any, request: Any) -> Any:
        found = match(matcher, request)
        if found is not None and isinstance(request.connection, _Connection):
            request.connection.seam.matched(request.connection, matcher)
        return found

    matcher_class.match = match_noted


class _Connection(HTTP1Connection):
    """What a request is read from and its answer written to.

    Attributes:
        begun: the request in progress, None before its head was read and when it is settled.
        status: of the answer, None while nothing was sent.
        body_bytes: those that were written of the body.
        error: what came out of the application.
    """

    seam: TornadoSeam
    begun: InProgress | None = None
    method = ""
    environ: dict[str, Any] = {}  # noqa: RUF012 - each request gets its own
    status: int | None = None
    body_bytes = 0
    error: BaseException | None = None

    @property
    def is_closed(self) -> bool:
        stream: Any = self.stream  # None when it was detached
        return stream is None or bool(stream.closed())

    @property
    def unsent_bytes(self) -> int:
        written = getattr(self.stream, "_total_write_index", 0)
        sent = getattr(self.stream, "_total_write_done_index", 0)
        return int(written - sent)

    async def read_response(self, delegate: Any) -> bool:
        try:
            is_open = await super().read_response(_Delegate(self, delegate))
        except (StreamClosedError, UnsatisfiableReadError) as error:
            cause = getattr(error, "real_error", error)
            if self.begun is None and isinstance(cause, UnsatisfiableReadError):
                self.seam.unreadable(type(cause).__name__, is_answered=False)
            self.seam.settle(self, is_whole=False)
            raise
        self.seam.settle(self, is_whole=False)
        return is_open

    def write_headers(self, start_line: Any, headers: Any, chunk: bytes | None = None) -> Any:
        is_closed = self.is_closed
        future = super().write_headers(start_line, headers, chunk)
        if not is_closed and self.status is None:
            self.status = start_line.code
            self.body_bytes = len(chunk or b"")
        return future

    def write(self, chunk: bytes) -> Any:
        is_closed = self.is_closed
        future = super().write(chunk)
        if not is_closed:
            self.body_bytes += len(chunk)
        return future

    def close(self) -> None:
        error = sys.exception()
        if isinstance(error, httputil.HTTPInputError):
            self.seam.refused(self, error)
        elif isinstance(error, _QuietException) and error.__context__ is not None:
            self.seam.raised(self, error.__context__)
        super().close()

    def detach(self) -> Any:
        stream = super().detach()
        self.seam.detached(self, stream)
        return stream

    def _finish_request(self, future: Any) -> None:
        is_lost = future is not None and (future.cancelled() or future.exception() is not None)
        self.seam.settle(self, is_whole=not is_lost)
        super()._finish_request(future)


class _Delegate(httputil.HTTPMessageDelegate):
    """Stand before what tornado gives the message to, and note when it begins."""

    def __init__(self, connection: _Connection, delegate: httputil.HTTPMessageDelegate) -> None:
        self._connection = connection
        self._headers_received = delegate.headers_received
        self.data_received = delegate.data_received  # type: ignore[method-assign]  # as it is
        self.finish = delegate.finish  # type: ignore[method-assign]
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(self, start_line: Any, headers: Any) -> Any:
        seam = self._connection.seam
        seam.begin(self._connection, start_line, headers)
        try:
            return self._headers_received(start_line, headers)
        except httputil.HTTPInputError:
            seam.forget(self._connection)
            raise

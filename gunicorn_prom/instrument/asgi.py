"""The request seam of ASGI workers: Gunicorn's own and uvicorn's.

The application is wrapped, for neither has hooks that see what every client saw. A
request ends with the last part of its body: what the application does behind that, in
background tasks say, is none of the client's time.

How a response ends that its application does not finish is for the server to say, and
the servers differ. So where that happens the wrapper looks at the server's own objects,
which it finds behind `receive`.
"""

import signal
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from operator import attrgetter
from types import FrameType
from typing import Any, Protocol

from gunicorn_prom.instrument.record import InProgress, Recorder, method_label
from gunicorn_prom.instrument.routes import GIVEN, HOLDER
from gunicorn_prom.keys import ERROR_HANDLING, OTHER, PARSE_ERRORS
from gunicorn_prom.scoreboard import Gauge
from gunicorn_prom.slot import Slot, tolerant

__all__ = ["ASGISeam"]

# What a `Recorder` wants to know, by the names that it knows.
HEADERS = {
    b"content-length": "CONTENT_LENGTH",
    b"x-request-start": "HTTP_X_REQUEST_START",
    b"x-queue-start": "HTTP_X_QUEUE_START",
    b"traceparent": "HTTP_TRACEPARENT",
}
STATUSES_WITHOUT_BODY = (204, 304)
FORBIDDEN, SERVER_ERROR = 403, 500
# Where it is declared what is raised in an application whose client has gone: by the
# servers, and by Starlette when it is told of a WebSocket's end, the usual one too.
DEPARTURES = (
    "gunicorn.asgi.protocol",
    "gunicorn.asgi.websocket",
    "gunicorn.http2.errors",
    "starlette.websockets",
    "uvicorn.protocols.utils",
)
# Among them, raised where the application has sent what cannot be.
MISTAKE = "HTTP2Error"
CLOSE = (b"connection", b"close")
# What both servers put into it.
SERVER_ERROR_BODY = b"Internal Server Error"

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[Any]]


class ASGISeam:
    """Count the requests and WebSockets of one worker, in that worker.

    Each request is counted once. Nothing here raises into the request path.

    Attributes:
        aborting: the worker was told that it timed out.
        ends_by_limit_only: nothing but its limit of requests makes the worker's `run` return.
    """

    def __init__(self, slot: Slot, recorder: Recorder) -> None:
        self.aborting = False
        self.ends_by_limit_only = False
        self.report = slot.report
        self._slot = slot
        self._recorder = recorder
        self._server: _Gunicorn | _Uvicorn = _Gunicorn()
        self.clients_close = False

    def install(self, worker: Any, note_departure: Callable[[str], None]) -> None:
        """Wrap the application where `worker` takes it from.

        Args:
            note_departure: is told why the worker goes where only its server knows.
        """
        if hasattr(worker, "asgi"):
            from gunicorn.asgi.protocol import ASGIProtocol

            worker.asgi = self.wrap(worker.asgi)
            self._count_refusals(ASGIProtocol, "_send_error_response")
        else:
            self._server = _Uvicorn()
            # uvicorn dies by the signal that has ended it.
            self.ends_by_limit_only = True
            self._install_uvicorn(worker.config, note_departure)

    def _install_uvicorn(self, config: Any, note_departure: Callable[[str], None]) -> None:
        load = config.load

        def load_and_instrument() -> None:
            # Only now is it an ASGI 3 application, whatever the user has given.
            load()
            try:
                config.loaded_app = self.wrap(config.loaded_app)
                self._count_refusals(config.http_protocol_class, "send_400_response")
                _watch_signals(note_departure)
            except Exception as failure:
                self._slot.report("request", failure)

        config.load = load_and_instrument

    def have_clients_close(self) -> None:
        """Have the next answer on each connection tell the client to close it."""
        self.clients_close = True

    def wrap(self, app: App) -> App:
        """Return an application that does what `app` does, and counts it."""
        begin, settle = self._recorder.begin, self._settle
        its_server, find_connection = self._server, self._server.find_connection
        recorder = self._recorder

        async def counted_app(scope: Scope, receive: Receive, send: Send) -> Any:
            if scope["type"] != "http":
                if scope["type"] == "websocket":
                    return await self._serve_websocket(app, scope, receive, send)
                return await app(scope, receive, send)
            exchange = _Exchange()
            try:
                try:
                    connection = exchange.connection = find_connection(receive)
                    exchange.server, exchange.transport = its_server, connection.transport
                except AttributeError:
                    stream = _Stream(receive, send)
                    exchange.server = exchange.connection = exchange.transport = stream
                    receive, send = stream.receive, stream.send
                notes = exchange.notes = {}
                # An application without a framework may be strict with what is in there.
                if recorder.has_framework:
                    scope[HOLDER] = notes
                exchange.seam, exchange.scope, exchange.forward = self, scope, send
                # As the client has it: middleware may write another.
                method = exchange.method = scope["method"]
                exchange.request = begin(method, scope["path"])
            except Exception as failure:
                self.report("request", failure)
                return await app(scope, receive, send)
            try:
                return await app(scope, receive, exchange.send)
            except BaseException as error:
                if exchange.is_over:
                    self.count_exception(exchange, error)
                raise
            finally:
                if not exchange.is_over:
                    exchange.is_over = True
                    settle(exchange, sys.exception())

        return counted_app

    def finish(self, exchange: "_Exchange", status: int, body_bytes: int) -> None:
        """Count a request that was answered."""
        method = exchange.method
        if method == "HEAD" or status in STATUSES_WITHOUT_BODY:
            body_bytes = 0
        self._recorder.record(exchange.request, method, status, _environ(exchange), body_bytes)

    @tolerant("request")
    def _settle(self, exchange: "_Exchange", error: BaseException | None) -> None:
        """Count a request whose application has ended before its response.

        Args:
            error: with which the application has ended.
        """
        server, connection, status = exchange.server, exchange.connection, exchange.status
        sent = server.sent_status(connection, status)
        if exchange.transport.is_closing():
            # Whatever the application raises comes of that, in every framework.
            self._break_off(exchange, sent)
            self._slot.count_aborted("client_disconnect")
            return
        if error is not None:
            self.count_exception(exchange, error)
        answer = 0 if sent else server.answer(connection, status, error)
        if answer:
            self.finish(exchange, answer, 0 if status else len(SERVER_ERROR_BODY))
            self._count_answered(exchange, error)
            return
        self._break_off(exchange, sent)
        reason = "error" if sent else "no_response"
        self._slot.count_aborted("timeout" if self.aborting else reason)

    def _count_answered(self, exchange: "_Exchange", error: BaseException | None) -> None:
        """Count an exception of the application to which the server has given the answer."""
        if isinstance(error, Exception):
            endpoint = self._recorder.endpoint(_environ(exchange))
            labels = (method_label(exchange.method), endpoint, type(error).__name__)
            self._slot.count(ERROR_HANDLING, labels)

    def _break_off(self, exchange: "_Exchange", status: int) -> None:
        """Count a request whose response did not come, status 0, or not to its end."""
        if status:
            self.finish(exchange, status, exchange.body_bytes)
        else:
            self._recorder.end(exchange.request)

    @tolerant("request")
    def closing(self, message: Message, scope: Scope) -> Message:
        """Return the head of a response as it tells the client to close the connection."""
        if scope["http_version"] == "2":
            return message
        return {**message, "headers": [*message.get("headers", ()), CLOSE]}

    @tolerant("request")
    def count_exception(self, exchange: "_Exchange", error: BaseException) -> None:
        """Count what the application has raised, unless that its client has gone."""
        is_departure = exchange.is_left or _is_departure(error)
        if isinstance(error, Exception) and not is_departure:
            endpoint = self._recorder.endpoint(_environ(exchange))
            self._slot.count_failed_request(method_label(exchange.method), error, endpoint)

    async def _serve_websocket(self, app: App, scope: Scope, receive: Receive, send: Send) -> Any:
        """Count a WebSocket when it is accepted, and as open until either side closes it.

        One that is refused is a request, with the status that the client saw.
        """
        exchange = _Exchange()
        try:
            exchange.method, exchange.scope, exchange.notes = "GET", scope, {}
            if self._recorder.has_framework:
                scope[HOLDER] = exchange.notes
            exchange.request = self._recorder.begin("GET", scope["path"])
            websocket = _WebSocket(self, self._slot, self._recorder, exchange, receive)
        except Exception as failure:
            self.report("request", failure)
            return await app(scope, receive, send)

        async def counted_send(message: Message) -> None:
            try:
                await send(message)
            except Exception:
                websocket.failed()
                raise
            websocket.sent(message)

        try:
            result = await app(scope, receive, counted_send)
        except BaseException as error:
            websocket.ended(error)
            raise
        websocket.ended(None)
        return result

    def settle_handshake(
        self, exchange: "_Exchange", error: BaseException | None, *, is_gone: bool
    ) -> None:
        """Count a handshake that has not become a WebSocket."""
        status, body_bytes = exchange.status, exchange.body_bytes
        if is_gone and not status:
            self._break_off(exchange, 0)
            self._slot.count_aborted("client_disconnect")
            return
        if not status:
            status, body_bytes = SERVER_ERROR, len(SERVER_ERROR_BODY)
            self._count_answered(exchange, error)
        self.finish(exchange, status, body_bytes)

    def _count_refusals(self, protocol: type, name: str) -> None:
        """Count what the server refuses by itself: where it can read no request.

        Args:
            name: the method by which it answers then.
        """
        answer = getattr(protocol, name)

        def counted_answer(connection: Any, *args: Any) -> Any:
            # Gunicorn has the same method for applications that fail.
            if args[:1] != (SERVER_ERROR,):
                self._count_refusal(sys.exception())
            return answer(connection, *args)

        setattr(protocol, name, counted_answer)

    @tolerant("request")
    def _count_refusal(self, error: BaseException | None) -> None:
        name = type(error).__name__ if error is not None else OTHER
        self._slot.count(PARSE_ERRORS, (name,))
        self._slot.count(ERROR_HANDLING, (OTHER, OTHER, name))


class _WebSocket:
    """A WebSocket, from the handshake to its end.

    Args:
        exchange: the handshake, which is a request until it is accepted.
        receive: behind which the server shows what has become of the client.
    """

    def __init__(
        self,
        seam: ASGISeam,
        slot: Slot,
        recorder: Recorder,
        exchange: "_Exchange",
        receive: Receive,
    ) -> None:
        self.report = slot.report
        self._seam, self._recorder, self._exchange = seam, recorder, exchange
        self._receive = receive
        self._cells = slot.cells
        self._accepted = slot.counters + slot.layout.websockets
        self._open_now = slot.gauges + Gauge.WEBSOCKETS
        self._is_open, self._is_handshake = False, True

    @tolerant("request")
    def sent(self, message: Message) -> None:
        """Note what the application has sent."""
        exchange, kind = self._exchange, message["type"]
        if kind == "websocket.accept":
            self._recorder.end(exchange.request)
            self._is_open, self._is_handshake = True, False
            self._cells[self._accepted] += 1.0
            self._cells[self._open_now] += 1.0
        elif kind == "websocket.close":
            exchange.status = FORBIDDEN
            self._close()
        elif kind == "websocket.http.response.start":
            exchange.status = message["status"]
        elif kind == "websocket.http.response.body":
            exchange.body_bytes += len(message.get("body", b""))

    @tolerant("request")
    def failed(self) -> None:
        """Note that nothing could be sent any more."""
        # Before Gunicorn knows that a client has gone, its event loop or transport says so, each
        # in its own way.
        self._exchange.is_left = not self._exchange.status and _has_left(self._receive)

    @tolerant("request")
    def ended(self, error: BaseException | None) -> None:
        """Note that the application has returned, or how it has ended."""
        self._close()
        if error is not None:
            self._seam.count_exception(self._exchange, error)
        if self._is_handshake:
            is_gone = _has_left(self._receive)
            self._seam.settle_handshake(self._exchange, error, is_gone=is_gone)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._cells[self._open_now] -= 1.0


class _Exchange:
    """A request, what has been sent for it, and the `send` of its application.

    A method of an object without `__init__` costs half of a closure with as many variables.

    Attributes:
        notes: of the route, see `gunicorn_prom.instrument.routes`.
        connection: where the server shows what has become of the client.
        forward: the server's `send`.
        status: as the application has given it, 0 while it has not.
        is_over: it was counted.
        is_left: the client of a WebSocket has gone, as a `send` has shown.
    """

    seam: ASGISeam
    request: InProgress
    method: str
    scope: Scope
    notes: dict[str, Any]
    server: "_Server"
    connection: Any
    transport: Any
    forward: Send
    status = 0
    body_bytes = 0
    is_over = False
    is_left = False

    async def send(self, message: Message) -> None:
        """Send what the application gives, and note it."""
        kind = message["type"]
        if kind == "http.response.body" and self.status and not self.is_over:
            try:
                was_closing = self.transport.is_closing()
            except Exception as failure:
                self.seam.report("request", failure)
                was_closing = True
            await self.forward(message)
            try:
                if not (was_closing or self.server.is_lost(self.connection)):
                    body = message.get("body")
                    if body:
                        self.body_bytes += len(body)
                    if not message.get("more_body"):
                        self.is_over = True
                        self.seam.finish(self, self.status, self.body_bytes)
            except Exception as failure:
                self.seam.report("request", failure)
        else:
            if self.seam.clients_close and kind == "http.response.start":
                message = self.seam.closing(message, self.scope) or message
            await self.forward(message)
            try:
                if (
                    kind == "http.response.start"
                    and not self.status
                    and not self.transport.is_closing()
                ):
                    self.status = message["status"]
            except Exception as failure:
                self.seam.report("request", failure)


class _Server(Protocol):
    """What is to be known of a server; it shows itself in the `receive` of a request."""

    def is_lost(self, connection: Any) -> bool:
        """Tell whether the client went away while the last message was sent to it.

        The transport does not tell: the server may have closed it behind the message.
        """

    def sent_status(self, connection: Any, status: int) -> int:
        """Return `status` if it has gone out, else 0."""

    def answer(self, connection: Any, status: int, error: BaseException | None) -> int:
        """Return the status that the server answers itself where none has gone out, 0 for none."""


class _Gunicorn:
    """Gunicorn's own server, HTTP/1."""

    find_connection = attrgetter("__self__.protocol")
    is_lost = attrgetter("_closed")

    def sent_status(self, connection: Any, status: int) -> int:
        # The head waits for the first part of the body.
        return status if connection._response_buffer is None else 0

    def answer(self, connection: Any, status: int, error: BaseException | None) -> int:
        is_fit = not status and (error is None or isinstance(error, Exception))
        return SERVER_ERROR if is_fit else 0


class _Uvicorn:
    """uvicorn's server, HTTP/1."""

    find_connection = attrgetter("__self__")
    is_lost = attrgetter("disconnected")

    def sent_status(self, connection: Any, status: int) -> int:
        return status

    def answer(self, connection: Any, status: int, error: BaseException | None) -> int:
        # Also of a cancelled request. A head that cannot be written counts as written.
        return 0 if connection.response_started else SERVER_ERROR


class _Stream:
    """A stream of HTTP/2, of which Gunicorn shows nothing but `receive` and `send`."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._is_gone = False

    async def receive(self) -> Message:
        """Receive, and note when the client has gone."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_gone = True
        return message

    async def send(self, message: Message) -> None:
        """Send, and note when the client has gone.

        Raises:
            Exception: it has.
        """
        try:
            await self._send(message)
        except Exception as error:
            self._is_gone |= isinstance(error, OSError) or _is_departure(error)
            raise

    def is_closing(self) -> bool:
        return self._is_gone

    def is_lost(self, connection: Any) -> bool:
        return False  # `send` raises then

    def sent_status(self, connection: Any, status: int) -> int:
        # The head waits for the first part of the body; `send` knows whether it has gone.
        names = getattr(self._send, "__code__", _Stream.send.__code__).co_freevars
        if "headers_sent" not in names:
            return status
        cells: Any = self._send.__closure__
        return status if cells[names.index("headers_sent")].cell_contents else 0

    def answer(self, connection: Any, status: int, error: BaseException | None) -> int:
        if error is None:
            return status or SERVER_ERROR
        return SERVER_ERROR if isinstance(error, Exception) else 0


def _is_departure(error: BaseException) -> bool:
    """Tell whether the error was raised because the client has gone."""
    kind = type(error)
    return kind.__module__ in DEPARTURES and kind.__name__ != MISTAKE


def _has_left(receive: Receive) -> bool:
    """Tell whether the client of a WebSocket has gone, or has closed it."""
    protocol = getattr(receive, "__self__", None)
    transport = getattr(protocol, "transport", None)
    is_closed = bool(getattr(protocol, "closed", False))
    return is_closed or (transport is not None and transport.is_closing())


def _environ(exchange: _Exchange) -> dict[str, Any]:
    """Return what a `Recorder` takes for the environ of the request."""
    scope, environ = exchange.scope, exchange.notes
    if GIVEN in scope:
        environ[GIVEN] = scope[GIVEN]
    for name, value in scope["headers"]:
        if name in HEADERS:
            environ[HEADERS[name]] = value.decode("latin-1")
    return environ


def _watch_signals(note_departure: Callable[[str], None]) -> None:
    """Have it noted that uvicorn is told to go: its own handlers are in place by now.

    It dies by the signal once it has drained, so nothing behind `run` comes to know.
    """

    def watch(number: int, reason: str) -> None:
        handler = signal.getsignal(number)

        def noted(sig: int, frame: FrameType | None) -> None:
            note_departure(reason)
            if callable(handler):
                handler(sig, frame)

        if callable(handler):
            signal.signal(number, noted)

    watch(signal.SIGTERM, "term")
    watch(signal.SIGINT, "quit")

"""An HTTP server that no client can hang or exhaust.

One thread, one selector, every socket non-blocking: a connection that is silent,
half sent or not read costs its deadline and a place in a bounded table, and the
oldest gives way to a new one. A request is looked at once it is complete. So is
encryption just a step that takes its client several turns, and a password is
checked elsewhere while the others are answered.

Every connection carries one request: a scrape every few seconds gains nothing by
keeping it open.
"""

import contextlib
import errno
import logging
import math
import selectors
import socket
import ssl  # Gunicorn's configuration has imported it anyway
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from gunicorn_prom.descriptors import Descriptor, OwnSocket
from gunicorn_prom.exporter.message import Answer, Request, refusal, understand, word

if TYPE_CHECKING:
    from gunicorn_prom.exporter.authentication import Check, Passwords
    from gunicorn_prom.exporter.door import Door, Visit

__all__ = ["ClosedError", "Server"]

MAX_CONNECTIONS = 256
MAX_REQUEST_BYTES = 16 * 1024
READ_TIMEOUT_S = 5.0
PASSWORD_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 10.0
# For the rest of a request that was refused before its end.
LINGER_TIMEOUT_S = 2.0
LINGER_BYTES = 4 * 1024 * 1024
TURN_S = 0.5
# At the end: for who has begun to ask, and for who has connected and said nothing.
DRAIN_S, SILENT_DRAIN_S = 2.0, 0.5
ACCEPTS_PER_TURN = 64
CHUNK_BYTES = 65536
END_OF_HEADERS = b"\r\n\r\n"
TLS_HANDSHAKE = b"\x16"
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
METHODS = ("GET", "HEAD")
CLIENT_ERRORS = range(400, 500)
# Probes have no password: they are told the status and nothing else.
HEALTH_PATHS = ("/-/healthy", "/-/ready")

# A step of a connection returns the next one; None when it is over.
_Step: TypeAlias = "Callable[[_Connection], _Next]"
_Next: TypeAlias = "_Step | None"


class ClosedError(Exception):
    """Other code of the process has closed what the server needs; a new one can go on."""


class Server:
    """Answer the requests that come to `listener`.

    Args:
        listener: a listening socket, non-blocking.
        respond: answers a GET or HEAD request. What it raises becomes a 500.
        log: takes what goes wrong on our side.
        lifeline: the reading end of a pipe nobody writes to; when its other end is
            closed, by the owner or by the owner's death, the server is to end.
        door: decides who comes in, and whether connections are encrypted; None lets
            everybody in. It is closed with the server.

    Attributes:
        watch: called each turn when it is due; returns after how many seconds that is again.
        must_leave: whether this thread may touch nothing any more; asked before it does.
    """

    def __init__(
        self,
        listener: socket.socket,
        respond: Callable[[Request], Answer],
        log: logging.Logger | Any,
        lifeline: int,
        door: "Door | None" = None,
    ) -> None:
        self._listener = OwnSocket(listener)
        self._respond = respond
        self._log = log
        self._lifeline = Descriptor(lifeline)
        self._door = door
        self.watch: Callable[[], float] = lambda: math.inf
        self._watch_due = 0.0
        self.must_leave: Callable[[], bool] = lambda: False
        self._is_closed = False
        # Held while requests are worked on, so that a fork can wait for a moment at
        # which no lock that matters is held by this thread.
        self.lock = threading.Lock()
        # Who is about to fork takes this one first, and holds it until the fork is done.
        # Without it the thread, busy, would take the lock again before anybody else.
        self.turnstile = threading.Lock()
        self._connections: dict[socket.socket, _Connection] = {}
        # Not epoll, whose descriptor nothing tells from that of another one.
        self._selector = selectors.PollSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._listener)
        self._selector.register(lifeline, selectors.EVENT_READ, self._lifeline)
        self._needed: list[Descriptor | Passwords] = [self._listener, self._lifeline]
        if door is not None:
            door.reopen()
            self._selector.register(door.passwords, selectors.EVENT_READ, door.passwords)
            self._needed.append(door.passwords)

    def serve(self) -> None:
        """Answer until the lifeline is cut, then finish what was begun and close.

        When it must leave it does so at once, and the owner closes.

        Raises:
            ClosedError: somebody else has closed what it needs.
        """
        while self._turn():
            pass
        if self.must_leave():
            return
        # Whoever shares the listener goes on; what this one has accepted is its own.
        self._needed = [needed for needed in self._needed if not isinstance(needed, Descriptor)]
        for key in list(self._selector.get_map().values()):
            if key.data in (self._lifeline, self._listener):
                self._selector.unregister(key.fd)
        self._listener.close()
        told = time.monotonic()
        while self._connections and time.monotonic() - told < self._drain_s():
            if not self._turn():
                return
        self.close()

    def _drain_s(self) -> float:
        has_begun = any(c.received or c.request is not None for c in self._connections.values())
        return DRAIN_S if has_begun else SILENT_DRAIN_S

    def _turn(self) -> bool:
        """Wait for something to do, half a second at the most, and do it.

        Returns False when the lifeline is cut, or it must leave.

        Raises:
            ClosedError: see `serve`.
        """
        is_cut = False
        events = self._selector.select(min(TURN_S, max(0.0, self._watch_due - time.monotonic())))
        with self.turnstile:
            self.lock.acquire()
        try:
            if self.must_leave():
                return False
            if not all(needed.is_open() for needed in self._needed):
                raise ClosedError("somebody else has closed its descriptors")
            for key, _ in events:
                if key.data is self._listener:
                    self._accept()
                elif key.fileobj in self._connections:
                    self._advance(self._connections[key.fileobj])
                elif self._door is not None and key.data is self._door.passwords:
                    self._door.passwords.collect()
                else:
                    is_cut |= key.data is self._lifeline
            self._close_overdue()
            if time.monotonic() >= self._watch_due:
                self._watch_due = time.monotonic() + self.watch()
        finally:
            self.lock.release()
        return not is_cut

    def close(self, *, keep_listener: bool = False) -> None:
        """Close every descriptor, also in a forked child, where that ends nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._selector.close()
        self._lifeline.close()
        for connection in self._connections.values():
            connection.own.close()
        self._connections.clear()
        if self._door is not None:
            self._door.close()
        if not keep_listener:
            self._listener.close()

    def _accept(self) -> None:
        if self._door is not None:
            self._door.refresh()
        # Several at once, or a crowd would fill the backlog and lose those behind it.
        for _ in range(ACCEPTS_PER_TURN):
            if self.turnstile.locked() or self.must_leave():
                return  # a fork waits, and so do they in the backlog
            try:
                client, address = self._listener.socket.accept()
            except OSError as error:
                # Gone again, taken by another generation, or no descriptor is left: then
                # one of ours must go, or the listener would stay readable for ever.
                if error.errno in OUT_OF_DESCRIPTORS:
                    self._close_oldest()
                return
            self._welcome(client, address)

    def _welcome(self, client: socket.socket, address: Any) -> None:
        client.setblocking(False)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._close_oldest()
        visit = None
        if self._door is not None:
            try:
                visit = self._door.welcome(client, address)
            except (OSError, ValueError):  # it is gone, and `ssl` says so in several ways
                client.close()
                return
            client = visit.client
        first = self._shake_hands if isinstance(client, ssl.SSLSocket) else self._read
        self._connections[client] = connection = _Connection(client, visit, first)
        self._advance(connection)

    def _advance(self, connection: "_Connection") -> None:
        """Take the next steps of a connection until one has to wait, or it is over."""
        if not connection.own.is_open():  # its number may be anybody's by now
            self._close(connection)
            return
        try:
            while connection.step is not None:
                connection.step = connection.step(connection)
        except _ParkedError:
            self._watch(connection, 0)
        except ssl.SSLWantWriteError:
            self._watch(connection, selectors.EVENT_WRITE)
        except ssl.SSLWantReadError:
            self._watch(connection, selectors.EVENT_READ)
        except BlockingIOError:
            is_writing = connection.step == self._write
            self._watch(connection, selectors.EVENT_WRITE if is_writing else selectors.EVENT_READ)
        except (OSError, ValueError) as error:  # it is gone or speaks something else
            self._log.debug("gunicorn-prom: the metrics server lost a client: %s", error)
            self._close(connection)
        else:
            self._close(connection)

    def _watch(self, connection: "_Connection", events: int) -> None:
        """Have a connection go on when its client is ready; with 0, when somebody else says."""
        if events == connection.watched:
            return
        if not connection.watched:
            self._selector.register(connection.client, events)
        elif not events:
            self._selector.unregister(connection.client)
        else:
            self._selector.modify(connection.client, events)
        connection.watched = events

    # The steps of a connection. Each may raise what says that it has to wait, and is
    # taken again then, or an OSError, which ends the connection.

    def _shake_hands(self, connection: "_Connection") -> _Step:
        assert isinstance(connection.client, ssl.SSLSocket)  # what _welcome has asked for
        connection.client.do_handshake()
        return self._read

    def _read(self, connection: "_Connection") -> _Step:
        connection.read()
        return self._understand

    def _understand(self, connection: "_Connection") -> _Step:
        if len(connection.received) > MAX_REQUEST_BYTES:
            return self._say(connection, refusal(431))
        request = understand(connection.received)
        if isinstance(request, Answer):
            return self._say(connection, request)
        connection.request = request
        return self._judge(connection, request)

    def _judge(self, connection: "_Connection", request: Request) -> _Step:
        if self._door is None or connection.visit is None:
            return self._answer
        finding = self._door.judge(
            connection.visit, request, lambda refused: self._settle(connection, refused)
        )
        if finding is None or isinstance(finding, Answer):
            connection.refused = finding
            return self._answer
        connection.check = finding
        connection.deadline = time.monotonic() + PASSWORD_TIMEOUT_S
        return self._wait

    def _wait(self, connection: "_Connection") -> _Step:
        if connection.check is not None:
            raise _ParkedError
        return self._answer

    def _settle(self, connection: "_Connection", refused: Answer | None) -> None:
        if connection.client in self._connections:  # it may have been closed meanwhile
            connection.check = None
            connection.refused = refused
            self._advance(connection)

    def _answer(self, connection: "_Connection") -> _Step:
        assert connection.request is not None  # _understand has set it
        request, refused = connection.request, connection.refused
        is_probe = request.method in METHODS and request.path in HEALTH_PATHS
        if refused is not None and not is_probe:
            return self._say(connection, refused)
        if request.method not in METHODS:
            answer = refusal(405)
            answer = answer._replace(headers={**answer.headers, "Allow": ", ".join(METHODS)})
            return self._say(connection, answer)
        try:
            answer = self._respond(request)
        except Exception:
            self._log.exception("gunicorn-prom: the metrics server failed to answer")
            answer = refusal(500)
        return self._say(connection, answer if refused is None else refusal(answer.status))

    def _say(self, connection: "_Connection", answer: Answer) -> _Step:
        if connection.visit is not None:
            more = connection.visit.rules.headers
            answer = answer._replace(headers={**answer.headers, **more})
        is_head = connection.request is not None and connection.request.method == "HEAD"
        connection.received = b""  # it may be kept long enough to take up room
        connection.rest = memoryview(word(answer, with_body=not is_head))
        connection.deadline = time.monotonic() + WRITE_TIMEOUT_S
        # Closed with input unread, the connection would be reset, and the client might
        # never see why.
        connection.is_to_linger = answer.status in CLIENT_ERRORS
        return self._write

    def _write(self, connection: "_Connection") -> _Next:
        connection.write()
        if not connection.is_to_linger:
            connection.take_leave()
            return None
        connection.client.shutdown(socket.SHUT_WR)
        connection.deadline = time.monotonic() + LINGER_TIMEOUT_S
        return self._linger

    def _linger(self, connection: "_Connection") -> None:
        connection.skip()

    def _close_overdue(self) -> None:
        now = time.monotonic()
        for connection in [c for c in self._connections.values() if c.deadline < now]:
            if connection.check is None or self._door is None:
                self._close(connection)
            else:
                self._settle(connection, self._door.give_up(connection.check))

    def _close_oldest(self) -> None:
        # Those whose request is complete soon end by themselves; one that waits for
        # its hash must not be pushed out by a crowd that says nothing.
        everybody = self._connections.values()
        oldest = next((c for c in everybody if c.request is None), None)
        oldest = oldest or next(iter(everybody), None)
        if oldest is not None:
            self._close(oldest)

    def _close(self, connection: "_Connection") -> None:
        del self._connections[connection.client]
        self._watch(connection, 0)
        if connection.check is not None and self._door is not None:
            self._door.give_up(connection.check)
        if connection.own.is_open():
            with contextlib.suppress(OSError):  # the client may have been first
                # A worker that is being forked may still have a copy of the socket open;
                # this ends the connection all the same.
                connection.client.shutdown(socket.SHUT_RDWR)
        connection.own.close()


class _ParkedError(Exception):
    """The connection goes on when its password has been checked."""


class _Connection:
    """One client: its request is read, then perhaps its password checked, then it is answered.

    Attributes:
        own: the client's socket, which other code may close.
        visit: what the door knows of it; None without a door.
        step: what is next.
        deadline: CLOCK_MONOTONIC seconds at which the connection is closed.
        watched: the events that the selector looks for, 0 when it does not know it.
        request: None until it is complete.
        check: what it waits for.
        refused: what it gets instead of an answer.
    """

    def __init__(self, client: socket.socket, visit: "Visit | None", step: _Step) -> None:
        self.client = client
        self.own = OwnSocket(client)
        self.visit = visit
        self.step: _Next = step
        self.deadline = time.monotonic() + READ_TIMEOUT_S
        self.watched = 0
        self.received = b""
        self.request: Request | None = None
        self.check: Check | None = None
        self.refused: Answer | None = None
        self.rest = memoryview(b"")
        self.is_to_linger = False
        self._skipped_bytes = 0

    def read(self) -> None:
        """Read what is there until the request is complete or too long.

        Raises:
            OSError: there is more to come, or the client is gone.
        """
        while END_OF_HEADERS not in self.received and len(self.received) <= MAX_REQUEST_BYTES:
            data = self.client.recv(CHUNK_BYTES)
            if not data:
                raise ConnectionResetError
            self.received += data
            if self.received.startswith(TLS_HANDSHAKE):
                # It would wait for an answer that is none, and we for the end of headers.
                raise ConnectionResetError

    def write(self) -> None:
        """Write the answer.

        Raises:
            OSError: the client takes no more now, or is gone.
        """
        while self.rest:
            self.rest = self.rest[self.client.send(self.rest) :]

    def take_leave(self) -> None:
        """Tell an encrypted client that this was all, and do not wait for its reply."""
        if isinstance(self.client, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self.client.unwrap()

    def skip(self) -> None:
        """Read the rest of what the client sends, within bounds, and forget it.

        Raises:
            OSError: there is more to come, or the client is gone.
        """
        while self._skipped_bytes < LINGER_BYTES:
            data = self.client.recv(CHUNK_BYTES)
            if not data:
                return
            self._skipped_bytes += len(data)

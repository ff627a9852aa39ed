"""An HTTP server that no client can hang or exhaust.

One thread, one selector, every socket non-blocking: a connection that is silent,
half sent or not read costs its deadline and a place in a bounded table, and the
oldest gives way to a new one. A request is looked at once it is complete.

Every connection carries one request: a scrape every few seconds gains nothing by
keeping it open.
"""

import contextlib
import errno
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from gunicorn_prom.exporter.message import Answer, Request, refusal, understand, word

__all__ = ["Server"]

MAX_CONNECTIONS = 256
MAX_REQUEST_BYTES = 16 * 1024
READ_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 10.0
TURN_S = 0.5
DRAIN_S = 0.5
CHUNK_BYTES = 65536
END_OF_HEADERS = b"\r\n\r\n"
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Server:
    """Answer the requests that come to `listener`.

    Args:
        listener: a listening socket, non-blocking.
        respond: answers a GET or HEAD request. What it raises becomes a 500.
        log: takes what goes wrong on our side.
        lifeline: the reading end of a pipe nobody writes to; when its other end is
            closed, by the owner or by the owner's death, the server is to end.
    """

    def __init__(
        self,
        listener: socket.socket,
        respond: Callable[[Request], Answer],
        log: logging.Logger | Any,
        lifeline: int,
    ) -> None:
        self.listener = listener
        self._respond = respond
        self._log = log
        self._lifeline = lifeline
        # Held while requests are worked on, so that a fork can wait for a moment at
        # which no lock that matters is held by this thread.
        self.lock = threading.Lock()
        self._connections: dict[socket.socket, _Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(lifeline, selectors.EVENT_READ)

    def serve(self) -> None:
        """Answer until the lifeline is cut, then finish what was begun and close."""
        while self._turn():
            pass
        # Whoever shares the listener goes on; what this one has accepted is its own.
        self._selector.unregister(self._lifeline)
        self._selector.unregister(self.listener)
        self.listener.close()
        end = time.monotonic() + DRAIN_S
        while self._connections and time.monotonic() < end:
            self._turn()
        self.close()

    def _turn(self) -> bool:
        """Wait for something to do, half a second at the most, and do it.

        Returns False when the lifeline is cut.
        """
        is_cut = False
        events = self._selector.select(TURN_S)
        with self.lock:
            for key, _ in events:
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj in self._connections:
                    self._advance(self._connections[key.fileobj])
                else:
                    is_cut |= key.fileobj == self._lifeline
            self._close_overdue()
        return not is_cut

    def close(self, *, keep_listener: bool = False) -> None:
        """Close every descriptor, also in a forked child, where that ends nothing.

        Closing the selector, instead of taking the sockets out of it, leaves the
        parent's untouched: both share one epoll instance.
        """
        self._selector.close()
        os.close(self._lifeline)
        for client in self._connections:
            client.close()
        self._connections.clear()
        if not keep_listener:
            self.listener.close()

    def _accept(self) -> None:
        try:
            client, _ = self.listener.accept()
        except OSError as error:
            # Gone again, taken by another generation, or no descriptor is left: then
            # one of ours must go, or the listener would stay readable for ever.
            if error.errno in OUT_OF_DESCRIPTORS:
                self._close_oldest()
            return
        client.setblocking(False)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._close_oldest()
        self._connections[client] = _Connection(client, time.monotonic() + READ_TIMEOUT_S)
        self._selector.register(client, selectors.EVENT_READ)
        self._advance(self._connections[client])

    def _advance(self, connection: "_Connection") -> None:
        try:
            if not connection.answering and connection.read():
                connection.begin_answer(self._answer(connection.received))
                self._selector.modify(connection.client, selectors.EVENT_WRITE)
            if connection.answering and connection.write():
                self._close(connection.client)
        except BlockingIOError:
            pass  # the rest when the selector says so
        except OSError:
            self._close(connection.client)

    def _answer(self, message: bytes) -> bytes:
        if len(message) > MAX_REQUEST_BYTES:
            return word(refusal(431))
        request = understand(message)
        if isinstance(request, Answer):
            return word(request)
        if request.method not in ("GET", "HEAD"):
            refused = refusal(405)
            return word(refused._replace(headers={**refused.headers, "Allow": "GET, HEAD"}))
        try:
            answer = self._respond(request)
        except Exception:
            self._log.exception("gunicorn-prom: the metrics server failed to answer")
            answer = refusal(500)
        return word(answer, with_body=request.method == "GET")

    def _close_overdue(self) -> None:
        now = time.monotonic()
        overdue = [c.client for c in self._connections.values() if c.deadline < now]
        for client in overdue:
            self._close(client)

    def _close_oldest(self) -> None:
        oldest = next(iter(self._connections), None)
        if oldest is not None:
            self._close(oldest)

    def _close(self, client: socket.socket) -> None:
        del self._connections[client]
        self._selector.unregister(client)
        with contextlib.suppress(OSError):  # the client may have been first
            # A worker that is being forked may still have a copy of the socket open;
            # this ends the connection all the same.
            client.shutdown(socket.SHUT_RDWR)
        client.close()


class _Connection:
    """One client: first its request is read, then the answer written.

    Attributes:
        deadline: CLOCK_MONOTONIC seconds at which the connection is closed.
    """

    def __init__(self, client: socket.socket, deadline: float) -> None:
        self.client = client
        self.deadline = deadline
        self.received = b""
        self.answering = False
        self._rest = memoryview(b"")

    def read(self) -> bool:
        """Read what is there; tell whether the request is complete or too long.

        Raises:
            OSError: BlockingIOError when there is more to come, else the end.
        """
        while END_OF_HEADERS not in self.received:
            data = self.client.recv(CHUNK_BYTES)
            if not data:
                raise ConnectionResetError
            self.received += data
            if len(self.received) > MAX_REQUEST_BYTES:
                break
        return True

    def begin_answer(self, answer: bytes) -> None:
        """Have `answer` ready to be written."""
        self.answering = True
        self.deadline = time.monotonic() + WRITE_TIMEOUT_S
        self._rest = memoryview(answer)

    def write(self) -> bool:
        """Write what the client takes; tell whether that was all.

        Raises:
            OSError: BlockingIOError when the client takes no more now, else the end.
        """
        while self._rest:
            self._rest = self._rest[self.client.send(self._rest) :]
        return True

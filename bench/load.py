"""A small closed-loop HTTP client: as many requests as told, over a few connections.

It runs in a process of its own, so that its work is in no figure of the server's.
"""

from __future__ import annotations

import multiprocessing
import selectors
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from bench.errors import BenchError

__all__ = ["Client", "Load", "get", "send"]

_SILENCE_S = 60
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """How much is sent, and how.

    Attributes:
        connections: How many requests are under way at any time.
        keep_alive: Send the next request on the same connection; else each has its own.
    """

    port: int
    requests: int
    connections: int
    keep_alive: bool


class Client(AbstractContextManager["Client"]):
    """Sends loads from a process of its own."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=context)

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def send(self, load: Load) -> float:
        """Send a load and return the seconds it took, as the client's process saw it.

        Raises:
            BenchError: If any answer is not the one expected.
        """
        return self._pool.submit(send, load).result()


class _Connection:
    """One connection, on which one request at a time is under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._request = _format_request("/", keep_alive=load.keep_alive)
        self._received = b""
        self.socket = _connect(load.port)

    def send_request(self) -> None:
        """Send a request; its answer is read by `receive`."""
        self._received = b""
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Read what has come; return whether the answer is complete."""
        chunk = self.socket.recv(65536)
        self._received += chunk
        if self._load.keep_alive and chunk:
            return _is_complete(self._received)
        if not chunk:
            _check_answer(self._received)
            return True
        return False

    def is_reusable(self) -> bool:
        """Return whether the server lets the next request use this connection."""
        head = self._received.partition(_HEAD_END)[0].lower()
        return self._load.keep_alive and b"connection: close" not in head


def send(load: Load) -> float:
    """Send a load from this process and return the seconds it took."""
    started = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        unsent = load.requests
        for _ in range(min(load.connections, load.requests)):
            _open(selector, load)
            unsent -= 1
        unanswered = load.requests
        while unanswered:
            for connection in _wait(selector):
                if not connection.receive():
                    continue
                unanswered -= 1
                _proceed(selector, connection, load, has_more=unsent > 0)
                unsent -= unsent > 0
    return time.perf_counter() - started


def get(port: int, path: str) -> bytes:
    """Fetch a path over a connection of its own and return the body.

    Raises:
        OSError: If nothing listens there or the connection breaks.
        BenchError: If the answer is not a 200.
    """
    received = b""
    with _connect(port) as connection:
        connection.sendall(_format_request(path, keep_alive=False))
        while chunk := connection.recv(65536):
            received += chunk
    _check_answer(received)
    return received.partition(_HEAD_END)[2]


def _open(selector: selectors.BaseSelector, load: Load) -> None:
    connection = _Connection(load)
    selector.register(connection.socket, selectors.EVENT_READ, connection)
    connection.send_request()


def _wait(selector: selectors.BaseSelector) -> list[_Connection]:
    events = selector.select(_SILENCE_S)
    if not events:
        raise BenchError(f"the server was silent for {_SILENCE_S} s")
    return [key.data for key, _ in events]


def _proceed(
    selector: selectors.BaseSelector,
    connection: _Connection,
    load: Load,
    *,
    has_more: bool,
) -> None:
    """Send the next request on this connection or, where that is over, on a new one."""
    if has_more and connection.is_reusable():
        connection.send_request()
        return
    selector.unregister(connection.socket)
    connection.socket.close()
    if has_more:
        _open(selector, load)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _format_request(path: str, *, keep_alive: bool) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "User-Agent: bench"]
    if not keep_alive:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


def _is_complete(received: bytes) -> bool:
    head, separator, body = received.partition(_HEAD_END)
    if not separator:
        return False
    _check_answer(received)
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    return len(body) >= int(length)


def _check_answer(received: bytes) -> None:
    if not received.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        raise BenchError(f"unexpected answer: {received[:80]!r}")

"""A small closed-loop HTTP client: as many requests as told, over a few connections.

It runs in a process of its own, so that its work is in no figure of the server's.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from bench.errors import BenchError

__all__ = ["Client", "Load", "get", "send"]

_SILENCE_S = 60
_CHUNK_BYTES = 65536
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
    """Sends loads from a process of its own, and on a processor of its own if told."""

    def __init__(self, processors: set[int]) -> None:
        self._pool = ProcessPoolExecutor(
            max_workers=1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=os.sched_setaffinity,
            initargs=(0, processors),
        )

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def send(self, load: Load) -> float:
        """Send a load and return the seconds it took, as the client's process saw it.

        Raises:
            BenchError: If any answer is not the one expected.
        """
        return self._pool.submit(send, load).result()


def send(load: Load) -> float:
    """Send a load from this process and return the seconds it took.

    The connections take turns, and each sends its next request as soon as its answer is
    there: two system calls per request, so that the server has always something to do.
    """
    started = time.perf_counter()
    exchange = _exchange_kept if load.keep_alive else _exchange_closing
    exchange(load, _format_request("/", keep_alive=load.keep_alive))
    return time.perf_counter() - started


def _exchange_kept(load: Load, request: bytes) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(_connect(load.port)) for _ in range(load.connections)]
        length = _learn_length(connections[0], request)
        for number in range(load.requests - 1):
            connection = connections[number % load.connections]
            if number >= load.connections:
                _receive_answer(connection, length)
            connection.sendall(request)
        for number in range(min(load.requests - 1, load.connections)):
            _receive_answer(connections[number], length)


def _exchange_closing(load: Load, request: bytes) -> None:
    under_way: deque[socket.socket] = deque()
    for number in range(load.requests + load.connections):
        if number >= load.connections:
            with under_way.popleft() as connection:
                _check_answer(_receive_all(connection))
        if number < load.requests:
            under_way.append(_connect(load.port))
            under_way[-1].sendall(request)


def _learn_length(connection: socket.socket, request: bytes) -> int:
    """Send a request and return the length of its answer: all the others have the same."""
    connection.sendall(request)
    received = b""
    while _HEAD_END not in received:
        received += _receive_some(connection)
    head, _, body = received.partition(_HEAD_END)
    if b"connection: close" in head.lower():
        raise BenchError("the server does not keep connections alive")
    body_length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < body_length:
        body += _receive_some(connection)
    return len(head) + len(_HEAD_END) + body_length


def _receive_answer(connection: socket.socket, length: int) -> None:
    received = _receive_some(connection)
    while len(received) < length:
        received += _receive_some(connection)
    _check_answer(received)


def _receive_some(connection: socket.socket) -> bytes:
    chunk = connection.recv(_CHUNK_BYTES)
    if not chunk:
        raise BenchError("the server closed a connection that was to be kept alive")
    return chunk


def _receive_all(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(_CHUNK_BYTES):
        received += chunk
    return received


def get(port: int, path: str) -> bytes:
    """Fetch a path over a connection of its own and return the body.

    Raises:
        OSError: If nothing listens there or the connection breaks.
        BenchError: If the answer is not a 200.
    """
    with _connect(port) as connection:
        connection.sendall(_format_request(path, keep_alive=False))
        received = _receive_all(connection)
    _check_answer(received)
    return received.partition(_HEAD_END)[2]


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _format_request(path: str, *, keep_alive: bool) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "User-Agent: bench"]
    if not keep_alive:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode()


def _check_answer(received: bytes) -> None:
    if not received.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
        raise BenchError(f"unexpected answer: {received[:80]!r}")

"""Requests over raw sockets, and exactly what their client saw."""

import contextlib
import random
import socket
import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Literal

TIMEOUT_S = 30.0
BODILESS = ("204", "304")
# SO_LINGER on, 0 seconds: what close() sends is a reset.
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Shot:
    """A request, and what it makes happen in the server besides its answer.

    Attributes:
        raw: what is sent instead, when it is not a request or a part of one.
        raises: the exception's class, when the application raises one.
        parse_error: the class of the error, when Gunicorn reads no request in it.
        hangs_up: when the client goes away: as soon as it has asked, or while it reads.
    """

    method: str = "GET"
    path: str = "/plain"
    version: str = "1.1"
    headers: tuple[str, ...] = ()
    body: bytes = b""
    raw: bytes = b""
    raises: str = ""
    parse_error: str = ""
    hangs_up: Literal["", "asking", "reading"] = ""

    @property
    def content(self) -> bytes:
        """What goes to the server."""
        if self.raw:
            return self.raw
        lengths = [f"Content-Length: {len(self.body)}"] if self.body else []
        lines = [f"{self.method} {self.path} HTTP/{self.version}", "Host: test"]
        head = "\r\n".join([*lines, *self.headers, *lengths, "", ""])
        return head.encode("latin-1") + self.body

    @property
    def keeps_alive(self) -> bool:
        """Tell whether the client leaves it to the server to end the connection."""
        otherwise = "Connection: keep-alive" if self.version == "1.0" else ""
        return "Connection: close" not in self.headers and otherwise in ("", *self.headers)


@dataclass(frozen=True)
class Exchange:
    """A request and what its client saw.

    Attributes:
        status: "" when nothing came.
        is_whole: nothing of the answer was missing.
        body_bytes: of the answer, without the framing.
        raw: everything that came.
    """

    shot: Shot
    status: str
    is_whole: bool
    body_bytes: int
    raw: bytes


class Answer:
    """Read one answer from a connection."""

    def __init__(self, connection: socket.socket, method: str) -> None:
        self.raw = bytearray()
        self._connection = connection
        self._at = 0
        self.status, self.headers = self._read_head()
        self._is_bodiless = method == "HEAD" or self.status in BODILESS

    @property
    def keeps_alive(self) -> bool:
        """Tell whether the server will read another request."""
        has_end = self._is_bodiless or {"transfer-encoding", "content-length"} & set(self.headers)
        return bool(has_end) and self.headers.get("connection") == "keep-alive"

    def read_body(self) -> tuple[int, bool]:
        """Return how many bytes came, and whether they were all."""
        if not self.status:
            return 0, False
        if self._is_bodiless:
            # Up to 25.3 Gunicorn sends the body that an application gives to a HEAD.
            return (0 if self.keeps_alive else self._read_rest()), True
        if "transfer-encoding" in self.headers:
            return self._read_chunks()
        if "content-length" in self.headers:
            length = int(self.headers["content-length"])
            came = len(self.take(length))
            return came, came == length
        return self._read_rest(), True

    def take(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end of the connection."""
        while len(self.raw) < self._at + count and self._receive():
            pass
        part = bytes(self.raw[self._at : self._at + count])
        self._at += len(part)
        return part

    def left_over(self) -> bytes:
        """Return what came and nobody has taken."""
        return bytes(self.raw[self._at :])

    def _read_head(self) -> tuple[str, dict[str, str]]:
        status, headers = "100", {}
        while status == "100":
            protocol, _, rest = self._line().partition(" ")
            status, headers = rest.partition(" ")[0], {}
            while line := self._line():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
        headers.setdefault("connection", "keep-alive" if protocol == "HTTP/1.1" else "close")
        return status, headers

    def _read_rest(self) -> int:
        came = 0
        while part := self.take(65536):
            came += len(part)
        return came

    def _read_chunks(self) -> tuple[int, bool]:
        came = 0
        # Gunicorn may write an error page into the middle of an answer.
        while (size := self._line()) and not size.startswith("HTTP"):
            length = int(size, 16)
            part = self.take(length)
            came += len(part)
            is_whole = len(part) == length and self.take(2) == b"\r\n"
            if not length or not is_whole:
                return came, is_whole
        return came, False

    def _line(self) -> str:
        while (end := self.raw.find(b"\r\n", self._at)) < 0:
            if not self._receive():
                end = len(self.raw)
                break
        line = self.raw[self._at : end].decode("latin-1")
        self._at = min(end + 2, len(self.raw))
        return line

    def _receive(self) -> bool:
        try:
            part = self._connection.recv(65536)
        except ConnectionResetError:
            part = b""
        self.raw += part
        return bool(part)


class Client:
    """Send requests over one connection, and over a new one when that has ended.

    Args:
        repeats: send a request again when no answer comes, as browsers do where
            the server may have closed the connection in the meantime.
        timeout_s: how long it waits for each part of an answer.
    """

    def __init__(self, port: int, *, repeats: bool = False, timeout_s: float = TIMEOUT_S) -> None:
        self._port = port
        self._repeats = repeats
        self._timeout_s = timeout_s
        self._connection: socket.socket | None = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def exchange(self, shot: Shot) -> Exchange:
        """Send a request and read the answer to its end, or as far as the shot wants."""
        exchange = self._exchange(shot)
        while self._repeats and not exchange.status:
            exchange = self._exchange(shot)
        return exchange

    def _exchange(self, shot: Shot) -> Exchange:
        if self._connection is None:
            address = ("127.0.0.1", self._port)
            self._connection = socket.create_connection(address, self._timeout_s)
        # An answer may have come all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(shot.content)
        if shot.hangs_up == "asking":
            self._close()
            return Exchange(shot, "", is_whole=False, body_bytes=0, raw=b"")
        answer = Answer(self._connection, shot.method)
        if shot.hangs_up == "reading":
            began = len(answer.take(1))
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._close()
            return Exchange(shot, answer.status, False, began, bytes(answer.raw))
        body_bytes, is_whole = answer.read_body()
        assert not (is_whole and answer.left_over()), f"{shot} was answered by more than an answer"
        # After an exception Gunicorn closes whatever it may have announced.
        if not (answer.keeps_alive and shot.keeps_alive and is_whole) or shot.raises:
            self._close()
        return Exchange(shot, answer.status, is_whole, body_bytes, bytes(answer.raw))

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def send(
    port: int, shots: Iterable[Shot], *, connections: int = 1, repeats: bool = False
) -> list[Exchange]:
    """Send the requests over that many connections at the same time."""
    shots = list(shots)

    def send_share(number: int) -> list[Exchange]:
        with Client(port, repeats=repeats) as client:
            return [client.exchange(shot) for shot in shots[number::connections]]

    with ThreadPoolExecutor(connections) as pool:
        return list(chain.from_iterable(pool.map(send_share, range(connections))))


def shuffled(kinds: Iterable[Shot], count: int, seed: int = 1) -> list[Shot]:
    """Return that many requests, of each kind as many as of the others, in random order."""
    kinds = list(kinds)
    shots = [kinds[number % len(kinds)] for number in range(count)]
    random.Random(seed).shuffle(shots)
    return shots

"""How many connections wait to be accepted, in the process of the metrics server.

The kernel is asked by netlink, which tells it of all sockets of a network namespace. TCP_INFO
tells it of TCP only, and only to who has the socket open; /proc/net has no limits.

Source: sock_diag(7).
"""

import errno
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gunicorn_prom.listeners import ANY_INODE, Listener, address_label, read
from gunicorn_prom.state import LISTENERS

__all__ = ["Backlog", "Queue", "queues"]

# How long a peak is shown. Not until the next scrape: of two scrapers each would hide
# from the other what it has seen.
PEAK_WINDOW_S = 60.0

# Source: linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/unix_diag.h.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
HEADER = struct.Struct("=IHHII")
LISTENING = 1 << 10
INET_REQUEST = struct.Struct("=BBBBI48x")
INET_QUEUES = struct.Struct("=4x2I4xI")  # behind the addresses: waiting, limit, inode
INET_PORT, INET_HOST, INET_REST = 4, 8, 52
UNIX_REQUEST = struct.Struct("=BBHIIIII")
UNIX_INODE, UNIX_ATTRIBUTES = 4, 16
UDIAG_SHOW_RQLEN, UNIX_DIAG_RQLEN = 1 << 4, 4
ATTRIBUTE = struct.Struct("=HH")
NO_COOKIE = 0xFFFFFFFF
ANSWER_BYTES = 65536

# There is no such netlink here: an old kernel, gVisor, or somebody forbids it.
REFUSALS = (
    errno.EACCES,
    errno.EAFNOSUPPORT,
    errno.EINVAL,
    errno.ENOENT,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EPROTONOSUPPORT,
)


class Queue(NamedTuple):
    """The connections of a listener that nobody has accepted so far."""

    waiting: int
    limit: int


class Backlog:
    """Look at the queues of a server again and again, and remember the peaks."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        # By name of the file: which one it was, and what it told.
        self._files: dict[str, tuple[tuple[int, int], list[Listener]]] = {}
        self._is_refused = False
        # By label the looks of the last time, without those that a later one has topped.
        self._looks: dict[str, deque[tuple[float, int]]] = {}

    def look(self) -> dict[str, Queue]:
        """Return the queue of each listener by its label, and note it for the peak.

        Those that cannot be seen from here are missing. After a refusal nothing is asked
        any more, for there would be another one.

        Raises:
            OSError: the kernel does not tell.
        """
        listeners = {found for _, told in self._files.values() for found in told}
        if self._is_refused or not listeners:
            return {}
        try:
            found = queues(listeners)
        except OSError as error:
            self._is_refused = error.errno in REFUSALS
            raise
        self._note(found)
        return found

    def peak(self, label: str) -> int:
        """Return the most connections that any look of the last minute found at a listener."""
        return self._looks[label][0][1]

    def refresh(self, directory: Path) -> None:
        """Learn where the server listens now.

        Args:
            directory: the server's, see `State`.

        Raises:
            OSError: a file there cannot be read.
            ValueError: another version wrote it.
        """
        if directory != self._directory:
            self._directory = directory
            self._files.clear()
        try:
            names = [name for name in os.listdir(directory) if name.startswith(f"{LISTENERS}.")]
            versions = {name: os.stat(directory / name) for name in names}
        except FileNotFoundError:
            return  # somebody has removed the directory, or it changes: what is known holds
        self._files = {name: self._files[name] for name in names if name in self._files}
        for name, version in versions.items():
            identity = version.st_ino, version.st_mtime_ns
            if name not in self._files or self._files[name][0] != identity:
                self._files[name] = identity, []
                self._files[name] = identity, read(directory / name)

    def _note(self, found: dict[str, Queue]) -> None:
        now = time.monotonic()
        self._looks = {label: self._looks.get(label, deque()) for label in found}
        for label, looks in self._looks.items():
            while looks and looks[-1][1] <= found[label].waiting:
                looks.pop()
            looks.append((now, found[label].waiting))
            while looks[0][0] < now - PEAK_WINDOW_S:
                looks.popleft()


def queues(listeners: set[Listener]) -> dict[str, Queue]:
    """Return the queues of those listeners that the kernel knows in this network namespace.

    Several sockets at one address are added up.

    Raises:
        OSError: the kernel does not tell.
    """
    by_inode = {listener.inode: listener.label for listener in listeners}
    by_address = {listener.label for listener in listeners if listener.inode == ANY_INODE}
    found: dict[str, dict[int, Queue]] = {}
    for family in sorted({listener.family for listener in listeners}):
        dump = _unix_sockets() if family == socket.AF_UNIX else _inet_sockets(family)
        for address, inode, queue in dump:
            label = by_inode.get(inode, address)
            if inode in by_inode or label in by_address:
                found.setdefault(label, {})[inode] = queue
    return {
        label: Queue(*map(sum, zip(*sockets.values(), strict=True)))
        for label, sockets in found.items()
    }


def _inet_sockets(family: int) -> Iterator[tuple[str, int, Queue]]:
    host_bytes = 4 if family == socket.AF_INET else 16
    for body in _dump(INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, LISTENING)):
        host = socket.inet_ntop(family, body[INET_HOST : INET_HOST + host_bytes])
        port = int.from_bytes(body[INET_PORT : INET_PORT + 2], "big")
        waiting, limit, inode = INET_QUEUES.unpack_from(body, INET_REST)
        yield address_label(family, (host, port)), inode, Queue(waiting, limit)


def _unix_sockets() -> Iterator[tuple[str, int, Queue]]:
    request = UNIX_REQUEST.pack(
        socket.AF_UNIX, 0, 0, LISTENING, 0, UDIAG_SHOW_RQLEN, NO_COOKIE, NO_COOKIE
    )
    for body in _dump(request):
        (inode,) = struct.unpack_from("=I", body, UNIX_INODE)
        at = UNIX_ATTRIBUTES
        while at < len(body):
            length, kind = ATTRIBUTE.unpack_from(body, at)
            if kind == UNIX_DIAG_RQLEN:
                yield "", inode, Queue(*struct.unpack_from("=2I", body, at + ATTRIBUTE.size))
            at += _aligned(length)


def _dump(request: bytes) -> Iterator[bytes]:
    """Yield what the kernel tells of each socket that the request means."""
    family = socket.AF_NETLINK
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(family, kind, NETLINK_SOCK_DIAG) as kernel:
        # It answers before `send` and `recv` return. If not, waiting would not help.
        kernel.setblocking(False)
        length = HEADER.size + len(request)
        kernel.send(HEADER.pack(length, SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 0, 0) + request)
        while True:
            answer = kernel.recv(ANSWER_BYTES)
            at = 0
            while at < len(answer):
                length, kind, *_ = HEADER.unpack_from(answer, at)
                body = answer[at + HEADER.size : at + length]
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise OSError(code, os.strerror(code))
                yield body
                at += _aligned(length)


def _aligned(length: int) -> int:
    return -(-length // 4) * 4

"""Passwords: told apart by bcrypt, remembered, and hashed where nobody waits for it.

A hash takes a quarter of a second and cannot be hurried. So what was found out is
remembered, and hashes are computed by a thread of their own, one after the other.
What that thread shares with the server is one socket pair; who waits, who is next
and what is remembered is the server's alone, so there is no lock in here.
"""

import atexit
import base64
import binascii
import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Mapping
from hashlib import blake2b
from itertools import chain
from typing import Any

from gunicorn_prom.descriptors import OwnSocket
from gunicorn_prom.exporter.web_config import missing_extra

__all__ = ["Check", "Passwords", "Users", "credentials_in", "require_bcrypt", "source_of"]

MAX_WAITING = 64
# Of one source, whenever a hash is done: so many tries go on waiting.
MAX_KEPT = 8
MAX_GOOD = 256
MAX_WRONG = 1024
# bcrypt looks at no more, and newer versions of the package refuse more.
PASSWORD_BYTES = 72
DUMMY_SALT_AND_HASH = b"NobodyHasThisPasswordO" + b"." * 31
JOIN_S = 10.0
# Half of an IPv6 address is the host's own choice.
IPV6_NETWORK_BITS = 64


def credentials_in(header: str) -> tuple[bytes, bytes] | None:
    """Return user and password out of an Authorization header; None when it has none.

    Source: RFC 7617, section 2.
    """
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None


def source_of(address: Any) -> str:
    """Return what clients have in common that are likely the same: network or address."""
    host = str(address[0]).partition("%")[0] if address else ""
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((parsed, IPV6_NETWORK_BITS), strict=False))
    return host


def require_bcrypt() -> None:
    """Import bcrypt now, and not in the middle of a request.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import bcrypt  # noqa: F401 - to be there later
    except ImportError:
        raise missing_extra("bcrypt") from None


class Users:
    """Who may come in, by bcrypt hash.

    Args:
        hashes: by user, at least one.
    """

    def __init__(self, hashes: Mapping[str, bytes]) -> None:
        self._hashes = {user.encode(errors="replace"): hashed for user, hashed in hashes.items()}
        cost = max(hashed[4:6] for hashed in hashes.values())
        self._dummy = b"$2b$" + cost + b"$" + DUMMY_SALT_AND_HASH

    def hash_of(self, user: bytes) -> tuple[bytes, bool]:
        """Return what to compare a password with, and whether the user exists.

        For one who does not it takes as long, or names could be guessed by the clock.
        """
        hashed = self._hashes.get(user)
        return (self._dummy, False) if hashed is None else (hashed, True)


class Check:
    """A password that somebody waits to have checked.

    Args:
        source: where it comes from, see `source_of`.
        answer: told whether the password is right, by the server's thread.
    """

    __slots__ = ("answer", "hashed", "is_known", "password", "source", "user")

    def __init__(
        self,
        users: Users,
        credentials: tuple[bytes, bytes],
        source: str,
        answer: Callable[[bool], None],
    ) -> None:
        self.user = credentials[0]
        self.password = credentials[1][:PASSWORD_BYTES]
        self.hashed, self.is_known = users.hash_of(self.user)
        self.source = source
        self.answer = answer


class Passwords:
    """Find out whether passwords are right, each once.

    Attributes:
        hashes: how many were computed.
    """

    def __init__(self) -> None:
        self.hashes = 0
        self._secret = os.urandom(32)
        self._good: dict[bytes, None] = {}
        self._wrong: dict[bytes, None] = {}
        self._line = _Line()
        self._running: Check | None = None
        self._hasher = _Hasher()

    def fileno(self) -> int:
        """Return the descriptor that is readable when `collect` has something to do."""
        return self._hasher.fileno()

    def is_open(self) -> bool:
        """Tell whether nobody else has closed what it needs."""
        return self._hasher.is_open()

    def recall(self, check: Check) -> bool | None:
        """Tell whether the password is right; None when that is not known yet."""
        key = self._key(check)
        if key in self._good:
            return True
        return False if key in self._wrong else None

    def ask(self, check: Check) -> None:
        """Have `check` answered later; somebody else may be turned away for it."""
        displaced = self._line.add(check)
        self._start_next()
        if displaced is not None:
            displaced.answer(False)

    def forget(self, check: Check) -> None:
        """Nobody waits for `check` any more."""
        self._line.remove(check)

    def collect(self) -> None:
        """Take the hash that is done, answer those who wait for it, begin the next."""
        is_right = self._hasher.result()
        if is_right is None or self._running is None:
            return
        check, self._running = self._running, None
        self._remember(check, is_good=is_right and check.is_known)
        settled = [check, *self._line.remove_all(self._is_known)]
        turned_away = self._line.thin()
        self._start_next()
        for known in settled:
            known.answer(self.recall(known) is True)
        for unlucky in turned_away:
            unlucky.answer(False)

    def close(self) -> None:
        """End the thread when its hash is done; in a child, which has none, only close."""
        self._hasher.close()

    def _start_next(self) -> None:
        if self._running is None:
            self._running = self._line.next()
            if self._running is not None:
                self.hashes += 1
                self._hasher.start(self._running.password, self._running.hashed)

    def _is_known(self, check: Check) -> bool:
        return self.recall(check) is not None

    def _remember(self, check: Check, *, is_good: bool) -> None:
        memory, limit = (self._good, MAX_GOOD) if is_good else (self._wrong, MAX_WRONG)
        memory[self._key(check)] = None
        if len(memory) > limit:
            del memory[next(iter(memory))]

    def _key(self, check: Check) -> bytes:
        # The hash is part of it: what was found out about a password that the file no
        # longer has is never found again. Neither user nor hash has a colon.
        message = b":".join((check.user, check.hashed, check.password))
        return blake2b(message, key=self._secret, digest_size=32).digest()


class _Line:
    """Those who wait for a hash: each source in turn, its newest first.

    Whoever guesses passwords and waits for each answer has his next guess come in
    after the scrape that came in meanwhile. In the order of arrival the scrape would
    wait for all of them.
    """

    def __init__(self) -> None:
        self._by_source: dict[str, list[Check]] = {}

    def add(self, check: Check) -> Check | None:
        """Let `check` wait; return the one that has to leave for it."""
        self._by_source.setdefault(check.source, []).append(check)
        if sum(map(len, self._by_source.values())) <= MAX_WAITING:
            return None
        longest = max(self._by_source.values(), key=len)
        displaced = longest[0]
        self.remove(displaced)
        return displaced

    def next(self) -> Check | None:
        """Take out who is next."""
        for source, checks in self._by_source.items():
            check = checks.pop()
            del self._by_source[source]
            if checks:
                self._by_source[source] = checks  # behind all others
            return check
        return None

    def remove(self, check: Check) -> None:
        """Take `check` out if it is there."""
        self.remove_all(lambda other: other is check)

    def remove_all(self, condition: Callable[[Check], bool]) -> list[Check]:
        """Take out and return all those for which `condition` holds."""
        everybody = chain.from_iterable(self._by_source.values())
        removed = [check for check in everybody if condition(check)]
        for check in removed:
            self._drop(check)
        return removed

    def thin(self) -> list[Check]:
        """Take out and return all but the newest few of each source."""
        excess = [check for checks in self._by_source.values() for check in checks[:-MAX_KEPT]]
        for check in excess:
            self._drop(check)
        return excess

    def _drop(self, check: Check) -> None:
        checks = self._by_source[check.source]
        checks.remove(check)
        if not checks:
            del self._by_source[check.source]


class _Hasher:
    """A thread that computes one bcrypt hash at a time, begun when there is a first one.

    It may be in the middle of one when the master forks. That harms no child: the
    thread takes no lock of ours, does not log and does not import. It waits for a byte
    on a socket. The child has no such thread, and closes the sockets and nothing else.
    """

    def __init__(self) -> None:
        self._ours, self._theirs = map(OwnSocket, socket.socketpair())
        self._ours.socket.setblocking(False)
        self._job: tuple[bytes, bytes] = (b"", b"")
        self._is_right = False
        self._thread: threading.Thread | None = None
        self._pid = 0

    def fileno(self) -> int:
        return self._ours.fileno()

    def is_open(self) -> bool:
        return self._ours.is_open() and self._theirs.is_open()

    def start(self, password: bytes, hashed: bytes) -> None:
        """Begin a hash; none may be going on."""
        self._job = (password, hashed)
        if self._thread is None:
            self._run()
        self._ours.socket.send(b"\0")

    def result(self) -> bool | None:
        """Take the result; None when there is none."""
        try:
            return self._is_right if self._ours.socket.recv(1) else None
        except OSError:
            return None

    def close(self) -> None:
        if self._thread is not None and self._pid == os.getpid():
            if self._ours.is_open():
                # Not only closed: a child that is being forked may still have it open.
                self._ours.socket.shutdown(socket.SHUT_RDWR)
        else:
            self._theirs.close()
        self._ours.close()

    def _run(self) -> None:
        import bcrypt

        self._pid = os.getpid()
        self._thread = threading.Thread(
            target=self._work, args=(bcrypt.checkpw,), name="gunicorn-prom-bcrypt", daemon=True
        )
        self._thread.start()
        atexit.register(self._finish)

    def _work(self, checkpw: Callable[[bytes, bytes], bool]) -> None:
        theirs = self._theirs
        with contextlib.closing(theirs), contextlib.suppress(OSError):  # the server is gone
            while theirs.is_open() and theirs.socket.recv(1):
                try:
                    self._is_right = checkpw(*self._job)
                except Exception:  # whatever it is, nobody is let in by it
                    self._is_right = False
                if theirs.is_open():
                    theirs.socket.send(b"\0")

    def _finish(self) -> None:
        # Up to Python 3.13 a thread that comes back from bcrypt while the interpreter
        # is being taken down aborts the process.
        if self._thread is not None and self._pid == os.getpid():
            self.close()
            self._thread.join(JOIN_S)

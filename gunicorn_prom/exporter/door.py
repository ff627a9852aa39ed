"""Who comes in to the metrics server: what the web configuration file says, kept up to date."""

import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn_prom.errors import GunicornPromError, InvalidSettingError
from gunicorn_prom.exporter.authentication import (
    Check,
    Passwords,
    Users,
    credentials_in,
    require_bcrypt,
    source_of,
)
from gunicorn_prom.exporter.message import PLAIN, Answer, Request, refusal
from gunicorn_prom.exporter.tls import make_context, names_of
from gunicorn_prom.exporter.web_config import WebConfig, parse

__all__ = ["Door", "Rules", "Visit", "validate"]

LOOK_EVERY_S = 1.0
# A file that is written in place is half there for a moment, and the half may be a
# valid file that asks for no password.
SETTLED_AFTER_NS = 1_000_000_000
CHALLENGE = {**PLAIN, "WWW-Authenticate": 'Basic realm="gunicorn-prom", charset="UTF-8"'}


@dataclass(frozen=True)
class Rules:
    """One good version of the web configuration file.

    Attributes:
        context: None for plain HTTP.
        allowed_sans: None when any verified certificate will do.
        users: None when no password is asked for.
        headers: to be added to every answer.
    """

    context: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] | None = None
    users: Users | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


class Visit(NamedTuple):
    """One connection at the door.

    Attributes:
        source: see `authentication.source_of`.
        rules: those that were in force when it came.
    """

    client: socket.socket
    source: str
    rules: Rules

    def names(self) -> set[str]:
        """Return the alternative names in the certificate of the client."""
        return names_of(self.client) if isinstance(self.client, ssl.SSLSocket) else set()


def validate(path: Path) -> None:
    """Say what is wrong with the web configuration file, before anything is bound.

    Raises:
        UsageError: it, or a file that it names, cannot be used, or the extra is missing.
    """
    _Source(path).load()


class Door:
    """Decide on connections and requests by the newest good version of the file.

    It belongs to the thread of the server; `close` may also be called in a child.

    Attributes:
        rules: those for new connections.
    """

    @classmethod
    def open(cls, path: Path, log: Any, count_error: Callable[[], None] = lambda: None) -> "Door":
        """Read the web configuration file at `path`.

        Args:
            path: kept, and followed whenever it is looked at.
            log: takes one line for each later version that is taken up or refused.
            count_error: called for each later version that is refused.

        Raises:
            UsageError: the file cannot be used.
        """
        source = _Source(path)
        return cls(source, source.load(), log, count_error)

    def __init__(
        self, source: "_Source", rules: Rules, log: Any, count_error: Callable[[], None]
    ) -> None:
        self.rules = rules
        self._source = source
        self._log = log
        self._count_error = count_error
        self._next_look = 0.0

    @cached_property
    def passwords(self) -> Passwords:
        """What the server is to watch, see `Passwords.fileno`.

        Made when it is first asked for: whoever is forked before has nothing to close.
        """
        return Passwords()

    @property
    def scheme(self) -> str:
        """The scheme of URLs now: `https` or `http`."""
        return "http" if self.rules.context is None else "https"

    def refresh(self) -> None:
        """Take up the file if it has changed; looked at once a second at the most."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_S
        if not self._source.has_changed():
            return
        try:
            self.rules = self._source.load()
        except Exception as error:
            # What nobody has foreseen might quote a secret.
            reason = error if isinstance(error, GunicornPromError) else type(error).__name__
            self._count_error()
            self._log.error("gunicorn-prom: %s; the last good configuration stays in force", reason)
        else:
            self._log.info("gunicorn-prom: read %s again", self._source.path)

    def welcome(self, client: socket.socket, address: Any) -> "Visit":
        """Take in a new connection; with TLS the handshake is still to be made.

        Args:
            address: of the client, as `accept` gives it.

        Raises:
            OSError: the client has gone.
        """
        if self.rules.context is not None:
            client = self.rules.context.wrap_socket(
                client, server_side=True, do_handshake_on_connect=False
            )
        return Visit(client, source_of(address), self.rules)

    def judge(
        self, visit: "Visit", request: Request, answer: Callable[[Answer | None], None]
    ) -> Answer | Check | None:
        """Decide on a request: None lets it in, an answer refuses it.

        A check means that a hash must be computed first; `answer` is called with the
        decision when it is.
        """
        rules = visit.rules
        if rules.allowed_sans is not None and rules.allowed_sans.isdisjoint(visit.names()):
            return refusal(403)
        if rules.users is None:
            return None
        credentials = credentials_in(request.headers.get("AUTHORIZATION", ""))
        if credentials is None:
            return unauthorized()
        check = Check(
            rules.users,
            credentials,
            visit.source,
            lambda is_right: answer(None if is_right else unauthorized()),
        )
        is_right = self.passwords.recall(check)
        if is_right is None:
            self.passwords.ask(check)
            return check
        return None if is_right else unauthorized()

    def give_up(self, check: Check) -> Answer:
        """Drop a check that takes too long, and return what is answered instead."""
        self.passwords.forget(check)
        return unauthorized()

    def close(self) -> None:
        """Close the descriptors, also in a forked child, where that ends nothing."""
        if "passwords" in self.__dict__:
            self.passwords.close()

    def reopen(self) -> None:
        """Have open what was closed, for a further server."""
        if not self.passwords.is_open():
            self.passwords.close()
            del self.passwords


def unauthorized() -> Answer:
    """Return the answer to a request without the right password."""
    return refusal(401)._replace(headers=CHALLENGE)


class _Stamp(NamedTuple):
    """What tells two versions of a file apart."""

    written_ns: int
    changed_ns: int
    inode: int
    size_bytes: int


class _Source:
    """The file, the files that it names, and which versions of them were read."""

    def __init__(self, path: Path) -> None:
        # The server may change its directory.
        self.path = path.absolute()
        self._stamps: dict[Path, _Stamp | None] = {}

    def has_changed(self) -> bool:
        """Tell whether there is another version, and nobody is writing at it just now."""
        stamps = {path: _stamp(path) for path in self._stamps}
        return stamps != self._stamps and all(map(_is_settled, stamps.values()))

    def load(self) -> Rules:
        """Read everything.

        An empty file is not taken for a wish: it is more likely one that could not be
        written.

        Raises:
            UsageError: something cannot be used; then that version counts as read, too.
        """
        # Looked at before it is read: a change in between is seen the next time.
        stamp = _stamp(self.path)
        self._stamps = {self.path: stamp}
        config = parse(self.path)
        if stamp is not None and stamp.size_bytes == 0:
            raise InvalidSettingError(f"{self.path} is empty", "write {} to open the door")
        self._stamps |= {path: _stamp(path) for path in config.files()}
        try:
            return _rules(config)
        except InvalidSettingError as error:
            raise InvalidSettingError(f"{self.path}: {error}", error.hint) from None


def _rules(config: WebConfig) -> Rules:
    if config.users:
        require_bcrypt()
    return Rules(
        context=make_context(config.tls) if config.tls else None,
        allowed_sans=config.tls.allowed_sans if config.tls else None,
        users=Users(config.users) if config.users else None,
        headers=config.headers,
    )


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return _Stamp(status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)


def _is_settled(stamp: _Stamp | None) -> bool:
    # A time in the future says nothing, but must not put it off for ever.
    return stamp is None or abs(time.time_ns() - stamp.written_ns) > SETTLED_AFTER_NS

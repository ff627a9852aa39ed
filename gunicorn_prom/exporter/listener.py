"""The socket of the metrics server, and whether the application's could be had."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from gunicorn_prom.descriptors import Descriptor, OwnSocket
from gunicorn_prom.errors import BindError
from gunicorn_prom.paths import is_allowed
from gunicorn_prom.settings import parse_bind

__all__ = [
    "HANDED_OVER",
    "MetricsSocket",
    "drop_inherited",
    "listen",
    "trial_of",
    "try_bind",
    "url_of",
]

# The descriptor of the socket, from a master to the one that replaces it (USR2).
HANDED_OVER = "GUNICORN_PROM_FD"
BACKLOG = 1024
# Of a unix socket: unix(7).
MAX_PATH_BYTES = 107


class MetricsSocket:
    """The listening socket of the metrics server in a master, whose code may close it.

    Attributes:
        address: as `socket.bind` takes it.
    """

    def __init__(
        self, family: int, address: tuple[Any, ...], bound: socket.socket | None = None
    ) -> None:
        self.address = address
        self._family = family
        self._own = None if bound is None else OwnSocket(bound)

    @classmethod
    def open(cls, address: str) -> "MetricsSocket":
        """Bind the address, or take over the socket of the last generation, see `listen`.

        Where somebody has closed the latter it may be bound only later: until it ends, the last
        generation answers there for both.

        Raises:
            BindError: the address cannot be had.
        """
        passed_on = os.environ.get(HANDED_OVER)
        is_lost = passed_on is not None and Descriptor.take_over(passed_on) is None
        try:
            return cls.of(listen(address))
        except BindError:
            if not is_lost:
                raise
            family, _, _, _, sockaddr = _resolve(*parse_bind(address))
            return cls(family, sockaddr)

    @classmethod
    def of(cls, bound: socket.socket) -> "MetricsSocket":
        """Take a socket that is bound, and that nobody else may close."""
        return cls(bound.family, bound.getsockname(), bound)

    def is_open(self) -> bool:
        """Tell whether it is bound, and nobody else has closed it."""
        return self._own is not None and self._own.is_open()

    def restore(self) -> socket.socket:
        """Return the socket for use at once, bound again if somebody else has closed it.

        Raises:
            OSError: the address cannot be had any more.
        """
        if self._own is None or not self._own.is_open():
            self.close()
            self._own = OwnSocket(_bind(self._family, self.address))
        return self._own.socket

    def pass_on(self) -> str:
        """Keep it for the next generation, see `Descriptor.pass_on`; "" where it is closed."""
        return self._own.pass_on() if self._own is not None and self._own.is_open() else ""

    def close(self) -> None:
        """Close it, unless somebody else has."""
        if self._own is not None:
            self._own.close()


def listen(address: str) -> socket.socket:
    """Bind the metrics server's address, or take over the socket of the last generation.

    Args:
        address: as `parse_bind` takes it.

    Raises:
        BindError: the address cannot be had.
    """
    host, port = parse_bind(address)
    inherited = _inherited_listener()
    if inherited is not None:
        if _is_bound_to(inherited, host, port):
            return inherited
        inherited.close()
    try:
        family, _, _, _, sockaddr = _resolve(host, port)
        return _bind(family, sockaddr)
    except OSError as error:
        raise _bind_error(address, error) from error


def _bind(family: int, address: tuple[Any, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def drop_inherited() -> None:
    """Close the socket of the last generation where this one has no metrics server."""
    inherited = _inherited_listener()
    if inherited is not None:
        inherited.close()


def _inherited_listener() -> socket.socket | None:
    descriptor = Descriptor.take_over(os.environ.pop(HANDED_OVER, ""))
    if descriptor is None:
        return None
    listener = socket.socket(fileno=descriptor.fileno())
    listener.setblocking(False)
    return listener


def _is_bound_to(listener: socket.socket, host: str, port: int) -> bool:
    """Tell whether the socket of the last generation has the address that is wanted now."""
    bound_host, bound_port = listener.getsockname()[:2]
    try:
        wanted_host = _resolve(host, port)[4][0]
    except OSError:
        return False
    return port in (0, bound_port) and wanted_host == bound_host


def _resolve(host: str, port: int) -> tuple[Any, ...]:
    """Return the first address of `host`, as `socket.getaddrinfo` has it."""
    # For a str getaddrinfo would import the idna codec, which costs some 200 KiB.
    name = host.encode() if host.isascii() else host
    return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def _bind_error(address: str, error: OSError) -> BindError:
    from gunicorn_prom import ports  # rarely wanted, and the process becomes the master

    return ports.bind_error(parse_bind(address), error, "--metrics-bind")


def try_bind(address: tuple[str, int] | str) -> None:
    """Find out whether Gunicorn could bind an address, and leave nothing bound and no file.

    Raises:
        OSError: it could not.
    """
    with trial_of(address):
        pass


@contextmanager
def trial_of(address: tuple[str, int] | str, *, is_kept: bool = False) -> Iterator[None]:
    """Have an address as Gunicorn would, for the time of the block; a unix socket makes no file.

    Gunicorn takes the path of a unix socket from whoever listens there, so that is no obstacle.

    Args:
        is_kept: others are tried in the block. With SO_REUSEADDR only a socket that listens is
            in their way, as Gunicorn's is.

    Raises:
        OSError: Gunicorn could not bind it.
    """
    if _is_path(address):
        _check_place(address)
        yield
        return
    with socket.socket(_family(address), socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
        if is_kept:
            trial.listen()
        yield


def _is_path(address: tuple[str, int] | str) -> TypeGuard[str]:
    """Tell whether an address has a file: an abstract unix socket has none."""
    return isinstance(address, str) and not address.startswith("\0")


def _family(address: tuple[str, int] | str) -> socket.AddressFamily:
    if isinstance(address, str):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _check_place(path: str) -> None:
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, f"the path is longer than {MAX_PATH_BYTES} bytes")
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        raise OSError(errno.ENOTSOCK, "there is a file that is no socket")
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise OSError(errno.ENOENT, f"there is no directory {directory}")
    if not is_allowed(directory, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, f"the directory {directory} is not writable")


def url_of(address: tuple[Any, ...], path: str, scheme: str = "http") -> str:
    """Return the URL of `path` on the address that a listener really has."""
    host, port = address[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{path}"

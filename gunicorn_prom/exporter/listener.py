"""The socket of the metrics server, and whether the application's could be had."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from gunicorn_prom.errors import BindError
from gunicorn_prom.paths import is_allowed
from gunicorn_prom.settings import parse_bind

__all__ = ["HANDED_OVER", "drop_inherited", "listen", "trial_of", "try_bind", "url_of"]

# The descriptor of the socket, from a master to the one that replaces it (USR2).
HANDED_OVER = "GUNICORN_PROM_FD"
BACKLOG = 1024
# Of a unix socket: unix(7).
MAX_PATH_BYTES = 107


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
        family, kind, protocol, _, sockaddr = _resolve(host, port)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _bind_error(address, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _bind_error(address, error) from error
    listener.setblocking(False)
    return listener


def drop_inherited() -> None:
    """Close the socket of the last generation where this one has no metrics server."""
    inherited = _inherited_listener()
    if inherited is not None:
        inherited.close()


def _inherited_listener() -> socket.socket | None:
    descriptor = os.environ.pop(HANDED_OVER, None)
    if descriptor is None:
        return None
    listener = socket.socket(fileno=int(descriptor))
    listener.set_inheritable(False)
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


def url_of(listener: socket.socket, path: str, scheme: str = "http") -> str:
    """Return the URL of `path` on the address that `listener` really has."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{path}"

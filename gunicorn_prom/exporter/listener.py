"""The socket of the metrics server."""

import os
import socket
from typing import Any

from gunicorn_prom.errors import BindError
from gunicorn_prom.settings import parse_bind

__all__ = ["HANDED_OVER", "drop_inherited", "listen", "url_of"]

# The descriptor of the socket, from a master to the one that replaces it (USR2).
HANDED_OVER = "GUNICORN_PROM_FD"
BACKLOG = 1024


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
    reason = (error.strerror or str(error)).lower()
    return BindError(
        f"cannot bind the metrics server to {address}: {reason}",
        "choose another address with --metrics-bind, or stop the process that has it",
    )


def url_of(listener: socket.socket, path: str, scheme: str = "http") -> str:
    """Return the URL of `path` on the address that `listener` really has."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{path}"

"""The socket of the metrics server."""

import os
import socket

from gunicorn_prom.errors import BindError
from gunicorn_prom.settings import parse_bind

__all__ = ["HANDED_OVER", "listen", "url_of"]

# The descriptor of the socket, from a master to the one that replaces it (USR2).
HANDED_OVER = "GUNICORN_PROM_FD"
BACKLOG = 128


def listen(address: str) -> socket.socket:
    """Bind the metrics server's address, or take over the socket of the last generation.

    Args:
        address: as `parse_bind` takes it.

    Raises:
        BindError: the address cannot be had.
    """
    inherited = os.environ.pop(HANDED_OVER, None)
    if inherited is not None:
        listener = socket.socket(fileno=int(inherited))
        listener.set_inheritable(False)
        listener.setblocking(False)
        return listener
    host, port = parse_bind(address)
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
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


def _bind_error(address: str, error: OSError) -> BindError:
    reason = (error.strerror or str(error)).lower()
    return BindError(
        f"cannot bind the metrics server to {address}: {reason}",
        "choose another address with --metrics-bind, or stop the process that has it",
    )


def url_of(listener: socket.socket, path: str) -> str:
    """Return the URL of `path` on the address that `listener` really has."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}{path}"

"""On which sockets a master listens: told to who shows their queues.

A file beside each board of the master says it, for a metrics server in another process
knows nothing of the master but the directory, and a reload may bind other addresses.
"""

import json
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn.util import is_ipv6

__all__ = [
    "Listener",
    "address_label",
    "network_namespace",
    "read",
    "replace_text",
    "sockets_of",
    "write",
]

ANY_INODE = 0


class Listener(NamedTuple):
    """A socket that the server listens on, or all that its workers have at one address.

    Attributes:
        label: the address, as users see it.
        family: of the socket, like socket.AF_INET.
        inode: the socket's, ANY_INODE for every socket at this address.
    """

    label: str
    family: int
    inode: int


def sockets_of(opened: Sequence[Any], cfg: Any) -> list[Listener]:
    """Return where a master listens.

    With `--reuse-port` Gunicorn from 24 on has each worker bind sockets of its own, and
    the master none. Then they are told by their address. Paths are left out: each worker
    takes them from the one before.

    Args:
        opened: the master's listeners.

    Raises:
        OSError: a name among the addresses is not known.
    """
    if not opened and cfg.reuse_port:
        return [_at_address(address) for address in cfg.address if isinstance(address, tuple)]
    return [
        Listener(
            address_label(listener.FAMILY, listener.getsockname()),
            int(listener.FAMILY),
            os.fstat(listener.fileno()).st_ino,
        )
        for listener in opened
    ]


def _at_address(address: tuple[Any, ...]) -> Listener:
    family = socket.AF_INET6 if is_ipv6(address[0]) else socket.AF_INET
    host, port = address[:2]
    resolved = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
    return Listener(address_label(family, resolved), int(family), ANY_INODE)


def address_label(family: int, address: Any) -> str:
    """Return an address as a label: `127.0.0.1:80`, `[::1]:80`, `unix:/path`, `unix:@name`."""
    if family == socket.AF_UNIX:
        return "unix:" + os.fsencode(address).replace(b"\0", b"@").decode(errors="replace")
    host, port = address[:2]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"


def network_namespace() -> str:
    """Return what tells this process's sockets from those of other containers, "" if unknown."""
    try:
        return os.readlink("/proc/self/ns/net")
    except OSError:
        return ""


def write(path: Path, listeners: Iterable[Listener]) -> None:
    """Write down where this process listens, see `replace_text`."""
    replace_text(path, json.dumps([network_namespace(), *listeners]))


def replace_text(path: Path, text: str) -> None:
    """Write a file; who reads it finds all of the text or what was there before.

    Raises:
        OSError: there is no room, or no directory any more.
    """
    draft = path.with_name(f"new-{path.name}")
    draft.write_text(text)
    draft.replace(path)


def read(path: Path) -> list[Listener]:
    """Return what `write` wrote; nothing when that was in another network namespace.

    Raises:
        OSError: there is no such file.
        ValueError: another version wrote it.
    """
    namespace, *listeners = json.loads(path.read_bytes())
    if namespace != network_namespace():
        return []
    try:
        return [Listener(*listener) for listener in listeners]
    except TypeError as error:
        raise ValueError(f"{path.name} was written by another version") from error

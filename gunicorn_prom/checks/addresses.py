"""Which addresses others than this machine can reach."""

import socket
from ipaddress import ip_address
from typing import Any

__all__ = ["is_reachable", "reachable_binds"]


def is_reachable(host: str) -> bool:
    """Tell whether a server bound to `host` can be reached from another machine.

    A name that nothing is known of cannot be bound either.
    """
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return not all(ip_address(str(sockaddr[0])).is_loopback for *_, sockaddr in found)


def reachable_binds(cfg: Any) -> list[str]:
    """Return the TCP addresses of the application that other machines can reach."""
    # A unix socket is a string, an inherited one a number.
    pairs = [address[:2] for address in cfg.address if isinstance(address, tuple)]
    return [
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in pairs
        if is_reachable(host)
    ]

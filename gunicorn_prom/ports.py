"""Who has an address that a server wants, and how that is told.

Nothing here is wanted until an address could not be had, so the master imports it only then.

Source: the tables of Documentation/networking/proc_net_tcp.rst and `man 5 proc_net`.
"""

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gunicorn import systemd

from gunicorn_prom.errors import BindError
from gunicorn_prom.exporter.listener import try_bind
from gunicorn_prom.processes import read_kernel_text

__all__ = ["Address", "bind_error", "holder", "is_occupied", "shown", "wait_for"]

# As Gunicorn has them: a TCP address, or the path of a unix socket, which begins with a
# null byte where it is an abstract one.
Address = tuple[str, int] | str

PROC = Path("/proc")
LISTENING = 0x0A
UNIX_LISTENING = 0x00010000
EVERY_HOST = frozenset(("0.0.0.0", "::"))
# Options of Python that take a further argument.
WITH_ARGUMENT = frozenset(("-X", "-W"))

# Gunicorn tries five times, a second apart.
PATIENCE_S = 5.0
RETRY_S = 0.1


class _Process(NamedTuple):
    pid: int
    name: str


def is_occupied(address: Address) -> bool:
    """Tell whether a server has this address; nothing stays bound, no file is made.

    A unix socket is occupied when somebody listens on it. One that nobody does is stale.
    """
    try:
        if isinstance(address, str):
            return _is_answered(address)
        try_bind(address)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
    return True


def holder(address: Address, proc: Path = PROC) -> str:
    """Return who listens on this address, like `pid 41, nginx`; "" when it cannot be told.

    That is so for the processes of other users, unless we are root, and of other containers.
    """
    found = _holder(address, proc)
    return f"pid {found.pid}, {found.name}" if found else ""


def bind_error(address: Address, error: OSError, option: str = "--bind") -> BindError:
    """Return what to tell the user when binding `address` has failed with `error`.

    Args:
        option: which gives the address.
    """
    reason, hint = _explain(address, error, option)
    return BindError(f"cannot bind {shown(address)}: {reason}", hint)


def _explain(address: Address, error: OSError, option: str) -> tuple[str, str]:
    if error.errno == errno.EADDRINUSE:
        if _is_ours(address):
            return _explain_ours(option)
        who = holder(address)
        reason = "address already in use" + (f" ({who})" if who else "")
        return reason, f"choose another with {option}, or stop the other process"
    if error.errno == errno.EACCES and isinstance(address, tuple):
        return (
            f"port {address[1]} needs root or CAP_NET_BIND_SERVICE",
            f"choose a port from {_first_unprivileged_port()} up with {option}",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host does not have that address", f"choose one of its own with {option}"
    reason = error.strerror or str(error)
    return reason[:1].lower() + reason[1:], f"choose another with {option}"


def _explain_ours(option: str) -> tuple[str, str]:
    if option == "--bind":
        reason = "another --bind has it already"
        return reason, "leave one of them out; [::] is every address of IPv4, too"
    is_passed_on = systemd.listen_fds(unset_environment=False)
    owner = "the socket that systemd has passed on" if is_passed_on else "the application's socket"
    return f"{owner} has it already", f"choose another with {option}"


def wait_for(address: Address, error: OSError, option: str = "--bind") -> None:
    """Wait until an address can be had, for as long as Gunicorn would try.

    Says on stderr what it waits for: whoever has the address, who may just be ending, a name
    or address that the host does not have yet, or the directory of a unix socket. All else does
    not pass by itself.

    Args:
        error: of the first attempt to bind it.

    Raises:
        BindError: it is waited for in vain, or not at all.
    """
    failure = bind_error(address, error, option)
    if not _may_pass(address, error) or _is_ours(address):
        raise failure from error
    print(f"warning: {failure}; trying for {PATIENCE_S:g} s", file=sys.stderr, flush=True)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        time.sleep(RETRY_S)
        try:
            return try_bind(address)
        except OSError as still:
            error = still
    raise bind_error(address, error, option) from error


def _is_ours(address: Address) -> bool:
    """Tell whether we have it: be it with others, for systemd keeps what it passes on."""
    links = _links(_inodes(address, PROC))
    return not links.isdisjoint(_descriptors(PROC / "self"))


def _may_pass(address: Address, error: OSError) -> bool:
    passing = {errno.EADDRINUSE, errno.EADDRNOTAVAIL}
    if isinstance(address, str):
        passing |= {errno.ENOENT, errno.EACCES}
    return error.errno in passing or isinstance(error, socket.gaierror)


def _first_unprivileged_port() -> str:
    try:
        return (PROC / "sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
    except OSError:
        return "1024"


def shown(address: Address) -> str:
    """Return an address as it is written after `--bind`."""
    if isinstance(address, str):
        return "unix:" + address.replace("\0", "@", 1)
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _holder(address: Address, proc: Path) -> _Process | None:
    """Return the eldest of the processes that have the address, for workers inherit it."""
    inodes = _inodes(address, proc)
    pids = sorted(_pids_with(inodes, proc)) if inodes else []
    return _Process(pids[0], _name(pids[0], proc)) if pids else None


def _inodes(address: Address, proc: Path) -> set[str]:
    return _unix_inodes(address, proc) if isinstance(address, str) else _tcp_inodes(address, proc)


def _links(inodes: set[str]) -> set[str]:
    """Return what descriptors of these sockets refer to."""
    return {f"socket:[{inode}]" for inode in inodes}


def _tcp_inodes(address: tuple[str, int], proc: Path) -> set[str]:
    """Return the sockets in the way: those that listen, and only without any of them others.

    A client may by chance have our port as its own.
    """
    hosts = _numeric(address[0])
    listening: set[str] = set()
    others: set[str] = set()
    for row in (*_rows(proc / "net" / "tcp"), *_rows(proc / "net" / "tcp6")):
        local, state, inode = row[1], int(row[3], 16), row[9]
        host, _, port = local.partition(":")
        if int(port, 16) == address[1] and _do_overlap(hosts, _host(host)):
            (listening if state == LISTENING else others).add(inode)
    return (listening or others) - {"0"}


def _do_overlap(wanted: set[str], held: str) -> bool:
    return any(
        host == held
        or "::" in (host, held)
        or ("0.0.0.0" in (host, held) and ":" not in host + held)
        for host in wanted
    )


def _numeric(host: str) -> set[str]:
    """Return the addresses of a host, all that there are for one that has no known."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except OSError:
        return set(EVERY_HOST)
    return {str(sockaddr[0]) for *_, sockaddr in found}


def _host(digits: str) -> str:
    """Return the address that the kernel writes as words of the machine's own byte order."""
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return socket.inet_ntop(socket.AF_INET, packed)
    return socket.inet_ntop(socket.AF_INET6, packed).removeprefix("::ffff:")


def _unix_inodes(path: str, proc: Path) -> set[str]:
    name = path.replace("\0", "@", 1)
    return {
        row[6]
        for row in _rows(proc / "net" / "unix")
        if " ".join(row[7:]) == name and int(row[3], 16) & UNIX_LISTENING
    }


def _rows(table: Path) -> Iterator[list[str]]:
    """Yield the rows of a table in /proc/net, none where there is no such."""
    try:
        lines = table.read_text(errors="replace").splitlines()
    except OSError:
        return
    yield from (line.split() for line in lines[1:])


def _pids_with(inodes: set[str], proc: Path) -> Iterator[int]:
    links = _links(inodes)
    for process in proc.glob("[0-9]*"):
        if not links.isdisjoint(_descriptors(process)):
            yield int(process.name)


def _descriptors(process: Path) -> Iterator[str]:
    """Yield what the descriptors of a process refer to, as far as we may see it."""
    try:
        names = os.listdir(process / "fd")
    except OSError:
        return
    for name in names:
        try:
            yield os.readlink(process / "fd" / name)
        except OSError:  # closed since
            continue


def _name(pid: int, proc: Path) -> str:
    """Return the program of a process, for one in Python the script or module."""
    try:
        title = read_kernel_text(proc / str(pid) / "comm").strip().partition(":")[0]
        arguments = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return "unknown"
    program, *others = arguments.split("\0")
    is_python = os.path.basename(program).startswith("python")
    return (_script(others) if is_python else "") or title


def _script(arguments: list[str]) -> str:
    words = iter(arguments)
    for word in words:
        if word == "-m":
            return next(words, "")
        if word == "-c":
            return ""
        if word in WITH_ARGUMENT:
            next(words, "")
        elif not word.startswith("-"):
            return os.path.basename(word)
    return ""

"""What the kernel tells of listening sockets, found again under the right label."""

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gunicorn_prom import listeners as told
from gunicorn_prom.exporter import backlog
from gunicorn_prom.exporter.backlog import Backlog, Queue, queues
from gunicorn_prom.listeners import ANY_INODE, Listener, address_label, sockets_of
from gunicorn_prom.state import LISTENERS

ADDRESSES = {
    "v4": (socket.AF_INET, ("127.0.0.1", 0)),
    "v6": (socket.AF_INET6, ("::1", 0)),
    "unix": (socket.AF_UNIX, "here.sock"),
    "abstract": (socket.AF_UNIX, f"\0gunicorn-prom-test-{os.getpid()}"),
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a server, in which a relative path is short enough for a socket."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def listening(kind: str, limit: int = 10) -> Iterator[SimpleNamespace]:
    """Listen as Gunicorn does, on a socket that nobody accepts from."""
    family, address = ADDRESSES[kind]
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen(limit)
        yield SimpleNamespace(
            FAMILY=family, getsockname=listener.getsockname, fileno=listener.fileno
        )


@contextlib.contextmanager
def waiting(listener: SimpleNamespace, count: int) -> Iterator[None]:
    """Have so many connections wait there."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            client = stack.enter_context(socket.socket(listener.FAMILY))
            client.connect(listener.getsockname())
        yield


def settings(*addresses: object, reuse_port: bool = False) -> SimpleNamespace:
    return SimpleNamespace(address=list(addresses), reuse_port=reuse_port)


@pytest.mark.parametrize("kind", ADDRESSES)
def test_waiting_connections_are_counted(kind: str) -> None:
    """On TCP, IPv6 and unix sockets the kernel tells how many wait, and how many may."""
    with listening(kind, limit=7) as listener:
        (mine,) = sockets_of([listener], settings())
        assert queues({mine}) == {mine.label: Queue(0, 7)}
        with waiting(listener, 5):
            assert queues({mine}) == {mine.label: Queue(5, 7)}


def test_several_listeners_are_told_apart() -> None:
    """Each has its own queue, and sockets of others are not among them."""
    with listening("v4", 3) as first, listening("v6", 4) as second, listening("unix", 5) as third:
        mine = sockets_of([first, second, third], settings())
        with listening("v4"), waiting(second, 2), waiting(third, 1):
            found = queues(set(mine))
    assert found == dict(
        zip((one.label for one in mine), (Queue(0, 3), Queue(2, 4), Queue(1, 5)), strict=True)
    )


def test_the_sockets_of_one_address_are_added_up() -> None:
    """With --reuse-port the master has no listener, and the queues of the workers' are one."""
    with contextlib.ExitStack() as stack:
        port = 0
        for _ in range(3):
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            port = listener.getsockname()[1]
            listener.listen(10)
        mine = sockets_of([], settings(("localhost", port), "a.sock", reuse_port=True))
        assert mine == [Listener(f"127.0.0.1:{port}", socket.AF_INET, ANY_INODE)]
        for _ in range(5):
            client = stack.enter_context(socket.socket())
            client.connect(("127.0.0.1", port))
        assert queues(set(mine)) == {f"127.0.0.1:{port}": Queue(5, 30)}


def test_a_listener_that_is_gone_has_no_queue() -> None:
    """What the kernel does not know is left out."""
    with listening("v4") as listener:
        mine = sockets_of([listener], settings())
    assert queues(set(mine)) == {}
    assert queues(set()) == {}


@pytest.mark.parametrize(
    ("family", "address", "label"),
    [
        (socket.AF_INET, ("0.0.0.0", 80), "0.0.0.0:80"),
        (socket.AF_INET6, ("::", 80, 0, 0), "[::]:80"),
        (socket.AF_UNIX, "/run/app.sock", "unix:/run/app.sock"),
        (socket.AF_UNIX, b"\0app", "unix:@app"),
        (socket.AF_UNIX, "/run/\udcff", "unix:/run/\ufffd"),
    ],
)
def test_labels(family: int, address: object, label: str) -> None:
    """The label is the address, and can always be written as UTF-8."""
    assert address_label(family, address) == label
    label.encode()


def test_what_is_told_is_found_again(directory: Path) -> None:
    """Backlog follows what the master has written down, also when that changes."""
    path = directory / f"{LISTENERS}.1"
    seen = Backlog()
    seen.refresh(directory)
    assert seen.look() == {}
    with listening("v4") as first, listening("v6") as second, waiting(second, 2):
        mine = sockets_of([first, second], settings())
        told.write(path, mine[:1])
        seen.refresh(directory)
        assert seen.look() == {mine[0].label: Queue(0, 10)}
        told.write(path, mine[1:])
        seen.refresh(directory)
        assert seen.look() == {mine[1].label: Queue(2, 10)}
        # Another generation has the same listener, and a directory that is gone forgets nothing.
        told.write(directory / f"{LISTENERS}.2", mine)
        seen.refresh(directory)
        for name in ("1", "2"):
            (directory / f"{LISTENERS}.{name}").unlink()
        directory.rmdir()
        seen.refresh(directory)
        assert seen.look() == {mine[0].label: Queue(0, 10), mine[1].label: Queue(2, 10)}


def test_another_network_namespace_shows_nothing(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has other sockets shows none, instead of those that are called the same."""
    with listening("v4") as listener:
        told.write(directory / f"{LISTENERS}.1", sockets_of([listener], settings()))
        monkeypatch.setattr(told, "network_namespace", lambda: "net:[1]")
        seen = Backlog()
        seen.refresh(directory)
        assert seen.look() == {}


def test_a_file_of_another_version_is_an_error(directory: Path) -> None:
    """It is one for each time that it is read, and the other files count."""
    (directory / f"{LISTENERS}.1").write_text(f'["{told.network_namespace()}", ["a"]]')
    seen = Backlog()
    with pytest.raises(ValueError, match="another version"):
        seen.refresh(directory)
    seen.refresh(directory)
    assert seen.look() == {}


def test_the_peak_lasts_a_minute(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the most of the last minute, whoever has asked for it meanwhile."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    seen = Backlog()
    with listening("v4") as listener:
        (mine,) = sockets_of([listener], settings())
        told.write(directory / f"{LISTENERS}.1", [mine])
        seen.refresh(directory)

        def peak_at(second: float, count: int) -> int:
            clock.now = second
            with waiting(listener, count):
                seen.look()
            drain(listener)  # for those that are closed wait on
            return seen.peak(mine.label)

        assert peak_at(0, 1) == 1
        assert peak_at(10, 4) == 4
        assert peak_at(20, 2) == 4
        assert peak_at(69, 0) == 4
        assert peak_at(71, 0) == 2
        assert peak_at(81, 0) == 0


class Clock:
    """CLOCK_MONOTONIC that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def drain(listener: SimpleNamespace) -> None:
    """Accept all that waits there."""
    accepting = socket.socket(fileno=os.dup(listener.fileno()))
    accepting.setblocking(False)
    with accepting, contextlib.suppress(BlockingIOError):
        while True:
            accepting.accept()[0].close()


def test_a_refusal_is_told_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where netlink is forbidden, that is an error once and then there are no samples."""
    with listening("v4") as listener:
        told.write(directory / f"{LISTENERS}.1", sockets_of([listener], settings()))
        seen = Backlog()
        seen.refresh(directory)
        monkeypatch.setattr(backlog, "NETLINK_SOCK_DIAG", 31)  # which no kernel has
        with pytest.raises(OSError, match="not supported") as raised:
            seen.look()
        assert raised.value.errno == errno.EPROTONOSUPPORT
        monkeypatch.undo()
        assert seen.look() == {}


def test_an_error_of_the_kernel_is_one_of_ours() -> None:
    """What it answers to a request that it does not understand is raised."""
    with pytest.raises(OSError, match="Invalid argument") as raised:
        list(backlog._dump(b"\xff" * 8))
    assert raised.value.errno == errno.EINVAL

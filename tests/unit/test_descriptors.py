"""Descriptors that somebody else has closed: what has got their numbers is left alone."""

import contextlib
import faulthandler
import fcntl
import gc
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gunicorn_prom import state as state_module
from gunicorn_prom.descriptors import Descriptor, OwnSocket
from gunicorn_prom.exporter.door import Door, Rules
from gunicorn_prom.exporter.host import Service, ThreadHost
from gunicorn_prom.exporter.listener import HANDED_OVER, MetricsSocket
from gunicorn_prom.instrument.stacks import STACKS_SIGNAL, StackWriter
from gunicorn_prom.keys import HTTP, KeyFile
from gunicorn_prom.state import State, is_held_file
from tests.support import Metrics, free_port, request, wait_for
from tests.unit.boards import META, log, opened, start_worker

CONTENT = b"the user's"


def numbers() -> dict[int, str]:
    """Return what is open in this process."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


class Usurper:
    """Close descriptors and open files of the user's on their numbers."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[int, Path] = {}

    def take(self, *taken: int) -> None:
        """Have these numbers refer to files of the user's."""
        for number in taken:
            path = self._directory / f"users.{number}"
            file = os.open(path, os.O_RDWR | os.O_CREAT)
            os.write(file, CONTENT)
            os.lseek(file, 0, os.SEEK_SET)
            if file != number:
                os.dup2(file, number)
                os.close(file)
            self._files[number] = path

    def assert_untouched(self) -> None:
        """Each number is still that file, at its beginning, and nothing was written to it."""
        for number, path in self._files.items():
            assert os.readlink(f"/proc/self/fd/{number}") == str(path)
            assert os.lseek(number, 0, os.SEEK_CUR) == 0
            assert path.read_bytes() == CONTENT

    def give_back(self) -> None:
        """Close them."""
        for number in self._files:
            os.close(number)


@pytest.fixture
def usurper(tmp_path: Path) -> Iterator[Usurper]:
    """Be the user, who finds all as it was left."""
    directory = tmp_path / "users"
    directory.mkdir()
    user = Usurper(directory)
    yield user
    gc.collect()
    user.assert_untouched()
    user.give_back()


def open_file(path: Path, *, is_reachable: bool = True) -> Descriptor:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    return Descriptor(os.open(path, flags), path if is_reachable else None)


def test_a_closed_file_is_opened_again(tmp_path: Path, usurper: Usurper) -> None:
    """By its path, in the same mode, under another number."""
    file = open_file(tmp_path / "ours")
    number = file.fileno()
    usurper.take(number)
    assert not file.is_open()
    os.write(file.fileno(), b"one")
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    os.write(file.fileno(), b"two")
    assert (tmp_path / "ours").read_bytes() == b"onetwo"
    assert file.fileno() != number
    assert not os.get_inheritable(file.fileno())
    file.close()


@pytest.mark.parametrize("has_successor", [False, True])
def test_another_file_at_the_path_is_not_taken(
    tmp_path: Path, usurper: Usurper, has_successor: bool
) -> None:
    """What is there now is somebody else's; nothing of it stays open."""
    file = open_file(tmp_path / "ours")
    usurper.take(file.fileno())
    os.rename(tmp_path / "ours", tmp_path / "away")  # so its inode is not free
    if has_successor:
        (tmp_path / "ours").write_text("theirs")
    before = numbers()
    with pytest.raises(OSError, match=r"closed it|No such file"):
        file.fileno()
    assert numbers() == before
    file.close()
    with pytest.raises(OSError, match="closed it"):
        file.fileno()


def test_a_file_is_closed_once(tmp_path: Path, usurper: Usurper) -> None:
    """By us where it is open, and never again."""
    file = open_file(tmp_path / "ours")
    number = file.fileno()
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    usurper.take(number)
    file.close()


def test_a_socket_is_closed_once(usurper: Usurper) -> None:
    """Neither by us nor when it is collected, once somebody else has closed it."""
    ours, peer = socket.socketpair()
    own = OwnSocket(ours)
    usurper.take(own.fileno())
    assert not own.is_open()
    own.close()
    del ours, own
    peer.close()


def test_what_is_passed_on_is_recognised(tmp_path: Path, usurper: Usurper) -> None:
    """By more than its number, which the next generation's application may have given away."""
    file = open_file(tmp_path / "ours")
    passed_on = file.pass_on()
    assert os.get_inheritable(file.fileno())
    taken = Descriptor.take_over(passed_on)
    assert taken is not None
    assert taken.fileno() == file.fileno()
    assert not os.get_inheritable(file.fileno())
    usurper.take(file.fileno())
    assert Descriptor.take_over(passed_on) is None
    file.close()


@pytest.mark.parametrize("text", ["", "0", "x", "0.1", "-1.1.1", f"{10**30}.1.1", "0.1.1.1"])
def test_what_is_no_descriptor_is_not_taken(text: str) -> None:
    """Whatever stands in the environment, the start goes on."""
    assert Descriptor.take_over(text) is None


def test_labels_go_on_when_their_file_is_closed(tmp_path: Path, usurper: Usurper) -> None:
    """New ones are appended to the file, and not to whatever has its number."""
    file = open_file(tmp_path / "keys")
    keys = KeyFile(file)
    assert keys.row(HTTP, ("GET", "200")) == 1
    usurper.take(file.fileno())
    assert keys.row(HTTP, ("GET", "404")) == 2
    file.close()


def test_labels_that_are_lost_for_good(tmp_path: Path, usurper: Usurper) -> None:
    """Those known stay, a new one is an error of who asks."""
    file = open_file(tmp_path / "keys", is_reachable=False)
    keys = KeyFile(file)
    assert keys.row(HTTP, ("GET", "200")) == 1
    usurper.take(file.fileno())
    assert keys.row(HTTP, ("GET", "200")) == 1
    assert keys.keys(HTTP)[1:] == [("GET", "200")]
    with pytest.raises(OSError, match="closed it"):
        keys.row(HTTP, ("GET", "404"))


def test_a_board_is_dropped(tmp_path: Path, usurper: Usurper) -> None:
    """Its mapping stays of use, and closes nothing that others have on its numbers."""
    before = numbers()
    with opened(tmp_path) as board:
        usurper.take(*(numbers().keys() - before.keys()))
        board.set_master(0, 1.0)
        board.count_master_error("state")
    gc.collect()


def test_a_board_goes_on_when_its_files_are_closed(tmp_path: Path, usurper: Usurper) -> None:
    """It is held all the same, takes workers, and its directory goes at the end."""
    before = numbers()
    state = State.create(tmp_path / "root", META)
    usurper.take(*(numbers().keys() - before.keys()))
    (path,) = state.path.glob("board.*")
    assert is_held_file(path)
    start_worker(state.board, 0, 1).count_failed_request("GET", LookupError())
    state.board.retire_slot(0, "exit")
    state.close()
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("held", ["", "7", "{fd}.1.1"])
def test_a_directory_is_handed_over_without_its_descriptor(
    tmp_path: Path, usurper: Usurper, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """The next generation joins it, and closes nothing of the user's."""
    first = State.create(tmp_path, META)
    number = os.open(tmp_path, os.O_RDONLY)
    usurper.take(number)
    handed_over = f"{held.format(fd=number)}:{first.path}"
    monkeypatch.setenv(state_module.HANDED_OVER, handed_over)
    second = State.create(tmp_path, META)
    assert second.path == first.path
    assert second.board.meta["generation"] == 2
    for state in (second, first):
        state.close()


def test_what_is_no_directory_of_ours_is_not_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that says nothing starts a server of its own."""
    monkeypatch.setenv(state_module.HANDED_OVER, "nonsense")
    state = State.create(tmp_path, META)
    assert state.path.parent == tmp_path
    state.close()


def test_the_metrics_socket_is_bound_again(usurper: Usurper) -> None:
    """At the same address, when somebody has closed it."""
    listener = MetricsSocket.open("127.0.0.1:0")
    usurper.take(listener.restore().fileno())
    assert not listener.is_open()
    assert listener.pass_on() == ""
    assert listener.restore().getsockname() == listener.address
    listener.close()


def test_a_lost_socket_is_waited_for(monkeypatch: pytest.MonkeyPatch, usurper: Usurper) -> None:
    """The last generation may answer at the address until it ends; the next one starts."""
    port = free_port()
    last = MetricsSocket.open(f"127.0.0.1:{port}")
    number = os.dup(0)
    usurper.take(number)
    monkeypatch.setenv(HANDED_OVER, f"{number}.1.1")
    following = MetricsSocket.open(f"127.0.0.1:{port}")
    assert not following.is_open()
    with pytest.raises(OSError, match="in use"):
        following.restore()
    last.close()
    assert following.restore().getsockname() == ("127.0.0.1", port)
    following.close()


def test_the_metrics_server_gets_anew_what_was_closed(
    tmp_path: Path, usurper: Usurper, caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket, its pipe and its clients; that is logged once, counted, and served on."""
    state = State.create(tmp_path / "root", META)
    before = numbers()
    listener = MetricsSocket.open("127.0.0.1:0")
    port = listener.address[1]
    host = ThreadHost(
        listener, Service(state.path, "127.0.0.1:0", "/metrics", "thread", None), state, log, None
    )
    with caplog.at_level(logging.ERROR):
        host.begin()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
            wait_for(lambda: host._server and host._server._connections, "the connection")
            usurper.take(*(numbers().keys() - before.keys() - {client.fileno()}))
            wait_for(lambda: host._life and not host._life.locked(), "the end of the thread")
        host.revive()
        metrics = Metrics(request(port, "/metrics").text)
    assert metrics.one("gunicorn_prom_errors_total", where="server") == 1
    (record,) = caplog.records
    assert "somebody else has closed" in record.getMessage()
    host.stop()
    state.close()


def test_passwords_leave_the_numbers_alone(usurper: Usurper) -> None:
    """What has got their numbers is neither asked nor closed; a further server has others."""
    before = numbers()
    nobody: Any = None
    door = Door(nobody, Rules(), log, lambda: None)
    lost = door.passwords
    assert lost.is_open()
    usurper.take(*(numbers().keys() - before.keys()))
    assert not lost.is_open()
    door.reopen()
    assert door.passwords.is_open()
    door.close()
    assert not door.passwords.is_open()


def test_a_child_of_a_worker_does_not_hold_its_file_of_stacks(
    tmp_path: Path, usurper: Usurper
) -> None:
    """Once the worker has closed it, the master must see that, and not send the signal."""
    nobody: Any = None
    before = numbers()
    StackWriter(tmp_path / "stacks", nobody, nobody)
    (number,) = numbers().keys() - before.keys()
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    assert is_held_file(tmp_path / "stacks")
    faulthandler.unregister(STACKS_SIGNAL)
    usurper.take(number)
    wait_for(lambda: not is_held_file(tmp_path / "stacks"), "the end of the lock", 5.0)
    for end in (theirs, ours):
        os.close(end)
    os.waitpid(child, 0)


def test_a_lock_goes_with_the_file(tmp_path: Path) -> None:
    """What the master asks of a worker's file is what the kernel knows."""
    (tmp_path / "file").touch()
    assert not is_held_file(tmp_path / "file")
    file = open_file(tmp_path / "file")
    fcntl.flock(file.fileno(), fcntl.LOCK_EX)
    assert is_held_file(tmp_path / "file")
    file.close()
    assert not is_held_file(tmp_path / "file")

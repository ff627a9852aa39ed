"""What `run` tells before it launches: which address cannot be had, and who has it."""

import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import (
    OWN_OPTIONS,
    Server,
    free_port,
    gunicorn_prom,
    is_listening,
    plain_gunicorn,
    run_to_end,
    running,
    wait_for,
)

APP = "behave:app"
COMMAND = ("run", "--metrics-bind=127.0.0.1:0", "--metrics-state-dir=state")


def test_an_occupied_port_is_told(tmp_path: Path) -> None:
    """At once, and when it was waited for in vain: in the words of GP006, with exit code 1.

    Nothing is imported or made before.
    """
    (tmp_path / "telling.py").write_text("print('imported')\nfrom behave import app\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "{}:{}".format(*other.getsockname())
        arguments = ("telling:app", "--preload", "-b", address)
        ended = run_to_end(tmp_path, *arguments, command=COMMAND)
        checked = run_to_end(tmp_path, *arguments, "--only=GP006", command=("check",))
    warning, error, hint = ended.stderr.splitlines()
    assert warning == f"warning: {error.removeprefix('error: ')}; trying for 5 s"
    reason = f"address already in use (pid {os.getpid()}, "
    assert error.startswith(f"error: cannot bind {address}: {reason}")
    assert hint == "hint: choose another with --bind, or stop the other process"
    assert (ended.returncode, ended.stdout) == (1, "")
    assert not (tmp_path / "state").exists()
    assert error.removeprefix("error: ") in checked.stdout
    assert hint in checked.stdout


@pytest.mark.parametrize("other", ["127.0.0.1", "[::]"])
def test_addresses_in_each_others_way_are_told_at_once(tmp_path: Path, other: str) -> None:
    """All of IPv4 and one of its own cannot be had together: no waiting, in the words of GP006."""
    port = free_port()
    arguments = (APP, "-b", f"0.0.0.0:{port}", "-b", f"{other}:{port}")
    ended = run_to_end(tmp_path, *arguments, command=COMMAND)
    error = f"cannot bind {other}:{port}: another --bind has it already"
    hint = "hint: leave one of them out; [::] is every address of IPv4, too"
    assert ended.stderr.splitlines() == [f"error: {error}", hint]
    assert (ended.returncode, ended.stdout) == (1, "")
    checked = run_to_end(tmp_path, *arguments, "--only=GP006", command=("check",))
    assert error in checked.stdout


def test_a_unix_socket_at_the_place_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    """It is one sentence rather than a traceback, and the file stays."""
    (tmp_path / "file").write_text("kept")
    ended = run_to_end(tmp_path, APP, "-b", f"unix:{tmp_path}/file", command=COMMAND)
    error = f"error: cannot bind unix:{tmp_path}/file: there is a file that is no socket"
    assert ended.stderr.splitlines() == [error, "hint: choose another with --bind"]
    assert (ended.returncode, ended.stdout) == (1, "")
    assert (tmp_path / "file").read_text() == "kept"


def test_the_directory_of_a_unix_socket_is_waited_for(tmp_path: Path) -> None:
    """As Gunicorn does with its five tries: whoever makes it may have begun at the same time."""
    path = tmp_path / "Late" / "app.sock"
    with gunicorn_prom(tmp_path, APP, "-b", f"unix:{path}", start=False) as server:
        server.launch()
        reason = f"cannot bind unix:{path}: there is no directory {path.parent}"
        wait_for(lambda: f"warning: {reason}; trying for 5 s" in server.log, "the warning")
        path.parent.mkdir()
        wait_for(server.is_ready, "the server")
        assert path.is_socket()


def test_a_unix_socket_is_taken_over_as_gunicorn_does(tmp_path: Path) -> None:
    """Whether somebody listens on it or nobody does, the server starts."""
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with gunicorn_prom(tmp_path / "server", APP, "-b", f"unix:{path}"):
            assert path.is_socket()


@pytest.mark.parametrize("is_plain", [False, True], ids=["of ours", "plain"])
def test_a_gunicorn_that_ends_is_waited_for(tmp_path: Path, is_plain: bool) -> None:
    """A restart whose new server comes early is told once who has the port, and then serves."""
    start = plain_gunicorn if is_plain else gunicorn_prom
    with start(tmp_path / "old", APP, start=False) as old:
        old.launch()
        wait_for(lambda: is_listening(old.port), "the old server")
        with successor(tmp_path / "new", old.port, old.metrics_port) as new:
            wait_for(lambda: "warning: " in new.log, "the warning")
            old.stop()
            wait_for(new.is_ready, "the new server")
            assert new.get("/").status == 200
            name = "gunicorn" if is_plain else "gunicorn_prom"
            told = [line for line in new.log.splitlines() if line.startswith("warning: ")]
            assert re.fullmatch(
                rf"warning: cannot bind 127\.0\.0\.1:\d+: address already in use "
                rf"\(pid {old.pid}, {name}\); trying for 5 s",
                told[0],
            )
            ports = [line.partition(";")[0].partition("127.0.0.1:")[2] for line in told]
            assert len(ports) == len(set(ports))
            assert "Connection in use" not in new.log


def test_a_gunicorn_that_stays_is_an_error(tmp_path: Path) -> None:
    """After the five seconds of Gunicorn's own tries it ends with the error, once."""
    with gunicorn_prom(tmp_path / "old", APP) as old:
        ended = run_to_end(tmp_path / "new", APP, f"-b127.0.0.1:{old.port}", command=COMMAND)
    failure = (
        f"cannot bind 127.0.0.1:{old.port}: address already in use (pid {old.pid}, gunicorn_prom)"
    )
    assert ended.stderr.splitlines() == [
        f"warning: {failure}; trying for 5 s",
        f"error: {failure}",
        "hint: choose another with --bind, or stop the other process",
    ]
    assert (ended.returncode, ended.stdout) == (1, "")


def test_waiting_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C while it waits ends it with 130 and no traceback."""
    with (
        gunicorn_prom(tmp_path / "old", APP) as old,
        successor(tmp_path / "new", old.port, free_port()) as new,
    ):
        wait_for(lambda: "warning: " in new.log, "the warning")
        new.send_signal(signal.SIGINT)
        assert new.wait() == 130
        assert len(new.log.splitlines()) == 1


@pytest.mark.parametrize("environ", [{}, {"GUNICORN_PROM_PREFLIGHT": "false"}])
def test_it_is_left_to_gunicorn(tmp_path: Path, environ: dict[str, str]) -> None:
    """Turned off, it is Gunicorn that tells of an occupied port."""
    option = [] if environ else ["--no-preflight"]
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        successor(tmp_path, other.getsockname()[1], free_port(), *option, **environ) as server,
    ):
        wait_for(lambda: "Address already in use" in server.log, "what Gunicorn says")
        assert "cannot bind" not in server.log


def test_a_shared_port_is_no_obstacle(tmp_path: Path) -> None:
    """With `--reuse-port` two servers have one port."""
    with (
        gunicorn_prom(tmp_path / "old", APP, "--reuse-port") as old,
        successor(tmp_path / "new", old.port, free_port(), "--reuse-port") as new,
    ):
        wait_for(new.is_ready, "the second server")
        assert "cannot bind" not in new.log


# A process that listens and becomes the server, with the socket as its descriptor 3.
INHERITING = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
if "fd://3" not in sys.argv:
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "gunicorn_prom", "run", *sys.argv[2:]])
"""


@pytest.mark.parametrize("passed_on", [["--bind", "fd://3"], []], ids=["fd", "systemd"])
def test_an_inherited_socket_is_no_obstacle(tmp_path: Path, passed_on: list[str]) -> None:
    """A socket that is passed on, by `fd://` or by systemd, is served whatever else is bound.

    No other address is used then, also over HUP: it may be that of the metrics, or none.
    """
    unused = ["--bind=127.0.0.1:{server.metrics_port}", "--bind=127.0.0.1:99999"]
    options = [*passed_on, *OWN_OPTIONS, *unused, APP]
    command = [sys.executable, "-c", INHERITING, "{server.port}", *options]
    with running(Server(tmp_path, command, {}), start=True) as server:
        assert server.get("/").status == 200
        server.send_signal(signal.SIGHUP)
        server.wait_for_metrics(lambda m: m.one("gunicorn_reloads_total") == 1, "the reload")
        assert server.get("/").status == 200
        assert "cannot bind" not in server.log


@pytest.mark.parametrize(
    ("passed_on", "owner"),
    [
        (["--bind", "fd://3"], "the application's socket"),
        ([], "the socket that systemd has passed on"),
    ],
    ids=["fd", "systemd"],
)
def test_metrics_at_an_inherited_socket_are_told_at_once(
    tmp_path: Path, passed_on: list[str], owner: str
) -> None:
    """Whose it is is said, and it is not waited for."""
    address = f"127.0.0.1:{free_port()}"
    options = [*passed_on, f"--metrics-bind={address}", OWN_OPTIONS[-1], APP]
    command = [sys.executable, "-c", INHERITING, address.partition(":")[2], *options]
    ended = Server(tmp_path, command, {}).run_to_end()
    assert ended.stderr.splitlines() == [
        f"error: cannot bind {address}: {owner} has it already",
        "hint: choose another with --metrics-bind",
    ]
    assert ended.returncode == 1


def test_the_master_holds_nothing_of_it(tmp_path: Path) -> None:
    """What tells of occupied ports is not even imported where none is."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "import sys\n"
        "def when_ready(server):\n"
        "    print('ports', 'gunicorn_prom.ports' in sys.modules)\n"
    )
    with gunicorn_prom(tmp_path, APP) as server:
        assert "ports False" in server.log


@contextlib.contextmanager
def successor(
    directory: Path, port: int, metrics_port: int, *options: str, **environ: str
) -> Iterator[Server]:
    """Launch `gunicorn-prom run` on the ports of another, until the block ends."""
    command = [
        *(sys.executable, "-m", "gunicorn_prom", "run", APP, f"--bind=127.0.0.1:{port}"),
        *(f"--metrics-bind=127.0.0.1:{metrics_port}", OWN_OPTIONS[-1], *options),
    ]
    server = Server(directory, command, environ)
    server.port, server.metrics_port = port, metrics_port
    with running(server, start=False):
        server.launch()
        yield server

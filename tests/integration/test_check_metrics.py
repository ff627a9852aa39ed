"""What `gunicorn-prom check` finds about the metrics server's port and its state directory."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.checked import Found, assert_finds, assert_passes, checked
from tests.integration.test_lifecycle import in_mount_namespace
from tests.real_parts import find_program
from tests.support import can_bind, free_port, gunicorn_prom, is_running, run_to_end, wait_for

APP = "behave:app"
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
NO_MORE_FILES = 'mount -t tmpfs -o size=16m,nr_inodes=2 tmpfs "$1"'


def tree(directory: Path) -> list[tuple[str, int]]:
    """Return every file below a directory with the time of its last change."""
    return sorted((str(path), path.lstat().st_ctime_ns) for path in directory.rglob("*"))


# The address of the metrics server.


def test_an_occupied_metrics_port(tmp_path: Path) -> None:
    """GP007 finds the port that another process has and names that process; a free one passes."""
    with gunicorn_prom(tmp_path / "server", APP) as server:
        bind = f"--metrics-bind=127.0.0.1:{server.metrics_port}"
        detail = f"cannot bind 127.0.0.1:{server.metrics_port}: address already in use (pid "
        expected = Found("error", detail, "choose another with --metrics-bind")
        assert_finds(tmp_path, "GP007", bind, expected=expected)
        (found,) = checked(tmp_path, "GP007", bind)
        assert f"(pid {server.pid}, " in found.detail
        # It was left alone.
        assert server.scrape().total("gunicorn_workers_target") == 1
    port = server.metrics_port
    wait_for(lambda: can_bind(port), "the metrics port")
    assert_passes(tmp_path, "GP007", bind)
    assert can_bind(port)


def test_an_address_of_another_host(tmp_path: Path) -> None:
    """GP007 finds an address that this host does not have; its own by name passes."""
    detail = "cannot bind 192.0.2.1:9464: this host does not have that address"
    expected = Found("error", detail, "choose one of its own with --metrics-bind")
    assert_finds(tmp_path, "GP007", "--metrics-bind=192.0.2.1:9464", expected=expected)
    assert_passes(tmp_path, "GP007", f"--metrics-bind=localhost:{free_port()}")
    assert_passes(tmp_path, "GP007", "--metrics-bind=127.0.0.1:0")


def test_the_same_port_for_both_is_an_error_of_usage(tmp_path: Path) -> None:
    """What can be said without looking, that both ask for one port, ends the check with code 2."""
    port = free_port()
    options = (f"--bind=127.0.0.1:{port}", f"--metrics-bind=127.0.0.1:{port}")
    ended = run_to_end(tmp_path, *options, command=("check", "--only=GP007"))
    assert ended.returncode == 2
    assert f"error: --bind and --metrics-bind both ask for port {port}\n" in ended.stderr
    assert "hint: choose another with --metrics-bind\n" in ended.stderr


def test_the_port_of_the_server_that_is_examined(tmp_path: Path) -> None:
    """GP007 does not take the running server that `--live` names for an obstacle."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        options = (APP, f"--metrics-bind={address}", f"--live=http://{address}")
        found = checked(tmp_path, "GP007", *options)
        assert found == [Found("skipped", "the running server has it")]


@pytest.mark.parametrize(
    ("port", "whose"), [(9091, "Pushgateway"), (9090, "Prometheus"), (9253, "the php-fpm exporter")]
)
def test_the_port_of_another_service(tmp_path: Path, port: int, whose: str) -> None:
    """GP008 finds a port that is well known as another service's; ours passes."""
    detail = f"port {port} is the usual one of {whose}"
    expected = Found("warning", detail, "choose another with --metrics-bind")
    assert_finds(tmp_path, "GP008", f"--metrics-bind=127.0.0.1:{port}", expected=expected)
    assert_passes(tmp_path, "GP008", "--metrics-bind=127.0.0.1:9464")


@pytest.mark.parametrize("check", ["GP007", "GP008"])
def test_without_a_metrics_server(tmp_path: Path, check: str) -> None:
    """Without a metrics server nothing is said of its port."""
    options = ("--metrics-server=none", "--metrics-bind=127.0.0.1:9091")
    found = checked(tmp_path, check, *options)
    assert found == [Found("skipped", "there is no metrics server")]


# The state directory.


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        (READ_ONLY, "Read-only file system"),
        ('mount -t tmpfs -o size=64k tmpfs "$1"', "No space left on device: "),
        (NO_MORE_FILES, "and 3 files are needed, 16384 KiB and 1 files are free"),
    ],
)
def test_a_state_directory_without_room(tmp_path: Path, mount: str, reason: str) -> None:
    """GP011 finds a state directory that is read-only or full, and says what `run` would say."""
    state = tmp_path / "state"
    state.mkdir()
    for directory in (state, state / "to be made"):
        option = f"--metrics-state-dir={directory}"
        detail = f"cannot use the state directory {directory}: {reason}".partition(": and")[0]
        expected = Found("error", detail, "an emptyDir with medium: Memory")
        prefix = in_mount_namespace(mount, state)
        assert_finds(tmp_path, "GP011", option, expected=expected, prefix=prefix)
        (found,) = checked(tmp_path, "GP011", option, prefix=prefix)
        assert reason in found.detail
        assert_passes(tmp_path, "GP011", option)


def test_a_file_in_the_place_of_the_state_directory(tmp_path: Path) -> None:
    """GP011 finds what cannot be a directory; beside it one can be made."""
    file = tmp_path / "state"
    file.touch()
    for path, reason in ((file, "File exists"), (file / "below", "Not a directory")):
        detail = f"cannot use the state directory {path}: {reason}"
        expected = Found("error", detail, "choose another with --metrics-state-dir")
        option = f"--metrics-state-dir={path}"
        assert_finds(tmp_path, "GP011", option, expected=expected)
        assert detail in run_to_end(tmp_path, APP, option).stderr
    assert_passes(tmp_path, "GP011", f"--metrics-state-dir={tmp_path}/another/one")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_the_directory_of_another_user(tmp_path: Path) -> None:
    """GP011 finds that the user's own directory was made by somebody else."""
    runtime = tmp_path / "runtime"
    state = runtime / "gunicorn-prom"
    state.mkdir(parents=True)
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    assert_passes(tmp_path, "GP011", environ=environ)
    os.chown(state, 10001, 10001)
    detail = f"the state directory {state} is another user's"
    expected = Found("error", detail, "choose another with --metrics-state-dir")
    assert_finds(tmp_path, "GP011", environ=environ, expected=expected)


def test_a_directory_that_the_user_may_not_write_to(tmp_path: Path) -> None:
    """GP011 finds a state directory without the right to write to it; with that it passes."""
    find_program("setpriv", "util-linux")
    state = tmp_path / "state"
    state.mkdir(mode=0o555)
    option = f"--metrics-state-dir={state}"
    detail = f"cannot use the state directory {state}: Permission denied"
    expected = Found("error", detail, "choose another with --metrics-state-dir")
    # Root may write everywhere, but for this.
    prefix = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override")
    assert_finds(tmp_path, "GP011", option, expected=expected, prefix=prefix)
    state.chmod(0o755)
    assert_passes(tmp_path, "GP011", option, prefix=prefix)


def test_the_state_of_a_killed_server(tmp_path: Path) -> None:
    """GP012 finds what a killed server has left, and nothing while it lives or when it is swept."""
    with gunicorn_prom(tmp_path, APP) as server:
        option = f"--metrics-state-dir={server.state_directory}"
        assert_passes(tmp_path, "GP012", option)
        workers = server.wait_for_workers(1)
        server.stop(signal.SIGKILL)
        wait_for(lambda: not any(map(is_running, workers)), "the end of its worker")
        (left,) = server.state_directory.iterdir()
        before = tree(server.state_directory)
        detail = f"1 ended server has left state in {server.state_directory}: {left.name}"
        expected = Found("warning", detail, "nothing holds it; the next start sweeps it")
        assert_finds(tmp_path, "GP012", option, expected=expected)
        assert tree(server.state_directory) == before
        server.start()
        assert not left.exists()
        assert_passes(tmp_path, "GP012", option)


def test_without_a_state_directory(tmp_path: Path) -> None:
    """GP011 and GP012 make no directory: where there is none, nothing can be stale in it."""
    state = tmp_path / "state"
    option = f"--metrics-state-dir={state}"
    assert_passes(tmp_path, "GP011", option)
    found = checked(tmp_path, "GP012", option)
    assert found == [Found("skipped", "there is no state directory yet")]
    assert not state.exists()

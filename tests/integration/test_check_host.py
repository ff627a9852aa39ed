"""The checks of the host, each on a set-up that is really broken and on its repaired twin."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gunicorn
import pytest

from tests.ledger import memory_cgroup
from tests.real_parts import find_program, unavailable
from tests.support import can_bind, free_port, run_to_end

APP = "behave:app"
ENTERING = 'echo $$ > "{group}/cgroup.procs" && exec "$@"'


def check(
    directory: Path,
    id: str,
    *arguments: str,
    prefix: Sequence[str] = (),
    environ: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Make one check of a set-up through the command, and return its entries in the JSON."""
    options = ("--format=json", f"--only={id}", f"--metrics-state-dir={directory / 'state'}")
    ended = run_to_end(
        directory, *options, *arguments, prefix=prefix, environ=environ, command=("check",)
    )
    assert ended.stderr == ""
    entries: list[dict[str, Any]] = json.loads(ended.stdout)["checks"]
    assert {entry["id"] for entry in entries} == {id}
    failed = any(entry["status"] == "error" for entry in entries)
    assert ended.returncode == int(failed)
    return entries


def found(entries: list[dict[str, Any]], status: str) -> tuple[str, str]:
    """Return detail and hint of the one thing that was found."""
    (entry,) = entries
    assert entry["status"] == status, str(entry)
    return entry["detail"], entry["hint"]


def is_right(entries: list[dict[str, Any]]) -> bool:
    """Tell whether the check was made and has found nothing."""
    return [entry["status"] for entry in entries] == ["ok"]


def reason(entries: list[dict[str, Any]]) -> str:
    """Return why the check was skipped."""
    return found(entries, "skipped")[0]


def namespace(flags: str, script: str = "") -> list[str]:
    """Return what puts a command into a namespace of its own that `script` has prepared."""
    users = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    prefix = [find_program("unshare", "util-linux"), *users, *flags.split()]
    if script:
        prefix += ["sh", "-c", f'{script} && exec "$@"', "sh"]
    trial = subprocess.run([*prefix, "true"], check=False, capture_output=True, text=True)
    if trial.returncode != 0:
        unavailable(f"no such namespace can be made here: {trial.stderr.strip()}")
    return prefix


# GP006.


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_occupied_port(tmp_path: Path, host: str) -> None:
    """GP006 names the process that listens; the port that it has left can be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other:
        port = other.getsockname()[1]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        detail, hint = found(check(tmp_path, "GP006", APP, "--bind", address), "error")
        assert detail.startswith(
            f"cannot bind {address}: address already in use (pid {os.getpid()}, "
        )
        assert hint == "choose another with --bind, or stop the other process"
    assert is_right(check(tmp_path, "GP006", APP, "--bind", address))
    assert can_bind(port)


def test_an_occupied_port_among_others(tmp_path: Path) -> None:
    """GP006 looks at every address, and finds a server that has the port of every host."""
    with socket.create_server(("0.0.0.0", 0)) as other:
        taken, free = f"127.0.0.1:{other.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        entries = check(tmp_path, "GP006", APP, "-b", free, "-b", taken)
    detail, _ = found(entries, "error")
    assert detail.startswith(f"cannot bind {taken}: address already in use (pid {os.getpid()}, ")


def test_the_holder_is_called_by_its_program(tmp_path: Path) -> None:
    """GP006 says which script or module of Python has the port, as nobody is called python."""
    program = "import sys, http.server as s; s.test(s.SimpleHTTPRequestHandler, port=0)"
    (tmp_path / "squatter.py").write_text(program)
    with subprocess.Popen(
        [sys.executable, "-u", str(tmp_path / "squatter.py")], stdout=subprocess.PIPE, text=True
    ) as squatter:
        try:
            assert squatter.stdout is not None
            port = squatter.stdout.readline().partition(" port ")[2].partition(" ")[0]
            detail, _ = found(check(tmp_path, "GP006", APP, "-b", f":{port}"), "error")
        finally:
            squatter.terminate()
    assert detail.endswith(f"address already in use (pid {squatter.pid}, squatter.py)")


def test_a_unix_socket_in_use(tmp_path: Path) -> None:
    """GP006 finds a server on a unix socket; a stale one is none, and stays as it was."""
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        detail, _ = found(check(tmp_path, "GP006", APP, "-b", f"unix:{path}"), "error")
        assert detail.startswith(f"a server listens on unix:{path} (pid {os.getpid()}, ")
    inode = path.stat().st_ino
    assert is_right(check(tmp_path, "GP006", APP, "-b", f"unix:{path}"))
    assert path.stat().st_ino == inode
    path.unlink()
    assert is_right(check(tmp_path, "GP006", APP, "-b", f"unix:{path}"))
    assert not path.exists()


def test_a_unix_socket_that_has_no_place(tmp_path: Path) -> None:
    """GP006 finds a missing directory and a file in the place of the socket."""
    (tmp_path / "file").write_text("kept")
    detail, _ = found(check(tmp_path, "GP006", APP, "-b", f"unix:{tmp_path}/file"), "error")
    assert detail == f"cannot bind unix:{tmp_path}/file: there is a file that is no socket"
    assert (tmp_path / "file").read_text() == "kept"
    detail, _ = found(check(tmp_path, "GP006", APP, "-b", f"unix:{tmp_path}/no/x"), "error")
    assert detail == f"cannot bind unix:{tmp_path}/no/x: there is no directory {tmp_path}/no"


def test_a_privileged_port(tmp_path: Path) -> None:
    """GP006 says what a port below 1024 needs; with it the port can be had."""
    rootless = namespace("--net")
    if os.geteuid() == 0:
        setpriv = find_program("setpriv", "util-linux")
        stripped = [*rootless, setpriv, "--bounding-set=-net_bind_service"]
    else:
        unavailable("only root can tell with and without the capability")
    detail, hint = found(check(tmp_path, "GP006", APP, "-b:80", prefix=stripped), "error")
    assert detail == "cannot bind :80: port 80 needs root or CAP_NET_BIND_SERVICE"
    assert hint == "choose a port from 1024 up with --bind"
    assert is_right(check(tmp_path, "GP006", APP, "-b:80", prefix=rootless))


def test_sockets_that_gunicorn_does_not_bind_alone(tmp_path: Path) -> None:
    """GP006 leaves alone what is inherited, or may be shared."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = "{}:{}".format(*other.getsockname())
        assert "inherited" in reason(check(tmp_path, "GP006", APP, "-bfd://3"))
        assert "reuse" in reason(check(tmp_path, "GP006", APP, "-b", taken, "--reuse-port"))


# GP015.


def test_a_heartbeat_directory_on_the_layers_of_a_container(tmp_path: Path) -> None:
    """GP015 finds the default on overlayfs; tmpfs in its place, or another directory, does."""
    place = tmp_path / "tmp"
    place.mkdir()
    on_overlay = overlay(place, tmp_path)
    environ = {"TMPDIR": str(place)}
    entries = check(tmp_path, "GP015", APP, prefix=on_overlay, environ=environ)
    detail, hint = found(entries, "warning")
    assert detail == f"the heartbeat directory {place} is on overlay, not in memory"
    assert hint == "--worker-tmp-dir /dev/shm"
    options = (APP, "--worker-tmp-dir=/dev/shm")
    assert is_right(check(tmp_path, "GP015", *options, prefix=on_overlay, environ=environ))
    in_memory = namespace("--mount", f"mount -t tmpfs none '{place}'")
    assert is_right(check(tmp_path, "GP015", APP, prefix=in_memory, environ=environ))
    assert not list(place.iterdir())


def overlay(place: Path, directory: Path) -> list[str]:
    layers = [directory / name for name in ("lower", "upper", "work")]
    for layer in layers:
        layer.mkdir()
    options = "lowerdir={},upperdir={},workdir={}".format(*layers)
    return namespace("--mount", f"mount -t overlay none -o '{options}' '{place}'")


def test_a_heartbeat_directory_that_is_missing(tmp_path: Path) -> None:
    """GP015 finds a directory that does not exist, without which no worker boots."""
    missing = tmp_path / "missing"
    option = f"--worker-tmp-dir={missing}"
    detail, _ = found(check(tmp_path, "GP015", APP, option), "warning")
    assert detail == f"the heartbeat directory {missing} does not exist"


# GP016.


def test_too_little_shared_memory(tmp_path: Path) -> None:
    """GP016 finds a tmpfs in which the scoreboard has no room; a larger one is right."""
    entries = check(tmp_path, "GP016", APP, "-w4", prefix=shared_memory(tmp_path, "128k"))
    detail, hint = found(entries, "warning")
    assert detail.startswith(f"{tmp_path}/state has 0.1 MiB left, the metrics of 4 workers take ")
    assert hint.startswith("--shm-size 128m (Docker)")
    assert is_right(check(tmp_path, "GP016", APP, "-w4", prefix=shared_memory(tmp_path, "16m")))


def shared_memory(directory: Path, size: str) -> list[str]:
    (directory / "state").mkdir(exist_ok=True)
    return namespace("--mount", f"mount -t tmpfs -o size={size} none '{directory}/state'")


# GP017.


@pytest.mark.skipif(gunicorn.version_info < (25, 1), reason="there is no control socket yet")
def test_a_control_socket_that_cannot_be_made(tmp_path: Path) -> None:
    """GP017 finds one without a place; with one, or turned off, nothing is wrong."""
    (tmp_path / "file").touch()
    for path, why in (
        (f"{tmp_path}/file/gunicorn.ctl", f"{tmp_path}/file is no directory"),
        (f"/tmp/{'x' * 200}", "its path is longer than 107 bytes"),
    ):
        option = f"--control-socket={path}"
        detail, hint = found(check(tmp_path, "GP017", APP, option), "warning")
        assert detail == f"the control socket {path} cannot be made: {why}"
        assert hint.startswith("--no-control-socket, or --control-socket ")
        disabled = check(tmp_path, "GP017", APP, option, "--no-control-socket")
        assert reason(disabled) == "it is turned off"
    good = f"--control-socket={tmp_path}/new/gunicorn.ctl"
    assert is_right(check(tmp_path, "GP017", APP, good))
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(gunicorn.version_info < (25, 1), reason="there is no control socket yet")
def test_a_home_that_is_read_only(tmp_path: Path) -> None:
    """GP017 finds that the default place, in the home directory, cannot be written."""
    (tmp_path / "home").mkdir()
    read_only = namespace("--mount", f"mount -t tmpfs -o ro none '{tmp_path}/home'")
    environ = {"XDG_RUNTIME_DIR": ""}
    entries = check(tmp_path, "GP017", APP, prefix=read_only, environ=environ)
    detail, _ = found(entries, "warning")
    assert detail.endswith(f"cannot be made: {tmp_path}/home is not writable")
    assert is_right(check(tmp_path, "GP017", APP, environ=environ))


# GP020.


@pytest.mark.parametrize(
    ("environ", "wrong", "right"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 30, 25),
        ({"TERMINATION_GRACE_PERIOD_SECONDS": "60"}, 120, 55),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "TERMINATION_GRACE_PERIOD_SECONDS": "10"}, 10, 5),
    ],
)
def test_a_grace_period_that_is_too_short(
    tmp_path: Path, environ: dict[str, str], wrong: int, right: int
) -> None:
    """GP020 finds a drain that the end of the pod cuts off, and names one that fits."""
    option = f"--graceful-timeout={wrong}"
    # That of a pod which does not tell is assumed.
    status = "error" if "TERMINATION_GRACE_PERIOD_SECONDS" in environ else "warning"
    detail, hint = found(check(tmp_path, "GP020", APP, option, environ=environ), status)
    period = environ.get("TERMINATION_GRACE_PERIOD_SECONDS", "30")
    assert detail.startswith(f"graceful_timeout is {wrong} s, and the pod is killed after {period}")
    assert hint.startswith(f"--graceful-timeout {right}")
    option = f"--graceful-timeout={right}"
    assert is_right(check(tmp_path, "GP020", APP, option, environ=environ))


def test_no_grace_period_outside_of_a_pod(tmp_path: Path) -> None:
    """GP020 has nothing to say where there is no pod."""
    assert reason(check(tmp_path, "GP020", APP, "--graceful-timeout=600")) == "this is no pod"


# GP021 and GP022.


def test_more_workers_than_the_quota_runs(tmp_path: Path) -> None:
    """GP021 finds them in a cgroup, also when the limit is that of one above it."""
    with cpu_cgroup(1.5) as group:
        (group / "nested").mkdir()
        try:
            inside = entering(group / "nested")
            detail, hint = found(check(tmp_path, "GP021", APP, "-w17", prefix=inside), "warning")
            assert detail == "17 workers share a quota of 1.5 CPU"
            assert hint == "--workers 5"
            assert is_right(check(tmp_path, "GP021", APP, "-w5", prefix=inside))
        finally:
            (group / "nested").rmdir()


def test_more_workers_than_memory_holds(tmp_path: Path) -> None:
    """GP022 measures what the import takes, and says how many workers fit; those do."""
    (tmp_path / "large.py").write_text(f"held = b'x' * (32 << 20)\nfrom {APP[:6]} import app\n")
    with memory_cgroup(256 << 20) as group:
        inside = entering(group)
        detail, hint = found(check(tmp_path, "GP022", "large:app", "-w9", prefix=inside), "warning")
        assert detail.startswith("9 workers of ")
        assert "the limit of 256 MiB" in detail
        fitting = hint.split()[1].rstrip(",")
        assert hint == f"--workers {fitting}, or --preload to share what the import takes"
        assert 4 <= int(fitting) <= 7
        assert is_right(check(tmp_path, "GP022", "large:app", "-w", fitting, prefix=inside))
        preloaded = check(tmp_path, "GP022", "large:app", "-w9", "--preload", prefix=inside)
        assert "--preload" in reason(preloaded)


def entering(group: Path) -> list[str]:
    return ["sh", "-c", ENTERING.format(group=group), "sh"]


@contextlib.contextmanager
def cpu_cgroup(quota: float) -> Iterator[Path]:
    """Make a cgroup with a CPU quota below that of the tests; skip where none can be made."""
    group = own_cpu_cgroup() / f"gunicorn-prom-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        unavailable(f"no CPU cgroup can be made here: {error}")
    try:
        period_us = 100_000
        quota_us = int(quota * period_us)
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
        elif (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            unavailable("the cgroup of the tests has no CPU controller for those below it")
        yield group
    finally:
        group.rmdir()


def own_cpu_cgroup() -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if "cpu" in controllers.split(","):
            return Path("/sys/fs/cgroup/cpu" + path)
    return Path("/sys/fs/cgroup" + lines[-1].split(":", 2)[2])


# GP023.


def test_a_backlog_beyond_the_kernels(tmp_path: Path) -> None:
    """GP023 finds that the kernel clamps it, and both remedies help."""
    clamped = namespace("--net", "echo 128 > /proc/sys/net/core/somaxconn")
    detail, hint = found(check(tmp_path, "GP023", APP, prefix=clamped), "warning")
    assert detail == "backlog is 2048, the kernel clamps it to 128"
    assert hint == "sysctl net.core.somaxconn=2048, or --backlog 128"
    assert is_right(check(tmp_path, "GP023", APP, "--backlog=128", prefix=clamped))
    raised = namespace("--net", "echo 2048 > /proc/sys/net/core/somaxconn")
    assert is_right(check(tmp_path, "GP023", APP, prefix=raised))


# GP024.


def test_fewer_files_than_connections(tmp_path: Path) -> None:
    """GP024 finds a limit below what a worker takes; 1024 files do for 1000 connections."""
    prlimit = find_program("prlimit", "util-linux")
    options = (APP, "--worker-type=gthread")
    low, usual = ([prlimit, f"--nofile={limit}"] for limit in (256, 1024))
    detail, hint = found(check(tmp_path, "GP024", *options, prefix=low), "warning")
    assert detail == "a worker may open 256 files and take 1000 connections"
    assert hint.startswith("ulimit -n 65536, LimitNOFILE=65536 (systemd)")
    assert is_right(check(tmp_path, "GP024", *options, prefix=usual))
    fewer = (*options, "--worker-connections=200")
    assert is_right(check(tmp_path, "GP024", *fewer, prefix=low))
    assert "not keep" in reason(check(tmp_path, "GP024", APP, prefix=low))


# GP031.


@pytest.mark.parametrize("is_file", [True, False])
def test_a_shell_as_the_first_process(tmp_path: Path, is_file: bool) -> None:
    """GP031 finds a script or `sh -c` that starts the server as its child; `exec` repairs it."""
    serve = 'if [ "$SERVE" ]\nthen {}gunicorn-prom run behave:app\nfi\n'

    def first_process(start: str) -> list[str]:
        script = f'"$@"\n{serve.format(start)}'
        (tmp_path / "entry.sh").write_text(script)
        shell = ["sh", "entry.sh"] if is_file else ["sh", "-ec", script, "sh"]
        return [*namespace("--pid --fork --mount-proc --kill-child"), *shell]

    detail, hint = found(check(tmp_path, "GP031", APP, prefix=first_process("")), "warning")
    assert detail == f"PID 1 is {shell_name()}, which starts the server without exec"
    assert hint == "write `exec` before the command that starts the server"
    assert is_right(check(tmp_path, "GP031", APP, prefix=first_process("exec ")))


def shell_name() -> str:
    said = subprocess.run(
        ["sh", "-c", "readlink -f /proc/$$/exe; :"], check=True, capture_output=True, text=True
    )
    return Path(said.stdout.strip()).name


# GP032.


def test_a_statsd_host_that_does_not_resolve(tmp_path: Path) -> None:
    """GP032 finds a name without an address, and a unix socket that is not there."""
    option = "--statsd-host=statsd.invalid:8125"
    detail, hint = found(check(tmp_path, "GP032", APP, option), "warning")
    assert detail.startswith("the statsd host statsd.invalid does not resolve: ")
    assert hint.startswith("correct --statsd-host, or leave it out")
    assert is_right(check(tmp_path, "GP032", APP, "--statsd-host=localhost:8125"))
    assert reason(check(tmp_path, "GP032", APP)) == "statsd is not used"
    # Shorter than the path of a test may be.
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/statsd"
        detail, _ = found(check(tmp_path, "GP032", APP, f"--statsd-host=unix://{path}"), "warning")
        assert detail == f"there is no socket {path} for statsd"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as statsd:
            statsd.bind(path)
            assert is_right(check(tmp_path, "GP032", APP, f"--statsd-host=unix://{path}"))

"""Checks of the machine and the container."""

import errno
import math
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gunicorn import systemd

from gunicorn_prom import ports, workers
from gunicorn_prom.checks.cgroups import cpu_quota, memory_limit_bytes
from gunicorn_prom.checks.declare import Problem, Skip, check
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.errors import StateError
from gunicorn_prom.exporter.listener import trial_of
from gunicorn_prom.paths import BEFORE_SOCKETS, runs_users_code
from gunicorn_prom.processes import read_kernel_text
from gunicorn_prom.state import default_root

__all__ = [
    "app_address",
    "backlog",
    "control_socket",
    "cpu_share",
    "grace_period",
    "heartbeat_directory",
    "memory_share",
    "open_files",
    "shared_memory",
    "shell_as_pid_1",
    "statsd_host",
]

MIB = 1 << 20

MEMORY_FILE_SYSTEMS = frozenset(("tmpfs", "ramfs"))
# Those of container images, and those on the other side of a network.
SLOW_FILE_SYSTEMS = frozenset(
    (
        "overlay",
        "aufs",
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "glusterfs",
        "lustre",
        "afs",
        "9p",
        "virtiofs",
    )
)
# Where Python's tempfile looks, which itself would try by writing.
TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")
TEMPORARY_DIRECTORIES = ("/tmp", "/var/tmp", "/usr/tmp")

# Four files of 64 KiB, which prometheus_client makes for each worker.
APP_METRICS_BYTES = 4 * 65536

# The kernel's room for the path of a unix socket, without the null byte at its end.
MAX_SOCKET_PATH_BYTES = 107

# What Kubernetes gives a pod that says nothing, and the variable that tells of another.
DEFAULT_GRACE_PERIOD_S = 30
GRACE_PERIOD = "TERMINATION_GRACE_PERIOD_SECONDS"
MARGIN_S = 5

# Gunicorn's documentation advises 2 to 4 for each CPU.
MOST_WORKERS_PER_CPU = 4

# Interpreter and Gunicorn, which the workers share with the master.
SHARED_BYTES = 24 * MIB

# A worker's listeners, pipes, heartbeat file, log.
SPARE_FILES = 16
# One connection at a time, or a limit of their own.
WITHOUT_CONNECTION_LIMIT = frozenset(("sync", "tornado", "uvicorn"))

SHELLS = frozenset(("sh", "ash", "bash", "busybox", "dash", "ksh", "mksh", "zsh"))
MAX_SCRIPT_BYTES = 1 << 20
COMMENT = re.compile(r"\s*#")
SERVER_COMMAND = re.compile(r"(^|[\s/])(gunicorn|gunicorn[-_]prom\s+run)(\s|$)")

RESOLVING_S = 3.0


@check(
    "GP006",
    "host",
    "error",
    title="the application's address can be had",
    hint="choose another with --bind, or stop the other process",
)
def app_address(setup: Setup) -> Iterator[Problem]:
    """Find an address of the application that another process has or that cannot be bound.

    Gunicorn tries for five seconds and ends with exit code 1. The path of a unix socket it takes
    away from the server that has it, which then runs on unreachable. What a hook or an application
    that is preloaded may still put right, as the directory of a unix socket, is only a warning.

    Stop the process that is named, or choose another address with `--bind`. A port below 1024
    needs root or `CAP_NET_BIND_SERVICE`.
    """
    if setup.live_url:
        raise Skip("the server runs")
    if setup.cfg.reuse_port:
        raise Skip("with --reuse-port several servers may have it")
    if systemd.listen_fds(unset_environment=False):
        raise Skip("the socket is inherited")
    is_late = runs_users_code(setup.cfg, BEFORE_SOCKETS)
    with ExitStack() as bound:
        # Held until all are tried: two of them may be in each other's way.
        for address in setup.cfg.address:
            if isinstance(address, int):
                raise Skip("the socket is inherited")
            try:
                bound.enter_context(trial_of(address, is_kept=len(setup.cfg.address) > 1))
            except OSError as error:
                said = ports.bind_error(address, error)
                is_certain = error.errno == errno.EADDRINUSE or not is_late
                yield Problem(str(said), said.hint, is_certain=is_certain)
            else:
                if isinstance(address, str) and ports.is_occupied(address):
                    yield Problem(f"a server listens on {ports.shown(address)}{_by(address)}")


def _by(address: ports.Address) -> str:
    who = ports.holder(address)
    return f" ({who})" if who else ""


@check(
    "GP015",
    "host",
    "warning",
    title="heartbeats do not wait for a disk",
    hint="--worker-tmp-dir /dev/shm",
)
def heartbeat_directory(setup: Setup) -> Iterator[Problem]:
    """Find a heartbeat directory on a container's layers, on a network, or chosen on a disk.

    Each worker shows once a second that it lives, by touching a file there. When the disk is busy
    that call waits, and the master kills a worker that was well.

    Give a directory in memory, `--worker-tmp-dir /dev/shm`. In Kubernetes an emptyDir of medium
    Memory does too.
    """
    chosen = setup.cfg.worker_tmp_dir
    directory = Path(chosen or _temporary_directory(setup))
    if not os.path.isdir(directory):  # unlike Path's it never raises
        yield Problem(f"the heartbeat directory {directory} does not exist")
        return
    kind = _file_system(directory, setup.proc)
    is_slow = kind in SLOW_FILE_SYSTEMS or kind.startswith("fuse.")
    if is_slow or (chosen and kind and kind not in MEMORY_FILE_SYSTEMS):
        yield Problem(f"the heartbeat directory {directory} is on {kind}, not in memory")


def _temporary_directory(setup: Setup) -> str:
    chosen = [setup.environ[name] for name in TEMPORARY_VARIABLES if setup.environ.get(name)]
    candidates = (*chosen, *TEMPORARY_DIRECTORIES)
    return next((path for path in candidates if _is_writable(path)), os.curdir)


def _is_writable(directory: str | Path) -> bool:
    return os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK)


def _file_system(directory: Path, proc: Path) -> str:
    """Return the type of the file system, "" when it cannot be told.

    Source: /proc/PID/mountinfo in `man 5 proc_pid_mountinfo`.
    """
    try:
        lines = read_kernel_text(proc / "self" / "mountinfo").splitlines()
    except OSError:
        return ""
    place, found = directory.resolve(), ("", "")
    for line in lines:
        mount, _, source = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), mount.split()[4])
        # Of two on the same place the later one covers the other.
        if place.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, source.split()[0])
    return found[1]


@check(
    "GP016",
    "host",
    "warning",
    title="there is room for the metrics in memory",
    hint="--shm-size 128m (Docker), a larger emptyDir (Kubernetes), or --metrics-state-dir",
)
def shared_memory(setup: Setup) -> Iterator[Problem]:
    """Find a /dev/shm, or another file system of the state directory, that is too small.

    The server does not start when its scoreboard has no room, and an application whose metrics
    have none gets a SIGBUS or an error.

    Make it larger: `--shm-size 128m` with Docker, an emptyDir of medium Memory with a `sizeLimit`
    in Kubernetes. Or put the state elsewhere with `--metrics-state-dir`.
    """
    directory = _state_directory(setup)
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    needed = _state_bytes(setup.cfg)
    if free < needed:
        yield Problem(
            f"{directory} has {_mib(free)} left, the metrics of {setup.cfg.workers} "
            f"workers take {_mib(needed)}"
        )


def _state_directory(setup: Setup) -> Path:
    """Return the directory of the scoreboard, or the one in which it is going to be made."""
    try:
        root = Path(setup.cfg.metrics_state_dir or default_root()).absolute()
    except StateError as error:
        raise Skip("there is no state directory") from error
    return next(path for path in (root, *root.parents) if os.path.isdir(path))


def _state_bytes(cfg: Any) -> int:
    """Return the room for the boards of two generations and the application's own metrics."""
    # The master's modules, which no other check wants.
    from gunicorn_prom.arbiter import SLOTS_PER_WORKER, SPARE_SLOTS
    from gunicorn_prom.scoreboard import Layout

    slots = SLOTS_PER_WORKER * cfg.workers + SPARE_SLOTS
    app_bytes = cfg.workers * APP_METRICS_BYTES if cfg.app_metrics else 0
    return 2 * Layout(cfg.metrics_buckets, slots).size_bytes + app_bytes


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / MIB:.1f} MiB" if size_bytes < 10 * MIB else f"{size_bytes / MIB:.0f} MiB"


@check(
    "GP017",
    "host",
    "warning",
    title="the control socket can be made",
    hint="--no-control-socket, or --control-socket with a path that may be written",
)
def control_socket(setup: Setup) -> Iterator[Problem]:
    """Find a control socket that Gunicorn (25.1 and later) cannot make.

    The server runs, but warns at its start and cannot be asked by `gunicornc`. A home
    directory that is missing or read-only is the usual reason in containers.

    Leave it out with `--no-control-socket`, or give it a place: `--control-socket
    /dev/shm/gunicorn.ctl`.
    """
    path = getattr(setup.cfg, "control_socket", None)
    if path is None:
        raise Skip("this Gunicorn has none")
    if setup.cfg.control_socket_disable:
        raise Skip("it is turned off")
    reason = _unmakeable(Path(path).absolute())
    if reason:
        yield Problem(f"the control socket {path} cannot be made: {reason}")


def _unmakeable(path: Path) -> str:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        return f"its path is longer than {MAX_SOCKET_PATH_BYTES} bytes"
    above = next(parent for parent in path.parents if os.path.exists(parent))
    if not os.path.isdir(above):
        return f"{above} is no directory"
    if not _is_writable(above):
        return f"{above} is not writable"
    return f"{path} is a directory" if os.path.isdir(path) else ""


@check(
    "GP020",
    "host",
    "error",
    title="workers may finish before the pod is killed",
    hint=f"keep it {MARGIN_S} s below; {GRACE_PERIOD} tells of another grace period than 30 s",
)
def grace_period(setup: Setup) -> Iterator[Problem]:
    """Find a `graceful_timeout` that the grace period of a Kubernetes pod cuts short.

    Kubernetes kills the whole pod after `terminationGracePeriodSeconds`, 30 by default, and a
    preStop hook is a part of them. Requests are cut off then, and the master cannot clean up.

    Set `--graceful-timeout` 5 seconds below it, or raise it in the pod. A pod cannot see its own
    grace period: where it is not 30, say so in the variable TERMINATION_GRACE_PERIOD_SECONDS.
    Without that variable it is only a warning.
    """
    told = setup.environ.get(GRACE_PERIOD, "")
    if not told and "KUBERNETES_SERVICE_HOST" not in setup.environ:
        raise Skip("this is no pod")
    period_s = int(told) if told.isdecimal() else DEFAULT_GRACE_PERIOD_S
    if setup.cfg.graceful_timeout >= period_s:
        origin = f"{GRACE_PERIOD}" if told.isdecimal() else "Kubernetes' default"
        yield Problem(
            f"graceful_timeout is {setup.cfg.graceful_timeout} s, and the pod is killed "
            f"after {period_s} s ({origin})",
            f"--graceful-timeout {max(period_s - MARGIN_S, 1)}"
            + ("" if told.isdecimal() else f", or tell the pod's own period by {GRACE_PERIOD}"),
            is_certain=told.isdecimal(),
        )


@check(
    "GP021",
    "host",
    "warning",
    title="the workers fit the CPU quota",
    hint="2 workers for each CPU of the quota, and one more",
)
def cpu_share(setup: Setup) -> Iterator[Problem]:
    """Find many more workers than the CPU quota of the control group can run.

    A number taken from the CPUs of the machine is wrong in a container with a quota. The workers
    then stop each other: all of them wait whenever the quota of 0.1 seconds is used up.

    Use 2 workers for each CPU of the quota and one more, and threads for requests that wait:
    `--workers 3 --threads 4` for one CPU.
    """
    quota = cpu_quota(setup.cgroups, setup.proc)
    if quota is None:
        raise Skip("there is no CPU quota")
    if setup.cfg.workers > MOST_WORKERS_PER_CPU * math.ceil(quota) + 1:
        threads = f" with {setup.cfg.threads} threads each" if setup.cfg.threads > 1 else ""
        yield Problem(
            f"{setup.cfg.workers} workers{threads} share a quota of {quota:g} CPU",
            f"--workers {2 * math.ceil(quota) + 1}",
        )


@check(
    "GP022",
    "host",
    "warning",
    title="the workers fit the memory limit",
    hint="fewer workers, more memory, or --preload to share what the import takes",
    needs_app=True,
)
def memory_share(setup: Setup) -> Iterator[Problem]:
    """Find more workers than fit the memory limit, by what importing the application takes.

    The kernel kills a worker as soon as the limit is reached, in the middle of its request, and
    the next one that starts meets the same end.

    Use fewer workers, or threads, or raise the limit. `--preload` imports the application once and
    shares its memory.
    """
    limit = memory_limit_bytes(setup.cgroups, setup.proc)
    if limit is None:
        raise Skip("there is no memory limit")
    if setup.cfg.preload_app:
        raise Skip("with --preload the workers share their memory")
    if setup.app.outcome != "loaded":
        raise Skip("the application does not load")
    each = max(setup.app.import_bytes, MIB)
    if SHARED_BYTES + setup.cfg.workers * each > limit:
        fitting = max(int((limit - SHARED_BYTES) // each), 0)
        yield Problem(
            f"{setup.cfg.workers} workers of {_mib(each)} each, once they have imported the "
            f"application, do not fit the limit of {_mib(limit)}: {fitting} do",
            f"--workers {fitting}, or --preload to share what the import takes" if fitting else "",
        )


@check(
    "GP023",
    "host",
    "warning",
    title="the kernel allows the backlog",
    hint="raise it: sysctl net.core.somaxconn=4096",
)
def backlog(setup: Setup) -> Iterator[Problem]:
    """Find a `backlog` that is larger than the kernel allows.

    The kernel takes its own limit, `net.core.somaxconn`, without a word. When a burst is longer
    than that, connections are refused or wait for a second and more.

    Raise it: `sysctl net.core.somaxconn=4096`, for a container `docker run --sysctl` with the same
    or the securityContext of the pod. Or ask for no more with `--backlog`.
    """
    try:
        allowed = int((setup.proc / "sys/net/core/somaxconn").read_text())
    except OSError as error:
        raise Skip("the limit cannot be read") from error
    if setup.cfg.backlog > allowed:
        yield Problem(
            f"backlog is {setup.cfg.backlog}, the kernel clamps it to {allowed}",
            f"sysctl net.core.somaxconn={setup.cfg.backlog}, or --backlog {allowed}",
        )


@check(
    "GP024",
    "host",
    "warning",
    title="a worker may open as many files as it takes connections",
    hint="ulimit -n 65536, LimitNOFILE=65536 (systemd), --ulimit nofile=65536 (Docker)",
)
def open_files(setup: Setup) -> Iterator[Problem]:
    """Find a limit of open files below the connections that a worker takes.

    Each connection is an open file. At the limit a worker accepts no further ones and fails with
    "Too many open files", where it opens a file or asks the database too.

    Raise it: `ulimit -n 65536` in a shell, `LimitNOFILE=65536` in a systemd unit, `--ulimit
    nofile=65536` with Docker. Or lower `--worker-connections`.
    """
    name = workers.type_of(setup.cfg.settings["worker_class"].get())
    if name == "sync" and setup.cfg.threads > 1:
        name = "gthread"
    if name is None or name in WITHOUT_CONNECTION_LIMIT:
        raise Skip("the workers do not keep that many connections")
    limit = _open_files_limit(setup.proc)
    if limit < setup.cfg.worker_connections + SPARE_FILES:
        yield Problem(
            f"a worker may open {limit} files and take {setup.cfg.worker_connections} connections"
        )


def _open_files_limit(proc: Path) -> float:
    """Return the soft limit, which Gunicorn leaves as it is."""
    try:
        lines = (proc / "self" / "limits").read_text().splitlines()
    except OSError as error:
        raise Skip("the limit cannot be read") from error
    limit = next(line for line in lines if line.startswith("Max open files")).split()[3]
    return math.inf if limit == "unlimited" else int(limit)


@check(
    "GP031",
    "host",
    "warning",
    title="signals reach the server",
    hint="write `exec` before the command that starts the server",
)
def shell_as_pid_1(setup: Setup) -> Iterator[Problem]:
    """Find a container whose first process is a shell that starts the server without `exec`.

    SIGTERM goes to the first process, and a shell does not pass it on. The server learns nothing
    and is killed in the middle of its requests when the grace period is over.

    Put `exec` before the command in the script, or use the list form in the Dockerfile:
    `CMD ["gunicorn-prom", "run", "app:app"]`.
    """
    first = setup.proc / "1"
    try:
        # The program and not its name, which for a script is the script's.
        shell = (first / "exe").readlink().name
        arguments = (first / "cmdline").read_bytes().decode(errors="replace").split("\0")[1:-1]
    except OSError as error:
        raise Skip("the first process cannot be seen") from error
    if shell not in SHELLS:
        return
    commands = [c for c in _commands(shell, arguments, first / "cwd") if not COMMENT.match(c)]
    starts = any(SERVER_COMMAND.search(command) for command in commands)
    if starts and not any(re.search(r"\bexec\b", command) for command in commands):
        yield Problem(f"PID 1 is {shell}, which starts the server without exec")


def _commands(shell: str, arguments: list[str], directory: Path) -> list[str]:
    """Return the commands that a shell has been told to run, as far as they can be read.

    Args:
        arguments: of the shell.
        directory: in which it runs.
    """
    words = iter(arguments)
    for word in words:
        if not word.startswith(("-", "+")):
            return _split(_read(directory / word))
        if not word.startswith("--") and "c" in word:
            commands = _split(next(words, ""))
            # The last one replaces bash by itself.
            return commands[:-1] if shell == "bash" else commands
        if word.endswith("o"):
            next(words, "")
    return []


def _split(script: str) -> list[str]:
    return re.split(r"[;&|\n]+", script.strip().replace("\\\n", " "))


def _read(script: Path) -> str:
    try:
        with script.open(errors="replace") as file:
            return file.read(MAX_SCRIPT_BYTES)
    except OSError:
        return ""


@check(
    "GP032",
    "host",
    "warning",
    title="statsd can be found",
    hint="correct --statsd-host, or leave it out: the metrics are on the metrics server anyway",
)
def statsd_host(setup: Setup) -> Iterator[Problem]:
    """Find a `statsd_host` whose name does not resolve, or whose unix socket is not there.

    Gunicorn sends its statistics without waiting for an answer: what does not arrive is dropped,
    and nothing says so.

    Correct `--statsd-host`, or leave it out: what it sends is on the metrics server too.
    """
    address = setup.cfg.statsd_host
    if not address:
        raise Skip("statsd is not used")
    if isinstance(address, str):
        if not _is_socket(address):
            yield Problem(f"there is no socket {address} for statsd")
        return
    reason = _unresolvable(*address)
    if reason:
        yield Problem(f"the statsd host {address[0]} does not resolve: {reason}")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _unresolvable(host: str, port: int) -> str:
    """Return why a host has no address, "" when it has; no name server is waited for long."""
    reasons = [f"no answer within {RESOLVING_S:g} s"]

    def resolve() -> None:
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except OSError as error:
            reasons.append((error.strerror or str(error)).lower())
        else:
            reasons.append("")

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(RESOLVING_S)
    return reasons[-1]

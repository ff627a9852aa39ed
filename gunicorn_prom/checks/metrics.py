"""Checks of the metrics server."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gunicorn_prom import ports
from gunicorn_prom.checks.declare import Problem, Skip, check
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.errors import StateError
from gunicorn_prom.exporter.listener import try_bind
from gunicorn_prom.scoreboard import Layout
from gunicorn_prom.settings import parse_bind
from gunicorn_prom.state import board_files, default_root, has_holder, servers, unusable

__all__ = ["foreign_port", "metrics_port", "stale_state", "state_directory"]

# By port. Source: the list of default ports in the wiki of Prometheus.
FOREIGN = {
    9090: "Prometheus",
    9091: "Pushgateway",
    9093: "Alertmanager",
    9100: "node_exporter",
    9101: "the HAProxy exporter",
    9102: "statsd_exporter",
    9113: "the nginx exporter",
    9117: "the Apache exporter",
    9125: "statsd_exporter",
    9149: "the Passenger exporter",
    9253: "the php-fpm exporter",
    9394: "Ruby's prometheus_exporter",
}
# The directory of a server, the board and the labels in it.
FILES = 3
KIB = 1024
# Of the directories that are found.
SHOWN = 3


@check(
    "GP007",
    "metrics",
    "error",
    title="the metrics server can have its address",
    hint="choose another with --metrics-bind",
)
def metrics_port(setup: Setup) -> Iterator[Problem]:
    """Find an address of the metrics server that cannot be had, mostly because another has it.

    The server does not start. That the application has the same port is not a finding but an
    error of usage, which ends the check with exit code 2.

    Choose another port with `--metrics-bind`, or end the process that has it. Two servers on one
    machine need two addresses.
    """
    host, port = _metrics_address(setup.cfg)
    if setup.live_url and urlsplit(setup.live_url).port == port:
        raise Skip("the running server has it")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try_bind((str(found[0][4][0]), port))
    except OSError as error:
        failure = ports.bind_error((host, port), error, "--metrics-bind")
        yield Problem(str(failure), failure.hint)


def _metrics_address(cfg: Any) -> tuple[str, int]:
    if cfg.metrics_server == "none":
        raise Skip("there is no metrics server")
    return parse_bind(cfg.metrics_bind)


@check(
    "GP008",
    "metrics",
    "warning",
    title="the metrics port is not known as another service's",
    hint="choose another with --metrics-bind, 9464 is the one for metrics of applications",
)
def foreign_port(setup: Setup) -> Iterator[Problem]:
    """Find a port of the metrics server that is the usual one of another well-known service.

    When that service comes to the machine, one of the two does not start. And Prometheus may
    scrape it already, under that name: the numbers of one then appear as the other's.

    Leave `--metrics-bind` at port 9464, which OpenTelemetry uses for the metrics of applications
    too, or choose one that is not in the list of default ports of Prometheus's exporters.
    """
    _, port = _metrics_address(setup.cfg)
    if port in FOREIGN:
        yield Problem(f"port {port} is the usual one of {FOREIGN[port]}")


@check(
    "GP011",
    "metrics",
    "error",
    title="the state directory can be written to",
    hint="choose another with --metrics-state-dir, in Kubernetes an emptyDir with medium: Memory",
)
def state_directory(setup: Setup) -> Iterator[Problem]:
    """Find a state directory that cannot be made or written to, that is full or another user's.

    The workers write their counts there, so the server does not start.

    Name a directory on tmpfs that the user of the server may write to with
    `--metrics-state-dir`. In a container with a read-only root mount one: `--tmpfs /run/metrics`
    in Docker, an emptyDir with `medium: Memory` in Kubernetes.
    """
    try:
        root = _root(setup.cfg)
        _look_for_fault(root, is_default=not setup.cfg.metrics_state_dir)
        _look_for_room(root, setup.cfg)
    except StateError as error:
        yield Problem(str(error))


def _root(cfg: Any) -> Path:
    """Return the state directory, which need not be there yet."""
    return Path(cfg.metrics_state_dir) if cfg.metrics_state_dir else default_root()


def _existing(root: Path) -> Path:
    """Return the directory itself or, as long as it is missing, the one to make it in."""
    path = root.absolute()
    return next(found for found in (path, *path.parents) if os.path.exists(found))


def _look_for_fault(root: Path, *, is_default: bool) -> None:
    """Raise a `StateError` as `run` would, without trying to write."""
    existing = _existing(root)
    if not existing.is_dir():
        is_in_place = existing == root.absolute()
        raise unusable(root, OSError(errno.EEXIST if is_in_place else errno.ENOTDIR, ""))
    if is_default and existing == root and not _is_ours(root):
        raise StateError(f"the state directory {root} is another user's")
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        is_read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        raise unusable(root, OSError(errno.EROFS if is_read_only else errno.EACCES, ""))


def _look_for_room(root: Path, cfg: Any) -> None:
    from gunicorn_prom.arbiter import SLOTS_PER_WORKER, SPARE_SLOTS  # all of Gunicorn's master

    room = os.statvfs(_existing(root))
    slots = SLOTS_PER_WORKER * cfg.workers + SPARE_SLOTS
    needed_bytes = Layout(cfg.metrics_buckets, slots).size_bytes
    free_bytes = (room.f_bavail if os.geteuid() else room.f_bfree) * room.f_frsize
    # Some file systems do not count their files.
    has_files = room.f_favail >= FILES or not room.f_files
    if free_bytes < needed_bytes or not has_files:
        wanted = f"{needed_bytes // KIB} KiB and {FILES} files are needed"
        had = f"{free_bytes // KIB} KiB and {room.f_favail} files are free"
        raise StateError(f"{unusable(root, OSError(errno.ENOSPC, ''))}: {wanted}, {had}")


def _is_ours(path: Path) -> bool:
    return not path.is_symlink() and path.stat().st_uid == os.geteuid()


@check(
    "GP012",
    "metrics",
    "warning",
    title="nothing is left of servers that have ended",
    hint="nothing holds it; the next start sweeps it",
)
def stale_state(setup: Setup) -> Iterator[Problem]:
    """Find directories of servers in the state directory that no process holds any more.

    They are left when a master is killed. They take room, on tmpfs that is memory, and tell that
    a server has ended without a chance to clean up: by SIGKILL, or for want of memory.

    Nothing has to be done: the next start of a server with this state directory removes them,
    and no count of theirs gets into its metrics. Where none is to start any more, remove them
    yourself.
    """
    try:
        found = servers(_root(setup.cfg))
    except (OSError, StateError):
        raise Skip("there is no state directory yet") from None
    stale = [path for path in found if _is_stale(path)]
    if stale:
        whose = "1 ended server has" if len(stale) == 1 else f"{len(stale)} ended servers have"
        names = ", ".join(path.name for path in stale[:SHOWN])
        more = ", ..." if stale[SHOWN:] else ""
        yield Problem(f"{whose} left state in {stale[0].parent}: {names}{more}")


def _is_stale(path: Path) -> bool:
    # Without a board it may be in the making.
    return _is_ours(path) and bool(board_files(path)) and not has_holder(path)

"""What control groups leave of the machine to this process: both versions, nested ones too.

Source: cpu.max and memory.max in Documentation/admin-guide/cgroup-v2.rst,
Documentation/scheduler/sched-bwc.rst and Documentation/admin-guide/cgroup-v1/memory.rst.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeVar

from gunicorn_prom.processes import read_kernel_text

__all__ = ["cpu_quota", "memory_limit_bytes"]

# Version 1 has a number for "no limit": the largest that is a multiple of the page.
UNLIMITED_BYTES = 1 << 60

Number = TypeVar("Number", int, float)


def cpu_quota(cgroups: Path, proc: Path) -> float | None:
    """Return how many CPUs may be in use on the average, None for no limit.

    Args:
        cgroups: where the cgroup file systems are mounted.
        proc: where proc is mounted.
    """
    return _smallest("cpu", _cpu_quota, cgroups, proc)


def memory_limit_bytes(cgroups: Path, proc: Path) -> int | None:
    """Return how much memory may be in use, None for no limit; see `cpu_quota`."""
    return _smallest("memory", _memory_limit, cgroups, proc)


def _smallest(
    controller: str, read: Callable[[Path], Number | None], cgroups: Path, proc: Path
) -> Number | None:
    limits = []
    for directory in _directories(controller, cgroups, proc):
        with suppress(OSError, ValueError):  # not of this version, or not a cgroup at all
            limits.append(read(directory))
    return min((limit for limit in limits if limit is not None), default=None)


def _directories(controller: str, cgroups: Path, proc: Path) -> Iterator[Path]:
    """Yield where the files of the controller may be: of our group and of all above it."""
    try:
        lines = read_kernel_text(proc / "self" / "cgroup").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _upwards(cgroups, path)
        elif controller in controllers.split(","):
            yield from _upwards(cgroups / controller, path)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield the directory of a group and those above it, up to that of the file system.

    In a container that one is often the group itself, and the path is the host's.
    """
    group = PurePosixPath(path.lstrip("/"))
    if ".." not in group.parts:  # it may lie outside of what is mounted
        yield from (mount / above for above in (group, *group.parents))
    else:
        yield mount


def _cpu_quota(directory: Path) -> float | None:
    if (directory / "cpu.max").exists():
        quota, period = (directory / "cpu.max").read_text().split()
    else:
        quota = (directory / "cpu.cfs_quota_us").read_text().strip()
        period = (directory / "cpu.cfs_period_us").read_text()
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _memory_limit(directory: Path) -> int | None:
    if (directory / "memory.max").exists():
        limit = (directory / "memory.max").read_text().strip()
    else:
        limit = (directory / "memory.limit_in_bytes").read_text().strip()
    return None if limit == "max" or int(limit) >= UNLIMITED_BYTES else int(limit)

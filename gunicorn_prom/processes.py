"""What the kernel says of a process, asked when somebody wants to know.

Read from /proc, not with psutil: the metrics server is mostly a thread of the
master, and psutil would be a tenth of the master's memory for six small files.

Source: proc(5).
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

__all__ = [
    "ProcessFacts",
    "Processes",
    "brief_facts",
    "has_ended",
    "pid_namespace",
    "read_kernel_text",
]

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# In /proc/PID/stat, counted from the state, which follows the name in brackets.
STATE, USER_TICKS, SYSTEM_TICKS, THREADS, RSS_PAGES = 0, 11, 12, 17, 21
ZOMBIE = "Z"

Value = TypeVar("Value")


class ProcessFacts(NamedTuple):
    """One process at one moment; what could not be read is None.

    Attributes:
        rss_bytes: resident memory, shared pages counted in full.
        pss_bytes: resident memory, each shared page divided by those who share it.
        shared_bytes: resident memory that other processes have mapped too.
        cpu_seconds: user and system time so far.
        cpu_percent: of one core, since the last time this was asked.
    """

    rss_bytes: int | None
    pss_bytes: int | None
    shared_bytes: int | None
    cpu_seconds: float
    cpu_percent: float | None
    open_fds: int | None
    threads: int
    voluntary_switches: int | None
    involuntary_switches: int | None


class Processes:
    """Read the facts of processes, remembering what a percentage is counted from.

    Args:
        root: where proc is mounted.
    """

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        # By pid and start: when it was asked last, and the CPU seconds it had.
        self._last: dict[tuple[int, float], tuple[float, float]] = {}

    def read(self, workers: list[tuple[int, float]]) -> list[ProcessFacts | None]:
        """Return the facts of each of `workers`, None for one that is gone or cannot be read.

        Args:
            workers: pid of each, and the Unix time at which it started, which tells
                two apart that had the same pid.
        """
        facts: list[ProcessFacts | None] = []
        last = {}
        for worker in workers:
            since = self._last.get(worker, (worker[1], 0.0))
            try:
                found = _read(self._root / str(worker[0]), *since)
            except (OSError, ValueError, LookupError):  # it takes no other one along
                found = None
            if found is not None:
                last[worker] = (time.time(), found.cpu_seconds)
            facts.append(found)
        self._last = last
        return facts


def brief_facts(pid: int) -> tuple[float, float, float]:
    """Return CPU seconds, resident bytes and threads of a process, which one file tells.

    Raises:
        OSError: the process is gone, or /proc cannot be read.
    """
    stat = _stat(Path(f"/proc/{pid}"))
    ticks = int(stat[USER_TICKS]) + int(stat[SYSTEM_TICKS])
    return ticks / TICKS_PER_SECOND, float(stat[RSS_PAGES]) * PAGE_BYTES, float(stat[THREADS])


def has_ended(pid: int) -> bool:
    """Tell whether there is certainly no process of that pid, or one that is only left to reap."""
    try:
        os.kill(pid, 0)  # also finds what /proc does not show to every user
    except ProcessLookupError:
        return True
    except OSError:
        pass
    try:
        return _stat(Path(f"/proc/{pid}"))[STATE] == ZOMBIE
    except OSError:
        return False


def pid_namespace() -> str:
    """Return what tells this process's pids from those of other containers, "" if unknown."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def read_kernel_text(path: Path) -> str:
    """Return what the kernel says in a file, with U+FFFD for what is not UTF-8.

    The names in it are bytes: of processes, which may be cut in the middle of a character, of
    cgroups, of mounts.

    Raises:
        OSError: it cannot be read.
    """
    return path.read_bytes().decode(errors="replace")


def _stat(process: Path) -> list[str]:
    """Return the fields of a process from its state on, behind its name in brackets."""
    return read_kernel_text(process / "stat").rpartition(")")[2].split()


def _read(process: Path, since: float, cpu_seconds_then: float) -> ProcessFacts | None:
    stat = _stat(process)
    if stat[STATE] == ZOMBIE:
        return None
    cpu_seconds = (int(stat[USER_TICKS]) + int(stat[SYSTEM_TICKS])) / TICKS_PER_SECOND
    elapsed = max(time.time() - since, 1 / TICKS_PER_SECOND)
    status = _if_allowed(lambda: _fields(process / "status")) or {}
    maps = _if_allowed(lambda: _fields(process / "smaps_rollup")) or {}
    return ProcessFacts(
        rss_bytes=_if_allowed(lambda: _rss_bytes(process)),
        pss_bytes=_sum_of_kib(maps, "Pss"),
        shared_bytes=_sum_of_kib(maps, "Shared_Clean", "Shared_Dirty"),
        cpu_seconds=cpu_seconds,
        cpu_percent=max(0.0, 100 * (cpu_seconds - cpu_seconds_then) / elapsed),
        open_fds=_if_allowed(lambda: len(os.listdir(process / "fd"))),
        threads=int(stat[THREADS]),
        voluntary_switches=_as_int(status.get("voluntary_ctxt_switches")),
        involuntary_switches=_as_int(status.get("nonvoluntary_ctxt_switches")),
    )


def _rss_bytes(process: Path) -> int:
    return int((process / "statm").read_text().split()[1]) * PAGE_BYTES


def _sum_of_kib(fields: dict[str, str], *names: str) -> int | None:
    found = [_as_int(fields.get(name)) for name in names]
    return None if None in found else 1024 * sum(kib for kib in found if kib is not None)


def _fields(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in read_kernel_text(path).splitlines())
    return {name: value for name, _, value in lines}


def _as_int(text: str | None) -> int | None:
    """Return the number in `text`, which may have a unit behind it."""
    return int(text.split()[0]) if text else None


def _if_allowed(read: Callable[[], Value]) -> Value | None:
    try:
        return read()
    except PermissionError:
        return None

"""What the kernel says of processes: tree, memory, CPU time."""

from __future__ import annotations

import time
from pathlib import Path

__all__ = ["list_tree", "read_cpu_seconds", "read_rollup_bytes"]

_PROC = Path("/proc")


def list_tree(root_pid: int) -> list[int]:
    """Return the pid of a process and of all its descendants."""
    parents = {
        int(entry.name): _read_parent(entry) for entry in _PROC.iterdir() if entry.name.isdigit()
    }
    tree = [root_pid]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def read_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, user and system, all threads.

    `/proc/PID/stat` has the same in ticks of 10 ms, too coarse for a short round.

    Source: clock_getcpuclockid(3), which makes the clock of a process of its pid.
    """
    return time.clock_gettime((~pid << 3) | 2)


def read_rollup_bytes(pid: int, field: str) -> int:
    """Return `Pss` or `Rss` of a process from `/proc/PID/smaps_rollup`.

    A process that is gone has none.
    """
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _read_parent(entry: Path) -> int | None:
    try:
        stat = (entry / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name is in brackets and may hold anything, brackets too: proc(5).
    return int(stat.rpartition(")")[2].split()[1])

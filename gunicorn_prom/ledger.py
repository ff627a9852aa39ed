"""Why workers exit, in the words of the contract.

The kernel tells a status, the master knows what it meant to do, and the worker may
have said why it goes. None of them is enough: a worker exits with 0 when it is told to
go as well as after its last request, and a timeout ends in one of four statuses.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gunicorn.arbiter import Arbiter

from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.processes import read_kernel_text
from gunicorn_prom.scoreboard import Gauge, Leaving, State

__all__ = ["OomKills", "exit_reason", "watch_control", "watch_waiting"]

# A killed process with much memory takes a while to be gone.
CLAIM_S = 60.0
BOOT_FAILURES = {
    Arbiter.WORKER_BOOT_ERROR: "boot_error",
    Arbiter.APP_LOAD_ERROR: "app_load_error",
}


def exit_reason(worker: Any, gauges: Sequence[float], is_oom: Callable[[], bool]) -> str:
    """Return why a worker exited, one of scoreboard.EXIT_REASONS.

    Args:
        worker: as the master has it: `aborted` when it timed out, and what is noted on it.
        gauges: the last words of the worker, the cells of `Gauge`.
        is_oom: tells whether the kernel has killed somebody for memory.
    """
    assignment = assignment_of(worker)
    # None when somebody else has taken it.
    status = assignment.exit_status
    code = None if status is None else os.waitstatus_to_exitcode(status)
    if code in BOOT_FAILURES and not gauges[Gauge.BOOTED_TIME]:
        return BOOT_FAILURES[code]
    if worker.aborted:
        return "timeout"
    return assignment.intent or _unintended(code, gauges, is_oom)


def _unintended(code: int | None, gauges: Sequence[float], is_oom: Callable[[], bool]) -> str:
    """Return why a worker exited that the master has not told to go."""
    if code == -signal.SIGKILL:
        return "oom" if is_oom() else "signal"
    if gauges[Gauge.LEAVING] and code == 0:
        return "memory" if gauges[Gauge.LEAVING] == Leaving.MEMORY else "max_requests"
    was_told = gauges[Gauge.STATE] in (State.QUITTING, State.ABORTING)
    if was_told or (code is not None and code < 0):
        return "signal"
    return "error" if code else "exit"


class OomKills:
    """Whether the kernel has lately killed a process of this cgroup for memory.

    Source: memory.events in Documentation/admin-guide/cgroup-v2.rst, and
    memory.oom_control in Documentation/admin-guide/cgroup-v1/memory.rst. Outside of
    any cgroup the whole machine's count in /proc/vmstat.

    Args:
        cgroups: where the cgroup file systems are mounted.
        proc: where proc is mounted.
    """

    def __init__(self, cgroups: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> None:
        candidates = (*_counters(cgroups, proc), proc / "vmstat")
        self._counter = next((path for path in candidates if _count(path) is not None), None)
        self._seen = self._read()
        self._unclaimed: list[float] = []

    def poll(self) -> None:
        """Look at the count, so that an old kill is not taken for a new one."""
        count = self._read()
        now = time.monotonic()
        self._unclaimed = [at for at in self._unclaimed if now - at < CLAIM_S]
        self._unclaimed += [now] * (count - self._seen)
        self._seen = count

    def claim(self) -> bool:
        """Tell whether a kill explains the death of a worker; each explains one.

        True where there is no count to be read.
        """
        if self._counter is None:
            return True
        self.poll()
        if not self._unclaimed:
            return False
        self._unclaimed.pop()
        return True

    def _read(self) -> int:
        return (_count(self._counter) if self._counter else None) or 0


def _counters(cgroups: Path, proc: Path) -> list[Path]:
    """Return where the count of this process's cgroup may be, the likeliest first."""
    found: list[Path] = []
    try:
        lines = read_kernel_text(proc / "self" / "cgroup").splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            mount, name = cgroups / "memory", "memory.oom_control"
        elif not controllers:
            mount, name = cgroups, "memory.events"
        else:
            continue
        # In a container the path may be the host's while only its own part is mounted.
        found += [mount / path.lstrip("/") / name, mount / name]
    return found


def _count(path: Path) -> int | None:
    try:
        fields = dict(line.split() for line in path.read_text().splitlines())
        return int(fields["oom_kill"])
    except (OSError, KeyError, ValueError):
        return None


def watch_waiting(note: Callable[[int, int], None]) -> None:
    """Have `note` called with pid and status of every child that Gunicorn's master reaps.

    The status is known nowhere else: no hook is given it, and in a master that gevent
    has patched it is gone before anybody could ask the kernel beforehand.
    """
    from gunicorn import arbiter

    vars(arbiter)["os"] = _WatchedOS(wait=note)


def watch_control(note: Callable[[int, int], None]) -> None:
    """Have `note` called with pid and signal before Gunicorn's control socket signals a process.

    `gunicornc worker kill` sends the signal past the arbiter.
    """
    handlers = sys.modules.get("gunicorn.ctl.handlers")
    if handlers is not None:
        vars(handlers)["os"] = _WatchedOS(kill=note)


class _WatchedOS:
    """Stand in for `os` in a module of Gunicorn's."""

    def __init__(
        self,
        *,
        wait: Callable[[int, int], None] = lambda pid, status: None,
        kill: Callable[[int, int], None] = lambda pid, number: None,
    ) -> None:
        self._wait, self._kill = wait, kill

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        """Wait as `os.waitpid` does, and tell what came."""
        found, status = os.waitpid(pid, options)
        if found:
            self._wait(found, status)
        return found, status

    def kill(self, pid: int, number: int) -> None:
        """Tell of a signal, and send it as `os.kill` does."""
        self._kill(pid, number)
        os.kill(pid, number)

"""What the kernel says of a process, asked when somebody wants to know."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

__all__ = ["ProcessFacts", "Processes"]


@dataclass(frozen=True)
class ProcessFacts:
    """One process at one moment; what could not be read is None.

    Attributes:
        rss_bytes, pss_bytes: resident memory, whole and with shared pages divided.
        cpu_seconds: user and system time so far.
        cpu_percent: of one core, since the last time this was asked.
    """

    rss_bytes: int | None
    pss_bytes: int | None
    cpu_seconds: float | None
    cpu_percent: float | None
    open_fds: int | None
    threads: int | None
    voluntary_switches: int | None
    involuntary_switches: int | None


class Processes:
    """Read the facts of processes, remembering what a percentage is counted from."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, float], psutil.Process] = {}

    def read(self, workers: list[tuple[int, float]]) -> list[ProcessFacts | None]:
        """Return the facts of each of `workers`, None for one that is gone.

        Args:
            workers: pid and age of each; the age tells two workers apart that had
                the same pid.
        """
        known = {}
        facts: list[ProcessFacts | None] = []
        for pid, age in workers:
            process = self._known.get((pid, age))
            try:
                process = process or psutil.Process(pid)
                facts.append(_read(process))
                known[pid, age] = process
            except psutil.NoSuchProcess:
                facts.append(None)
        self._known = known
        return facts


def _read(process: psutil.Process) -> ProcessFacts:
    with process.oneshot():
        times = _ask(process.cpu_times)
        switches = _ask(process.num_ctx_switches)
        return ProcessFacts(
            rss_bytes=getattr(_ask(process.memory_info), "rss", None),
            pss_bytes=getattr(_ask(process.memory_full_info), "pss", None),
            cpu_seconds=times and times.user + times.system,
            cpu_percent=_ask(process.cpu_percent),
            open_fds=_ask(process.num_fds),
            threads=_ask(process.num_threads),
            voluntary_switches=getattr(switches, "voluntary", None),
            involuntary_switches=getattr(switches, "involuntary", None),
        )


def _ask(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except (psutil.AccessDenied, NotImplementedError):
        return None

"""`--max-worker-memory`: a worker that has grown too large finishes what it has and goes."""

import math
import os
import random
from collections.abc import Callable
from pathlib import Path

from gunicorn_prom.slot import Slot

__all__ = ["MemoryWatch"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MEGABYTE = 1e6

# How often a busy worker looks; what it leaks in between comes on top.
PERIOD_S = 0.05
# How long it leaves alone what it could not read.
RETRY_S = 10.0

# Workers that share the work grow together. They should not go together.
JITTER = 0.1

# How much a worker may grow in any case, of what it needs for its first request. A limit
# that is smaller would have each worker replaced as soon as it has started, for ever.
ROOM = 0.25


class MemoryWatch:
    """Look after the resident memory of one worker, in that worker; see Recorder.watch_memory.

    Nothing here raises into the request path.

    Args:
        limit_bytes: what a worker may have; this one up to a tenth less, by chance.
        request_count: tells how many requests the worker has answered.
        leave: called once, when the worker is to finish what it has and go.
        proc: where proc is mounted.
    """

    def __init__(
        self,
        slot: Slot,
        limit_bytes: int,
        request_count: Callable[[], int],
        leave: Callable[[], None],
        proc: Path = Path("/proc"),
    ) -> None:
        self._slot = slot
        self._limit_bytes = limit_bytes * (1 - JITTER * random.random())
        self._request_count = request_count
        self._leave = leave
        # Opened each time: a descriptor that an application has closed would be
        # somebody else's soon.
        self._statm = str(proc / "self" / "statm")
        self._knows_need = False
        self._is_leaving = False

    def __call__(self, now: float) -> float:
        """Look, leave if it is time; return when to look again, by CLOCK_MONOTONIC seconds."""
        try:
            return self._look(now)
        except Exception as error:
            self._slot.report("memory", error)
            return now + RETRY_S

    def _look(self, now: float) -> float:
        if self._is_leaving:
            return math.inf
        requests = self._request_count()
        if not requests:
            return now
        resident_bytes = self._resident_bytes()
        if not self._knows_need:
            self._knows_need = True
            self._leave_room(resident_bytes)
        elif resident_bytes > self._limit_bytes:
            self._is_leaving = True
            self._slot.log.info(
                "gunicorn-prom: this worker has %.1f MB after %d requests, more than its %.1f MB "
                "of max_worker_memory: it finishes what it has and is replaced",
                resident_bytes / MEGABYTE,
                requests,
                self._limit_bytes / MEGABYTE,
            )
            self._leave()
            return math.inf
        return now + PERIOD_S

    def _leave_room(self, needed_bytes: int) -> None:
        least_bytes = needed_bytes * (1 + ROOM)
        if self._limit_bytes < least_bytes:
            self._slot.log.warning(
                "gunicorn-prom: max_worker_memory leaves this worker %.1f MB, and it needs %.1f MB "
                "for its first request: it is replaced at %.1f MB",
                self._limit_bytes / MEGABYTE,
                needed_bytes / MEGABYTE,
                least_bytes / MEGABYTE,
            )
            self._limit_bytes = least_bytes

    def _resident_bytes(self) -> int:
        """Return the worker's resident memory.

        Source: proc(5), /proc/PID/statm.
        """
        with open(self._statm, "rb", buffering=0) as statm:
            return int(statm.read().split()[1]) * PAGE_BYTES

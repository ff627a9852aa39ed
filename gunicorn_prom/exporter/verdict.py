"""How a server does, in one word with its reason, and which of its workers are stuck."""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from gunicorn_prom.exporter.health import (
    MANY_ERRORS,
    NEARLY_FULL,
    has_died,
    has_ever_booted,
    liveness_problem,
    master_problem,
    readiness_problem,
    target,
)
from gunicorn_prom.exporter.history import Change, Point
from gunicorn_prom.reader import ServerReading, Worker
from gunicorn_prom.scoreboard import (
    EXIT_REASONS,
    UNWANTED_EXITS,
    Gauge,
    Master,
    State,
    Vital,
)

__all__ = ["SERVING", "Judge", "worker_states"]

# The states of workers that have booted and are not about to go.
SERVING = ("idle", "busy", "stuck")

# Some workers that only wait show no more often than every half of their timeout that they
# live, and the master looks once a second.
STUCK_SHARE, STUCK_MARGIN_S, STUCK_AT_LEAST_S = 0.5, 2.0, 5.0
# Who wants no timeout has requests that last.
STUCK_WITHOUT_TIMEOUT_S = 300.0
# For how long workers may be missing where no timeout says how long a boot may take.
BOOT_S = 30.0
# Fewer are no share of anything.
FEWEST_FAILURES = 5
# How many of the last samples must say that the server is busy.
BUSY_SAMPLES = 2


def worker_states(server: ServerReading) -> list[str]:
    """Return of each worker: booting, idle, busy, stuck, quitting or aborting."""
    masters = {found.board.meta["master"]: found.reading.master for found in server.masters}
    return [
        _worker_state(worker, masters[worker.board.meta["master"]]) for worker in server.workers
    ]


def _worker_state(worker: Worker, master: list[float]) -> str:
    state = int(worker.slot.gauges[Gauge.STATE])
    if state != State.RUNNING:
        return State.NAMES[state]
    if _is_stuck(worker, master):
        return "stuck"
    return "busy" if worker.slot.in_progress else "idle"


def _is_stuck(worker: Worker, master: list[float]) -> bool:
    heartbeat, timeout_s = worker.slot.vitals[Vital.HEARTBEAT], master[Master.TIMEOUT]
    if not heartbeat:
        return False
    # What a master that does not turn has not seen is not the worker's fault.
    silent_s = master[Master.HEARTBEAT] - heartbeat
    if not timeout_s:
        return silent_s > STUCK_WITHOUT_TIMEOUT_S
    return silent_s > max(STUCK_AT_LEAST_S, timeout_s * STUCK_SHARE + STUCK_MARGIN_S)


class Judge:
    """Say how one server does, remembering since when workers are missing."""

    def __init__(self) -> None:
        self._missing_since: float | None = None

    def look(self, server: ServerReading, states: Sequence[str]) -> None:
        """Note whether workers are missing; called with every sample.

        Args:
            states: as `worker_states` returns them.
        """
        if _serving(states) >= target(server):
            self._missing_since = None
        elif self._missing_since is None:
            self._missing_since = time.monotonic()

    def health(
        self,
        server: ServerReading,
        states: Sequence[str],
        change: Change | None,
        points: Sequence[Point],
        waiting: int | None,
    ) -> dict[str, Any]:
        """Return the part `health` of the document.

        Args:
            change: what happened in the last minute, None when no server is there.
            points: the history, newest last.
            waiting: connections that wait now, to be accepted or for a thread.
        """
        dead, unready = liveness_problem(server), readiness_problem(server)
        overdue, deaths = self._overdue(server), _deaths(change)
        is_short = _serving(states) < target(server)
        missing = unready or (_how_many(server, states) if is_short else "")
        troubles = self._troubles(server, states, change)
        if dead and all(map(has_died, server.masters)):
            word, reason = "down", dead + _still_serving(states)
        elif all(found.reading.master[Master.STOPPING] for found in server.masters):
            word, reason = "stopping", unready
        elif dead or _are_all_stuck(states):
            word, reason = "stuck", dead or "every worker is stuck"
        elif missing and _may_still_start(server) and not overdue and not deaths:
            word, reason = "starting", missing
        elif unready:
            word, reason = "degraded", "; ".join(filter(None, (unready + overdue, deaths)))
        elif trouble := next(troubles, ""):
            word, reason = "degraded", trouble
        elif load := next(_loads(change, points, waiting), ""):
            word, reason = "busy", load
        else:
            word, reason = "healthy", _how_many(server, states)
        return {"word": word, "reason": reason, "live": not dead, "ready": not unready}

    def _overdue(self, server: ServerReading) -> str:
        """Say for how long workers are missing, "" where that is no longer than a boot."""
        if self._missing_since is None:
            return ""
        missing_s = time.monotonic() - self._missing_since
        return f" for {missing_s:.0f} s" if missing_s > _boot_may_take_s(server) else ""

    def _troubles(
        self, server: ServerReading, states: Sequence[str], change: Change | None
    ) -> Iterator[str]:
        yield from map(master_problem, filter(has_died, server.masters))
        stuck = states.count("stuck")
        if not _serving(states) and target(server):
            yield _how_many(server, states)
        if stuck:
            yield f"{stuck} of {_workers(target(server))} stuck"
        if overdue := self._overdue(server):
            missing = target(server) - _serving(states)
            yield f"{_how_many(server, states)}, {missing} missing{overdue}"
        if deaths := _deaths(change):
            yield deaths
        if change is None:
            return
        if change.failures >= FEWEST_FAILURES and (change.error_share or 0.0) > MANY_ERRORS:
            yield f"{change.error_share:.0%} of the requests fail"


def _loads(change: Change | None, points: Sequence[Point], waiting: int | None) -> Iterator[str]:
    last = list(islice(reversed(points), BUSY_SAMPLES))
    if len(last) < BUSY_SAMPLES:
        return
    if change is not None and all((at.saturation or 0.0) >= NEARLY_FULL for at in last):
        yield f"{last[0].saturation:.0%} of the capacity is in use now"
    if waiting and all(at.waiting for at in last):
        wait = "connection waits" if waiting == 1 else "connections wait"
        yield f"{waiting} {wait} for a worker"


def _are_all_stuck(states: Sequence[str]) -> bool:
    return "stuck" in states and _serving(states) == states.count("stuck")


def _may_still_start(server: ServerReading) -> bool:
    """Tell whether workers are wanted by a server that has none so far, or is young."""
    if not target(server):
        return False
    oldest = min(found.reading.master[Master.START_TIME] for found in server.masters)
    return not has_ever_booted(server) or time.time() - oldest <= _boot_may_take_s(server)


def _deaths(change: Change | None) -> str:
    """Say which workers have died of something, "" when none has."""
    if change is None:
        return ""
    exits = {
        reason: int(count)
        for reason, count in zip(EXIT_REASONS, change.exits, strict=True)
        if count and reason in UNWANTED_EXITS
    }
    reasons = ", ".join(exits)
    return f"{_workers(sum(exits.values()))} died in the last minute: {reasons}" if exits else ""


def _still_serving(states: Sequence[str]) -> str:
    serving = _serving(states)
    return f"; {_workers(serving)} still serve{'s' if serving == 1 else ''}" if serving else ""


def _boot_may_take_s(server: ServerReading) -> float:
    return max(found.reading.master[Master.TIMEOUT] for found in server.masters) or BOOT_S


def _serving(states: Sequence[str]) -> int:
    return sum(state in SERVING for state in states)


def _how_many(server: ServerReading, states: Sequence[str]) -> str:
    able = _serving(states) - states.count("stuck")
    return f"{able} of {_workers(target(server))} serve{'s' if able == 1 else ''}"


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"

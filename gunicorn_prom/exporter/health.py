"""Whether a server lives and whether it serves, by its scoreboards alone."""

from gunicorn_prom.processes import has_ended, pid_namespace
from gunicorn_prom.reader import LAYOUT, MasterReading, ServerReading
from gunicorn_prom.scoreboard import BOOT_BOUNDS, Gauge, Master, State

__all__ = [
    "HEARTBEAT_LIMIT_S",
    "MANY_ERRORS",
    "NEARLY_FULL",
    "has_died",
    "has_ever_booted",
    "liveness_problem",
    "master_problem",
    "readiness_problem",
    "target",
    "target_of",
]

# Gunicorn's loop turns once a second.
HEARTBEAT_LIMIT_S = 5.0
# Shares of all requests, and of what there is room for, that somebody should look at.
MANY_ERRORS = 0.05
NEARLY_FULL = 0.9


def liveness_problem(server: ServerReading) -> str:
    """Say why the server counts as stuck, "" when the loop of one of its masters turns."""
    if not server.masters:
        return "no master is running"
    problems = list(map(master_problem, server.masters))
    return problems[-1] if all(problems) else ""


def master_problem(master: MasterReading) -> str:
    """Say why a master counts as stuck, "" when its loop turns."""
    reading = master.reading
    age = reading.time - reading.master[Master.HEARTBEAT]
    if has_died(master):
        return f"the master (pid {master.board.meta['pid']}) has died, its workers are left"
    if age <= HEARTBEAT_LIMIT_S or reading.time <= reading.master[Master.GRACE_UNTIL]:
        return ""
    return f"the master's loop has not turned for {age:.0f} s"


def has_died(master: MasterReading) -> bool:
    """Tell whether a master is gone whose workers still hold its board; as far as pids are seen."""
    meta = master.board.meta
    is_of_here = meta["pid_namespace"] and meta["pid_namespace"] == pid_namespace()
    return bool(is_of_here) and has_ended(meta["pid"])


def has_ever_booted(server: ServerReading) -> bool:
    """Tell whether a worker has served, be it gone since."""
    return any(server.totals.fixed[LAYOUT.boot_seconds :][: len(BOOT_BOUNDS) + 1])


def target_of(master: MasterReading) -> int:
    """Return how many workers a master means to keep."""
    cells = master.reading.master
    return 0 if cells[Master.STOPPING] or has_died(master) else int(cells[Master.TARGET])


def target(server: ServerReading) -> int:
    """Return how many workers all masters of a server mean to keep."""
    return sum(map(target_of, server.masters))


def readiness_problem(server: ServerReading) -> str:
    """Say why no request can be expected to be served, "" when one can."""
    if not server.masters:
        return "no master is running"
    stopping = {m.board.meta["master"] for m in server.masters if m.reading.master[Master.STOPPING]}
    if len(stopping) == len(server.masters):
        return "shutting down"
    for worker in server.workers:
        gauges = worker.slot.gauges
        # One that leaves of itself is replaced; meanwhile clients wait.
        is_leaving = gauges[Gauge.LEAVING] and gauges[Gauge.STATE] == State.QUITTING
        is_serving = is_leaving or gauges[Gauge.STATE] == State.RUNNING
        if gauges[Gauge.BOOTED_TIME] and is_serving and worker.board.meta["master"] not in stopping:
            return ""
    if not target(server):
        return "no worker is wanted"
    # So they do where the old workers have gone before the new ones are up.
    if any(m.reading.time <= m.reading.master[Master.READY_UNTIL] for m in server.masters):
        return ""
    return "no worker serves" if has_ever_booted(server) else "no worker has booted"

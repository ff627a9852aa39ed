"""Whether a server lives and whether it serves, by its scoreboards alone."""

from pathlib import Path

from gunicorn_prom.processes import pid_namespace
from gunicorn_prom.reader import MasterReading, ServerReading
from gunicorn_prom.scoreboard import Gauge, Master, State

__all__ = [
    "HEARTBEAT_LIMIT_S",
    "MANY_ERRORS",
    "NEARLY_FULL",
    "has_died",
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
    board, reading = master
    # A pid that is not seen says nothing of a master whose heart beats.
    if reading.time - reading.master[Master.HEARTBEAT] <= HEARTBEAT_LIMIT_S:
        return False
    is_of_here = board.meta["pid_namespace"] == pid_namespace()
    return is_of_here and not Path(f"/proc/{board.meta['pid']}").exists()


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
    # So they do where the old workers have gone before the new ones are up.
    if any(m.reading.time <= m.reading.master[Master.READY_UNTIL] for m in server.masters):
        return ""
    return "no worker has booted"

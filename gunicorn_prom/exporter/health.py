"""Whether the server lives and whether it serves, by the scoreboard alone."""

from gunicorn_prom.scoreboard import Gauge, Master, Reading, State

__all__ = ["HEARTBEAT_LIMIT_S", "liveness_problem", "readiness_problem"]

# Gunicorn's loop turns once a second.
HEARTBEAT_LIMIT_S = 5.0


def liveness_problem(reading: Reading) -> str:
    """Say why the master counts as stuck, "" when its loop turns."""
    age = reading.time - reading.master[Master.HEARTBEAT]
    if age <= HEARTBEAT_LIMIT_S or reading.time <= reading.master[Master.GRACE_UNTIL]:
        return ""
    return f"the master's loop has not turned for {age:.0f} s"


def readiness_problem(reading: Reading) -> str:
    """Say why no request can be expected to be served, "" when one can."""
    if reading.master[Master.STOPPING]:
        return "shutting down"
    if any(
        worker.gauges[Gauge.BOOTED_TIME] and worker.gauges[Gauge.STATE] == State.RUNNING
        for worker in reading.workers
    ):
        return ""
    return "no worker has booted"

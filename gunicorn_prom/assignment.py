"""What is noted on a worker by its master, and by the worker before it serves.

A worker's class may be the user's, with attributes of any name and properties that nothing
can be assigned to. So all that is ours is one object, in the worker's own dictionary, under a
name that nobody else has.
"""

import time
from pathlib import Path
from typing import Any

from gunicorn_prom.scoreboard import Board

__all__ = ["Assignment", "assignment_of"]

NAME = "_gunicorn_prom_assignment"


class Assignment:
    """What the master has meant a worker to be and do, in the master and from the fork on.

    Attributes:
        start_time: Unix seconds at which the worker was made.
        made: the same by CLOCK_MONOTONIC.
        board: on which it has its slot, None: it is not counted.
        slot: the number of that on the board.
        stack_file: to which it writes its stacks when it times out, None: not.
        told_early: signals that have come before it had handlers for them.
        intent: in the master, why that has told the worker to go.
        exit_status: in the master, what the kernel said of the worker's end.
    """

    def __init__(self) -> None:
        self.start_time = time.time()
        self.made = time.monotonic()
        self.board: Board | None = None
        self.slot = 0
        self.stack_file: Path | None = None
        self.told_early: list[int] = []
        self.intent: str | None = None
        self.exit_status: int | None = None


def assignment_of(worker: Any) -> Assignment:
    """Return what is noted on `worker`, of whichever class; nothing at first."""
    try:
        notes = vars(worker)
    except TypeError:  # its class leaves room for nothing
        return Assignment()
    try:
        found: Assignment = notes[NAME]
    except KeyError:
        found = notes[NAME] = Assignment()
    return found

"""Scoreboards in files of a test."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gunicorn_prom.processes import pid_namespace
from gunicorn_prom.reader import ServerReader
from gunicorn_prom.scoreboard import Board, Gauge, Reading
from gunicorn_prom.slot import Slot

BUCKETS = (0.1, 1.0)
SLOTS = 4
FORESEEN = 2
META: dict[str, Any] = {
    "master": "1.1",
    "buckets": BUCKETS,
    "slots": SLOTS,
    "foreseen": FORESEEN,
    "pid_namespace": pid_namespace(),
    "pid": os.getpid(),
    "version": "27.0.0",
    "python_version": "3.13.0",
    "gunicorn_prom_version": "1.0.0",
}

log = logging.getLogger("test")


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Board]:
    """Open the board in `directory`, as one more process would; make it if it is not there."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    keys_fd = os.open(directory / "keys", flags)
    is_new = not (directory / "board").exists()
    board_fd = os.open(directory / "board", os.O_RDWR | os.O_CREAT)
    if is_new:
        Board.format(board_fd, {**META, "number": 1, "first_slot": 0, "generation": 1})
    board = Board(board_fd, keys_fd)
    try:
        yield board
    finally:
        board.close()


@contextlib.contextmanager
def server_with(board: Board, directory: Path) -> Iterator[ServerReader]:
    """Read the server whose only board that is."""
    reader = ServerReader(directory, [board])
    yield reader
    reader.close()


def start_worker(board: Board, slot: int, age: int) -> Slot:
    """Do what master and worker do when a worker starts; it is this process."""
    board.open_slot(slot, age)
    worker = Slot(board, slot, log)
    worker.set_gauge(Gauge.PID, os.getpid())
    return worker


def requests_in(reading: Reading) -> float:
    """Return the number of requests in the totals, whatever their labels."""
    layout = reading.columns.layout
    width = len(layout.buckets) + 2
    start = reading.columns.tables["http"]
    rows = len(reading.columns.keys["http"])
    return sum(sum(reading.totals[start + row * width :][: width - 1]) for row in range(rows))

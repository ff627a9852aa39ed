"""Reading a server as a whole: the boards of all its generations, and what is left of them.

Whoever shows numbers reads here: the metrics server in the master or beside it, and
the sidecar that knows nothing but the directory.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gunicorn_prom.errors import StateError
from gunicorn_prom.scoreboard import Board, Layout, Master, Reading, WorkerReading
from gunicorn_prom.settings import DEFAULT_BUCKETS
from gunicorn_prom.state import board_files, is_held, load_board
from gunicorn_prom.totals import Totals

__all__ = ["LAYOUT", "MasterReading", "ServerReader", "ServerReading", "Worker"]

# Where the counters that are in no table lie, in all boards the same.
LAYOUT = Layout(buckets=(), slots=0)


class MasterReading(NamedTuple):
    """A master that lives, by the board that it uses."""

    board: Board
    reading: Reading


class Worker(NamedTuple):
    """A worker that lives.

    Attributes:
        worker_id: no other worker of the server has it at the same time.
    """

    worker_id: str
    board: Board
    reading: Reading
    slot: WorkerReading


class ServerReading(NamedTuple):
    """A server at one moment.

    Attributes:
        totals: of all generations, gone and living.
        masters: those that live, oldest first.
        workers: those that live, oldest master first.
    """

    totals: Totals
    masters: list[MasterReading]
    workers: list[Worker]


class ServerReader:
    """Read the boards in the directory of a server.

    Not for two threads at once.

    Args:
        directory: as `State` makes it; it need not be there any more.
        own: the boards of the master in whose process this is. The list may change.

    Attributes:
        directory: as given.
        own: as given.
        report: takes what goes wrong with a board, once for each.
    """

    def __init__(self, directory: Path, own: Sequence[Board] = ()) -> None:
        self.directory = directory
        self.own = own
        self.report: Callable[[Exception], None] = lambda error: None
        self._opened: dict[float, Board] = {}
        self._unreadable: set[float] = set()
        # A board remembers only the last ones that it has taken over.
        self._inherited: set[float] = set()

    def read(self) -> ServerReading:
        """Return what all boards tell together.

        Every count is in it once: a board that is folded into another one while this
        runs is left out as soon as the other one says that it has it.
        """
        own = list(self.own)
        self._open_others({board.number for board in own})
        others = [(board, is_held(board.board_fd)) for board in self._opened.values()]
        boards = sorted([*((b, True) for b in own), *others], key=lambda pair: pair[0].number)
        readings = [(board, board.read(), is_live) for board, is_live in boards]
        self._inherited.update(n for _, reading, _ in readings for n in reading.inherited)
        readings = [found for found in readings if found[0].number not in self._inherited]
        live = [MasterReading(board, reading) for board, reading, is_live in readings if is_live]
        newest = (live or [MasterReading(b, r) for b, r, _ in readings])[-1:]
        totals = Totals(newest[0].board.layout.buckets if newest else DEFAULT_BUCKETS)
        for _, reading, is_live in readings:
            totals.add(reading, is_live=is_live)
        return ServerReading(totals, _masters(live), _workers(live))

    def close(self) -> None:
        """Let go of all that was opened."""
        for board in self._opened.values():
            board.close()
        self._opened.clear()

    def _open_others(self, own: set[float]) -> None:
        # All are opened before the first is read: one that is gone by then was folded
        # before, and is found in the other's totals.
        files = {number: path for number, path in board_files(self.directory) if number not in own}
        for number in [n for n, board in self._opened.items() if not board.is_open()]:
            self._opened.pop(number).close()
        for number in self._opened.keys() - files.keys():
            # It is known as ours by now, or folded, or its processes are gone. Else somebody
            # has removed the directory.
            is_known = number in own or number in self._inherited
            if is_known or not is_held(self._opened[number].board_fd):
                self._opened.pop(number).close()
        for number in files.keys() - self._opened.keys() - self._unreadable:
            with suppress(FileNotFoundError):
                try:
                    self._opened[number] = load_board(files[number], number)
                except StateError as error:
                    self._unreadable.add(number)
                    self.report(error)


def _masters(live: list[MasterReading]) -> list[MasterReading]:
    """Return of each master the board that it uses, which has its last heartbeat."""
    by_master: dict[str, MasterReading] = {}
    for found in live:
        known = by_master.get(found.board.meta["master"])
        if known is None or _heartbeat(found) >= _heartbeat(known):
            by_master[found.board.meta["master"]] = found
    return list(by_master.values())


def _heartbeat(found: MasterReading) -> float:
    return found.reading.master[Master.HEARTBEAT]


def _workers(live: list[MasterReading]) -> list[Worker]:
    """Return the workers, each with an id of its own.

    Masters keep out of each other's way when they give ids. Of two that did it in the
    same moment, and met, the younger's worker is shown under the next free one.
    """
    workers: dict[int, Worker] = {}
    for board, reading in live:
        for slot in reading.workers:
            number = reading.first_slot + slot.slot
            if number in workers:
                number = max(workers) + 1
            workers[number] = Worker(str(number), board, reading, slot)
    return list(workers.values())

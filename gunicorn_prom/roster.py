"""Which worker has which slot, in the master."""

from collections.abc import Callable, Iterable
from typing import Any

from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.scoreboard import Board
from gunicorn_prom.state import State

__all__ = ["Roster"]


class Roster:
    """Give slots to workers and take them back, in the master.

    Args:
        state: has the boards.
        add_slots: makes a further board when there is no slot left.
    """

    def __init__(self, state: State, add_slots: Callable[[], None]) -> None:
        self._state = state
        self._add_slots = add_slots
        self._owners: dict[tuple[Board, int], Any] = {}
        self._spawning: Any = None
        self._dead_pids: list[int] = []

    def owners(self) -> list[tuple[Board, int, Any]]:
        """Return the slots in use, each with its worker."""
        return [(board, slot, worker) for (board, slot), worker in self._owners.items()]

    def assign(self, worker: Any) -> None:
        """Give `worker`, about to be forked, the lowest slot that is free.

        Raises:
            OSError: there is none, and no room for more; the worker serves without
                metrics.
        """
        self._spawning = worker
        board, slot = self._free_slot() or self._free_slot_on_new_board()
        board.open_slot(slot, worker.age)
        self._owners[board, slot] = worker
        assignment = assignment_of(worker)
        assignment.board, assignment.slot = board, slot

    def _free_slot_on_new_board(self) -> tuple[Board, int]:
        self._add_slots()
        return self._state.board, 0

    def _free_slot(self) -> tuple[Board, int] | None:
        """Return a slot in the buckets of the board in use that no generation shows."""
        shown = {
            reading.first_slot + worker.slot
            for reading in self._state.relatives()
            for worker in reading.workers
        }
        fitting = [
            b for b in self._state.boards if b.layout.buckets == self._state.board.layout.buckets
        ]
        for board in fitting:
            for slot in range(board.layout.slots):
                is_shown = board.meta["first_slot"] + slot in shown
                if (board, slot) not in self._owners and not is_shown:
                    return board, slot
        return None

    def spawned(self) -> None:
        """Note that the worker last assigned is among the arbiter's workers now."""
        self._spawning = None

    def retire_missing(
        self, workers: Iterable[Any], reason: Callable[[Any, list[float]], str]
    ) -> None:
        """Fold the slot of every worker that is not among `workers` any more.

        By comparison, not on an event: Gunicorn calls no hook for a worker that
        fails to boot.

        Args:
            reason: tells why one has exited, from its last words.
        """
        living = {id(worker) for worker in workers}
        for board, slot, worker in self.owners():
            if id(worker) not in living and worker is not self._spawning:
                board.retire_slot(slot, reason(worker, board.gauges(slot)))
                del self._owners[board, slot]
                self._dead_pids.append(worker.pid)

    def take_dead_pids(self) -> list[int]:
        """Return the pids of the workers retired since this was last asked."""
        taken, self._dead_pids = self._dead_pids, []
        return taken

    def unused_boards(self) -> list[Board]:
        """Return the boards that no worker is on, but for the one in use."""
        used = {board for board, _ in self._owners}
        return [board for board in self._state.boards[:-1] if board not in used]

"""The shared memory: what is written is read, and no worker is lost or counted twice."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gunicorn_prom.errors import StateError
from gunicorn_prom.keys import EXCEPTIONS, HTTP, OTHER, TABLES
from gunicorn_prom.scoreboard import (
    CELL_BYTES,
    EXIT_REASONS,
    HEADER_BYTES,
    LANES,
    PAGE_CELLS,
    Board,
    Gauge,
    Layout,
    Master,
    Reading,
    Vital,
    busy_seconds,
)
from tests.unit.boards import BUCKETS, FORESEEN, META, SLOTS, log, opened, requests_in, start_worker

GET_200 = ("GET", "200")


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """An empty board."""
    with opened(tmp_path) as board:
        yield board


# Layout.


def test_no_two_things_share_a_cell() -> None:
    """Header, master, vitals, banks and slots follow each other without overlap."""
    layout = Layout(BUCKETS, SLOTS)
    regions = [
        (0, HEADER_BYTES // CELL_BYTES),
        (layout.master, Master.CELLS),
        (layout.master_counters, layout.fixed_counters),
        (layout.vitals, SLOTS * Vital.CELLS),
        *((layout.bank_at(number), layout.bank_stride) for number in (0, 1)),
        *((layout.slot_at(slot), Gauge.CELLS + layout.counters) for slot in range(SLOTS)),
    ]
    ends = [start + length for start, length in regions]
    starts = [start for start, _ in regions[1:]]
    assert all(end <= start for end, start in zip(ends, starts, strict=False))
    assert ends[-1] * CELL_BYTES <= layout.size_bytes


def test_no_two_slots_share_a_page() -> None:
    """What one worker writes is in no page that another one writes."""
    layout = Layout(BUCKETS, SLOTS)
    assert {layout.slot_at(slot) % PAGE_CELLS for slot in range(SLOTS)} == {0}


def test_every_counter_has_its_own_cells() -> None:
    """Tables and fixed counters of a slot do not overlap."""
    layout = Layout(BUCKETS, SLOTS)
    ends = [layout.fixed_counters]
    for table in TABLES:
        assert layout.tables[table.name] >= ends[-1]
        ends.append(layout.tables[table.name] + (table.cap + 1) * layout.width(table))
    assert ends[-1] == layout.counters


def test_the_last_lane_is_a_gauge() -> None:
    """The lanes end where the gauges end."""
    assert Gauge.FIRST_LANE + LANES == Gauge.CELLS


# Files.


def test_another_process_reads_what_was_written(board: Board, tmp_path: Path) -> None:
    """A second mapping of the same files has the same meta data and counts."""
    start_worker(board, 1, 7).observe_request(GET_200, 0.5)
    with opened(tmp_path) as other:
        reading = other.read()
        assert {**other.meta, "buckets": tuple(other.meta["buckets"])} == {
            **META,
            "number": 1,
            "first_slot": 0,
            "generation": 1,
        }
        assert requests_in(reading) == 1
        assert [(w.slot, w.gauges[Gauge.AGE]) for w in reading.workers] == [(1, 7)]


@pytest.mark.parametrize("damage", ["empty", "magic", "short"])
def test_what_is_no_board_is_refused(tmp_path: Path, damage: str) -> None:
    """A file of another kind, version or length is an error, not nonsense."""
    with opened(tmp_path):
        pass
    path = tmp_path / "board"
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "magic": b"X" + content[1:], "short": content[:-8]}[damage],
    )
    with pytest.raises(StateError), opened(tmp_path):
        pass


def test_space_is_claimed_before_it_is_written(board: Board) -> None:
    """The master's part, the slots foreseen and those opened have no holes.

    So no store can meet a full disk, and what no worker has had takes no memory.
    """
    layout = board.layout
    foreseen = layout.slot_at(FORESEEN) * CELL_BYTES
    slot_bytes = layout.slot_stride * CELL_BYTES
    status = os.fstat(board.board_fd)
    assert status.st_size == layout.size_bytes
    assert foreseen <= status.st_blocks * 512 < foreseen + slot_bytes
    board.open_slot(FORESEEN + 1, 1)
    claimed = os.fstat(board.board_fd).st_blocks * 512
    assert foreseen + slot_bytes <= claimed < layout.size_bytes


# Workers come and go.


def test_an_unused_board_has_no_workers(board: Board) -> None:
    """Slots that were never given away are not read."""
    reading = board.read()
    assert (reading.workers, sum(reading.totals)) == ([], 0)


def test_retiring_moves_the_counts(board: Board) -> None:
    """A retired worker is gone, and the totals are what they were."""
    worker = start_worker(board, 0, 1)
    worker.observe_request(GET_200, 0.05)
    worker.count(EXCEPTIONS, ("KeyError",))
    before = board.read()
    board.retire_slot(0, "signal")
    after = board.read()
    assert (without_exits(after), after.workers) == (without_exits(before), [])
    assert after.totals[board.layout.exits + EXIT_REASONS.index("signal")] == 1


def without_exits(reading: Reading) -> list[float]:
    """Return the totals but for the ledger, which a fold adds to."""
    exits = reading.columns.layout.exits
    return reading.totals[:exits] + reading.totals[exits + len(EXIT_REASONS) :]


def test_retiring_twice_counts_once(board: Board) -> None:
    """A second look at the same dead worker changes nothing."""
    start_worker(board, 0, 1).observe_request(GET_200, 0.05)
    board.retire_slot(0, "signal")
    before = board.read().totals
    board.retire_slot(0, "signal")
    assert board.read().totals == before


def test_a_slot_is_used_again(board: Board) -> None:
    """The successor in a slot begins at zero; the totals have both."""
    for age in range(1, 6):
        worker = start_worker(board, 0, age)
        assert board.read().workers[0].counters == [0.0] * len(board.read().totals)
        worker.observe_request(GET_200, 0.05)
        board.retire_slot(0, "signal")
    assert requests_in(board.read()) == 5


def test_a_worker_killed_while_busy_leaves_positive_seconds(board: Board) -> None:
    """Its busy time ends when it is retired."""
    worker = start_worker(board, 0, 1)
    cell = worker.counters + board.layout.busy_seconds
    worker.cells[cell] = 5.0 - board.read().time
    board.retire_slot(0, "signal")
    assert board.read().totals[board.layout.busy_seconds] == pytest.approx(5.0, abs=1.0)


@pytest.mark.parametrize(
    ("cell", "now", "expected"), [(3.0, 100.0, 3.0), (-97.0, 100.0, 3.0), (0.0, 100.0, 0.0)]
)
def test_busy_seconds(cell: float, now: float, expected: float) -> None:
    """A busy worker's cell is negative and counts up to now."""
    assert busy_seconds(cell, now) == expected


def test_a_full_table_counts_under_other(board: Board) -> None:
    """What finds no row is in the row of the rest, and in the overflow counter."""
    worker = start_worker(board, 0, 1)
    for number in range(EXCEPTIONS.cap + 10):
        worker.count(EXCEPTIONS, (f"Error{number}",))
    reading = board.read()
    start = reading.columns.tables[EXCEPTIONS.name]
    assert reading.columns.keys[EXCEPTIONS.name][0] == (OTHER,)
    assert reading.totals[start] == 10
    assert reading.totals[board.layout.overflow[EXCEPTIONS.name]] == 10
    assert reading.totals[board.layout.overflow[HTTP.name]] == 0


# Crashes and races.


class Crash(Exception):
    """The end of a master in the middle of something."""


class CrashingCells:
    """The cells of a board, until so many stores were done.

    A store of several cells is done by halves, as a kill can do it.
    """

    def __init__(self, cells: Any, stores: int) -> None:
        self._cells, self._left = cells, stores

    def __getitem__(self, index: Any) -> Any:
        return self._cells[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if not self._left:
            if isinstance(index, slice):
                middle = (index.stop - index.start) // 2
                self._cells[index.start : index.start + middle] = value[:middle]
            raise Crash
        self._left -= 1
        self._cells[index] = value


def test_a_crash_while_retiring_changes_no_total(tmp_path: Path) -> None:
    """Wherever the master dies in a fold, every reader finds each count exactly once."""
    for stores in itertools.count():
        directory = tmp_path / str(stores)
        directory.mkdir()
        with opened(directory) as board, opened(directory) as reader:
            start_worker(board, 0, 1).observe_request(GET_200, 0.05)
            board.retire_slot(0, "signal")
            start_worker(board, 1, 2).observe_request(("GET", "404"), 0.5)
            start_worker(board, 0, 3).observe_request(GET_200, 5.0)
            before = reader.read()
            board.cells = CrashingCells(board.cells, stores)  # type: ignore[assignment]
            try:
                board.retire_slot(0, "signal")
            except Crash:
                assert reader.read().totals == before.totals
                assert workers_of(reader.read()) == [0, 1]
            else:
                assert without_exits(reader.read()) == without_exits(before)
                assert workers_of(reader.read()) == [1]
                assert stores > 5
                return


def workers_of(reading: Reading) -> list[int]:
    return [worker.slot for worker in reading.workers]


class InterruptedCells:
    """The cells of a board, with something that happens before one of the look-ups."""

    def __init__(self, cells: Any, look_ups: int, interrupt: Callable[[], None]) -> None:
        self._cells, self._left, self._interrupt = cells, look_ups, interrupt

    @property
    def was_interrupted(self) -> bool:
        """Tell whether it has happened."""
        return self._left < 0

    def __getitem__(self, index: Any) -> Any:
        self._left -= 1
        if self._left == -1:
            self._interrupt()
        return self._cells[index]


def test_a_reader_never_sees_a_count_twice_or_not_at_all(tmp_path: Path) -> None:
    """Whenever in a reading workers are folded and replaced, it has every count once."""
    for look_ups in itertools.count():
        directory = tmp_path / str(look_ups)
        directory.mkdir()
        with opened(directory) as board, opened(directory) as reader:
            for age in (1, 2):
                start_worker(board, age, age).observe_request(GET_200, 0.05)

            def replace_workers(board: Board = board) -> None:
                board.retire_slot(1, "signal")
                board.open_slot(1, 3)
                board.retire_slot(2, "signal")

            cells = InterruptedCells(reader.cells, look_ups, replace_workers)
            reader.cells = cells  # type: ignore[assignment]
            assert requests_in(reader.read()) == 2, look_ups
            if not cells.was_interrupted:
                assert look_ups > 5
                return


def test_a_failure_is_counted_and_logged_once(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics that fail say so in the log one time, and count on."""
    worker = start_worker(board, 0, 1)
    for _ in range(3):
        worker.report("request", ValueError("x"))
    assert len(caplog.records) == 1
    assert sum(board.read().totals) == 3
    assert log.name == caplog.records[0].name

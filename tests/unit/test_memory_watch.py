"""The limit of a worker's memory: it goes once it is past it, and never for nothing."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from gunicorn_prom.instrument import memory
from gunicorn_prom.instrument.memory import JITTER, PAGE_BYTES, PERIOD_S, RETRY_S, MemoryWatch
from gunicorn_prom.scoreboard import ERROR_PLACES, Board
from gunicorn_prom.slot import Slot
from tests.unit.boards import opened, start_worker

MEGABYTE = 1_000_000
LIMIT_BYTES = 100 * MEGABYTE


class Worker:
    """A worker whose memory is what a file says, and that has or has not answered requests."""

    def __init__(self, slot: Slot, directory: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.requests = 1
        self.departures = 0
        self._statm = directory / "self" / "statm"
        self._statm.parent.mkdir(exist_ok=True)
        self._now = 0.0
        self.watch = MemoryWatch(
            slot, limit_bytes, lambda: self.requests, self._leave, proc=directory
        )

    def has(self, megabytes: float) -> float:
        """Look with that much memory and return in how many seconds it looks again."""
        self._statm.write_text(f"1 {int(megabytes * MEGABYTE) // PAGE_BYTES} 1 1 0 1 0\n")
        return self.look()

    def look(self) -> float:
        """Look once and return in how many seconds it looks again."""
        self._now += 1
        return self.watch(self._now) - self._now

    def _leave(self) -> None:
        self.departures += 1


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """An empty board."""
    with opened(tmp_path) as board:
        yield board


@pytest.fixture
def slot(board: Board, monkeypatch: pytest.MonkeyPatch) -> Slot:
    """The slot of a worker, whose limit is drawn as it is written."""
    monkeypatch.setattr(memory.random, "random", lambda: 0.0)
    return start_worker(board, 0, 1)


def test_a_worker_past_its_limit_goes_once(
    slot: Slot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told to go when it has more than the limit, not before, and not again."""
    worker = Worker(slot, tmp_path)
    with caplog.at_level(logging.INFO):
        assert worker.has(40) == pytest.approx(PERIOD_S)
        assert worker.has(99) == pytest.approx(PERIOD_S)
        assert worker.departures == 0
        worker.requests = 7
        worker.has(101)
        worker.has(200)
    assert worker.departures == 1
    (line,) = caplog.messages
    assert "101.0 MB after 7 requests, more than its 100.0 MB" in line


def test_nothing_is_looked_at_before_the_first_answer(slot: Slot, tmp_path: Path) -> None:
    """What a worker needs for its first request never makes it go."""
    worker = Worker(slot, tmp_path)
    worker.requests = 0
    assert worker.has(500) == 0
    assert worker.departures == 0


def test_a_limit_below_the_need_is_raised(
    slot: Slot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that needs more than it may have keeps room to grow, and says so once."""
    worker = Worker(slot, tmp_path, limit_bytes=20 * MEGABYTE)
    for megabytes in (40, 45, 49):
        worker.has(megabytes)
    assert worker.departures == 0
    (line,) = caplog.messages
    assert "leaves this worker 20.0 MB, and it needs 40.0 MB" in line
    worker.has(51)
    assert worker.departures == 1


def test_memory_that_cannot_be_read_is_counted(board: Board, slot: Slot, tmp_path: Path) -> None:
    """Without /proc the worker serves on; the failure is counted, and it is tried again."""
    worker = Worker(slot, tmp_path)
    assert worker.look() == pytest.approx(RETRY_S)
    errors = slot.counters + slot.layout.errors
    assert board.cells[errors + ERROR_PLACES.index("memory")] == 1
    worker.has(40)
    worker.has(200)
    assert worker.departures == 1


def test_limits_differ(board: Board, tmp_path: Path) -> None:
    """Each worker's limit is up to a tenth less than what is set, so that they go one by one."""
    slot = start_worker(board, 0, 1)
    limits = {Worker(slot, tmp_path).watch._limit_bytes for _ in range(100)}
    assert len(limits) > 1
    assert all((1 - JITTER) * LIMIT_BYTES <= limit <= LIMIT_BYTES for limit in limits)

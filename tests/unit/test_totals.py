"""Counts of several boards: none is lost or moved where it does not belong."""

import random
from pathlib import Path

import pytest

from gunicorn_prom.keys import EXCEPTIONS, HTTP
from gunicorn_prom.scoreboard import ABORT_REASONS, EXIT_REASONS, Board, Gauge
from gunicorn_prom.totals import Totals, rebin
from tests.unit.boards import BUCKETS, opened, start_worker

GET_200 = ("GET", "200")


def exits_of(totals: Totals, board: Board) -> dict[str, float]:
    """Return the exits by reason, without the reasons of none."""
    counts = totals.fixed[board.layout.exits :]
    return {reason: n for reason, n in zip(EXIT_REASONS, counts, strict=False) if n}


def aborted(totals: Totals, board: Board, reason: str) -> float:
    return totals.fixed[board.layout.aborted + ABORT_REASONS.index(reason)]


# Buckets.


@pytest.mark.parametrize(
    ("bounds", "cells", "wanted", "moved"),
    [
        ((1, 2), [3, 4, 5, 60], (1, 2), [3, 4, 5, 60]),
        ((1, 2), [3, 4, 5, 60], (2,), [7, 5, 60]),
        ((1, 2), [3, 4, 5, 60], (1,), [3, 9, 60]),
        ((1, 2), [3, 4, 5, 60], (), [12, 60]),
        ((), [5, 60], (1, 2), [0, 0, 5, 60]),
        ((1, 2), [3, 4, 5, 60], (1.5, 2.5), [3, 4, 5, 60]),
        ((1, 2), [3, 4, 5, 60], (0.5, 1), [0, 3, 9, 60]),
        ((0.3, 3), [1, 1, 1, 60], (0.1, 0.5, 1, 5), [0, 1, 0, 1, 1, 60]),
    ],
)
def test_buckets_that_differ(
    bounds: tuple[float, ...], cells: list[float], wanted: tuple[float, ...], moved: list[float]
) -> None:
    """What was below a bound is below the next one that there is; the sum stays."""
    assert rebin(list(cells), bounds, wanted) == moved


def test_no_count_goes_down_a_bucket() -> None:
    """However buckets differ, nothing is lost, and nobody is said to have been faster."""
    chance = random.Random(1)
    for _ in range(300):
        bounds, wanted = (
            tuple(sorted(chance.sample(range(20), chance.randint(0, 8)))) for _ in range(2)
        )
        cells = [float(chance.randint(0, 9)) for _ in range(len(bounds) + 2)]
        moved = rebin(list(cells), bounds, wanted)
        assert len(moved) == len(wanted) + 2
        assert sum(moved) == sum(cells)
        for bound in wanted:
            before = sum(n for limit, n in zip(bounds, cells, strict=False) if limit <= bound)
            after = sum(n for limit, n in zip(wanted, moved, strict=False) if limit <= bound)
            assert after == before


# Boards.


def test_rows_meet_by_label(tmp_path: Path) -> None:
    """Two boards that number their rows differently add up label by label."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    with opened(tmp_path / "one") as one, opened(tmp_path / "other") as other:
        first, second = start_worker(one, 0, 1), start_worker(other, 0, 1)
        first.observe_request(GET_200, 0.0625)
        first.count(EXCEPTIONS, ("KeyError",))
        second.count(EXCEPTIONS, ("OSError",))
        second.count(EXCEPTIONS, ("KeyError",))
        second.observe_request(("GET", "404"), 0.5)
        second.observe_request(GET_200, 5.0)
        totals = Totals(BUCKETS)
        totals.add(one.read(), is_live=True)
        totals.add(other.read(), is_live=True)
    found = {(table.name, key): cells for table, key, cells in totals.rows()}
    assert found == {
        ("http", GET_200): [1, 0, 1, 5.0625],
        ("http", ("GET", "404")): [0, 1, 0, 0.5],
        ("exceptions", ("KeyError",)): [2],
        ("exceptions", ("OSError",)): [1],
    }


def test_the_living_have_not_exited(tmp_path: Path) -> None:
    """Of a board that lives spawns are those who have gone and those who are there."""
    with opened(tmp_path) as board:
        for age in (1, 2, 3):
            start_worker(board, age, age)
        board.retire_slot(1, "reload")
        totals = Totals(BUCKETS)
        totals.add(board.read(), is_live=True)
        assert (totals.spawns, exits_of(totals, board)) == (3, {"reload": 1})
        assert aborted(totals, board, "no_response") == 0


@pytest.mark.parametrize(
    ("exit_reason", "reason"), [("timeout", "timeout"), ("oom", "no_response")]
)
def test_requests_end_with_their_worker(tmp_path: Path, exit_reason: str, reason: str) -> None:
    """What a worker worked on when it was killed is aborted; a timeout is told apart."""
    with opened(tmp_path) as board:
        worker = start_worker(board, 0, 1)
        worker.set_gauge(Gauge.FIRST_LANE, 1.0)
        board.retire_slot(0, exit_reason)
        totals = Totals(BUCKETS)
        totals.add(board.read(), is_live=True)
        assert aborted(totals, board, reason) == 1


def test_the_workers_of_a_dead_board_have_exited(tmp_path: Path) -> None:
    """Who is still on a board that nobody holds has gone, nobody knows why, with its requests."""
    with opened(tmp_path) as board:
        for age in (1, 2, 3):
            start_worker(board, age, age)
        board.retire_slot(1, "reload")
        worker = start_worker(board, 1, 4)
        for lane in range(2):
            worker.set_gauge(Gauge.FIRST_LANE + lane, 1.0)
        totals = Totals(BUCKETS)
        totals.add(board.read(), is_live=False)
        assert (totals.spawns, exits_of(totals, board)) == (4, {"reload": 1, "exit": 3})
        assert aborted(totals, board, "no_response") == 2


def test_busy_seconds_of_a_dead_board_are_not_negative(tmp_path: Path) -> None:
    """A worker that was busy when everybody died was busy until then, not since the boot."""
    with opened(tmp_path) as board:
        worker = start_worker(board, 0, 1)
        worker.cells[worker.counters + board.layout.busy_seconds] = 5.0 - board.read().time
        totals = Totals(BUCKETS)
        totals.add(board.read(), is_live=False)
        assert totals.fixed[board.layout.busy_seconds] == pytest.approx(5.0, abs=1.0)


def test_buckets_of_a_dead_board_are_moved(tmp_path: Path) -> None:
    """A board with other buckets adds as many requests as it has counted."""
    with opened(tmp_path) as board:
        start_worker(board, 0, 1).observe_request(GET_200, 0.0625)
        totals = Totals((0.01, 2.0))
        totals.add(board.read(), is_live=True)
    assert totals.tables[HTTP.name][GET_200] == [0, 1, 0, 0.0625]

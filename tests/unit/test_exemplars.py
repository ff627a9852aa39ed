"""Exemplars in shared memory: the newest of each bucket, whole, and of living workers only."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.samples import Exemplar as Shown

from gunicorn_prom.exporter.collector import ServerCollector
from gunicorn_prom.instrument.record import Recorder
from gunicorn_prom.scoreboard import Board, Exemplar
from gunicorn_prom.slot import Slot
from tests.unit.boards import BUCKETS, log, opened, server_with, start_worker

FIRST, SECOND = "0" * 31 + "1", "f" * 32
DURATION = "gunicorn_http_request_duration_seconds"
FIELDS = Exemplar.CELLS - Exemplar.ROW


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """An empty board."""
    with opened(tmp_path) as board:
        yield board


def serve(slot: Slot, trace: str, status: int = 200, flags: str = "01") -> None:
    """Count a request of no length that had this trace."""
    recorder = Recorder(slot)
    environ = {"HTTP_TRACEPARENT": f"00-{trace}-00f067aa0ba902b7-{flags}"}
    recorder.record(recorder.begin("GET", "/"), "GET", status, environ, 0)


def shown(board: Board, directory: Path) -> dict[tuple[str, str], Shown]:
    """Return the exemplars of a scrape by class of status and bound."""
    with server_with(board, directory) as reader:
        families = {family.name: family for family in ServerCollector(reader, log).collect()}
    return {
        (sample.labels["status_class"], sample.labels["le"]): sample.exemplar
        for sample in families[DURATION].samples
        if sample.exemplar is not None
    }


def traces(board: Board, directory: Path) -> dict[str, str]:
    """Return the traces of a scrape by class of status."""
    found = shown(board, directory)
    return {status: exemplar.labels["trace_id"] for (status, _), exemplar in found.items()}


def test_a_bucket_shows_the_newest_trace(board: Board, tmp_path: Path) -> None:
    """Of two requests of a bucket, on whichever worker, the later one is shown."""
    one, other = start_worker(board, 0, 1), start_worker(board, 1, 2)
    serve(one, FIRST)
    serve(other, SECOND)
    assert traces(board, tmp_path) == {"2xx": SECOND}
    serve(one, FIRST)
    assert traces(board, tmp_path) == {"2xx": FIRST}


def test_an_exemplar_lies_in_its_bucket(board: Board, tmp_path: Path) -> None:
    """Its value is the duration of that request, which the bucket has counted."""
    serve(start_worker(board, 0, 1), FIRST)
    ((_, bound), exemplar) = next(iter(shown(board, tmp_path).items()))
    assert float(bound) == BUCKETS[0]
    assert 0 <= exemplar.value <= BUCKETS[0]


def test_failed_requests_keep_theirs(board: Board, tmp_path: Path) -> None:
    """The exemplar of a class of status is not replaced by that of another."""
    slot = start_worker(board, 0, 1)
    serve(slot, FIRST, status=500)
    serve(slot, SECOND)
    assert traces(board, tmp_path) == {"5xx": FIRST, "2xx": SECOND}


def test_what_is_not_sampled_is_not_shown(board: Board, tmp_path: Path) -> None:
    """A trace that nobody keeps is no exemplar."""
    serve(start_worker(board, 0, 1), FIRST, flags="00")
    assert shown(board, tmp_path) == {}


def test_what_is_not_sampled_takes_no_place(board: Board, tmp_path: Path) -> None:
    """Behind any number of requests that are not sampled, the first that is is shown."""
    recorder = Recorder(start_worker(board, 0, 1))
    for flags, trace in (("00", FIRST), ("02", FIRST), ("01", SECOND), ("01", FIRST)):
        environ = {"HTTP_TRACEPARENT": f"00-{trace}-00f067aa0ba902b7-{flags}"}
        recorder.record(recorder.begin("GET", "/"), "GET", 200, environ, 0)
    # And it stays for a while, for to write one costs more than to count.
    assert traces(board, tmp_path) == {"2xx": SECOND}


def test_the_exemplars_of_a_dead_worker_vanish(board: Board, tmp_path: Path) -> None:
    """Neither is it shown when its worker is gone, nor does the successor show it as its own."""
    serve(start_worker(board, 0, 1), FIRST)
    board.retire_slot(0, "exit")
    assert shown(board, tmp_path) == {}
    successor = start_worker(board, 0, 2)
    assert shown(board, tmp_path) == {}
    serve(successor, SECOND, status=500)
    assert traces(board, tmp_path) == {"5xx": SECOND}


def test_the_number_of_exemplars_is_bounded(board: Board, tmp_path: Path) -> None:
    """However many traces there are, a bucket shows one."""
    slot = start_worker(board, 0, 1)
    for number in range(1, 200):
        serve(slot, f"{number:032x}")
    assert traces(board, tmp_path) == {"2xx": f"{199:032x}"}


def test_a_status_without_a_class_has_a_place(board: Board, tmp_path: Path) -> None:
    """What HTTP does not know is shown where it is counted."""
    serve(start_worker(board, 0, 1), FIRST, status=999)
    assert set(traces(board, tmp_path).values()) == {FIRST}


def test_what_is_being_written_is_not_read(board: Board) -> None:
    """A reader that comes into the middle of a write sees nothing of it."""
    slot = start_worker(board, 0, 1)
    slot.put_exemplar(0, [1.0] * FIELDS)
    first = slot.gauges + slot.layout.exemplars
    board.cells[first + Exemplar.OWNER] = 0.0
    board.cells[first + Exemplar.SECONDS] = 2.0
    assert board.exemplars(0) == []
    board.cells[first + Exemplar.OWNER] = slot.age
    assert len(board.exemplars(0)) == 1


def test_no_reader_sees_parts_of_two(board: Board) -> None:
    """Two threads that write and one that reads never make one exemplar out of two."""
    slot = start_worker(board, 0, 1)
    is_over = threading.Event()

    def write(value: float) -> None:
        while not is_over.is_set():
            slot.put_exemplar(0, [value] * FIELDS)

    writers = [threading.Thread(target=write, args=(value,)) for value in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    try:
        seen = list(itertools.chain.from_iterable(board.exemplars(0) for _ in range(2000)))
    finally:
        is_over.set()
        for writer in writers:
            writer.join()
    assert all(len(set(cells[Exemplar.ROW :])) == 1 for cells in seen)


def test_a_status_that_has_just_come_up_waits(board: Board, tmp_path: Path) -> None:
    """An exemplar of a row that the reader has no label for is left out, and all else shown."""
    slot = start_worker(board, 0, 1)
    serve(slot, FIRST)
    slot.put_exemplar(0, [1e6, 0.0, 0.0, *[0.0] * (FIELDS - 3)])
    assert traces(board, tmp_path) == {"2xx": FIRST}

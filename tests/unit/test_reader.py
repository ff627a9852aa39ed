"""Generations as one server: each count is in what is read once, whoever dies in the middle."""

import contextlib
import fcntl
import gc
import itertools
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from gunicorn_prom import reader as reader_module
from gunicorn_prom import scoreboard, state, totals
from gunicorn_prom.errors import StateError
from gunicorn_prom.keys import EXCEPTIONS
from gunicorn_prom.reader import ServerReader, ServerReading
from gunicorn_prom.scoreboard import EXIT_REASONS, INHERITED, Board, Gauge, Layout, Master
from gunicorn_prom.state import State, board_files
from tests.unit.boards import META, start_worker

GET_200 = ("GET", "200")
EXITS = Layout(buckets=(), slots=0).exits
READING = (reader_module, state, scoreboard)
FOLDING = (state, scoreboard, totals)


def meta(master: str, first_slot: int = 0, **more: Any) -> dict[str, Any]:
    return {**META, "master": master, "first_slot": first_slot, **more}


def join(path: Path, master: str, first_slot: int, **more: Any) -> State:
    """Return the state of a next generation in the directory of a server."""
    following = State(path)
    following.add_board(meta(master, first_slot, **more))
    return following


def release(ended: State) -> None:
    """Let go of the boards as the kernel does when the last process of a generation ends."""
    for board in ended.boards:
        board.close()
    ended.boards.clear()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[ServerReader]:
    """Read a server as a process would that is none of its own."""
    reader = ServerReader(path)
    try:
        yield reader
    finally:
        reader.close()


def facts(found: ServerReading) -> tuple[Any, ...]:
    """Return all that was counted, without exits, and how many workers came and are not there."""
    fixed = list(found.totals.fixed)
    exits = fixed[EXITS : EXITS + len(EXIT_REASONS)]
    fixed[EXITS : EXITS + len(EXIT_REASONS)] = []
    rows = {(table.name, key): cells for table, key, cells in found.totals.rows()}
    return fixed, rows, sum(exits) + len(found.workers), found.totals.spawns


def counts(path: Path) -> tuple[Any, ...]:
    """Return what a new reader finds."""
    with reading(path) as reader:
        return facts(reader.read())


def requests(found: ServerReading) -> float:
    return sum(sum(cells[:-1]) for t, _, cells in found.totals.rows() if t.name == "http")


@pytest.fixture
def older(tmp_path: Path) -> Iterator[State]:
    """The first generation, with a worker that has gone and one that is at work."""
    first = State.create(tmp_path, meta("1.1"))
    start_worker(first.board, 0, 1).observe_request(GET_200, 0.5)
    first.board.retire_slot(0, "reload")
    worker = start_worker(first.board, 1, 2)
    worker.observe_request(GET_200, 0.25)
    worker.count(EXCEPTIONS, ("KeyError",))
    worker.set_gauge(Gauge.FIRST_LANE, 1.0)
    yield first
    first.close()


@pytest.fixture
def newer(older: State) -> Iterator[State]:
    """The next generation, with a worker; labels are in other rows there."""
    second = join(older.path, "2.2", first_slot=4)
    worker = start_worker(second.board, 0, 1)
    worker.count(EXCEPTIONS, ("OSError",))
    worker.count(EXCEPTIONS, ("KeyError",))
    worker.observe_request(("GET", "404"), 0.5)
    worker.observe_request(GET_200, 2.0)
    yield second
    second.close()


# Generations.


def test_two_generations_are_summed(older: State, newer: State) -> None:
    """Totals are of both, by label; masters and workers are told in the order of their age."""
    with reading(older.path) as reader:
        found = reader.read()
    rows = {key: cells for _, key, cells in found.totals.rows()}
    assert rows == {
        GET_200: [0, 2, 1, 2.75],
        ("GET", "404"): [0, 1, 0, 0.5],
        ("KeyError",): [2],
        ("OSError",): [1],
    }
    assert found.totals.spawns == 3
    assert [m.board.meta["master"] for m in found.masters] == ["1.1", "2.2"]
    assert [worker.worker_id for worker in found.workers] == ["1", "4"]
    assert newer.board.number > older.board.number


def test_own_boards_are_not_opened_again(older: State, newer: State) -> None:
    """The master reads its own boards as it has them, and the others from the directory."""
    reader = ServerReader(older.path, newer.boards)
    assert facts(reader.read()) == counts(older.path)
    assert [m.board.meta["master"] for m in reader.read().masters] == ["1.1", "2.2"]
    reader.close()


def test_a_board_found_before_it_is_known_as_ours_counts_once(older: State, newer: State) -> None:
    """A further board may be seen in the directory before the list of our own has it."""
    own = list(older.boards)
    reader = ServerReader(older.path, own)
    before = facts(reader.read())
    own += newer.boards
    assert facts(reader.read()) == before == counts(older.path)
    reader.close()


def test_a_dead_generation_has_no_workers(older: State, newer: State) -> None:
    """Of a generation that has ended the counts stay; its workers and requests have ended too."""
    before = counts(older.path)
    release(older)
    with reading(newer.path) as reader:
        found = reader.read()
    assert [m.board.meta["master"] for m in found.masters] == ["2.2"]
    assert [worker.worker_id for worker in found.workers] == ["4"]
    aborted = before[0].copy()
    aborted[Layout((), 0).aborted + scoreboard.ABORT_REASONS.index("no_response")] += 1
    assert facts(found) == (aborted, *before[1:])


def test_a_server_that_has_ended_keeps_its_totals(older: State) -> None:
    """Without any master there are counts, but nobody at work."""
    path = older.path
    spawned = counts(path)[-1]
    release(older)
    with reading(path) as reader:
        found = reader.read()
    assert (found.masters, found.workers, found.totals.spawns) == ([], [], spawned)
    assert requests(found) == 2


def test_no_server_has_no_counts(tmp_path: Path) -> None:
    """A directory that is empty, or not there, is a server without counts."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with reading(path) as reader:
            found = reader.read()
        assert (found.totals.fixed, found.masters, found.workers) == ([], [], [])


def test_two_workers_with_one_id(older: State) -> None:
    """Two generations that gave the same id at once: no id twice, and the books balance."""
    twin = join(older.path, "2.2", first_slot=0)
    start_worker(twin.board, 1, 1)
    with reading(older.path) as reader:
        found = reader.read()
    oldest, *others = found.workers
    assert (oldest.worker_id, oldest.board.meta["master"]) == ("1", "1.1")
    assert "1" not in {worker.worker_id for worker in others}
    *_, accounted, spawns = facts(found)
    assert accounted == spawns
    twin.close()


def test_a_master_is_shown_by_the_board_in_use(older: State) -> None:
    """Of several boards of a master the one with its last heartbeat counts; workers are of all."""
    first = older.board
    first.set_master(Master.HEARTBEAT, 1.0)
    second = older.add_board(meta("1.1", first_slot=4))
    second.set_master(Master.HEARTBEAT, 2.0)
    start_worker(second, 0, 3)
    with reading(older.path) as reader:
        found = reader.read()
    (master,) = found.masters
    assert master.board.number == second.number
    assert [worker.worker_id for worker in found.workers] == ["1", "4"]


# What is not readable.


def test_a_removed_directory_takes_no_generation_along(older: State, newer: State) -> None:
    """Boards that somebody holds are read on without their files: no total falls."""
    reader = ServerReader(older.path, newer.boards)
    before = facts(reader.read())
    shutil.rmtree(older.path)
    assert facts(reader.read()) == before
    reader.close()


@pytest.mark.parametrize("content", [b"x" * 5000, b"GPROM001" + b"\0" * 9000])
def test_an_unreadable_board_is_reported_once(older: State, content: bytes) -> None:
    """One of another version is left out and told of one time, the others are read."""
    expected = counts(older.path)
    (older.path / "board.5").write_bytes(content)
    (older.path / "keys.5").touch()
    reported: list[Exception] = []
    with reading(older.path) as reader:
        reader.report = reported.append
        assert [facts(reader.read()) for _ in range(3)] == [expected] * 3
    assert [type(error) for error in reported] == [StateError]


def test_a_board_is_read_when_all_is_on_it(older: State) -> None:
    """Whoever reads while a board is made finds nothing of it, and it is no error."""
    reported: list[Exception] = []
    masters: list[int] = []
    following = State(older.path)
    with reading(older.path) as reader:
        reader.report = reported.append

        def fill(board: Board) -> None:
            masters.append(len(reader.read().masters))
            board.set_master(Master.START_TIME, 1.0)

        following.add_board(meta("2.2", first_slot=4), fill)
        assert masters == [1]
        starts = [found.reading.master[Master.START_TIME] for found in reader.read().masters]
    assert starts == [0.0, 1.0]
    assert reported == []


def test_descriptors_are_let_go(older: State) -> None:
    """Boards that are gone are closed, and all at the end."""
    gc.collect()  # of other tests
    before = len(os.listdir("/proc/self/fd"))
    with reading(older.path) as reader:
        for number in range(5):
            second = join(older.path, f"2.{number}", first_slot=4)
            reader.read()
            release(second)
            older.fold_the_dead()
            reader.read()
            # Of the one board that is left: its cells, mapped too, and its labels.
            assert len(os.listdir("/proc/self/fd")) == before + 3
    assert len(os.listdir("/proc/self/fd")) == before


# Races: something happens in the middle of a reading.


class Interruption:
    """Call something when so many lines of some modules have been run.

    A line of a loop counts the first two times, else there would be no end to it.

    Attributes:
        has_happened: False when there were not so many.
    """

    def __init__(self, modules: tuple[Any, ...], lines: int, action: Callable[[], None]) -> None:
        self._files = {module.__file__ for module in modules}
        self._left, self._action = lines, action
        self._times: Counter[tuple[CodeType, int]] = Counter()
        self.has_happened = False

    def __enter__(self) -> "Interruption":
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._step if frame.f_code.co_filename in self._files else None

    def _step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        line = (frame.f_code, frame.f_lineno)
        if event == "line" and not self.has_happened and self._times[line] < 2:
            self._times[line] += 1
            self._left -= 1
            if self._left < 0:
                self.has_happened = True
                sys.settrace(None)
                self._action()
        return self._step


def test_a_board_folded_while_it_is_read_counts_once(tmp_path: Path) -> None:
    """Whenever a dead generation is folded into another, a reading has its counts once."""
    for lines in itertools.count():
        root = tmp_path / str(lines)
        dead = State.create(root, meta("1.1"))
        start_worker(dead.board, 0, 1).observe_request(GET_200, 0.5)
        living = join(dead.path, "2.2", first_slot=4)
        start_worker(living.board, 0, 1).observe_request(GET_200, 0.5)
        release(dead)
        with reading(living.path) as reader:
            if lines % 2:
                reader.read()  # one that has the boards open
            with Interruption(READING, lines, living.fold_the_dead) as interruption:
                found = reader.read()
            assert (requests(found), found.totals.spawns) == (2, 2), lines
        living.close()
        if not interruption.has_happened:
            assert lines > 50
            return


def test_a_board_of_our_own_folded_while_it_is_read_counts_once(tmp_path: Path) -> None:
    """Whenever the master gives up a board of its own, its metrics server has the counts once.

    That server is a thread of the master; it reads while the master folds.
    """
    for lines in itertools.count():
        own = State.create(tmp_path / str(lines), meta("1.1"))
        first = own.board
        start_worker(first, 0, 1).observe_request(GET_200, 0.5)
        first.retire_slot(0, "reload")
        own.add_board(meta("1.1", first_slot=4, buckets=(0.5,)))
        start_worker(own.board, 0, 2).observe_request(GET_200, 0.5)
        reader = ServerReader(own.path, own.boards)
        with Interruption(
            READING, lines, lambda own=own, first=first: own.fold_unused(first)
        ) as interruption:
            found = reader.read()
        assert (requests(found), found.totals.spawns) == (2, 2), lines
        reader.close()
        own.close()
        if not interruption.has_happened:
            assert lines > 50
            return


def test_a_board_that_a_process_was_given_counts_once_for_ever(tmp_path: Path) -> None:
    """A metrics server that was started with a board knows for ever that it was folded."""
    own = State.create(tmp_path, meta("1.1"))
    given = own.board
    start_worker(given, 0, 1).observe_request(GET_200, 0.5)
    given.retire_slot(0, "reload")
    descriptors = [os.dup(fd) for fd in (given.board_fd, given.keys_fd)]
    reader = ServerReader(own.path, [Board(*descriptors)])
    for number in range(INHERITED + 2):
        last = own.board
        own.add_board(meta("1.1", first_slot=4 * number, buckets=(0.5 + number,)))
        own.fold_unused(last)
        found = reader.read()
        assert (requests(found), found.totals.spawns) == (1, 1), number
    reader.close()
    own.close()


# Crashes: the master is killed in the middle of a fold.


class FatalCells:
    """The cells of a board, until so many stores were done: the next is half done, then kill."""

    def __init__(self, cells: Any, stores: int) -> None:
        self._cells, self._left = cells, stores

    def __getitem__(self, index: Any) -> Any:
        return self._cells[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if not self._left:
            if isinstance(index, slice):
                middle = (index.stop - index.start) // 2
                self._cells[index.start : index.start + middle] = value[:middle]
            die()
        self._left -= 1
        self._cells[index] = value


def die() -> None:
    """End the process as nothing in it can notice."""
    os.kill(os.getpid(), signal.SIGKILL)


def was_killed(function: Callable[[], None]) -> bool:
    """Run something in a child process; tell whether it was killed there."""
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            function()
            code = 0
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "it failed"
    return False


def after_lines(number: int, living: State) -> None:
    with Interruption(FOLDING, number, die):
        living.fold_the_dead()


def after_stores(number: int, living: State) -> None:
    living.board.cells = FatalCells(living.board.cells, number)  # type: ignore[assignment]
    living.fold_the_dead()


@pytest.mark.parametrize(("kill", "least"), [(after_lines, 60), (after_stores, 10)])
def test_a_crash_while_folding_changes_no_total(
    tmp_path: Path, kill: Callable[[int, State], None], least: int
) -> None:
    """Killed anywhere, readers find the same as before, and the next fold finishes the work."""
    for number in itertools.count():
        root = tmp_path / str(number)
        dead = State.create(root, meta("1.1"))
        worker = start_worker(dead.board, 0, 1)
        worker.observe_request(GET_200, 0.5)
        worker.count(EXCEPTIONS, ("KeyError",))
        living = join(dead.path, "2.2", first_slot=4, buckets=(0.25, 2.0))
        start_worker(living.board, 0, 1).observe_request(("GET", "404"), 0.5)
        path = dead.path
        release(dead)
        before = counts(path)
        is_over = not was_killed(lambda number=number, living=living: kill(number, living))
        assert counts(path) == before, number
        living.fold_the_dead()
        assert counts(path) == before, number
        assert [found for found, _ in board_files(path)] == [living.board.number]
        assert {file.name.partition(".")[0] for file in path.iterdir()} == {"board", "keys"}
        living.close()
        if is_over:
            assert number > least
            return


def test_a_generation_that_inherited_is_inherited_once(tmp_path: Path) -> None:
    """What was folded into a board that dies before the files are gone is not counted again."""
    first = State.create(tmp_path, meta("1.1"))
    start_worker(first.board, 0, 1).observe_request(GET_200, 0.5)
    second = join(first.path, "2.2", first_slot=4)
    third = join(first.path, "3.3", first_slot=8)
    release(first)
    numbers = [number for number, _ in board_files(second.path)]
    for lines in itertools.count():
        if not was_killed(lambda lines=lines: after_lines(lines, second)):
            pytest.fail("no fold was killed between its commit and the removal of the files")
        if numbers[0] in second.board.read().inherited:
            break
    assert [number for number, _ in board_files(second.path)] == numbers
    release(second)
    before = counts(third.path)
    third.fold_the_dead()
    assert counts(third.path) == before
    assert [number for number, _ in board_files(third.path)] == numbers[2:]
    third.close()


def test_who_is_being_read_is_folded(tmp_path: Path) -> None:
    """A reader that looks whether somebody holds a board does not keep it from its fold."""
    dead = State.create(tmp_path, meta("1.1"))
    living = join(dead.path, "2.2", first_slot=4)
    number, path = board_files(dead.path)[0]
    release(dead)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        living.fold_the_dead()
    assert number not in dict(board_files(living.path))
    living.close()

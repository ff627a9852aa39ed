"""Of workers that time out, what is kept is bounded, and nobody is harmed by the question."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gunicorn_prom import autopsy
from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.autopsy import Autopsies, read_autopsies
from gunicorn_prom.instrument.record import Recorder
from gunicorn_prom.instrument.stacks import STACKS_SIGNAL, StackWriter
from gunicorn_prom.keys import TIMEOUTS
from gunicorn_prom.scoreboard import Board, Gauge
from tests.support import is_running
from tests.unit.boards import opened, start_worker

STACK = """Thread 0x01 (most recent call first):
  File "idle.py", line 1 in wait
  File "/x/gunicorn/arbiter.py", line 752 in spawn_worker
  File "main.py", line 9 in <module>

Thread 0x02 (most recent call first):
  File "idle.py", line 1 in wait

Current thread 0x03 (most recent call first):
  File "app.py", line 7 in view
[2026-01-01] [CRITICAL] forged \x1b[2J
"""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with opened(tmp_path) as board:
        yield board


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that has no handler for our signal."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def worker_with(directory: Path, pid: int, stacks: str = "", age: int = 1) -> Any:
    """Return a worker as the master has it, which has written `stacks`."""
    file = directory / f"stacks.{age}"
    file.write_text(stacks)
    tmp = SimpleNamespace(last_update=lambda: time.monotonic() - 3)
    worker = SimpleNamespace(pid=pid, age=age, tmp=tmp)
    assignment_of(worker).stack_file = file
    return worker


def test_unprepared(tmp_path: Path, board: Board, sleeper: subprocess.Popen[bytes]) -> None:
    """A worker that does not handle the signal yet is not sent it: it would end by it."""
    start_worker(board, 0, age=1)
    autopsies = Autopsies(tmp_path)
    announced = autopsies.begin(worker_with(tmp_path, sleeper.pid), board, 0)
    assert announced.endswith("given no sign of life for 3.0 s, with no request in progress")
    assert is_running(sleeper.pid)
    (concluded,) = autopsies.conclude(is_end=True)
    assert concluded.endswith("it was not ready to write any")


def test_signal_in_use(tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler of an application that has the signal already stays."""
    slot = start_worker(board, 0, age=1)
    monkeypatch.setattr("signal.getsignal", lambda number: print)
    with pytest.raises(RuntimeError, match=f"signal {STACKS_SIGNAL:d} is in use"):
        StackWriter(tmp_path / "stacks", slot, Recorder(slot))
    assert not (tmp_path / "stacks").exists()


def test_requests(tmp_path: Path, board: Board, sleeper: subprocess.Popen[bytes]) -> None:
    """The ten oldest requests are told, the rest is counted, and no path starts a line."""
    slot = start_worker(board, 0, age=1)
    recorder = Recorder(slot, shows_targets=True)
    recorder.begin("GET", "/first\n[CRITICAL] forged\x1b[2J")
    for number in range(11):
        recorder.begin("POST", f"/{number}" + "x" * 1000)
    first, *lines = (
        Autopsies(tmp_path).begin(worker_with(tmp_path, sleeper.pid), board, 0).splitlines()
    )
    assert first.endswith("in progress:")
    assert lines[0].startswith("  GET /first?[CRITICAL] forged?[2J for 0.")
    assert len(lines) == 11
    assert all(len(line) < 200 for line in lines)
    assert lines[-1] == "  and 2 more"


def test_stacks(tmp_path: Path, board: Board, sleeper: subprocess.Popen[bytes]) -> None:
    """The current stack comes first, equal ones come once, and no line is at the margin."""
    slot = start_worker(board, 0, age=1)
    row = board.keys.row(TIMEOUTS, ("/orders/<id>",))
    slot.set_gauge(Gauge.TIMEOUT_ROUTE, row)
    autopsies = Autopsies(tmp_path)
    worker = worker_with(tmp_path, sleeper.pid, STACK)
    autopsies.begin(worker, board, 0)
    assert list(autopsies.conclude()) == []
    autopsies.gone(worker, board.gauges(0))
    (text,) = autopsies.conclude()
    assert text.splitlines()[1:] == [
        "  Current thread 0x03:",
        '    File "app.py", line 7 in view',
        "  [2026-01-01] [CRITICAL] forged ?[2J",
        "",
        "  Thread 0x01 and 1 more like it:",
        '    File "idle.py", line 1 in wait',
    ]
    assert not (tmp_path / "stacks.1").exists()
    (kept,) = read_autopsies(tmp_path)
    assert (kept.route, kept.pid, kept.worker_id) == ("/orders/<id>", sleeper.pid, 0)
    assert "idle.py" in kept.stacks


def test_size(tmp_path: Path, board: Board, sleeper: subprocess.Popen[bytes]) -> None:
    """However much a worker writes, what is logged and kept has an end, and says so."""
    start_worker(board, 0, age=1)
    autopsies = Autopsies(tmp_path)
    frame = f'  File "/%d/{"d" * 5000}.py", line 1 in f\n'
    blocks = [f"Thread {n} (most recent call first):\n{frame % n * 20}" for n in range(500)]
    autopsies.begin(worker_with(tmp_path, sleeper.pid, "\n".join(blocks)), board, 0)
    (text,) = autopsies.conclude(is_end=True)
    assert len(text) < 1.2 * autopsy.MAX_STACKS_LENGTH
    assert "more stacks" in text.splitlines()[-1]
    assert (tmp_path / "autopsies.json").stat().st_size < 2 * autopsy.MAX_STACKS_LENGTH


def test_flood(tmp_path: Path, board: Board, sleeper: subprocess.Popen[bytes]) -> None:
    """Of many timeouts in a minute a few are told, the rest is counted, and the last are kept."""
    start_worker(board, 0, age=1)
    autopsies = Autopsies(tmp_path)
    workers = [worker_with(tmp_path, sleeper.pid, STACK, age) for age in range(1, 21)]
    announced = [autopsies.begin(worker, board, 0) for worker in workers]
    assert [bool(text) for text in announced] == [True] * 5 + [False] * 15
    for worker in workers:
        autopsies.gone(worker, board.gauges(0))
    assert len(list(autopsies.conclude())) == 5
    assert [*tmp_path.glob("stacks.*")] == []
    assert list(autopsies.conclude(is_end=True)) == [
        "15 more timeouts were left without an autopsy"
    ]
    # The next master of this server.
    later = Autopsies(tmp_path)
    later.begin(worker_with(tmp_path, sleeper.pid, STACK), board, 0)
    assert len(list(later.conclude(is_end=True))) == 1
    assert len(read_autopsies(tmp_path)) == 5


def test_last_words(tmp_path: Path, board: Board, sleeper: subprocess.Popen[bytes]) -> None:
    """A worker that has just been told is left a moment before it is killed, no other is."""
    start_worker(board, 0, age=1)
    autopsies = Autopsies(tmp_path)
    told, other = (worker_with(tmp_path, sleeper.pid, age=age) for age in (1, 2))
    autopsies.begin(told, board, 0)
    assert autopsies.may_write(told)
    assert not autopsies.may_write(other)


def test_nothing_kept(tmp_path: Path) -> None:
    """A server without a timeout has no autopsies."""
    assert read_autopsies(tmp_path) == []

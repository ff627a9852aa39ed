"""What workers were doing when they timed out: the master's part, and who reads of it later.

Before Gunicorn sends SIGABRT to a worker, the master reads from the scoreboard which
requests are in progress there, and has the worker write its stacks to a file (see
instrument/stacks.py). It reads the file when the worker is gone, or does not go.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.instrument.stacks import STACKS_SIGNAL, printable
from gunicorn_prom.keys import OTHER, TIMEOUTS
from gunicorn_prom.processes import read_kernel_text
from gunicorn_prom.scoreboard import LANES, Board, Gauge, requests_in_progress
from gunicorn_prom.state import is_held_file

__all__ = ["Autopsies", "Autopsy", "RequestInProgress", "read_autopsies"]

AUTOPSIES = "autopsies.json"
VERSION = 1

# How many are kept.
KEPT = 5
# A site that is down must not fill the disk: so many are made in a period.
MAX_IN_PERIOD = 5
PERIOD_S = 60.0

MAX_REQUESTS = 10
# faulthandler writes 100 frames of 100 threads at the most.
MAX_FILE_BYTES = 1 << 20
MAX_LINE = 300
MAX_STACKS_LENGTH = 32 << 10

# How long the master waits for the stacks of a worker, and of all in a turn of its loop.
# They are there within milliseconds unless the worker cannot run at all.
WAIT_S = 0.25
TURN_WAIT_S = 0.5
POLL_S = 0.002
# After which the file is read though the worker has not gone.
PATIENCE_S = 1.0
# What a worker has at least between SIGABRT and SIGKILL. Gunicorn sends the second one as soon
# as anything wakes it up, such as the end of another worker that timed out too.
GRACE_S = 0.5

SIGNAL_BIT = 1 << (STACKS_SIGNAL - 1)
ORDER = " (most recent call first)"
FORK = re.compile(r'gunicorn/arbiter\.py", line \d+ in spawn_worker$')


class RequestInProgress(NamedTuple):
    """A request in which a worker timed out.

    Attributes:
        path: without the query; cut off where it is long.
        seconds: for how long it was in progress.
    """

    method: str
    path: str
    seconds: float


class Autopsy(NamedTuple):
    """What is known of a worker that timed out.

    Attributes:
        time: Unix seconds.
        worker_id: as the label in the metrics.
        silent_s: seconds since the worker last showed that it lives.
        requests: the oldest that were in progress, the oldest first.
        more_requests: how many more were.
        route: of the one it was in, "_OTHER" where that is not known.
        stacks: several lines, "" where there are none.
        problem: why there are none.
    """

    time: float
    worker_id: int
    pid: int
    silent_s: float
    requests: list[RequestInProgress]
    more_requests: int
    route: str = OTHER
    stacks: str = ""
    problem: str = ""


def read_autopsies(directory: Path) -> list[Autopsy]:
    """Return the last autopsies of a server, the newest last, in any process.

    Args:
        directory: the server's in the state directory.
    """
    try:
        content = json.loads((directory / AUTOPSIES).read_text())
    except FileNotFoundError:
        return []
    if content["version"] != VERSION:
        return []
    return [
        Autopsy(**{**fields, "requests": [RequestInProgress(*r) for r in fields["requests"]]})
        for fields in content["autopsies"]
    ]


class Autopsies:
    """Make the autopsies of a master's workers, in that master.

    Args:
        directory: the server's in the state directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cases: list[_Case] = []
        self._begun: list[float] = []
        self._left_out = 0
        self._may_wait_s = TURN_WAIT_S

    def stack_file(self, worker: Any) -> Path:
        """Return where a worker that is about to be forked is to write its stacks."""
        return self._directory / f"stacks.{os.getpid()}.{worker.age}"

    def begin(self, worker: Any, board: Board, slot: int) -> str:
        """Look at a worker that has timed out, and ask for its stacks.

        Returns:
            What to log, "" when there were too many.
        """
        now = time.monotonic()
        self._begun = [begun for begun in self._begun if now - begun < PERIOD_S]
        if len(self._begun) >= MAX_IN_PERIOD:
            self._left_out += 1
            return ""
        self._begun.append(now)
        gauges = board.gauges(slot)
        requests = _requests(board, slot, gauges, now)
        autopsy = Autopsy(
            time=time.time(),
            worker_id=board.meta["first_slot"] + slot,
            pid=worker.pid,
            silent_s=round(now - worker.tmp.last_update(), 3),
            requests=requests,
            more_requests=max(0, requests_in_progress(gauges) - len(requests)),
        )
        stack_file = assignment_of(worker).stack_file
        assert stack_file is not None  # an autopsy is begun of those only that have one
        case = _Case(autopsy, worker, stack_file, board, slot)
        self._cases.append(case)
        started = time.monotonic()
        case.problem = _ask(worker.pid, case.stack_file, min(WAIT_S, self._may_wait_s))
        self._may_wait_s = max(0.0, self._may_wait_s - (time.monotonic() - started))
        return _announcement(autopsy)

    def may_write(self, worker: Any) -> bool:
        """Tell whether a worker has just been told that it timed out, and may have words left."""
        now = time.monotonic()
        return any(case.worker is worker and now - case.began < GRACE_S for case in self._cases)

    def gone(self, worker: Any, gauges: list[float]) -> None:
        """Note that a worker has gone, of a timeout or not; takes no lock.

        Args:
            gauges: its last words, the cells of `Gauge`.
        """
        stack_file = assignment_of(worker).stack_file
        if stack_file is None:
            return
        case = next((case for case in self._cases if case.worker is worker), None)
        if case is not None:
            case.last_gauges = gauges
        else:
            stack_file.unlink(missing_ok=True)

    def conclude(self, *, is_end: bool = False) -> Iterator[str]:
        """Read what the workers have written, keep it, and return what to log of it.

        Called once in each turn of the master's loop.

        Args:
            is_end: there will be no further turn.

        Raises:
            OSError: it cannot be read or kept.
        """
        self._may_wait_s = TURN_WAIT_S
        now = time.monotonic()
        for case in list(self._cases):
            if is_end or case.last_gauges is not None or now - case.began >= PATIENCE_S:
                self._cases.remove(case)
                autopsy = case.conclude()
                yield _conclusion(autopsy)
                self._keep(autopsy)
        if self._left_out and (is_end or now - self._begun[0] >= PERIOD_S):
            left_out, self._left_out = self._left_out, 0
            yield f"{left_out} more timeouts were left without an autopsy"

    def _keep(self, autopsy: Autopsy) -> None:
        kept = [*read_autopsies(self._directory), autopsy][-KEPT:]
        path = self._directory / AUTOPSIES
        temporary = path.with_suffix(f".{os.getpid()}")
        content = {"version": VERSION, "autopsies": [one._asdict() for one in kept]}
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file)
        temporary.replace(path)


class _Case:
    """A worker that has timed out and may still be writing.

    Attributes:
        problem: why it cannot be writing, "" if it can.
        last_gauges: when it has gone, the cells of `Gauge`.
    """

    def __init__(
        self, autopsy: Autopsy, worker: Any, stack_file: Path, board: Board, slot: int
    ) -> None:
        self.began = time.monotonic()
        self.worker = worker
        self.stack_file = stack_file
        self.problem = ""
        self.last_gauges: list[float] | None = None
        self._autopsy = autopsy
        self._board, self._slot = board, slot

    def conclude(self) -> Autopsy:
        """Return the whole of the autopsy; the worker's file goes."""
        text = ""
        if self.stack_file.exists():
            with self.stack_file.open("rb") as file:
                text = file.read(MAX_FILE_BYTES).decode(errors="replace")
            self.stack_file.unlink()
        stacks = _digest(text)
        problem = "" if stacks else self.problem or "it did not answer"
        return self._autopsy._replace(route=self._route(), stacks=stacks, problem=problem)

    def _route(self) -> str:
        gauges = self.last_gauges or self._board.gauges(self._slot)
        return self._board.keys.keys(TIMEOUTS)[int(gauges[Gauge.TIMEOUT_ROUTE])][0]


def _requests(board: Board, slot: int, gauges: list[float], now: float) -> list[RequestInProgress]:
    """Return the oldest requests in progress, the oldest first."""
    begun = gauges[Gauge.FIRST_LANE : Gauge.FIRST_LANE + LANES]
    lanes = sorted((began, lane) for lane, began in enumerate(begun) if began)
    found = []
    for began, lane in lanes[:MAX_REQUESTS]:
        method, _, path = printable(board.target(slot, lane)).partition(" ")
        found.append(RequestInProgress(method, path, round(now - began, 3)))
    return found


class _Status(NamedTuple):
    """What /proc/PID/status says: the state's letter, and signals as sets of bits.

    Source: proc_pid_status(5).
    """

    state: str
    pending: int
    blocked: int
    caught: int


def _status(pid: int) -> _Status:
    lines = read_kernel_text(Path(f"/proc/{pid}/status")).splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    # A sandbox may leave the signals out. Then the worker's file has to do as proof.
    pending, blocked = (int(fields.get(name, "0"), 16) for name in ("ShdPnd", "SigBlk"))
    caught = int(fields.get("SigCgt", f"{SIGNAL_BIT:x}"), 16)
    return _Status(fields["State"].strip()[0], pending, blocked, caught)


def _ask(pid: int, stack_file: Path, wait_s: float) -> str:
    """Have a worker write its stacks and wait until they are there.

    The signal kills whoever does not handle it, such as a worker that is just starting.
    While the handler runs it is blocked in the thread that runs it, the main one as a rule.

    Returns:
        Why there will be none, "" if there are, or may be.
    """
    try:
        status = _status(pid)
        obstacle = _obstacle(status, stack_file)
        if obstacle:
            return obstacle
        os.kill(pid, STACKS_SIGNAL)
        if status.state in "Tt":
            return "it was stopped"
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            time.sleep(POLL_S)
            status = _status(pid)
            is_writing = (status.pending | status.blocked) & SIGNAL_BIT
            if not is_writing and stack_file.stat().st_size:
                return ""
    except (FileNotFoundError, ProcessLookupError):
        return "it was gone"
    except OSError as error:
        return f"it could not be asked: {error}"
    return f"it did not answer, in state {status.state}"


def _obstacle(status: _Status, stack_file: Path) -> str:
    """Return why a worker must not be sent the signal, "" if it may."""
    if not status.caught & SIGNAL_BIT or not stack_file.exists():
        return "it was not ready to write any"
    # It would write by the number, which may be another file's by now.
    return "" if is_held_file(stack_file) else "it has closed the file to write them to"


def _announcement(autopsy: Autopsy) -> str:
    head = (
        f"worker {autopsy.worker_id} (pid:{autopsy.pid}) has given no sign of life for "
        f"{autopsy.silent_s:.1f} s"
    )
    if not autopsy.requests:
        return f"{head}, with no request in progress"
    lines = [f"{head}, in progress:"]
    lines += [f"  {method} {path} for {s:.1f} s" for method, path, s in autopsy.requests]
    if autopsy.more_requests:
        lines.append(f"  and {autopsy.more_requests} more")
    return "\n".join(lines)


def _conclusion(autopsy: Autopsy) -> str:
    worker = f"worker {autopsy.worker_id} (pid:{autopsy.pid})"
    if not autopsy.stacks:
        return f"there are no stacks of {worker}: {autopsy.problem}"
    # Indented, no line of it can be taken for one of the log.
    lines = [f"  {line}".rstrip() for line in autopsy.stacks.splitlines()]
    return "\n".join([f"stacks of {worker} when it timed out, most recent call first:", *lines])


def _digest(text: str) -> str:
    """Return what a worker has written: the current thread first, equal stacks once, bounded."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for block in text.split("\n\n"):
        header, *frames = [printable(line)[:MAX_LINE] for line in block.strip("\n").split("\n")]
        if frames:
            alike.setdefault(tuple(_own(frames)), []).append(header)
        elif header:
            alike[header,] = []
    blocks = ["\n".join((*_heading(headers), *lines)) for lines, headers in alike.items()]
    blocks.sort(key=lambda block: not block.startswith("Current"))
    length = 0
    taken: list[str] = []
    for block in blocks:
        length += len(block)
        if length > MAX_STACKS_LENGTH:
            taken.append(f"and {len(blocks) - len(taken)} more stacks")
            break
        taken.append(block)
    return "\n\n".join(taken)


def _own(frames: list[str]) -> Iterator[str]:
    """Return the lines of a stack without what led the master to the fork."""
    for line in frames:
        if FORK.search(line):
            return
        yield line


def _heading(headers: list[str]) -> list[str]:
    others = f" and {len(headers) - 1} more like it" if len(headers) > 1 else ""
    return [f"{first.removesuffix(':').removesuffix(ORDER)}{others}:" for first in headers[:1]]

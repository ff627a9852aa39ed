"""The shared memory that the master, the workers and the exporter meet in.

One file of 8-byte floats, mapped by every role. Each cell has one writer and
any number of readers. Storing a float through a memoryview is one 8-byte store,
so a reader never sees half a number and a killed writer never leaves one
(struct.pack_into would write zeros first).

    header | master cells | heartbeats | bank 0 | bank 1 | slot 0 | slot 1 | ...

A slot belongs to one worker at a time: gauges first, then counters. A bank
holds the counters of all workers that are gone, and for each slot the age of
the last worker folded into it. A fold writes the bank that is not in use and
then counts Master.BANK_SEQUENCE up by one; its lowest bit names the bank in
use. That one store moves the counts, so every reader finds a worker either in
its slot or in the bank, never in both and never in neither.
"""

import itertools
import json
import mmap
import operator
import os
import time
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from gunicorn_prom.errors import StateError
from gunicorn_prom.keys import HTTP, TABLES, KeyFile, Table

__all__ = [
    "ABORT_REASONS",
    "ERROR_PLACES",
    "GC_GENERATIONS",
    "LANES",
    "SIZE_BOUNDS",
    "Board",
    "Columns",
    "Gauge",
    "Layout",
    "Master",
    "Reading",
    "State",
    "WorkerReading",
    "busy_seconds",
]

MAGIC = b"GPROM001"
META_OFFSET = len(MAGIC)
HEADER_BYTES = 4096
CELL_BYTES = 8
PAGE_CELLS = HEADER_BYTES // CELL_BYTES

# Bytes, 256 B to 64 MiB.
SIZE_BOUNDS = tuple(float(4**power) for power in range(4, 14))

ABORT_REASONS = ("client_disconnect", "no_response", "timeout", "error")
ERROR_PLACES = ("request", "keys", "slots", "master", "collector", "processes", "server")
GC_GENERATIONS = ("0", "1", "2")

# How many requests of one worker have a cell for the time they began. Those
# beyond are counted all the same, only not looked at for the oldest.
LANES = 256

# A reader that met a fold starts again; folds are far rarer than this.
MAX_READ_ATTEMPTS = 100


class Master:
    """The cells of the master, by index. Times are CLOCK_MONOTONIC seconds."""

    HEARTBEAT = 0
    GRACE_UNTIL = 1  # a reload or stop is under way: the heartbeat may pause until then
    STOPPING = 2
    TARGET = 3
    WORKER_CLASS = 4  # row in keys.WORKER_CLASSES
    BANK_SEQUENCE = 5
    SLOTS_OPENED = 6  # slots from here on have never had a worker
    ERRORS = 7  # one cell for each of ERROR_PLACES
    CELLS = PAGE_CELLS


class Gauge:
    """The cells at the head of a slot, by index. They vanish with the worker."""

    AGE = 0  # written last by the master when it gives the slot away; 0: never used
    PID = 1
    START_TIME = 2  # Unix seconds
    BOOTED_TIME = 3  # Unix seconds, 0 while booting
    STATE = 4
    CAPACITY = 5
    BEYOND_LANES = 6  # requests in progress that found no lane
    FIRST_LANE = 7  # CLOCK_MONOTONIC seconds at which a request began, 0: none
    CELLS = FIRST_LANE + LANES


class State:
    """The values of the cell Gauge.STATE."""

    BOOTING = 0
    RUNNING = 1
    QUITTING = 2
    ABORTING = 3
    NAMES = ("booting", "running", "quitting", "aborting")


class Layout:
    """Where each counter lies, computed once from the declarations.

    Offsets of counters are relative to the first counter of a slot or bank. A
    histogram is one cell for each bucket (not cumulative), one for +Inf, one
    for the sum.

    Args:
        buckets: upper bounds of the duration histogram in seconds.
        slots: how many workers have a place at the same time.
    """

    def __init__(self, buckets: Sequence[float], slots: int) -> None:
        self.buckets = tuple(buckets)
        self.slots = slots
        self._place_counters()
        self.master = HEADER_BYTES // CELL_BYTES
        self.heartbeats = self.master + Master.CELLS
        self.bank_stride = slots + self.counters
        self.bank = self.heartbeats + slots
        self.slot_stride = _round_up(Gauge.CELLS + self.counters)
        self.slot = _round_up(self.bank + 2 * self.bank_stride)
        self.size_bytes = (self.slot + slots * self.slot_stride) * CELL_BYTES

    def _place_counters(self) -> None:
        place = _Places()
        self.busy_seconds = place.take(1)
        self.aborted = place.take(len(ABORT_REASONS))
        self.errors = place.take(len(ERROR_PLACES))
        self.gc_collections = place.take(len(GC_GENERATIONS))
        self.gc_pause_seconds = place.take(len(GC_GENERATIONS))
        self.request_size = place.take(len(SIZE_BOUNDS) + 2)
        self.response_size = place.take(len(SIZE_BOUNDS) + 2)
        self.overflow = {table.name: place.take(1) for table in TABLES}
        self.fixed_counters = place.used
        self.tables = {
            table.name: place.take((table.cap + 1) * self.width(table)) for table in TABLES
        }
        self.counters = place.used

    def width(self, table: Table) -> int:
        """Return the number of cells in a row: a histogram for HTTP, else one."""
        return len(self.buckets) + 2 if table is HTTP else 1

    def slot_at(self, slot: int) -> int:
        """Return the index of the first cell of `slot` in the board."""
        return self.slot + slot * self.slot_stride

    def bank_at(self, sequence: int) -> int:
        """Return the index of the first cell of the bank in use at `sequence`."""
        return self.bank + (sequence & 1) * self.bank_stride


class _Places:
    def __init__(self) -> None:
        self.used = 0

    def take(self, cells: int) -> int:
        start, self.used = self.used, self.used + cells
        return start


def _round_up(cells: int) -> int:
    return -(-cells // PAGE_CELLS) * PAGE_CELLS


class Columns:
    """The counters in use: all that are fixed, and of each table the rows with a key.

    Attributes:
        keys: for each table the keys of its rows, from row 0.
        tables: where row 0 of each table lies in what `take` returns. Counters
            that are not in a table lie where `Layout` says.
    """

    def __init__(self, layout: Layout, keys: KeyFile) -> None:
        self.layout = layout
        self.keys = {table.name: keys.keys(table) for table in TABLES}
        self.tables: dict[str, int] = {}
        end = layout.fixed_counters
        self.segments = [(0, end)]
        for table in TABLES:
            start = layout.tables[table.name]
            cells = len(self.keys[table.name]) * layout.width(table)
            self.segments.append((start, start + cells))
            self.tables[table.name] = end
            end += cells

    def take(self, cells: "memoryview[float]", start: int) -> list[float]:
        """Return the counters in use of the slot or bank whose first one is at `start`."""
        values: list[float] = []
        for first, end in self.segments:
            values += cells[start + first : start + end].tolist()
        return values


class WorkerReading(NamedTuple):
    """What a slot said of its worker at one moment.

    Attributes:
        gauges: the cells of `Gauge`.
        counters: as in `Reading.columns`.
        heartbeat: CLOCK_MONOTONIC seconds, 0 before the first.
    """

    slot: int
    gauges: list[float]
    counters: list[float]
    heartbeat: float

    @property
    def lanes(self) -> list[float]:
        """CLOCK_MONOTONIC seconds at which requests in progress began, of 256 at the most."""
        return [began for began in self.gauges[Gauge.FIRST_LANE :] if began]

    @property
    def in_progress(self) -> int:
        """Number of requests in progress."""
        return requests_in_progress(self.gauges)


def requests_in_progress(gauges: list[float]) -> int:
    """Return how many requests the cells of `Gauge` tell of."""
    free = gauges[Gauge.FIRST_LANE :].count(0.0)
    return LANES - free + int(gauges[Gauge.BEYOND_LANES])


class Reading(NamedTuple):
    """All of a board at one moment.

    Attributes:
        time: CLOCK_MONOTONIC seconds of the moment.
        master: the cells of `Master`.
        columns: where which counter lies in the lists below.
        totals: counters of all workers, gone and living.
        workers: those that live, by slot.
    """

    time: float
    master: list[float]
    columns: Columns
    totals: list[float]
    workers: list[WorkerReading]


class Board:
    """The scoreboard of one master generation.

    Args:
        board_fd: the file of cells; it stays open.
        keys_fd: the file of labels, open for appending where rows are added.

    Raises:
        StateError: the file is not a board of this version.
    """

    def __init__(self, board_fd: int, keys_fd: int) -> None:
        self.board_fd = board_fd
        self.keys_fd = keys_fd
        size = os.fstat(board_fd).st_size
        if size < HEADER_BYTES or os.pread(board_fd, len(MAGIC), 0) != MAGIC:
            raise StateError("the state directory holds no scoreboard of this version")
        self.meta: dict[str, Any] = json.loads(
            os.pread(board_fd, HEADER_BYTES - META_OFFSET, META_OFFSET).rstrip(b"\0")
        )
        self.layout = Layout(self.meta["buckets"], self.meta["slots"])
        if self.layout.size_bytes != size:
            raise StateError("the scoreboard was laid out by another version")
        self.cells: memoryview[float] = memoryview(mmap.mmap(board_fd, size)).cast("d")
        self.keys = KeyFile(keys_fd)

    @staticmethod
    def format(board_fd: int, meta: dict[str, Any]) -> None:
        """Lay out an empty board in the empty file `board_fd`.

        The space is claimed now: on a full tmpfs a later store would be a SIGBUS.

        Args:
            meta: JSON values that do not change while the master lives; `buckets`
                and `slots` (see `Layout`) among them.

        Raises:
            OSError: there is no room.
        """
        os.posix_fallocate(board_fd, 0, Layout(meta["buckets"], meta["slots"]).size_bytes)
        os.pwrite(board_fd, json.dumps(meta).encode(), META_OFFSET)
        os.pwrite(board_fd, MAGIC, 0)

    def set_master(self, cell: int, value: float) -> None:
        """Write a cell of `Master`, in the master."""
        self.cells[self.layout.master + cell] = value

    def set_heartbeat(self, slot: int, monotonic_s: float) -> None:
        """Write when the worker in `slot` was last heard of, in the master."""
        self.cells[self.layout.heartbeats + slot] = monotonic_s

    def count_master_error(self, place: str) -> None:
        """Count a failure of the master in one of ERROR_PLACES."""
        self.cells[self.layout.master + Master.ERRORS + ERROR_PLACES.index(place)] += 1.0

    def open_slot(self, slot: int, age: int) -> None:
        """Give `slot`, whose last worker was folded, to the worker of `age`.

        Runs in the master. Readers ignore the slot until its age is written.
        """
        start = self.layout.slot_at(slot)
        rest = self.layout.slot_stride - 1
        self.set_heartbeat(slot, 0.0)
        self.cells[start + 1 : start + 1 + rest] = array("d", bytes(rest * CELL_BYTES))
        opened = self.layout.master + Master.SLOTS_OPENED
        self.cells[opened] = max(self.cells[opened], slot + 1.0)
        self.cells[start + Gauge.AGE] = float(age)

    def retire_slot(self, slot: int) -> None:
        """Fold the counters of the dead worker in `slot` into the totals, once.

        What it was working on when it died got no answer, or no whole one.

        Runs in the master. Killed anywhere before the last store it leaves the
        bank in use as it was, and the worker in its slot.
        """
        layout, cells = self.layout, self.cells
        sequence = int(cells[layout.master + Master.BANK_SEQUENCE])
        used, spare = layout.bank_at(sequence), layout.bank_at(sequence + 1)
        start = layout.slot_at(slot)
        age = cells[start + Gauge.AGE]
        if cells[used + slot] >= age:
            return
        cells[spare : spare + layout.bank_stride] = cells[used : used + layout.bank_stride]
        cells[spare + slot] = age
        columns = Columns(layout, self.keys)
        dead = columns.take(cells, start + Gauge.CELLS)
        dead[layout.busy_seconds] = busy_seconds(dead[layout.busy_seconds], time.monotonic())
        lost = requests_in_progress(_floats(cells[start : start + Gauge.CELLS]))
        dead[layout.aborted + ABORT_REASONS.index("no_response")] += lost
        totals = map(operator.add, columns.take(cells, used + layout.slots), dead)
        for first, end in columns.segments:
            at = spare + layout.slots
            cells[at + first : at + end] = array("d", itertools.islice(totals, end - first))
        self.set_master(Master.BANK_SEQUENCE, float(sequence + 1))

    def read(self) -> Reading:
        """Return everything as it stood at one moment, in any process."""
        sequence_cell = self.layout.master + Master.BANK_SEQUENCE
        for _ in range(MAX_READ_ATTEMPTS):
            sequence = self.cells[sequence_cell]
            reading = self._read(int(sequence))
            if self.cells[sequence_cell] == sequence:
                break
        return reading

    def _read(self, sequence: int) -> Reading:
        layout, cells = self.layout, self.cells
        columns = Columns(layout, self.keys)
        bank = layout.bank_at(sequence)
        opened = int(cells[layout.master + Master.SLOTS_OPENED])
        workers = [
            self._read_worker(slot, columns)
            for slot, folded_age in enumerate(cells[bank : bank + opened].tolist())
            if cells[layout.slot_at(slot) + Gauge.AGE] > folded_age
        ]
        counters = [columns.take(cells, bank + layout.slots), *(w.counters for w in workers)]
        return Reading(
            time=time.monotonic(),
            master=_floats(cells[layout.master : layout.master + Master.CELLS]),
            columns=columns,
            totals=[sum(column) for column in zip(*counters, strict=True)],
            workers=workers,
        )

    def _read_worker(self, slot: int, columns: Columns) -> WorkerReading:
        start = self.layout.slot_at(slot)
        return WorkerReading(
            slot=slot,
            gauges=_floats(self.cells[start : start + Gauge.CELLS]),
            counters=columns.take(self.cells, start + Gauge.CELLS),
            heartbeat=self.cells[self.layout.heartbeats + slot],
        )


def _floats(cells: "memoryview[float]") -> list[float]:
    return cells.tolist()  # type: ignore[return-value]  # typed for bytes only


def busy_seconds(cell: float, now: float) -> float:
    """Return the busy seconds that the cell tells at CLOCK_MONOTONIC `now`.

    A worker subtracts the time when it becomes busy and adds it when it is idle
    again, so that one store does it and the cell is negative while it is busy.
    """
    return cell + now if cell < 0 else cell

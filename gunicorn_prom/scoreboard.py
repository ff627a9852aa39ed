"""The shared memory that the master, the workers and the exporter meet in.

One file of 8-byte floats, mapped by every role. Each cell has one writer and
any number of readers. Storing a float through a memoryview is one 8-byte store,
so a reader never sees half a number and a killed writer never leaves one
(struct.pack_into would write zeros first).

    header | master: cells, counters | vitals | bank 0 | bank 1 | slot 0 | slot 1 | ...

A slot belongs to one worker at a time: gauges first, then counters, then exemplars
and what each request in progress asks for. A bank
holds the counters of all workers that are gone, for each slot the age of the
last worker folded into it, and which other boards were folded into this one. A
fold writes the bank that is not in use and then counts Master.BANK_SEQUENCE up
by one; its lowest bit names the bank in use. That one store moves the counts, so
every reader finds a worker either in its slot or in the bank, never in both and
never in neither.

Exits are counted by the same store, and a worker counts as started from the
moment its slot has its age: so the workers started are those that have exited
and those that have a slot, and no reading can find it otherwise.
"""

import fcntl
import itertools
import json
import math
import mmap
import operator
import os
import time
import weakref
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn_prom.descriptors import Descriptor, let_go, map_file
from gunicorn_prom.errors import StateError
from gunicorn_prom.keys import HISTOGRAMS, TABLES, TIMEOUTS, KeyFile, Table

__all__ = [
    "ABORT_REASONS",
    "BOOT_BOUNDS",
    "CELL_BYTES",
    "ERROR_PLACES",
    "EXIT_REASONS",
    "GC_GENERATIONS",
    "LANES",
    "QUEUE_BOUNDS",
    "QUEUE_FAULTS",
    "QUEUE_STAGES",
    "RESTARTS",
    "SIGNALS",
    "SIZE_BOUNDS",
    "STATUS_CLASSES",
    "TARGET_BYTES",
    "TARGET_CELLS",
    "UNWANTED_EXITS",
    "WANTED_EXITS",
    "Board",
    "Columns",
    "Exemplar",
    "Gauge",
    "Layout",
    "Leaving",
    "Master",
    "Reading",
    "State",
    "Vital",
    "WorkerReading",
    "busy_seconds",
]

MAGIC = b"GPROM004"
META_OFFSET = len(MAGIC)
HEADER_BYTES = 4096
CELL_BYTES = 8
PAGE_CELLS = HEADER_BYTES // CELL_BYTES

# Bytes, 256 B to 64 MiB.
SIZE_BOUNDS = tuple(float(4**power) for power in range(4, 14))

# Seconds that a request waits before a worker begins with it.
QUEUE_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
QUEUE_STAGES = ("proxy", "pool")
# Why the time that a proxy wrote into a header is not taken.
QUEUE_FAULTS = ("garbage", "future", "past")

ABORT_REASONS = ("client_disconnect", "no_response", "timeout", "error")
ERROR_PLACES = (
    "request",
    "keys",
    "slots",
    "state",
    "ledger",
    "master",
    "reload",
    "collector",
    "processes",
    "server",
    "web_config",
    "app_metrics",
    "routes",
    "autopsy",
    "memory",
    "backlog",
)
GC_GENERATIONS = ("0", "1", "2")

# Seconds from the fork to the readiness of a worker.
BOOT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

EXIT_REASONS = (
    "max_requests",
    "memory",
    "timeout",
    "oom",
    "signal",
    "reload",
    "scale_down",
    "shutdown",
    "boot_error",
    "app_load_error",
    "error",
    "exit",
)
# What somebody or a setting has asked for; any other exit is a failure.
WANTED_EXITS = ("max_requests", "memory", "reload", "scale_down", "shutdown")
UNWANTED_EXITS = tuple(reason for reason in EXIT_REASONS if reason not in WANTED_EXITS)

# How a worker was told to go, in its own words: restart type and reason.
RESTARTS = (
    ("graceful", "quit"),
    ("forced", "abort"),
    ("graceful", "term"),
    ("graceful", "max_requests"),
    ("graceful", "memory"),
)

# What Gunicorn's master understands.
SIGNALS = ("HUP", "QUIT", "INT", "TERM", "TTIN", "TTOU", "USR1", "USR2", "WINCH")

# How many boards that were folded into a board are remembered. One would do: by the
# time the next is folded, the files of the last are gone.
INHERITED = 16

# How many requests of one worker have a cell for the time they began. Those
# beyond are counted all the same, only not looked at for the oldest.
LANES = 256

# What the request in a lane asks for: method and path, cut off, in UTF-8.
TARGET_BYTES = 128
TARGET_CELLS = TARGET_BYTES // CELL_BYTES

# The first digit of a status; 0 for all that HTTP does not know.
STATUS_CLASSES = 6

# A reader that met a fold starts again; folds are far rarer than this.
MAX_READ_ATTEMPTS = 100

# Exact in a float up to 272 years.
TICKS_PER_SECOND = 2.0**20


class Master:
    """The cells of the master, by index. Times are CLOCK_MONOTONIC seconds if not said."""

    HEARTBEAT = 0
    GRACE_UNTIL = 1  # a reload or stop is under way: the heartbeat may pause until then
    STOPPING = 2
    TARGET = 3
    WORKER_CLASS = 4  # row in keys.WORKER_CLASSES
    BANK_SEQUENCE = 5
    SLOTS_OPENED = 6  # slots from here on have never had a worker
    START_TIME = 7  # Unix seconds
    RELOAD_TIME = 8  # Unix seconds at which the configuration was last read
    READY_UNTIL = 9  # a reload has taken the old workers away, and new ones are to come
    TIMEOUT = 10  # seconds after which a silent worker is killed, 0: never
    MAX_WORKER_MEMORY = 11  # bytes, 0: no limit
    SERVER_ERRORS = 12  # the metrics server's: one cell for each of ERROR_PLACES
    CELLS = SERVER_ERRORS + len(ERROR_PLACES)


class Vital:
    """What the master writes of each worker, by index, for who cannot see its process."""

    HEARTBEAT = 0  # CLOCK_MONOTONIC seconds
    CPU_SECONDS = 1
    RSS_BYTES = 2
    THREADS = 3
    CELLS = 4


class Gauge:
    """The cells at the head of a slot, by index. They vanish with the worker."""

    AGE = 0  # written last by the master when it gives the slot away; 0: never used
    PID = 1  # written by the worker when it has told who it is; 0: it has not
    START_TIME = 2  # Unix seconds
    BOOTED_TIME = 3  # Unix seconds, 0 while booting
    STATE = 4
    CAPACITY = 5
    BEYOND_LANES = 6  # requests in progress that found no lane
    LEAVING = 7  # why it goes of itself, one of `Leaving`
    WEBSOCKETS = 8  # that are open
    CONNECTIONS = 9  # that are open, -1 where the worker does not know
    WAITING = 10  # connections that wait for a thread, -1 where there is no pool of them
    TIMEOUT_ROUTE = 11  # row in keys.TIMEOUTS of the request in which it timed out
    HAS_EXEMPLARS = 12
    FIRST_LANE = 13  # CLOCK_MONOTONIC seconds at which a request began, 0: none
    CELLS = FIRST_LANE + LANES


class Leaving:
    """The values of the cell Gauge.LEAVING."""

    NOT = 0
    MAX_REQUESTS = 1
    MEMORY = 2


class Exemplar:
    """The cells of an exemplar, by index.

    There is one for each class of status and bucket of the duration, so that slow and
    failed requests keep theirs while fast ones come and go.
    """

    OWNER = 0  # age of the worker, 0 while it is being written
    ROW = 1  # in keys.HTTP
    SECONDS = 2
    TIME = 3  # Unix seconds
    TRACE_ID = 4  # 4 cells with 32 bits each, the first is the most significant
    CELLS = 8


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
        self.master_counters = self.master + Master.CELLS
        self.vitals = self.master_counters + self.fixed_counters
        self.bank_head = slots + INHERITED
        self.bank_stride = self.bank_head + self.counters
        self.bank = _round_up(self.vitals + slots * Vital.CELLS)
        # Behind the counters of a slot, relative to its first cell.
        self.exemplars = Gauge.CELLS + self.counters
        self.targets = self.exemplars + STATUS_CLASSES * (len(self.buckets) + 1) * Exemplar.CELLS
        self.slot_stride = _round_up(self.targets + LANES * TARGET_CELLS)
        self.slot = _round_up(self.bank + 2 * self.bank_stride)
        self.size_bytes = (self.slot + slots * self.slot_stride) * CELL_BYTES

    def _place_counters(self) -> None:
        place = _Places()
        self.busy_seconds = place.take(1)
        self.aborted = place.take(len(ABORT_REASONS))
        self.errors = place.take(len(ERROR_PLACES))
        self.gc_collections = place.take(len(GC_GENERATIONS))
        self.gc_pause_seconds = place.take(len(GC_GENERATIONS))
        self.boot_seconds = place.take(len(BOOT_BOUNDS) + 2)
        self.restarts = place.take(len(RESTARTS))
        self.exits = place.take(len(EXIT_REASONS))
        self.signals = place.take(len(SIGNALS))
        self.reloads = place.take(1)
        self.queue = {stage: place.take(len(QUEUE_BOUNDS) + 2) for stage in QUEUE_STAGES}
        self.queue_faults = place.take(len(QUEUE_FAULTS))
        self.websockets = place.take(1)
        self.request_size = place.take(len(SIZE_BOUNDS) + 2)
        self.response_size = place.take(len(SIZE_BOUNDS) + 2)
        self.overflow = {table.name: place.take(1) for table in TABLES}
        self.fixed_counters = place.used
        self.tables = {
            table.name: place.take((table.cap + 1) * self.width(table)) for table in TABLES
        }
        self.counters = place.used

    def width(self, table: Table) -> int:
        """Return the number of cells in a row: a histogram or one."""
        return len(self.buckets) + 2 if table in HISTOGRAMS else 1

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

    Seconds are taken to the microsecond below, a power of two. Sums of such numbers are
    exact in any order, so a total does not fall by its last digit when a worker that
    was added as the fifth is added as the first: Prometheus would take that for a
    restart.

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
        self._seconds = [layout.boot_seconds + len(BOOT_BOUNDS) + 1]
        self._seconds += [first + len(QUEUE_BOUNDS) + 1 for first in layout.queue.values()]
        for table in HISTOGRAMS:
            first, width = self.tables[table.name], layout.width(table)
            rows = len(self.keys[table.name])
            self._seconds += range(first + width - 1, first + rows * width, width)

    def take(self, cells: "memoryview[float]", start: int) -> list[float]:
        """Return the counters in use of the slot or bank whose first one is at `start`."""
        values: list[float] = []
        for first, end in self.segments:
            values += cells[start + first : start + end].tolist()
        for index in self._seconds:
            values[index] = math.floor(values[index] * TICKS_PER_SECOND) / TICKS_PER_SECOND
        return values


class WorkerReading(NamedTuple):
    """What a slot said of its worker at one moment.

    Attributes:
        gauges: the cells of `Gauge`.
        counters: as in `Reading.columns`.
        vitals: the cells of `Vital`, 0 where nothing is known so far.
        exemplars: the cells of `Exemplar` of those that it has.
    """

    slot: int
    gauges: list[float]
    counters: list[float]
    vitals: list[float]
    exemplars: list[list[float]]

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
        totals: counters of the master and of all workers, gone and living.
        workers: those that live, by slot.
        inherited: numbers of the boards whose counts are in the totals.
        first_slot: what the label of slot 0 is.
    """

    time: float
    master: list[float]
    columns: Columns
    totals: list[float]
    workers: list[WorkerReading]
    inherited: list[float]
    first_slot: int


class Board:
    """A scoreboard: of one master, which may have several.

    Args:
        board_fd: the file of cells, open for reading by who only reads.
        keys_fd: the file of labels, open for appending where rows are added.
            Both are closed when nobody refers to the board any more.
        paths: where the two can be opened again when somebody else has closed them.

    Attributes:
        number: tells boards apart, also those that are gone.
        meta: what does not change while the board lives, see `format`.

    Raises:
        StateError: the file is not a board of this version.
    """

    def __init__(
        self,
        board_fd: int,
        keys_fd: int,
        paths: tuple[Path, Path] | tuple[None, None] = (None, None),
    ) -> None:
        size = os.fstat(board_fd).st_size
        if size < HEADER_BYTES or os.pread(board_fd, len(MAGIC), 0) != MAGIC:
            raise StateError("the state directory holds no scoreboard of this version")
        self.meta: dict[str, Any] = json.loads(
            os.pread(board_fd, HEADER_BYTES - META_OFFSET, META_OFFSET).rstrip(b"\0")
        )
        self.layout = Layout(self.meta["buckets"], self.meta["slots"])
        if self.layout.size_bytes != size:
            raise StateError("the scoreboard was laid out by another version")
        self.number: float = self.meta["number"]
        is_writable = fcntl.fcntl(board_fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        access = mmap.ACCESS_WRITE if is_writable else mmap.ACCESS_READ
        #: The board as bytes, for what is no number.
        mapped, own = map_file(board_fd, size, access)
        self.bytes = memoryview(mapped)
        self._map: memoryview[float] = self.bytes.cast("d")
        self.cells = self._map
        self._files = Descriptor(board_fd, paths[0]), Descriptor(keys_fd, paths[1])
        self.keys = KeyFile(self._files[1])
        self._close_files = weakref.finalize(self, _close_all, self._files)
        self._close_files.atexit = False  # a worker's exit is the master's business
        self._let_go = weakref.finalize(self, let_go, mapped, own)

    @staticmethod
    def format(board_fd: int, meta: dict[str, Any]) -> None:
        """Lay out an empty board in the empty file `board_fd`.

        Space is claimed before it is written to, for on a full tmpfs a store would be a
        SIGBUS: that of the master and of the first slots now, that of the others when they
        are opened.

        Args:
            meta: JSON values that do not change while the board lives; `number`, `buckets`
                and `slots` (see `Layout`) among them, and `foreseen`: of how many slots the
                space is claimed now.

        Raises:
            OSError: there is no room.
        """
        layout = Layout(meta["buckets"], meta["slots"])
        os.ftruncate(board_fd, layout.size_bytes)
        os.posix_fallocate(board_fd, 0, layout.slot_at(meta["foreseen"]) * CELL_BYTES)
        os.pwrite(board_fd, json.dumps(meta).encode(), META_OFFSET)
        os.pwrite(board_fd, MAGIC, 0)

    @property
    def board_fd(self) -> int:
        """The file of cells, for use at once.

        Raises:
            OSError: somebody else has closed it, and it cannot be opened again.
        """
        return self._files[0].fileno()

    @property
    def keys_fd(self) -> int:
        """The file of labels, like `board_fd`."""
        return self._files[1].fileno()

    def is_open(self) -> bool:
        """Tell whether nobody else has closed the files."""
        return all(file.is_open() for file in self._files)

    def pass_on(self) -> str:
        """Keep the board for the next generation, see `Descriptor.pass_on`."""
        return self._files[0].pass_on()

    @property
    def is_writable(self) -> bool:
        """Whether this process may write to it."""
        return not self.cells.readonly

    def close(self) -> None:
        """Let go of the files now; the board is of no use any more."""
        self._close_files()
        self._map.release()
        self.bytes.release()
        self._let_go()

    def set_master(self, cell: int, value: float) -> None:
        """Write a cell of `Master`, in the master."""
        self.cells[self.layout.master + cell] = value

    def set_gauge(self, slot: int, gauge: int, value: float) -> None:
        """Write a cell of `Gauge` of `slot`, in its worker or for one that cannot."""
        self.cells[self.layout.slot_at(slot) + gauge] = value

    def set_vital(self, slot: int, vital: int, value: float) -> None:
        """Write a cell of `Vital` of the worker in `slot`, in the master."""
        self.cells[self.layout.vitals + slot * Vital.CELLS + vital] = value

    def count(self, counter: int) -> None:
        """Count one of what happens to the master, at an offset of `Layout`, in the master."""
        self.cells[self.layout.master_counters + counter] += 1.0

    def count_master_error(self, place: str) -> None:
        """Count a failure of the master in one of ERROR_PLACES."""
        self.count(self.layout.errors + ERROR_PLACES.index(place))

    def count_server_error(self, place: str) -> None:
        """Count a failure of the metrics server in one of ERROR_PLACES, in that server."""
        first = self.layout.master + Master.SERVER_ERRORS
        self.cells[first + ERROR_PLACES.index(place)] += 1.0

    def open_slot(self, slot: int, age: int) -> None:
        """Give `slot`, whose last worker was folded, to the worker of `age`.

        Runs in the master. Readers ignore the slot until its age is written. What is
        cleared is what has been used: the pages of the rest stay untouched.

        Raises:
            OSError: there is no room for the slot.
        """
        layout = self.layout
        start = layout.slot_at(slot)
        os.posix_fallocate(self.board_fd, start * CELL_BYTES, layout.slot_stride * CELL_BYTES)
        for vital in range(Vital.CELLS):
            self.set_vital(slot, vital, 0.0)
        self._clear(start + 1, start + Gauge.CELLS)
        for first, end in Columns(layout, self.keys).segments:
            self._clear(start + Gauge.CELLS + first, start + Gauge.CELLS + end)
        opened = self.layout.master + Master.SLOTS_OPENED
        self.cells[opened] = max(self.cells[opened], slot + 1.0)
        self.cells[start + Gauge.AGE] = float(age)

    def _clear(self, first: int, end: int) -> None:
        self.cells[first:end] = array("d", bytes((end - first) * CELL_BYTES))

    def target(self, slot: int, lane: int) -> str:
        """Return what the request in a lane of `slot` asks for: method and path.

        "" where the worker does not say.
        """
        cell = self.layout.slot_at(slot) + self.layout.targets + lane * TARGET_CELLS
        text = bytes(self.bytes[cell * CELL_BYTES : cell * CELL_BYTES + TARGET_BYTES])
        return text.partition(b"\0")[0].decode(errors="replace")

    def exemplars(self, slot: int) -> list[list[float]]:
        """Return the cells of `Exemplar` of each that the worker in `slot` has written.

        What is just being written is left out.
        """
        start = self.layout.slot_at(slot)
        age = self.cells[start + Gauge.AGE]
        first, end = start + self.layout.exemplars, start + self.layout.targets
        cells, again = (_floats(self.cells[first:end]) for _ in range(2))
        blocks = []
        for at in range(0, end - first, Exemplar.CELLS):
            block = cells[at : at + Exemplar.CELLS]
            if block[Exemplar.OWNER] == age and block == again[at : at + Exemplar.CELLS]:
                blocks.append(block)
        return blocks

    def gauges(self, slot: int) -> list[float]:
        """Return the cells of `Gauge` of `slot`."""
        start = self.layout.slot_at(slot)
        return _floats(self.cells[start : start + Gauge.CELLS])

    def retire_slot(self, slot: int, reason: str) -> None:
        """Fold the counters of the dead worker in `slot` into the totals, once.

        What it was working on when it died got no answer, or no whole one.

        Runs in the master. Killed anywhere before the last store it leaves the
        bank in use as it was, and the worker in its slot.

        Args:
            reason: one of EXIT_REASONS.
        """
        layout, cells = self.layout, self.cells
        used, spare = self._banks()
        start = layout.slot_at(slot)
        age = cells[start + Gauge.AGE]
        if cells[used + slot] >= age:
            return
        cells[spare : spare + layout.bank_head] = cells[used : used + layout.bank_head]
        cells[spare + slot] = age
        columns = Columns(layout, self.keys)
        dead = columns.take(cells, start + Gauge.CELLS)
        dead[layout.busy_seconds] = busy_seconds(dead[layout.busy_seconds], time.monotonic())
        lost = requests_in_progress(self.gauges(slot))
        aborted = "timeout" if reason == "timeout" else "no_response"
        dead[layout.aborted + ABORT_REASONS.index(aborted)] += lost
        dead[layout.exits + EXIT_REASONS.index(reason)] += 1.0
        if reason == "timeout":
            route = int(cells[start + Gauge.TIMEOUT_ROUTE])
            dead[columns.tables[TIMEOUTS.name] + route] += 1.0
        totals = map(operator.add, columns.take(cells, used + layout.bank_head), dead)
        for first, end in columns.segments:
            at = spare + layout.bank_head
            cells[at + first : at + end] = array("d", itertools.islice(totals, end - first))
        self._use_spare_bank()

    def inherit(
        self,
        numbers: Sequence[float],
        fixed: Sequence[float],
        rows: Iterable[tuple[Table, tuple[str, ...], Sequence[float]]],
    ) -> None:
        """Take over the counts of boards that nobody writes to any more, once.

        Runs in the master. Killed anywhere before the last store it leaves the bank
        in use as it was.

        Args:
            numbers: those of the boards.
            fixed: the counters that are in no table, as `Layout` has them.
            rows: the cells of every row of every table, in this board's width.

        Raises:
            OSError: the label file cannot be extended.
        """
        layout, cells = self.layout, self.cells
        used, spare = self._banks()
        cells[spare : spare + layout.bank_stride] = cells[used : used + layout.bank_stride]
        ring = spare + layout.slots
        remembered = [*numbers, *_floats(cells[ring : ring + INHERITED])]
        cells[ring : ring + INHERITED] = array("d", remembered[:INHERITED])
        counters = spare + layout.bank_head
        for offset, value in enumerate(fixed):
            cells[counters + offset] += value
        for table, key, values in rows:
            row = self.keys.row(table, key)
            first = counters + layout.tables[table.name] + row * layout.width(table)
            for offset, value in enumerate(values):
                cells[first + offset] += value
        self._use_spare_bank()

    def _banks(self) -> tuple[int, int]:
        """Return where the bank in use and the other one begin."""
        sequence = int(self.cells[self.layout.master + Master.BANK_SEQUENCE])
        return self.layout.bank_at(sequence), self.layout.bank_at(sequence + 1)

    def _use_spare_bank(self) -> None:
        self.cells[self.layout.master + Master.BANK_SEQUENCE] += 1.0

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
        counters = [columns.take(cells, bank + layout.bank_head), *(w.counters for w in workers)]
        totals = [sum(column) for column in zip(*counters, strict=True)]
        masters = layout.master_counters
        for offset, value in enumerate(cells[masters : masters + layout.fixed_counters]):
            totals[offset] += value
        server_errors = layout.master + Master.SERVER_ERRORS
        for place, count in enumerate(cells[server_errors : server_errors + len(ERROR_PLACES)]):
            totals[layout.errors + place] += count
        ring = bank + layout.slots
        return Reading(
            time=time.monotonic(),
            master=_floats(cells[layout.master : layout.master + Master.CELLS]),
            columns=columns,
            totals=totals,
            workers=workers,
            inherited=[number for number in cells[ring : ring + INHERITED] if number],
            first_slot=self.meta["first_slot"],
        )

    def _read_worker(self, slot: int, columns: Columns) -> WorkerReading:
        start = self.layout.slot_at(slot)
        vitals = self.layout.vitals + slot * Vital.CELLS
        gauges = self.gauges(slot)
        return WorkerReading(
            slot=slot,
            gauges=gauges,
            exemplars=self.exemplars(slot) if gauges[Gauge.HAS_EXEMPLARS] else [],
            counters=columns.take(self.cells, start + Gauge.CELLS),
            vitals=_floats(self.cells[vitals : vitals + Vital.CELLS]),
        )


def _close_all(files: Iterable[Descriptor]) -> None:
    for file in files:
        file.close()


def _floats(cells: "memoryview[float]") -> list[float]:
    return cells.tolist()  # type: ignore[return-value]  # typed for bytes only


def busy_seconds(cell: float, now: float) -> float:
    """Return the busy seconds that the cell tells at CLOCK_MONOTONIC `now`.

    A worker subtracts the time when it becomes busy and adds it when it is idle
    again, so that one store does it and the cell is negative while it is busy.
    """
    return cell + now if cell < 0 else cell

"""The metrics of the application: what dead processes counted, folded into one file.

The application counts with prometheus_client in its multi-process mode. Each of
its processes has a file for each kind of metric, KIND_PID.db, and leaves it
behind when it dies. A fold moves the values of such files into KIND_0.db, where
the client's own reader finds them too:

1. KIND_0.db is written anew under another name: the old values, those of the
   dead files, and behind the values a list of the files that are in it now.
2. rename(2) puts it in place.
3. The files on the list are unlinked.
4. The list is cut off.

The rename is what counts: before it every value is in its old place, behind it
in the new one. A reader leaves out the files on the list, and so does the next
fold, which finishes what a killed one has left of the last two steps. Masters
that share a directory fold one at a time, under a lock; readers need none.

A file is on the list by name, inode and ctime. The name alone would also mean
the file of a new process with the same pid, and some file systems give out the
inode of an unlinked file again at once. The ctime of a file whose process is
dead stands still, and a file made later has a later one. A process that is given
the pid of a dead one before its file is folded goes on with that file; it is
left alone for as long as the process lives. So whoever starts on a directory
that was in use before folds once before the first process is started.

Of gauges in the modes `all` and `live...` nothing is kept: a value that is the
process's own goes with the process.

Nothing here imports prometheus_client: the Folder runs in the master, where it
belongs to the application.
"""

import fcntl
import itertools
import json
import math
import os
import posix
import re
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "TOTAL",
    "VARIABLE",
    "Content",
    "FileName",
    "Folder",
    "Key",
    "KeyCache",
    "entry_size",
    "exact_sum",
    "is_format_unknown",
    "list_files",
    "opened",
    "read",
    "total_name",
]

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

# What stands for the pid in the name of the file of those that are gone.
TOTAL = "0"
FILE_NAME = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_(.+)\.db")
# Nine digits: os.kill takes no number beyond a C int.
PID = re.compile(r"[1-9][0-9]{0,8}")

# Source: prometheus_client/mmap_dict.py.
HEADER = struct.Struct("i4x")
INTEGER = struct.Struct("i")
VALUE_AND_TIMESTAMP = struct.Struct("dd")
ALIGNMENT = 8

MAGIC = b"GPROMDED"
# Files for one rename: bounds the list, and by that what is read behind the values.
BATCH = 64
MAX_LIST_BYTES = 16384

LOCK = "gunicorn-prom.lock"
# Files of which none is understood before the format counts as unknown.
MAX_PROBES = 16

# Not to wait for a writer where somebody has put a FIFO.
READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
WRITE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

Entry = tuple[bytes, float, float]
Value = tuple[float, float]


class FileName(NamedTuple):
    """The name of a file of values, in its parts.

    Attributes:
        kind: type of the metrics, with the mode if they are gauges.
        process: pid, or TOTAL.
    """

    kind: str
    process: str
    name: str


class Identity(NamedTuple):
    """What tells a file from all others that had its name."""

    name: str
    inode: int
    ctime_ns: int


class Key(NamedTuple):
    """What an entry counts.

    Attributes:
        family: name of the metric; without `_total` for a counter.
        sample: name of the sample.
        labels: pairs of name and value, sorted.
    """

    family: str
    sample: str
    labels: tuple[tuple[str, str], ...]
    documentation: str


# By the bytes in the file; None: what is no key.
KeyCache = dict[bytes, Key | None]


class Content(NamedTuple):
    """What a file held at one moment.

    Attributes:
        entries: key, value and timestamp of each, up to the first one that is broken.
        used: where the entries end.
        is_sound: all of it was understood; also if there was nothing.
        consumed: the files whose values are in this one.
    """

    status: os.stat_result
    entries: list[Entry]
    used: int
    is_sound: bool
    consumed: frozenset[Identity]

    def identity(self, name: str) -> Identity:
        """Return what tells this file, opened as `name`, from others."""
        return Identity(name, self.status.st_ino, self.status.st_ctime_ns)


def total_name(kind: str) -> str:
    """Return the name of the file that has what dead processes counted."""
    return f"{kind}_{TOTAL}.db"


def list_files(directory: Path) -> list[FileName]:
    """Return the files of values in `directory`, none if it does not exist.

    Raises:
        OSError: the directory cannot be read.
    """
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        return []
    with entries:
        return [
            FileName(match[1], match[2], entry.name)
            for entry in entries
            if (match := FILE_NAME.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False)
        ]


@contextmanager
def opened(path: Path) -> Iterator[int | None]:
    """Open a file for reading; None if it is gone.

    Raises:
        OSError: it is there and cannot be opened.
    """
    try:
        fd = os.open(path, READ_FLAGS)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        posix.close(fd)


def read(fd: int, keys: KeyCache) -> Content:
    """Read a file as far as it is understood, whatever is in it.

    Args:
        keys: is extended by the keys that are not in it yet.

    Raises:
        OSError: it cannot be read.
    """
    status = os.fstat(fd)
    header = os.pread(fd, HEADER.size, 0)
    # A process killed between making its file and sizing it leaves no header.
    used = HEADER.unpack(header)[0] if len(header) == HEADER.size else 0
    length = min(max(used, 0), status.st_size) + MAX_LIST_BYTES
    data = os.pread(fd, length, 0)
    entries, end = _parse(data, min(used, len(data)), keys)
    is_sound = used in (0, end)
    consumed = _parse_list(data[end:]) if is_sound else frozenset()
    return Content(status, entries, end, is_sound, consumed)


def _parse(data: bytes, used: int, keys: KeyCache) -> tuple[list[Entry], int]:
    """Return the entries, and where the last good one ends."""
    entries: list[Entry] = []
    position = HEADER.size
    while position + INTEGER.size <= used:
        length = INTEGER.unpack_from(data, position)[0]
        start = position + INTEGER.size
        value_at = start + _padded(length)
        if length < 0 or value_at + VALUE_AND_TIMESTAMP.size > used:
            break
        raw = data[start : start + length]
        if raw not in keys:
            keys[raw] = _parse_key(raw)
        if keys[raw] is None:
            break
        entries.append((raw, *VALUE_AND_TIMESTAMP.unpack_from(data, value_at)))
        position = value_at + VALUE_AND_TIMESTAMP.size
    return entries, position


def entry_size(raw: bytes) -> int:
    """Return the bytes that a key and what it counts take in a file."""
    return INTEGER.size + _padded(len(raw)) + VALUE_AND_TIMESTAMP.size


def _padded(length: int) -> int:
    # The client always pads, by a whole 8 bytes where none would be needed.
    return length + ALIGNMENT - (length + INTEGER.size) % ALIGNMENT


def _parse_key(raw: bytes) -> Key | None:
    with suppress(ValueError, RecursionError):
        match json.loads(raw.decode()):
            case [str(family), str(sample), dict(labels), str(documentation)]:
                if sample.startswith(family) and all(isinstance(v, str) for v in labels.values()):
                    return Key(family, sample, tuple(sorted(labels.items())), documentation)
    return None


def _parse_list(data: bytes) -> frozenset[Identity]:
    # A list that is just being cut off may be torn. Nothing on it exists any more.
    if data.startswith(MAGIC):
        with suppress(ValueError, TypeError):
            return frozenset(Identity(*item) for item in json.loads(data[len(MAGIC) :]))
    return frozenset()


def is_format_unknown(contents: Iterable[Content]) -> bool:
    """Tell whether files hold something and not one is understood to its end.

    One that is proves that the client writes what we know. The others are broken.
    """
    told = [content.is_sound for content in contents if _holds_something(content)]
    return bool(told) and not any(told)


def _holds_something(content: Content) -> bool:
    return bool(content.entries) or not content.is_sound


def exact_sum(values: Sequence[float]) -> float:
    """Return the sum, rounded once, so that the order of the values does not matter."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):
        return sum(values)  # infinities


def _add(total: Value, value: Value) -> Value:
    # Rounding the total could take a hair from what readers saw before, and
    # Prometheus takes a counter that falls for one that began anew. What rounding
    # drops is kept in place of the timestamp, which sums have no use for.
    parts = (*total, value[0])
    rounded = exact_sum(parts)
    return rounded, exact_sum((*parts, -rounded)) if math.isfinite(rounded) else 0.0


def _lower(total: Value, value: Value) -> Value:
    return value if value[0] < total[0] else total


def _higher(total: Value, value: Value) -> Value:
    return value if value[0] > total[0] else total


def _newer(total: Value, value: Value) -> Value:
    return value if value[1] > total[1] else total


MERGES: dict[str, Callable[[Value, Value], Value]] = {
    "counter": _add,
    "histogram": _add,
    "summary": _add,
    "gauge_sum": _add,
    "gauge_min": _lower,
    "gauge_max": _higher,
    "gauge_mostrecent": _newer,
}
DROPPED = frozenset(
    f"gauge_{mode}"
    for mode in ("all", "liveall", "livemin", "livemax", "livesum", "livemostrecent")
)


class Folder:
    """Fold the files of processes that are gone, in the master.

    A call costs one listing of the directory if there is nothing to do.

    Args:
        directory: where the application's processes have their files.
        is_ours: it was made for this run, so that every process with a file in it
            can be seen from here, and whoever cannot be seen is gone. Otherwise
            some may be in other containers, and only those named are folded.
        warn: is told once if the files are of a format that is not known; they
            are left alone then.
    """

    def __init__(
        self, directory: Path, *, is_ours: bool, warn: Callable[[str], None] | None = None
    ) -> None:
        self._directory = directory
        self._is_ours = is_ours
        self._warn = warn
        self._dead: set[int] = set()
        self._is_folding = False
        self._told_errno: int | None = None
        self._is_first = True
        self._is_format_known = False

    def fold(self, dead: Collection[int] = ()) -> None:
        """Fold the files of processes that are gone.

        Those that cannot be folded now, because another master is at it, are
        folded at a later call. A call out of a signal handler into the middle of
        another returns at once.

        Args:
            dead: pids that this master has reaped.

        Raises:
            OSError: the directory cannot be read or written (the disk is full).
                Nothing is lost; the next call tries again, and does not tell the same again.
        """
        self._dead.update(dead)
        if self._is_folding:
            return
        self._is_folding = True
        told, self._told_errno = self._told_errno, None
        try:
            self._fold()
        except OSError as error:
            self._told_errno = error.errno
            if told is None or error.errno != told:
                raise
        finally:
            self._is_folding = False

    def _fold(self) -> None:
        dead = set(self._dead)  # a signal handler may add to the original
        files = list_files(self._directory)
        pids = {int(file.process) for file in files if PID.fullmatch(file.process)}
        gone = {pid for pid in pids if (self._is_ours or pid in dead) and not _is_alive(pid)}
        work = self._select(files, gone)
        if work:
            with self._locked() as is_locked:
                if not is_locked:
                    return
                if self._knows_format(files):
                    self._fold_files(work)
        self._is_first = False
        # One that lives had the pid of a dead one when it came to its file.
        self._dead.difference_update(dead - (pids - gone))

    def _select(self, files: list[FileName], gone: set[int]) -> dict[str, list[str]]:
        """Return the names of the files to fold, by kind."""
        work: dict[str, list[str]] = {}
        for kind, process, name in files:
            if kind not in MERGES and kind not in DROPPED:
                continue
            if PID.fullmatch(process) and int(process) in gone:
                work.setdefault(kind, []).append(name)
            elif process == TOTAL and self._is_first:
                work.setdefault(kind, [])  # a master before us may have left it unfinished
        return work

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        fd = os.open(self._directory / LOCK, WRITE_FLAGS, 0o600)
        try:
            yield _try_lock(fd)
        finally:
            # Closing alone would not do if a thread has forked meanwhile.
            fcntl.flock(fd, fcntl.LOCK_UN)
            posix.close(fd)

    def _knows_format(self, files: list[FileName]) -> bool:
        if self._is_format_known:
            return True
        contents = (self._read(file.name, {}) for file in files)
        found = (c for c in contents if c is not None and _holds_something(c))
        probes = list(itertools.islice(found, MAX_PROBES))
        self._is_format_known = any(probe.is_sound for probe in probes)
        if is_format_unknown(probes) and self._warn is not None:
            self._warn(
                f"the files in {self._directory} are of a format that is not known: those of "
                "dead processes stay, and a scrape takes longer with each; update gunicorn-prom"
            )
            self._warn = None
        return self._is_format_known

    def _fold_files(self, work: dict[str, list[str]]) -> None:
        # What is dropped comes first: it makes room on a full disk.
        for kind in DROPPED & work.keys():
            for name in work[kind]:
                self._unlink(name)
        keys: KeyCache = {}
        for kind in work.keys() - DROPPED:
            self._fold_kind(kind, work[kind], keys)

    def _fold_kind(self, kind: str, names: list[str], keys: KeyCache) -> None:
        totals = self._finish(kind, keys)
        for start in range(0, len(names), BATCH):
            consumed = []
            for name in names[start : start + BATCH]:
                content = self._read(name, keys)
                if content is not None:  # another master may have folded it
                    _merge(totals, content.entries, kind)
                    consumed.append(content.identity(name))
                    owner = content.status
            if consumed:
                used = self._commit(kind, totals, consumed, owner)
                self._remove(kind, consumed, used)

    def _finish(self, kind: str, keys: KeyCache) -> dict[bytes, Value]:
        """Do what a killed fold has left undone, and return the totals."""
        content = self._read(total_name(kind), keys)
        if content is None:
            return {}
        if content.consumed:
            self._remove(kind, content.consumed, content.used)
        return {raw: (value, timestamp) for raw, value, timestamp in content.entries}

    def _read(self, name: str, keys: KeyCache) -> Content | None:
        with opened(self._directory / name) as fd:
            return None if fd is None else read(fd, keys)

    def _commit(
        self,
        kind: str,
        totals: dict[bytes, Value],
        consumed: list[Identity],
        owner: os.stat_result,
    ) -> int:
        """Put the new totals in place, and return where the list behind them begins."""
        values = _pack(totals)
        path = self._directory / total_name(kind)
        temporary = f"{path}.new"
        try:
            fd = os.open(temporary, WRITE_FLAGS | os.O_TRUNC, 0o600)
            # Written, not mapped: on a full tmpfs a store to a map is a SIGBUS.
            with open(fd, "wb") as file:
                _hand_over(fd, owner)
                file.write(values + MAGIC + json.dumps(consumed).encode())
            os.rename(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return len(values)

    def _remove(self, kind: str, consumed: Iterable[Identity], used: int) -> None:
        """Unlink the files on the list of a kind, then the list."""
        for identity in consumed:
            with suppress(FileNotFoundError):
                status = os.lstat(self._directory / identity.name)
                if (status.st_ino, status.st_ctime_ns) == identity[1:]:
                    self._unlink(identity.name)
        os.truncate(self._directory / total_name(kind), used)

    def _unlink(self, name: str) -> None:
        # The application may clean up by itself (mark_process_dead).
        with suppress(FileNotFoundError):
            os.unlink(self._directory / name)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _merge(totals: dict[bytes, Value], entries: list[Entry], kind: str) -> None:
    merge = MERGES[kind]
    for raw, value, timestamp in entries:
        if raw in totals:
            totals[raw] = merge(totals[raw], (value, timestamp))
        else:
            totals[raw] = (value, 0.0 if merge is _add else timestamp)


def _pack(totals: dict[bytes, Value]) -> bytes:
    parts = [
        INTEGER.pack(len(raw)) + raw.ljust(_padded(len(raw))) + VALUE_AND_TIMESTAMP.pack(*value)
        for raw, value in totals.items()
    ]
    body = b"".join(parts)
    return HEADER.pack(HEADER.size + len(body)) + body


def _hand_over(fd: int, owner: os.stat_result) -> None:
    """Let those read the totals who could read the file of a dead process."""
    os.fchmod(fd, owner.st_mode & 0o777)
    with suppress(PermissionError):  # workers run as another user only under root
        os.fchown(fd, owner.st_uid, owner.st_gid)

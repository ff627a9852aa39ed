"""The labels that are not known beforehand, shared by every process.

A combination of labels lives in a file, one line for each, appended by the
worker that meets it first. O_APPEND makes the append atomic among processes,
so no lock is needed; of two equal lines the first counts. The rank of a
combination among those of its table, from 1, is its row, the same in every
worker, so the cells of two workers are added without looking at their labels.
Row 0 takes what comes when the table is full.
"""

import os
from typing import NamedTuple

from gunicorn_prom.descriptors import Descriptor

__all__ = [
    "ERROR_HANDLING",
    "EXCEPTIONS",
    "FAILED_REQUESTS",
    "HISTOGRAMS",
    "HTTP",
    "OTHER",
    "OVERFLOW_ROW",
    "PARSE_ERRORS",
    "ROUTES",
    "TABLES",
    "TIMEOUTS",
    "UNMATCHED",
    "WORKER_CLASSES",
    "KeyFile",
    "Table",
]

OTHER = "_OTHER"
# The route of requests for which the framework found none.
UNMATCHED = "_UNMATCHED"
OVERFLOW_ROW = 0
MAX_LABEL_LENGTH = 100
SEPARATOR = "\x1f"


class Table(NamedTuple):
    """A family of rows whose labels are found while serving.

    Attributes:
        labels: the label names of a row.
        cap: how many rows it has at the most, besides the one for the rest.
    """

    name: str
    labels: tuple[str, ...]
    cap: int


HTTP = Table("http", ("method", "status"), 128)
EXCEPTIONS = Table("exceptions", ("exception",), 64)
PARSE_ERRORS = Table("parse_errors", ("error",), 32)
FAILED_REQUESTS = Table("failed_requests", ("method", "endpoint", "error_type"), 64)
ERROR_HANDLING = Table("error_handling", ("method", "endpoint", "error_type"), 64)
TIMEOUTS = Table("timeouts", ("route",), 64)
ROUTES = Table("routes", ("method", "route", "status_class"), 500)
WORKER_CLASSES = Table("worker_classes", ("worker_class",), 16)

# The tables that have counters, in the order of their cells.
TABLES = (HTTP, EXCEPTIONS, PARSE_ERRORS, FAILED_REQUESTS, ERROR_HANDLING, TIMEOUTS, ROUTES)
# Those whose rows are histograms of durations; the rows of the others are single counters.
HISTOGRAMS = (HTTP, ROUTES)


class KeyFile:
    """Read and extend the rows of every table.

    Safe without a lock: what a refresh reads replaces what was known before,
    and two threads that read the same file come to the same rows.
    """

    def __init__(self, file: Descriptor) -> None:
        self._file = file
        self._size = -1
        self._rows: dict[str, dict[tuple[str, ...], int]] = {}

    def row(self, table: Table, key: tuple[str, ...]) -> int:
        """Return the row of `key`, appending it when nobody has met it yet.

        Returns OVERFLOW_ROW when the table is full.

        Raises:
            OSError: the file cannot be read or extended (the disk is full).
        """
        key = tuple(_clean(label) for label in key)
        self.refresh()
        for _ in range(2):  # the first append may have met the torn end of another
            if key in self._rows.get(table.name, ()) or self.is_full(table):
                break
            os.write(self._file.fileno(), f"\n{SEPARATOR.join((table.name, *key))}\n".encode())
            self.refresh()
        return self._rows.get(table.name, {}).get(key, OVERFLOW_ROW)

    def is_full(self, table: Table) -> bool:
        """Tell whether `table` takes no further row, by what was last read."""
        return len(self._rows.get(table.name, ())) >= table.cap

    def keys(self, table: Table) -> list[tuple[str, ...]]:
        """Return the keys of `table` in the order of their rows, from row 0."""
        self.refresh()
        return [(OTHER,) * len(table.labels), *self._rows.get(table.name, ())]

    def refresh(self) -> None:
        """Read the file again if it has grown.

        Where somebody has closed it for good, what was read before stays.

        Raises:
            OSError: it cannot be read, and never was.
        """
        try:
            size = self._file.stat().st_size
        except OSError:
            if self._size < 0:
                raise
            return
        if size == self._size:
            return
        rows: dict[str, dict[tuple[str, ...], int]] = {}
        for line in os.pread(self._file.fileno(), size, 0).decode(errors="replace").splitlines():
            name, *labels = line.split(SEPARATOR)
            table = _TABLES_BY_NAME.get(name)
            # An append that the disk cut short leaves a line with too few labels.
            if table is None or len(labels) != len(table.labels):
                continue
            known = rows.setdefault(name, {})
            if len(known) < table.cap:
                known.setdefault(tuple(labels), len(known) + 1)
        self._rows, self._size = rows, size


_TABLES_BY_NAME = {table.name: table for table in (*TABLES, WORKER_CLASSES)}


def _clean(label: str) -> str:
    # splitlines() and the separator must find nothing in a label.
    printable = "".join(char if char.isprintable() else "?" for char in label)
    return printable.encode(errors="replace").decode()[:MAX_LABEL_LENGTH]

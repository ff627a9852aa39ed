"""A worker's own part of the scoreboard."""

import functools
import sys
import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from gunicorn_prom.keys import EXCEPTIONS, FAILED_REQUESTS, HTTP, OTHER, OVERFLOW_ROW, Table
from gunicorn_prom.scoreboard import (
    ABORT_REASONS,
    BOOT_BOUNDS,
    ERROR_PLACES,
    RESTARTS,
    Board,
    Exemplar,
    Gauge,
)

__all__ = ["Failures", "Slot", "tolerant"]

Function = TypeVar("Function", bound=Callable[..., Any])
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class _Reporting(Protocol):
    def report(self, place: str, error: BaseException, /) -> None: ...


def tolerant(
    place: str,
) -> Callable[
    [Callable[Concatenate[Any, Parameters], Result]],
    Callable[Concatenate[Any, Parameters], Result | None],
]:
    """Make a method of ours fit to be called in the middle of what is the server's.

    When it fails that is counted, by the `report` of its object, and None is returned.

    Args:
        place: one of ERROR_PLACES.
    """

    def decorate(
        method: Callable[Concatenate[Any, Parameters], Result],
    ) -> Callable[Concatenate[Any, Parameters], Result | None]:
        @functools.wraps(method)
        def tolerated(
            owner: _Reporting, /, *args: Parameters.args, **kwargs: Parameters.kwargs
        ) -> Result | None:
            try:
                return method(owner, *args, **kwargs)
            except Exception as failure:
                owner.report(place, failure)
                return None

        return tolerated

    return decorate


class Failures:
    """Count what fails of ours in one worker, in that worker; log the first of each place.

    Nothing here raises: it is called where something of ours has just failed, in the middle of
    what is the server's.
    """

    def __init__(self, board: Board, number: int, log: Any) -> None:
        self._cells = board.cells
        self._first = board.layout.slot_at(number) + Gauge.CELLS + board.layout.errors
        self._log = log
        self._reported: set[str] = set()

    def report(self, place: str, error: BaseException) -> None:
        """Count a failure in one of ERROR_PLACES."""
        index = self._first + ERROR_PLACES.index(place)
        self._cells[index] += 1.0
        if place in self._reported:
            return
        self._reported.add(place)
        # The logger may be the user's, and `error` may not be fit to be shown.
        with suppress(Exception):
            self._log.error("gunicorn-prom: metrics of %s failed: %r", place, error)


class Slot:
    """Write the cells of one worker, in that worker.

    Args:
        failures: where what fails of ours is told already, by default nowhere.

    Attributes:
        number: the slot's, 0 and up; the label `worker_id`.
        cells: the whole board, for stores by index.
        bytes: the same as bytes.
        age: the worker's, which no other worker of the master has.
        gauges: index in `cells` of the first cell of `Gauge`.
        counters: index in `cells` of the first counter of `Layout`.
        log: Gunicorn's, for what users should know.
        report: counts a failure of our own, see `Failures.report`.
    """

    def __init__(
        self, board: Board, number: int, log: Any, failures: Failures | None = None
    ) -> None:
        self.number = number
        self.layout = board.layout
        self.cells = board.cells
        self.bytes = board.bytes
        self.gauges = board.layout.slot_at(number)
        self.counters = self.gauges + Gauge.CELLS
        self.age = self.cells[self.gauges + Gauge.AGE]
        self._keys = board.keys
        self._known: dict[str, dict[tuple[str, ...], int]] = {}
        self.log = log
        self._lock = threading.RLock()
        self.report = (failures or Failures(board, number, log)).report

    def exclusive(self, function: Function) -> Function:
        """Return `function` as it must be called when several threads count.

        Under the GIL that is `function` itself: `cells[i] += x` loses nothing there
        as long as `x` is a plain local, because CPython switches threads only at
        calls and backward jumps. Without the GIL it takes a lock.
        """
        if getattr(sys, "_is_gil_enabled", lambda: True)():
            return function

        @functools.wraps(function)
        def locked(*args: Any) -> Any:
            with self._lock:
                return function(*args)

        return locked  # type: ignore[return-value]  # same signature, by wraps

    def set_gauge(self, cell: int, value: float) -> None:
        """Write a cell of `Gauge`."""
        self.cells[self.gauges + cell] = value

    def locate(self, table: Table, key: tuple[str, ...]) -> int:
        """Return the index of the first cell of the row that `key` has.

        When the table is full that is the row of the rest, and the overflow of
        the table is counted: ask once for each thing that is counted.
        """
        known = self._known.setdefault(table.name, {})
        index = known.get(key)
        if index is not None:
            return index
        row = self._find_row(table, key)
        index = self.counters + self.layout.tables[table.name] + row * self.layout.width(table)
        if row == OVERFLOW_ROW:
            self.cells[self.counters + self.layout.overflow[table.name]] += 1.0
        elif len(known) < table.cap:
            known[key] = index
        return index

    def count(self, table: Table, key: tuple[str, ...]) -> None:
        """Count one of `key` in a table of plain counters."""
        with self._lock:
            index = self.locate(table, key)
            self.cells[index] += 1.0

    def count_failed_request(
        self, method: str, error: BaseException, endpoint: str = OTHER
    ) -> None:
        """Count a request that ended in `error`, by its class.

        Args:
            endpoint: its route where a framework tells it, never the raw path.
        """
        name = type(error).__name__
        self.count(EXCEPTIONS, (name,))
        self.count(FAILED_REQUESTS, (method, endpoint, name))

    def count_aborted(self, reason: str) -> None:
        """Count a request that was not answered, or not wholly, for one of ABORT_REASONS."""
        index = self.counters + self.layout.aborted + ABORT_REASONS.index(reason)
        self.cells[index] += 1.0

    def observe_request(self, key: tuple[str, str], elapsed_s: float) -> None:
        """Count a request of method and status `key` of which only the time is known."""
        with self._lock:
            row = self.locate(HTTP, key)
            bucket = row + bisect_left(self.layout.buckets, elapsed_s)
            self.cells[bucket] += 1.0
            self.cells[row + len(self.layout.buckets) + 1] += elapsed_s

    def observe_boot(self, elapsed_s: float) -> None:
        """Count that the worker has booted."""
        first = self.counters + self.layout.boot_seconds
        bucket = first + bisect_left(BOOT_BOUNDS, elapsed_s)
        self.cells[bucket] += 1.0
        self.cells[first + len(BOOT_BOUNDS) + 1] += elapsed_s

    def put_exemplar(self, number: int, fields: Sequence[float]) -> None:
        """Write an exemplar, of which nobody ever reads a part.

        Args:
            number: its place, see `Exemplar`.
            fields: its cells from Exemplar.ROW on.
        """
        first = self.gauges + self.layout.exemplars + number * Exemplar.CELLS
        with self._lock:
            self.cells[first + Exemplar.OWNER] = 0.0
            for cell, value in enumerate(fields, first + Exemplar.ROW):
                self.cells[cell] = float(value)
            self.cells[first + Exemplar.OWNER] = self.age
        self.set_gauge(Gauge.HAS_EXEMPLARS, 1.0)

    def count_restart(self, reason: str) -> None:
        """Count that the worker goes, for one of the reasons in RESTARTS."""
        reasons = [known for _, known in RESTARTS]
        index = self.counters + self.layout.restarts + reasons.index(reason)
        self.cells[index] += 1.0

    def _find_row(self, table: Table, key: tuple[str, ...]) -> int:
        try:
            return self._keys.row(table, key)
        except OSError as error:
            self.report("keys", error)
            return OVERFLOW_ROW

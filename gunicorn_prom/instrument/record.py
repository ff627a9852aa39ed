"""Counting a request: when it began, what came of it. The same for every seam.

A seam calls `begin` when it has read a request, and then one of two: `record` when it
was answered, `end` when nobody will answer it. In between the request has a lane in the
worker's slot, where everybody can see since when it is in progress and what it asks for.
"""

import math
import struct
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

from gunicorn_prom.instrument.headers import QueueTimeError, queue_start, sampled_trace_id
from gunicorn_prom.keys import HTTP, OTHER, ROUTES, UNMATCHED
from gunicorn_prom.scoreboard import (
    CELL_BYTES,
    LANES,
    QUEUE_BOUNDS,
    QUEUE_FAULTS,
    SIZE_BOUNDS,
    STATUS_CLASSES,
    TARGET_BYTES,
    Gauge,
)
from gunicorn_prom.slot import Slot

__all__ = ["KNOWN_METHODS", "InProgress", "Recorder", "method_label"]

KNOWN_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY")
)
STATUSES = range(100, 1000)
# Cuts off what is longer, and fills up what is shorter.
put_target = struct.Struct(f"{TARGET_BYTES}s").pack_into
NO_LANE = -1
NO_POOL = -1.0

# For how long an exemplar stays before the next one takes its place. Nobody scrapes more
# often, and to write one costs more than all the rest.
EXEMPLAR_PERIOD_S = 1.0

QUEUE_HEADERS = ("HTTP_X_REQUEST_START", "HTTP_X_QUEUE_START")

Environ = Mapping[str, Any]
# Where a method and a status are counted: the first cell of their row, and by route that of
# the route's row. It is remembered for rows of their own only, so tables bound it.
Row = tuple[int, dict[str, int]]
# A request that has begun: CLOCK_MONOTONIC seconds, the lane that it has, NO_LANE when all
# were taken, and the seconds that it waited for a thread, NO_POOL where there is no pool. A
# tuple without names is made for a tenth of what one with names costs.
InProgress = tuple[float, int, float]


def method_label(method: Any) -> str:
    """Return the method where it is one that HTTP knows, else OTHER."""
    return method if method in KNOWN_METHODS else OTHER


class Recorder:
    """Count the requests of one worker, in that worker.

    Args:
        shows_targets: whether what each request asks for is written to its lane.

    Attributes:
        waits: by thread, the seconds for which the connection that it has just taken up
            waited for it; in gthread.
        find_route: returns the route of a request from its environ, "" when it is not to
            be counted by route; None: no request is.
        has_framework: whether there is a framework that notes routes.
        watch_memory: called when a request begins and the time that it returned last has
            come, by CLOCK_MONOTONIC seconds.
        begin: takes method and path, returns what `end` and `record` want.
        end: ends a request that nobody answers, returns its seconds.
        record: ends a request that was answered and counts it; takes what `begin`
            returned, method, status code, the environ and the bytes of the body.
    """

    def __init__(self, slot: Slot, *, shows_targets: bool = False) -> None:
        self._slot = slot
        # By method, then by status: a look-up each is cheaper than to hash a pair.
        self._rows: dict[str, dict[int, Row]] = {method: {} for method in KNOWN_METHODS}
        # By the cell of method, status and bucket, CLOCK_MONOTONIC seconds.
        self._exemplar_due: dict[int, float] = {}
        self.waits: dict[int, float] = {}
        self.find_route: Callable[[Environ], str] | None = None
        self.has_framework = False
        self.watch_memory: Callable[[float], float] = lambda now: math.inf
        begin, end = self._make_stopwatch(shows_targets=shows_targets)
        self.begin: Callable[[str, str], InProgress] = slot.exclusive(begin)
        self.end: Callable[[InProgress], float] = slot.exclusive(end)
        self.record: Callable[..., None] = slot.exclusive(self._make_record(end))

    def note_framework(self) -> None:
        """Note that there is a framework that notes routes."""
        self.has_framework = True

    def request_count(self) -> int:
        """Return how many requests were answered so far."""
        first = self._slot.counters + self._slot.layout.response_size
        return int(sum(self._slot.cells[first : first + len(SIZE_BOUNDS) + 1]))

    def endpoint(self, environ: Environ) -> str:
        """Return the route of a request for the families of errors, OTHER where there is none."""
        route = self.find_route(environ) if self.find_route is not None else ""
        return route if route not in ("", UNMATCHED) else OTHER

    def _make_stopwatch(
        self, *, shows_targets: bool
    ) -> tuple[Callable[[str, str], InProgress], Callable[[InProgress], float]]:
        """Return `begin` and `end`.

        What stands between two calls in them is not interrupted, see `Slot.exclusive`.
        """
        slot = self._slot
        cells, text = slot.cells, slot.bytes
        beyond_lanes = slot.gauges + Gauge.BEYOND_LANES
        busy = slot.counters + slot.layout.busy_seconds
        first_lane = slot.gauges + Gauge.FIRST_LANE
        first_target = (slot.gauges + slot.layout.targets) * CELL_BYTES
        free_lanes = list(range(LANES - 1, -1, -1))
        take_lane, give_lane = free_lanes.pop, free_lanes.append
        waits, take_wait, ident = self.waits, self.waits.pop, threading.get_ident
        monotonic = time.monotonic
        # What was last stored; to add to it here is cheaper than to read the cell.
        active, busy_total = 0, 0.0
        memory_due = 0.0

        def begin(method: str, path: str) -> InProgress:
            nonlocal active, busy_total, memory_due
            now = monotonic()
            try:
                lane = take_lane()
            except IndexError:
                lane = NO_LANE
                cells[beyond_lanes] += 1.0
            else:
                if shows_targets:
                    at = first_target + lane * TARGET_BYTES
                    put_target(text, at, f"{method} {path}".encode("utf-8", "replace"))
                cells[first_lane + lane] = now
            if not active:
                busy_total -= now
                cells[busy] = busy_total
            active += 1
            if now >= memory_due:
                memory_due = self.watch_memory(now)
            return now, lane, take_wait(ident(), NO_POOL) if waits else NO_POOL

        def end(request: InProgress) -> float:
            nonlocal active, busy_total
            now = monotonic()
            began, lane, _ = request
            if lane >= 0:
                cells[first_lane + lane] = 0.0
                give_lane(lane)
            else:
                cells[beyond_lanes] -= 1.0
            active -= 1
            if not active:
                busy_total += now
                cells[busy] = busy_total
            return now - began

        return begin, end

    def _make_record(self, end: Callable[[InProgress], float]) -> Callable[..., None]:
        slot = self._slot
        cells, layout = slot.cells, slot.layout
        buckets = layout.buckets
        duration_sum, size_sum = len(buckets) + 1, len(SIZE_BOUNDS) + 1
        pool = slot.counters + layout.queue["pool"]
        pool_sum = pool + len(QUEUE_BOUNDS) + 1
        request_size, response_size = (
            slot.counters + place for place in (layout.request_size, layout.response_size)
        )
        rows, exemplar_due = self._rows, self._exemplar_due

        def record(
            request: InProgress, method: Any, status: Any, environ: Environ, body: float
        ) -> None:
            elapsed = end(request)
            waited = request[2]
            try:
                row, route_rows = rows[method][status]
            except KeyError:
                row, route_rows = self._find_row(method, status)
            bucket = bisect_left(buckets, elapsed)
            counted = row + bucket
            cells[counted] += 1.0
            cells[row + duration_sum] += elapsed
            if "CONTENT_LENGTH" in environ:
                size = float(environ["CONTENT_LENGTH"] or 0)
                at = request_size + bisect_left(SIZE_BOUNDS, size)
                cells[at] += 1.0
                cells[request_size + size_sum] += size
            else:
                cells[request_size] += 1.0
            at = response_size + bisect_left(SIZE_BOUNDS, body)
            cells[at] += 1.0
            cells[response_size + size_sum] += body
            if self.find_route is not None:
                route = self.find_route(environ)
                if route:
                    try:
                        row = route_rows[route]
                    except KeyError:
                        row = self._find_route_row(route_rows, method, route, status)
                    at = row + bucket
                    cells[at] += 1.0
                    cells[row + duration_sum] += elapsed
            if waited >= 0:
                at = pool + bisect_left(QUEUE_BOUNDS, waited)
                cells[at] += 1.0
                cells[pool_sum] += waited
            if "HTTP_X_REQUEST_START" in environ or "HTTP_X_QUEUE_START" in environ:
                self._observe_proxy(environ, time.time() - elapsed - max(0.0, waited))
            if "HTTP_TRACEPARENT" in environ:
                traceparent, ended = environ["HTTP_TRACEPARENT"], request[0] + elapsed
                is_due = ended >= exemplar_due.get(counted, 0.0)
                if is_due and self._keep_exemplar(traceparent, method, status, elapsed, bucket):
                    exemplar_due[counted] = ended + EXEMPLAR_PERIOD_S

        return record

    def _find_row(self, method: Any, status: Any) -> Row:
        slot = self._slot
        row = slot.locate(HTTP, (method_label(method), _status_label(status)))
        is_overflow = row == slot.counters + slot.layout.tables[HTTP.name]
        found: Row = (row, {})
        if status in STATUSES and method in self._rows and not is_overflow:
            self._rows[method][status] = found
        return found

    def _find_route_row(self, known: dict[str, int], method: Any, route: str, status: Any) -> int:
        slot = self._slot
        label = _status_label(status)
        status_class = label if label == OTHER else f"{label[0]}xx"
        row = slot.locate(ROUTES, (method_label(method), route, status_class))
        is_overflow = row == slot.counters + slot.layout.tables[ROUTES.name]
        if not is_overflow:
            known[route] = row
        return row

    def _observe_proxy(self, environ: Environ, arrived: float) -> None:
        """Count how long a request was on its way from the proxy.

        Args:
            arrived: Unix seconds at which it came to this worker.
        """
        header = next(environ[name] for name in QUEUE_HEADERS if name in environ)
        cells, counters, layout = self._slot.cells, self._slot.counters, self._slot.layout
        try:
            seconds = max(0.0, arrived - queue_start(header, arrived))
        except QueueTimeError as error:
            cells[counters + layout.queue_faults + QUEUE_FAULTS.index(error.fault)] += 1.0
            return
        first = counters + layout.queue["proxy"]
        at = first + bisect_left(QUEUE_BOUNDS, seconds)
        cells[at] += 1.0
        cells[first + len(QUEUE_BOUNDS) + 1] += seconds

    def _keep_exemplar(
        self, traceparent: str, method: Any, status: Any, elapsed: float, bucket: int
    ) -> bool:
        """Write the exemplar of a request if it is sampled; tell whether it was."""
        trace_id = sampled_trace_id(traceparent)
        if not trace_id:
            return False
        slot = self._slot
        known = slot.locate(HTTP, (method_label(method), _status_label(status)))
        table = slot.counters + slot.layout.tables[HTTP.name]
        status_class = status // 100 if status in range(100, 100 * STATUS_CLASSES) else 0
        number = status_class * (len(slot.layout.buckets) + 1) + bucket
        words = [float(int(trace_id[at : at + 8], 16)) for at in range(0, 32, 8)]
        row = (known - table) // slot.layout.width(HTTP)
        slot.put_exemplar(number, (row, elapsed, time.time(), *words))
        return True


def _status_label(status: Any) -> str:
    return str(status) if isinstance(status, int) and status in STATUSES else OTHER

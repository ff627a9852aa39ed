"""What a server did in the last minutes, in the process of the metrics server.

Counters are noted every few seconds. What is told of a time is the difference of what
they were at its two ends, so the server is never asked for more than its counts.
"""

import itertools
import marshal
import math
import time
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn_prom import __version__, keys
from gunicorn_prom.processes import brief_facts
from gunicorn_prom.reader import LAYOUT, ServerReading, Worker
from gunicorn_prom.scoreboard import (
    ABORT_REASONS,
    EXIT_REASONS,
    QUEUE_BOUNDS,
    Gauge,
    Vital,
    busy_seconds,
)

__all__ = [
    "INTERVAL_S",
    "POINTS",
    "WINDOW_S",
    "Change",
    "History",
    "Point",
    "Sample",
    "Source",
    "WorkerKey",
    "WorkerRates",
    "WorkerSample",
    "key_of",
    "quantile",
    "take_sample",
]

INTERVAL_S = 5.0
POINTS = 60
WINDOW_S = 60.0
# Two samples nearer to each other make no rate.
SHORTEST_S = 1.0
# Of `marshal`: what every Python that we run on reads, for the next master may have another.
MARSHAL_VERSION = 4

# Pid and start: no other worker ever has both.
WorkerKey = tuple[float, float]


class Source(NamedTuple):
    """What must be the same for two samples to be compared: the server, and its buckets."""

    directory: Path
    buckets: tuple[float, ...]


class WorkerSample(NamedTuple):
    """The counters of a worker at one moment; CPU is None where it cannot be known."""

    requests: float
    busy_seconds: float
    cpu_seconds: float | None


class Sample(NamedTuple):
    """The counters of a server at one moment.

    Attributes:
        source: what the samples of one series have in common.
        exits: by reason, as EXIT_REASONS has them.
        durations: cells of the histogram of all requests.
        time: CLOCK_MONOTONIC seconds.
        failures: requests that were answered 5xx, or not to their end, but for clients who left.
        unanswered: those of them, or of the worker's timeout, that got no answer.
        pool_wait_s: of all connections together, of which there were `pool_waits`.
        used: seconds of the capacity that were in use since the first sample, see `_used`.
        capacity: seconds of capacity that there were since then.
        in_progress: requests at the moment.
        in_use: those of them in workers that have a capacity.
        room: the capacity at the moment, 0 where nothing limits it.
    """

    source: Source
    workers: dict[WorkerKey, WorkerSample]
    exits: list[float]
    durations: list[float]
    time: float
    requests: float
    failures: float
    unanswered: float
    aborted: float
    pool_wait_s: float
    pool_waits: float
    used: float
    capacity: float
    in_progress: float
    in_use: float
    room: float


# Where the fields of a sample begin that are numbers.
FIRST_NUMBER = Sample._fields.index("time")


class WorkerRates(NamedTuple):
    """What a worker has done in a time, by the second; None where that is not known."""

    request_rate: float | None = None
    busy_share: float | None = None
    cpu_share: float | None = None


class Point(NamedTuple):
    """A row of the history; None where something is not known.

    Attributes:
        time: Unix seconds.
        workers: that have booted and are not about to go.
    """

    time: float
    request_rate: float | None = None
    error_share: float | None = None
    latency_p99_s: float | None = None
    saturation: float | None = None
    in_progress: float | None = None
    backlog: float | None = None
    waiting: float | None = None
    memory_pss_bytes: float | None = None
    workers: float = 0


class Change:
    """What happened between two samples of a server.

    Every value is None where nothing tells it: there was no request, no capacity, or not
    enough time. No value is negative, whatever the samples say.

    Args:
        then: the older sample; the same as `now` when there is none.
    """

    def __init__(self, then: Sample, now: Sample) -> None:
        self._then = then
        self._now = now
        self.seconds = now.time - then.time

    @property
    def request_rate(self) -> float | None:
        """Requests answered in a second."""
        return self._rate(self._now.requests - self._then.requests)

    @property
    def aborted_rate(self) -> float | None:
        """Requests in a second that did not come to their end."""
        return self._rate(self._now.aborted - self._then.aborted)

    def _rate(self, count: float) -> float | None:
        return max(0.0, count) / self.seconds if self.seconds >= SHORTEST_S else None

    @property
    def error_share(self) -> float | None:
        """Which part of the requests failed: 5xx, no answer, or a part of one."""
        requests = self._now.requests - self._then.requests
        requests += self._now.unanswered - self._then.unanswered
        return min(1.0, self.failures / requests) if requests > 0 else None

    @property
    def failures(self) -> float:
        """How many requests failed."""
        return max(0.0, self._now.failures - self._then.failures)

    @property
    def saturation(self) -> float | None:
        """Which part of the capacity was in use, 0 to 1; at the moment where no time has passed."""
        then, now = self._then, self._now
        if now.capacity > then.capacity:
            return min(1.0, max(0.0, now.used - then.used) / (now.capacity - then.capacity))
        return min(1.0, now.in_use / now.room) if now.room else None

    @property
    def pool_wait_s(self) -> float | None:
        """Mean seconds that a connection waited for a thread."""
        seconds = self._now.pool_wait_s - self._then.pool_wait_s
        count = self._now.pool_waits - self._then.pool_waits
        return max(0.0, seconds) / count if count > 0 else None

    @property
    def exits(self) -> list[float]:
        """How many workers have exited, for each of EXIT_REASONS."""
        return [max(0.0, a - b) for a, b in zip(self._now.exits, self._then.exits, strict=True)]

    def latency_s(self, share: float) -> float | None:
        """Return the duration that this share of the requests did not exceed, estimated."""
        pairs = zip(self._now.durations, self._then.durations, strict=True)
        return quantile(share, self._now.source.buckets, [max(0.0, a - b) for a, b in pairs])


class History:
    """The last samples of a server, and a row of figures for each of the last minutes' ones.

    Kept as arrays of fixed size: small objects that stay, between those of the readings
    that go, would hold up far more memory than they take.
    """

    def __init__(self) -> None:
        self._rows = array("d", [math.nan]) * (POINTS * len(Point._fields))
        self._row_count = 0
        self._source: Source | None = None
        self._samples: deque[array[float]] = deque(maxlen=int(WINDOW_S / INTERVAL_S) + 1)

    @property
    def points(self) -> list[Point]:
        """The rows, oldest first."""
        width = len(Point._fields)
        first = max(0, self._row_count - POINTS)
        points = []
        for number in range(first, self._row_count):
            start = number % POINTS * width
            cells: Any = (
                None if math.isnan(cell) else cell for cell in self._rows[start : start + width]
            )
            points.append(Point(*cells))
        return points

    @property
    def last(self) -> Sample | None:
        """The newest sample, None when there is none."""
        return self._unpack(self._samples[-1]) if self._samples else None

    def add(self, sample: Sample | None, row: Point) -> None:
        """Note a sample, None when no server was there.

        Args:
            row: that of the moment; what the sample tells is put into it.
        """
        source = sample.source if sample is not None else None
        if source != self._source:
            self._samples.clear()
            self._source = source
        if sample is None:
            self._put(row)
            return
        change = Change(self.last or sample, sample)
        figures = row._replace(
            request_rate=change.request_rate,
            error_share=change.error_share,
            latency_p99_s=change.latency_s(0.99),
            saturation=change.saturation,
            in_progress=sample.in_progress,
        )
        self._put(figures)
        self._samples.append(_pack(sample))

    def _put(self, row: Point) -> None:
        start = self._row_count % POINTS * len(row)
        for cell, value in enumerate(row, start):
            self._rows[cell] = math.nan if value is None else value
        self._row_count += 1

    def dump(self) -> bytes:
        """Return what is known, for the `load` of another metrics server of the same server."""
        if self._source is None:
            return b""
        directory, buckets = self._source
        samples = [packed.tobytes() for packed in self._samples]
        known = (str(directory), buckets, self._row_count, self._rows.tobytes(), samples)
        return marshal.dumps((__version__, known), MARSHAL_VERSION)

    def load(self, dumped: bytes) -> None:
        """Go on from what was dumped, unless another version has done that.

        Raises:
            ValueError, TypeError, EOFError: it is not what `dump` returns.
        """
        version, known = marshal.loads(dumped)
        if version == __version__:
            directory, buckets, self._row_count, rows, samples = known
            self._source = Source(Path(directory), buckets)
            self._rows = array("d", rows)
            self._samples.extend(array("d", packed) for packed in samples)

    def change(self, now: Sample) -> Change:
        """Return what has happened in the window that ends with `now`."""
        return Change(next(self._window(now), now), now)

    def worker_rates(self, now: Sample) -> dict[WorkerKey, WorkerRates]:
        """Return what each worker has done in the window, or in what of it is known."""
        rates: dict[WorkerKey, WorkerRates] = dict.fromkeys(now.workers, WorkerRates())
        missing = set(now.workers)
        for then in self._window(now):
            seconds = now.time - then.time
            if seconds >= SHORTEST_S:
                for key in missing & then.workers.keys():
                    rates[key] = _rates(then.workers[key], now.workers[key], seconds)
                missing -= then.workers.keys()
            if not missing:
                break
        return rates

    def _window(self, now: Sample) -> Iterator[Sample]:
        """Return the samples of the window, oldest first."""
        if now.source == self._source:
            for packed in self._samples:
                sample = self._unpack(packed)
                if now.time - sample.time <= WINDOW_S:
                    yield sample

    def _unpack(self, packed: "array[float]") -> Sample:
        assert self._source is not None  # set with the first sample
        cells = iter(packed)
        exits = list(itertools.islice(cells, len(EXIT_REASONS)))
        durations = list(itertools.islice(cells, len(self._source.buckets) + 2))
        numbers = list(itertools.islice(cells, len(Sample._fields) - FIRST_NUMBER))
        workers = {
            (pid, started): WorkerSample(requests, busy, None if math.isnan(cpu) else cpu)
            for pid, started, requests, busy, cpu in zip(*[cells] * 5, strict=True)
        }
        return Sample(self._source, workers, exits, durations, *numbers)


def _pack(sample: Sample) -> "array[float]":
    numbers: Any = sample[FIRST_NUMBER:]
    packed = array("d", [*sample.exits, *sample.durations, *numbers])
    for key, worker in sample.workers.items():
        cpu_seconds = math.nan if worker.cpu_seconds is None else worker.cpu_seconds
        packed.extend((*key, worker.requests, worker.busy_seconds, cpu_seconds))
    return packed


def _rates(then: WorkerSample, now: WorkerSample, seconds: float) -> WorkerRates:
    cpu_share = None
    if then.cpu_seconds is not None and now.cpu_seconds is not None:
        cpu_share = max(0.0, now.cpu_seconds - then.cpu_seconds) / seconds
    return WorkerRates(
        request_rate=max(0.0, now.requests - then.requests) / seconds,
        busy_share=min(1.0, max(0.0, now.busy_seconds - then.busy_seconds) / seconds),
        cpu_share=cpu_share,
    )


def key_of(worker: Worker) -> WorkerKey:
    """Return what tells a worker from all others, also those that had its slot."""
    return worker.slot.gauges[Gauge.PID], worker.slot.gauges[Gauge.START_TIME]


def take_sample(
    server: ServerReading, directory: Path, namespace: str, last: Sample | None
) -> Sample | None:
    """Return the counters of a server now, None when no server is there.

    Args:
        namespace: of the pids that can be looked at from here.
        last: the sample before, if there was one.
    """
    totals = server.totals
    if not totals.fixed:
        return None
    answered = totals.tables[keys.HTTP.name]
    width = len(totals.buckets) + 2
    durations = [sum(column) for column in zip(*answered.values(), strict=True)] or [0.0] * width
    pool = totals.fixed[LAYOUT.queue["pool"] :][: len(QUEUE_BOUNDS) + 2]
    source = Source(directory, totals.buckets)
    if last is not None and last.source != source:
        last = None
    errors = sum(sum(cells[:-1]) for (_, status), cells in answered.items() if status[0] == "5")
    aborted = dict(zip(ABORT_REASONS, totals.fixed[LAYOUT.aborted :], strict=False))
    now = time.monotonic()
    elapsed_s = now - last.time if last is not None else 0.0
    arrived = [worker for worker in server.workers if worker.slot.gauges[Gauge.PID]]
    workers = {key_of(worker): _sample_worker(worker, namespace) for worker in arrived}
    limited = [worker for worker in arrived if worker.slot.gauges[Gauge.CAPACITY]]
    room = sum(worker.slot.gauges[Gauge.CAPACITY] for worker in limited)
    return Sample(
        time=now,
        requests=sum(durations[:-1]),
        failures=errors + sum(aborted.values()) - aborted["client_disconnect"],
        unanswered=aborted["no_response"] + aborted["timeout"],
        aborted=sum(aborted.values()),
        pool_wait_s=pool[-1],
        pool_waits=sum(pool[:-1]),
        used=(last.used if last else 0.0) + _used(limited, workers, last, elapsed_s),
        capacity=(last.capacity if last else 0.0) + room * elapsed_s,
        in_progress=sum(worker.slot.in_progress for worker in arrived),
        in_use=sum(worker.slot.in_progress for worker in limited),
        room=room,
        exits=totals.fixed[LAYOUT.exits :][: len(EXIT_REASONS)],
        durations=durations,
        workers=workers,
        source=source,
    )


def _sample_worker(worker: Worker, namespace: str) -> WorkerSample:
    counters, columns = worker.slot.counters, worker.reading.columns
    start, width = columns.tables[keys.HTTP.name], columns.layout.width(keys.HTTP)
    end = start + len(columns.keys[keys.HTTP.name]) * width
    # All cells of the rows, less the last one of each, which has seconds.
    requests = sum(counters[start:end]) - sum(counters[start + width - 1 : end : width])
    busy = busy_seconds(counters[LAYOUT.busy_seconds], worker.reading.time)
    return WorkerSample(requests, busy, _cpu_seconds(worker, namespace))


def _cpu_seconds(worker: Worker, namespace: str) -> float | None:
    if worker.board.meta["pid_namespace"] == namespace:
        try:
            return brief_facts(int(worker.slot.gauges[Gauge.PID]))[0]
        except (OSError, ValueError, IndexError):
            return None  # it has just ended, or /proc cannot be read
    return worker.slot.vitals[Vital.CPU_SECONDS] if worker.slot.vitals[Vital.THREADS] else None


def _used(
    workers: Sequence[Worker],
    samples: Mapping[WorkerKey, WorkerSample],
    last: Sample | None,
    elapsed_s: float,
) -> float:
    """Return how much of the capacity was used since the last sample, in seconds.

    Of a worker that serves one request at a time its busy seconds say that exactly. Of one
    that serves several, what is in progress at the moment stands for the time since then.
    """
    used = 0.0
    for worker in workers:
        key, capacity = key_of(worker), worker.slot.gauges[Gauge.CAPACITY]
        before = last.workers.get(key) if last is not None else None
        if capacity == 1 and before is not None:
            used += min(elapsed_s, max(0.0, samples[key].busy_seconds - before.busy_seconds))
        else:
            used += min(worker.slot.in_progress, capacity) * elapsed_s
    return used


def quantile(share: float, bounds: Sequence[float], cells: Sequence[float]) -> float | None:
    """Estimate a quantile as Prometheus does: evenly spread within a bucket.

    Above all bounds it is the highest of them.

    Source: histogram_quantile in Prometheus's documentation.

    Args:
        cells: the count of each bucket, of that above all bounds, and a last one that is
            not looked at.

    Returns:
        None when nothing is counted.
    """
    counts = list(itertools.accumulate(cells[:-1]))
    if not counts[-1] > 0:
        return None
    rank = share * counts[-1]
    bucket = bisect_left(counts, rank)
    if bucket >= len(bounds):
        return bounds[-1]
    lower = bounds[bucket - 1] if bucket else 0.0
    before = counts[bucket - 1] if bucket else 0.0
    return lower + (bounds[bucket] - lower) * (rank - before) / (counts[bucket] - before)

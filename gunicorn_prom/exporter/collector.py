"""From the scoreboard to families of metrics."""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from gunicorn_prom import keys, metrics
from gunicorn_prom.metrics import Family
from gunicorn_prom.processes import Processes, ProcessFacts
from gunicorn_prom.scoreboard import (
    ABORT_REASONS,
    ERROR_PLACES,
    GC_GENERATIONS,
    SIZE_BOUNDS,
    Board,
    Gauge,
    Master,
    Reading,
    State,
    WorkerReading,
    busy_seconds,
)

__all__ = ["ScoreboardCollector"]

WORKER_STATES = ("booting", "idle", "busy", "quitting")
OVERFLOW_FAMILIES = {
    keys.HTTP.name: metrics.HTTP_REQUESTS.name,
    keys.EXCEPTIONS.name: metrics.HTTP_EXCEPTIONS.name,
    keys.PARSE_ERRORS.name: metrics.HTTP_PARSE_ERRORS.name,
    keys.FAILED_REQUESTS.name: metrics.FAILED_REQUESTS.name,
    keys.ERROR_HANDLING.name: metrics.ERROR_HANDLING.name,
}

Labels = Sequence[str]


class ScoreboardCollector:
    """Collect all families of one scoreboard, in the process of the metrics server."""

    def __init__(self, board: Board, log: Any) -> None:
        self._board = board
        self._log = log
        self._processes = Processes()
        self._own_errors = dict.fromkeys(ERROR_PLACES, 0)
        # By slot: age and busy seconds last shown. What a busy worker shows is
        # counted up to now, a hair more than it may add in the end.
        self._busy_shown: dict[int, tuple[float, float]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they stand now."""
        began = time.monotonic()
        reading = self._board.read()
        for part in (self._http, self._server, self._workers, self._process_facts):
            try:
                families = list(part(reading))
            except Exception as error:
                self._report("collector", error)
            else:
                yield from families
        yield self._errors(reading)
        yield _single(metrics.SCRAPE_DURATION, time.monotonic() - began)

    def _http(self, reading: Reading) -> Iterator[Metric]:
        layout, totals = self._board.layout, reading.totals
        requests, durations = _counter(metrics.HTTP_REQUESTS), _histogram(metrics.HTTP_DURATION)
        by_class: dict[tuple[str, str], list[float]] = {}
        for (method, status), cells in self._http_rows(reading, totals):
            requests.add_metric((method, status), sum(cells[:-1]))
            label = (method, status if status == keys.OTHER else f"{status[0]}xx")
            known = by_class.get(label)
            by_class[label] = [a + b for a, b in zip(known, cells, strict=True)] if known else cells
        for label, cells in by_class.items():
            _add_histogram(durations, label, layout.buckets, cells)
        yield requests
        yield durations
        for family, start in (
            (metrics.HTTP_REQUEST_SIZE, layout.request_size),
            (metrics.HTTP_RESPONSE_SIZE, layout.response_size),
        ):
            sizes = _histogram(family)
            _add_histogram(sizes, (), SIZE_BOUNDS, totals[start : start + len(SIZE_BOUNDS) + 2])
            yield sizes
        in_progress = sum(worker.in_progress for worker in reading.workers)
        yield _single(metrics.HTTP_IN_PROGRESS, in_progress)
        yield _fixed(metrics.HTTP_ABORTED, ABORT_REASONS, totals[layout.aborted :])
        for table, family in (
            (keys.EXCEPTIONS, metrics.HTTP_EXCEPTIONS),
            (keys.PARSE_ERRORS, metrics.HTTP_PARSE_ERRORS),
            (keys.FAILED_REQUESTS, metrics.FAILED_REQUESTS),
            (keys.ERROR_HANDLING, metrics.ERROR_HANDLING),
        ):
            yield _table(family, table, reading)

    def _http_rows(
        self, reading: Reading, counters: Sequence[float]
    ) -> Iterator[tuple[tuple[str, str], list[float]]]:
        width = self._board.layout.width(keys.HTTP)
        start = reading.columns.tables[keys.HTTP.name]
        for method, status in reading.columns.keys[keys.HTTP.name]:
            cells = list(counters[start : start + width])
            if any(cells) or (method, status) != (keys.OTHER, keys.OTHER):
                yield (method, status), cells
            start += width

    def _server(self, reading: Reading) -> Iterator[Metric]:
        meta = self._board.meta
        classes = self._board.keys.keys(keys.WORKER_CLASSES)
        worker_class = classes[int(reading.master[Master.WORKER_CLASS])][0]
        info = _gauge(metrics.INFO)
        info.add_metric(
            (meta["version"], meta["python_version"], worker_class, meta["gunicorn_prom_version"]),
            1,
        )
        yield info
        states = [_state_of(worker) for worker in reading.workers]
        yield _fixed(metrics.WORKERS, WORKER_STATES, [states.count(s) for s in WORKER_STATES])
        yield _single(metrics.WORKERS_TARGET, reading.master[Master.TARGET])
        layout = self._board.layout
        names = [OVERFLOW_FAMILIES[table.name] for table in keys.TABLES]
        counts = [reading.totals[layout.overflow[table.name]] for table in keys.TABLES]
        yield _fixed(metrics.SERIES_OVERFLOW, names, counts)

    def _workers(self, reading: Reading) -> Iterator[Metric]:
        # A worker that has been forked but has not come to its slot has nothing to say.
        workers = [w for w in reading.workers if w.gauges[Gauge.PID]]
        to_unix = time.time() - reading.time
        info, requests = _gauge(metrics.WORKER_INFO), _counter(metrics.WORKER_REQUESTS)
        durations, states = _histogram(metrics.WORKER_DURATION), _gauge(metrics.WORKER_STATE)
        busy = _counter(metrics.WORKER_BUSY_SECONDS)
        start_time, uptime = _gauge(metrics.WORKER_START_TIME), _gauge(metrics.WORKER_UPTIME)
        in_progress, capacity = _gauge(metrics.WORKER_IN_PROGRESS), _gauge(metrics.WORKER_CAPACITY)
        heartbeat, oldest = _gauge(metrics.WORKER_HEARTBEAT), _gauge(metrics.WORKER_OLDEST_REQUEST)
        collections = _counter(metrics.WORKER_GC_COLLECTIONS)
        pauses = _counter(metrics.WORKER_GC_PAUSE)
        layout = self._board.layout
        for worker in workers:
            slot, gauges = str(worker.slot), worker.gauges
            started = gauges[Gauge.START_TIME]
            age = str(int(gauges[Gauge.AGE]))
            unique_id = f"worker_{age}_{int(started)}"
            info.add_metric((slot, str(int(gauges[Gauge.PID])), age, unique_id), 1)
            rows = [cells for _, cells in self._http_rows(reading, worker.counters)]
            cells = [sum(column) for column in zip(*rows, strict=True)]
            cells = cells or [0.0] * layout.width(keys.HTTP)
            requests.add_metric((slot,), sum(cells[:-1]))
            _add_histogram(durations, (slot,), layout.buckets, cells)
            state = State.NAMES[_lifecycle_state(worker)]
            for name in State.NAMES:
                states.add_metric((slot, name), float(name == state))
            busy.add_metric((slot,), self._busy_seconds(worker, reading.time))
            start_time.add_metric((slot,), started)
            uptime.add_metric((slot,), max(0.0, time.time() - started))
            in_progress.add_metric((slot,), worker.in_progress)
            capacity.add_metric((slot,), gauges[Gauge.CAPACITY])
            if worker.heartbeat:
                heartbeat.add_metric((slot,), worker.heartbeat + to_unix)
            if worker.lanes:
                oldest.add_metric((slot,), min(worker.lanes) + to_unix)
            for number, generation in enumerate(GC_GENERATIONS):
                label = (slot, generation)
                collections.add_metric(label, worker.counters[layout.gc_collections + number])
                pauses.add_metric(label, worker.counters[layout.gc_pause_seconds + number])
        self._busy_shown = {w.slot: self._busy_shown[w.slot] for w in workers}
        yield from (
            info, requests, durations, states, busy, start_time, uptime,
            in_progress, capacity, heartbeat, oldest, collections, pauses,
        )  # fmt: skip

    def _busy_seconds(self, worker: WorkerReading, now: float) -> float:
        age = worker.gauges[Gauge.AGE]
        seconds = busy_seconds(worker.counters[self._board.layout.busy_seconds], now)
        shown_age, shown = self._busy_shown.get(worker.slot, (age, 0.0))
        if shown_age == age:
            seconds = max(seconds, shown)
        self._busy_shown[worker.slot] = (age, seconds)
        return seconds

    def _process_facts(self, reading: Reading) -> Iterator[Metric]:
        workers = [w for w in reading.workers if w.gauges[Gauge.PID]]
        pids = [(int(w.gauges[Gauge.PID]), w.gauges[Gauge.START_TIME]) for w in workers]
        try:
            facts = self._processes.read(pids)
        except Exception as error:
            self._report("processes", error)
            facts = [None] * len(pids)
        pairs = [(str(w.slot), f) for w, f in zip(workers, facts, strict=True) if f is not None]
        for family, attribute in (
            (metrics.WORKER_MEMORY, "rss_bytes"),
            (metrics.WORKER_MEMORY_PSS, "pss_bytes"),
            (metrics.WORKER_CPU_PERCENT, "cpu_percent"),
            (metrics.WORKER_CPU_SECONDS, "cpu_seconds"),
            (metrics.WORKER_OPEN_FDS, "open_fds"),
            (metrics.WORKER_THREADS, "threads"),
        ):
            metric = _counter(family) if family.kind == "counter" else _gauge(family)
            for slot, fact in pairs:
                value = getattr(fact, attribute)
                if value is not None:
                    metric.add_metric((slot,), value)
            yield metric
        yield _context_switches(pairs)

    def _errors(self, reading: Reading) -> Metric:
        first = self._board.layout.errors
        counts = [
            reading.totals[first + number]
            + reading.master[Master.ERRORS + number]
            + self._own_errors[place]
            for number, place in enumerate(ERROR_PLACES)
        ]
        return _fixed(metrics.ERRORS, ERROR_PLACES, counts)

    def _report(self, place: str, error: Exception) -> None:
        if not self._own_errors[place]:
            self._log.error("gunicorn-prom: metrics of %s failed: %r", place, error)
        self._own_errors[place] += 1


def _state_of(worker: WorkerReading) -> str:
    state = _lifecycle_state(worker)
    if state == State.RUNNING:
        return "busy" if worker.in_progress else "idle"
    return "booting" if state == State.BOOTING else "quitting"


def _lifecycle_state(worker: WorkerReading) -> int:
    return int(worker.gauges[Gauge.STATE])


def _counter(family: Family) -> CounterMetricFamily:
    return CounterMetricFamily(family.name, family.help, labels=family.labels)


def _gauge(family: Family) -> GaugeMetricFamily:
    return GaugeMetricFamily(family.name, family.help, labels=family.labels)


def _histogram(family: Family) -> HistogramMetricFamily:
    return HistogramMetricFamily(family.name, family.help, labels=family.labels)


def _single(family: Family, value: float) -> Metric:
    metric = _gauge(family)
    metric.add_metric((), value)
    return metric


def _fixed(family: Family, values: Labels, counts: Sequence[float]) -> Metric:
    """Return a family with one label, whose values are known beforehand."""
    metric = _counter(family) if family.kind == "counter" else _gauge(family)
    for value, count in zip(values, counts, strict=False):
        metric.add_metric((value,), count)
    return metric


def _table(family: Family, table: keys.Table, reading: Reading) -> Metric:
    metric = _counter(family)
    start = reading.columns.tables[table.name]
    for row, key in enumerate(reading.columns.keys[table.name]):
        count = reading.totals[start + row]
        if count:
            metric.add_metric(key, count)
    return metric


def _add_histogram(
    metric: HistogramMetricFamily, labels: Labels, bounds: Sequence[float], cells: Sequence[float]
) -> None:
    names = [*map(str, bounds), "+Inf"]
    counts = itertools.accumulate(cells[:-1])
    metric.add_metric(labels, buckets=list(zip(names, counts, strict=True)), sum_value=cells[-1])


def _context_switches(pairs: list[tuple[str, ProcessFacts]]) -> Metric:
    metric = _counter(metrics.WORKER_CONTEXT_SWITCHES)
    for slot, fact in pairs:
        for kind in ("voluntary", "involuntary"):
            value = getattr(fact, f"{kind}_switches")
            if value is not None:
                metric.add_metric((slot, kind), value)
    return metric

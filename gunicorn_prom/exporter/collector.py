"""From the scoreboards of a server to families of metrics."""

import itertools
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Exemplar

from gunicorn_prom import keys, metrics
from gunicorn_prom.app_directory import APP
from gunicorn_prom.exporter.app_collector import Reader as AppReader
from gunicorn_prom.exporter.app_collector import reserved_names
from gunicorn_prom.exporter.backlog import Backlog, Queue
from gunicorn_prom.exporter.health import target
from gunicorn_prom.metrics import Family
from gunicorn_prom.processes import Processes, ProcessFacts, pid_namespace
from gunicorn_prom.reader import LAYOUT, ServerReading, Worker
from gunicorn_prom.scoreboard import (
    ABORT_REASONS,
    BOOT_BOUNDS,
    ERROR_PLACES,
    EXIT_REASONS,
    GC_GENERATIONS,
    QUEUE_BOUNDS,
    QUEUE_FAULTS,
    RESTARTS,
    SIGNALS,
    SIZE_BOUNDS,
    Board,
    Gauge,
    Master,
    State,
    Vital,
    WorkerReading,
    busy_seconds,
)
from gunicorn_prom.scoreboard import Exemplar as ExemplarCell
from gunicorn_prom.totals import rebin, rows

__all__ = ["LabelledCollector", "Reads", "ServerCollector", "target"]

# How often the queues of the listeners are looked at: at rest no more often than the
# metrics server wakes up anyway.
PERIOD_S = 0.5
WAITING_PERIOD_S = 0.1

WORKER_STATES = ("booting", "idle", "busy", "quitting")
OVERFLOW_FAMILIES = {
    keys.HTTP.name: metrics.HTTP_REQUESTS.name,
    keys.EXCEPTIONS.name: metrics.HTTP_EXCEPTIONS.name,
    keys.PARSE_ERRORS.name: metrics.HTTP_PARSE_ERRORS.name,
    keys.FAILED_REQUESTS.name: metrics.FAILED_REQUESTS.name,
    keys.ERROR_HANDLING.name: metrics.ERROR_HANDLING.name,
    keys.TIMEOUTS.name: metrics.TIMEOUTS.name,
    keys.ROUTES.name: metrics.HTTP_ROUTE_REQUESTS.name,
}

Labels = Sequence[str]


class Reads(Protocol):
    """What reads a server, see `ServerReader`."""

    directory: Path
    own: Sequence[Board]
    report: Any

    def read(self) -> ServerReading:
        """Return the server at this moment."""


class ServerCollector:
    """Collect all families of one server, in the process of the metrics server."""

    def __init__(self, reader: Reads, log: Any) -> None:
        self._reader = reader
        self._log = log
        self._processes = Processes()
        self._backlog = Backlog()
        self._pid_namespace = pid_namespace()
        self._reported: set[str] = set()
        # What is counted here where there is no board of ours to count it on.
        self._own_errors = dict.fromkeys(ERROR_PLACES, 0)
        self._app_directory: Path | None = None
        self._app_reader: AppReader | None = None
        # By worker: age and busy seconds last shown. What a busy worker shows is
        # counted up to now, a hair more than it may add in the end.
        self._busy_shown: dict[str, tuple[float, float]] = {}
        reader.report = partial(self.report, "state")

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they stand now; none when no server is there."""
        began = time.monotonic()
        server = self._reader.read()
        if not server.totals.fixed:
            return
        parts = (self._http, self._server, self._ledger, self._workers, self._process_facts)
        for part in parts:
            try:
                families = list(part(server))
            except Exception as error:
                self.report("collector", error)
            else:
                yield from families
        yield from self._socket_backlog()
        yield from self._app_metrics()
        yield self._errors(server)
        yield _single(metrics.SCRAPE_DURATION, time.monotonic() - began)

    def watch(self) -> float:
        """Look after what may come and go between two scrapes, see `Endpoint.watch`."""
        return WAITING_PERIOD_S if any(q.waiting for q in self._queues().values()) else PERIOD_S

    def _queues(self) -> dict[str, Queue]:
        try:
            return self._backlog.look()
        except Exception as error:
            self.report("backlog", error)
            return {}

    def listeners(self) -> list[tuple[str, Queue, int]]:
        """Return address, queue and peak of each listener whose queue can be seen from here."""
        try:
            self._backlog.refresh(self._reader.directory)
        except Exception as error:
            self.report("backlog", error)
        return [(label, q, self._backlog.peak(label)) for label, q in self._queues().items()]

    def _socket_backlog(self) -> Iterator[Metric]:
        waiting, limit = _gauge(metrics.SOCKET_BACKLOG), _gauge(metrics.SOCKET_BACKLOG_LIMIT)
        peaks = _gauge(metrics.SOCKET_BACKLOG_PEAK)
        for label, queue, peak in self.listeners():
            waiting.add_metric((label,), queue.waiting)
            limit.add_metric((label,), queue.limit)
            peaks.add_metric((label,), peak)
        yield from (waiting, limit, peaks)

    def _app_metrics(self) -> list[Metric]:
        try:
            directory = self._reader.directory / APP
            if directory != self._app_directory:
                self._app_directory = directory
                self._app_reader = AppReader(directory, reserved_names(), self._warn)
            return list(self._app_reader.collect()) if self._app_reader else []
        except Exception as error:
            self.report("app_metrics", error)
            return []

    def _warn(self, message: str) -> None:
        self._log.warning("gunicorn-prom: %s", message)

    def _http(self, server: ServerReading) -> Iterator[Metric]:
        totals = server.totals
        requests, durations = _counter(metrics.HTTP_REQUESTS), _histogram(metrics.HTTP_DURATION)
        by_class: dict[tuple[str, str], list[float]] = {}
        for (method, status), cells in totals.tables[keys.HTTP.name].items():
            if (method, status) == (keys.OTHER, keys.OTHER) and not any(cells):
                continue
            requests.add_metric((method, status), sum(cells[:-1]))
            label = _duration_label(method, status)
            known = by_class.get(label)
            by_class[label] = [a + b for a, b in zip(known, cells, strict=True)] if known else cells
        exemplars = _exemplars(server)
        for label, cells in by_class.items():
            _add_histogram(durations, label, totals.buckets, cells, exemplars.get(label))
        yield requests
        yield durations
        queue = _histogram(metrics.HTTP_QUEUE)
        for stage, start in LAYOUT.queue.items():
            cells = totals.fixed[start : start + len(QUEUE_BOUNDS) + 2]
            if any(cells):
                _add_histogram(queue, (stage,), QUEUE_BOUNDS, cells)
        yield queue
        faults = totals.fixed[LAYOUT.queue_faults :]
        yield _fixed(metrics.HTTP_QUEUE_IGNORED, QUEUE_FAULTS, faults)
        yield from self._routes(server)
        yield _single(metrics.WEBSOCKETS_TOTAL, totals.fixed[LAYOUT.websockets])
        open_now = sum(worker.slot.gauges[Gauge.WEBSOCKETS] for worker in server.workers)
        yield _single(metrics.WEBSOCKETS, open_now)
        for family, start in (
            (metrics.HTTP_REQUEST_SIZE, LAYOUT.request_size),
            (metrics.HTTP_RESPONSE_SIZE, LAYOUT.response_size),
        ):
            yield _fixed_histogram(family, SIZE_BOUNDS, totals.fixed[start:])
        in_progress = sum(worker.slot.in_progress for worker in server.workers)
        yield _single(metrics.HTTP_IN_PROGRESS, in_progress)
        yield _fixed(metrics.HTTP_ABORTED, ABORT_REASONS, totals.fixed[LAYOUT.aborted :])
        for table, family in (
            (keys.EXCEPTIONS, metrics.HTTP_EXCEPTIONS),
            (keys.PARSE_ERRORS, metrics.HTTP_PARSE_ERRORS),
            (keys.FAILED_REQUESTS, metrics.FAILED_REQUESTS),
            (keys.ERROR_HANDLING, metrics.ERROR_HANDLING),
            (keys.TIMEOUTS, metrics.TIMEOUTS),
        ):
            metric = _counter(family)
            for key, (count,) in totals.tables[table.name].items():
                if count:
                    metric.add_metric(key, count)
            yield metric

    def _routes(self, server: ServerReading) -> Iterator[Metric]:
        requests = _counter(metrics.HTTP_ROUTE_REQUESTS)
        durations = _histogram(metrics.HTTP_ROUTE_DURATION)
        for key, cells in server.totals.tables[keys.ROUTES.name].items():
            if any(cells):
                requests.add_metric(key, sum(cells[:-1]))
                _add_histogram(durations, key, server.totals.buckets, cells)
        yield requests
        yield durations

    def _server(self, server: ServerReading) -> Iterator[Metric]:
        states = [_state_of(worker.slot) for worker in server.workers]
        yield _fixed(metrics.WORKERS, WORKER_STATES, [states.count(s) for s in WORKER_STATES])
        names = [OVERFLOW_FAMILIES[table.name] for table in keys.TABLES]
        counts = [server.totals.fixed[LAYOUT.overflow[table.name]] for table in keys.TABLES]
        yield _fixed(metrics.SERIES_OVERFLOW, names, counts)
        yield _single(metrics.WORKERS_TARGET, target(server))
        if not server.masters:
            return
        timeouts = [found.reading.master[Master.TIMEOUT] for found in server.masters]
        yield _single(metrics.WORKER_TIMEOUT, 0.0 if 0 in timeouts else max(timeouts))
        board, newest = server.masters[-1]
        meta = board.meta
        worker_class = board.keys.keys(keys.WORKER_CLASSES)[int(newest.master[Master.WORKER_CLASS])]
        info = _gauge(metrics.INFO)
        versions = (meta["version"], meta["python_version"], *worker_class)
        info.add_metric((*versions, meta["gunicorn_prom_version"]), 1)
        yield info
        yield _single(metrics.START_TIME, newest.master[Master.START_TIME])
        yield _single(metrics.RELOAD_SUCCESS, newest.master[Master.RELOAD_TIME])
        if meta["pid_namespace"] == self._pid_namespace:
            yield from ProcessCollector(pid=lambda: meta["pid"], registry=None).collect()

    def _ledger(self, server: ServerReading) -> Iterator[Metric]:
        fixed = server.totals.fixed
        yield _fixed(metrics.EXITS, EXIT_REASONS, fixed[LAYOUT.exits :])
        yield _single(metrics.SPAWNS, server.totals.spawns)
        yield _fixed_histogram(metrics.BOOT_SECONDS, BOOT_BOUNDS, fixed[LAYOUT.boot_seconds :])
        yield _single(metrics.RELOADS, fixed[LAYOUT.reloads])
        yield _fixed(metrics.SIGNALS, SIGNALS, fixed[LAYOUT.signals :])
        restarts = fixed[LAYOUT.restarts :]
        reasons, by_type = _counter(metrics.RESTARTS), _counter(metrics.RESTART_COUNT)
        for (restart_type, reason), count in zip(RESTARTS, restarts, strict=False):
            reasons.add_metric((reason,), count)
            by_type.add_metric((restart_type, reason), count)
        yield reasons
        yield by_type

    def _workers(self, server: ServerReading) -> Iterator[Metric]:
        # A worker that has been forked but has not come to its slot has nothing to say.
        workers = [worker for worker in server.workers if worker.slot.gauges[Gauge.PID]]
        info, requests = _gauge(metrics.WORKER_INFO), _counter(metrics.WORKER_REQUESTS)
        durations, states = _histogram(metrics.WORKER_DURATION), _gauge(metrics.WORKER_STATE)
        busy = _counter(metrics.WORKER_BUSY_SECONDS)
        start_time, uptime = _gauge(metrics.WORKER_START_TIME), _gauge(metrics.WORKER_UPTIME)
        in_progress, capacity = _gauge(metrics.WORKER_IN_PROGRESS), _gauge(metrics.WORKER_CAPACITY)
        connections, waiting = _gauge(metrics.WORKER_CONNECTIONS), _gauge(metrics.WORKER_WAITING)
        heartbeat, oldest = _gauge(metrics.WORKER_HEARTBEAT), _gauge(metrics.WORKER_OLDEST_REQUEST)
        collections = _counter(metrics.WORKER_GC_COLLECTIONS)
        pauses = _counter(metrics.WORKER_GC_PAUSE)
        for worker in workers:
            label, slot, gauges = (worker.worker_id,), worker.slot, worker.slot.gauges
            to_unix = time.time() - worker.reading.time
            started = gauges[Gauge.START_TIME]
            age = str(int(gauges[Gauge.AGE]))
            unique_id = f"worker_{age}_{int(started)}"
            info.add_metric((*label, str(int(gauges[Gauge.PID])), age, unique_id), 1)
            cells = _duration_cells(worker, server.totals.buckets)
            requests.add_metric(label, sum(cells[:-1]))
            _add_histogram(durations, label, server.totals.buckets, cells)
            state = State.NAMES[_lifecycle_state(slot)]
            for name in State.NAMES:
                states.add_metric((*label, name), float(name == state))
            busy.add_metric(label, self._busy_seconds(worker))
            start_time.add_metric(label, started)
            uptime.add_metric(label, max(0.0, time.time() - started))
            in_progress.add_metric(label, slot.in_progress)
            if gauges[Gauge.CAPACITY]:
                capacity.add_metric(label, gauges[Gauge.CAPACITY])
            if gauges[Gauge.CONNECTIONS] >= 0:
                connections.add_metric(label, gauges[Gauge.CONNECTIONS])
            if gauges[Gauge.WAITING] >= 0:
                waiting.add_metric(label, gauges[Gauge.WAITING])
            if slot.vitals[Vital.HEARTBEAT]:
                heartbeat.add_metric(label, slot.vitals[Vital.HEARTBEAT] + to_unix)
            if slot.lanes:
                oldest.add_metric(label, min(slot.lanes) + to_unix)
            for number, generation in enumerate(GC_GENERATIONS):
                collected = slot.counters[LAYOUT.gc_collections + number]
                collections.add_metric((*label, generation), collected)
                paused = slot.counters[LAYOUT.gc_pause_seconds + number]
                pauses.add_metric((*label, generation), paused)
        self._busy_shown = {w.worker_id: self._busy_shown[w.worker_id] for w in workers}
        yield from (
            info, requests, durations, states, busy, start_time, uptime,
            in_progress, capacity, connections, waiting, heartbeat, oldest, collections, pauses,
        )  # fmt: skip

    def _busy_seconds(self, worker: Worker) -> float:
        slot = worker.slot
        began = slot.gauges[Gauge.START_TIME]  # tells the workers of one id apart
        seconds = busy_seconds(slot.counters[LAYOUT.busy_seconds], worker.reading.time)
        shown_began, shown = self._busy_shown.get(worker.worker_id, (began, 0.0))
        if shown_began == began:
            seconds = max(seconds, shown)
        self._busy_shown[worker.worker_id] = (began, seconds)
        return seconds

    def _process_facts(self, server: ServerReading) -> Iterator[Metric]:
        workers = [worker for worker in server.workers if worker.slot.gauges[Gauge.PID]]
        pairs = [
            (worker.worker_id, fact)
            for worker, fact in zip(workers, self.facts(workers, self._processes), strict=True)
            if fact is not None
        ]
        for family, attribute in (
            (metrics.WORKER_MEMORY, "rss_bytes"),
            (metrics.WORKER_MEMORY_PSS, "pss_bytes"),
            (metrics.WORKER_MEMORY_SHARED, "shared_bytes"),
            (metrics.WORKER_CPU_PERCENT, "cpu_percent"),
            (metrics.WORKER_CPU_SECONDS, "cpu_seconds"),
            (metrics.WORKER_OPEN_FDS, "open_fds"),
            (metrics.WORKER_THREADS, "threads"),
        ):
            metric = _counter(family) if family.kind == "counter" else _gauge(family)
            for worker_id, fact in pairs:
                value = getattr(fact, attribute)
                if value is not None:
                    metric.add_metric((worker_id,), value)
            yield metric
        yield _context_switches(pairs)

    def facts(self, workers: list[Worker], processes: Processes) -> list[ProcessFacts | None]:
        """Return what is known of the process of each, None for one that is gone.

        A pid of another namespace would be somebody else's here. Of such a worker
        there is what its master has written.

        Args:
            processes: each who asks has its own, for a percentage is counted from the last time.
        """
        visible = [w for w in workers if w.board.meta["pid_namespace"] == self._pid_namespace]
        asked = [(int(w.slot.gauges[Gauge.PID]), w.slot.gauges[Gauge.START_TIME]) for w in visible]
        try:
            found = dict(zip(map(id, visible), processes.read(asked), strict=True))
        except Exception as error:
            self.report("processes", error)
            found = {}
        return [found[id(w)] if id(w) in found else _told_by_master(w.slot) for w in workers]

    def _errors(self, server: ServerReading) -> Metric:
        counts = [
            server.totals.fixed[LAYOUT.errors + number] + self._own_errors[place]
            for number, place in enumerate(ERROR_PLACES)
        ]
        return _fixed(metrics.ERRORS, ERROR_PLACES, counts)

    def report(self, place: str, error: Exception) -> None:
        """Count a failure in one of ERROR_PLACES, and log the first of each."""
        if place not in self._reported:
            self._reported.add(place)
            self._log.error("gunicorn-prom: metrics of %s failed: %r", place, error)
        self.count_error(place)

    def count_error(self, place: str) -> None:
        """Count a failure of the metrics server in one of ERROR_PLACES."""
        if self._reader.own:
            self._reader.own[-1].count_server_error(place)
        else:
            self._own_errors[place] += 1


class LabelledCollector:
    """Collect the families of several servers, told apart by the label `server`."""

    def __init__(self, collectors: Mapping[str, ServerCollector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        """Yield each family once, with the samples of all servers that are there."""
        families: dict[str, Metric] = {}
        is_there = _gauge(metrics.SERVER_UP)
        for name, collector in self._collectors.items():
            found = list(collector.collect())
            is_there.add_metric((name,), float(bool(found)))
            for family in found:
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                known.samples += [
                    sample._replace(labels={"server": name, **sample.labels})
                    for sample in family.samples
                ]
        yield is_there
        yield from families.values()


def _duration_cells(worker: Worker, buckets: Sequence[float]) -> list[float]:
    """Return the worker's histogram over all methods and statuses."""
    layout = worker.board.layout
    found = (c for table, _, c in rows(worker.reading, worker.slot.counters) if table is keys.HTTP)
    cells = [sum(column) for column in zip(*found, strict=True)]
    return rebin(cells, layout.buckets, buckets)


def _told_by_master(slot: WorkerReading) -> ProcessFacts | None:
    if not slot.vitals[Vital.THREADS]:
        return None
    return ProcessFacts(
        rss_bytes=int(slot.vitals[Vital.RSS_BYTES]),
        pss_bytes=None,
        shared_bytes=None,
        cpu_seconds=slot.vitals[Vital.CPU_SECONDS],
        cpu_percent=None,
        open_fds=None,
        threads=int(slot.vitals[Vital.THREADS]),
        voluntary_switches=None,
        involuntary_switches=None,
    )


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
    metric = _counter(family) if family.kind == "counter" else _gauge(family)
    metric.add_metric((), value)
    return metric


def _fixed(family: Family, values: Labels, counts: Sequence[float]) -> Metric:
    """Return a family with one label, whose values are known beforehand."""
    metric = _counter(family) if family.kind == "counter" else _gauge(family)
    for value, count in zip(values, counts, strict=False):
        metric.add_metric((value,), count)
    return metric


def _fixed_histogram(family: Family, bounds: Sequence[float], cells: Sequence[float]) -> Metric:
    """Return a histogram without labels, from the cells that begin with its first bucket."""
    metric = _histogram(family)
    _add_histogram(metric, (), bounds, cells[: len(bounds) + 2])
    return metric


def _add_histogram(
    metric: HistogramMetricFamily,
    labels: Labels,
    bounds: Sequence[float],
    cells: Sequence[float],
    exemplars: Mapping[int, Exemplar] | None = None,
) -> None:
    """Add a histogram; `exemplars` has them by the number of their bucket."""
    names = [*map(str, bounds), "+Inf"]
    counts = itertools.accumulate(cells[:-1])
    buckets: list[Any] = list(zip(names, counts, strict=True))
    for number, exemplar in (exemplars or {}).items():
        buckets[number] = (*buckets[number], exemplar)
    metric.add_metric(labels, buckets=buckets, sum_value=cells[-1])


def _duration_label(method: str, status: str) -> tuple[str, str]:
    return (method, status if status == keys.OTHER else f"{status[0]}xx")


def _exemplars(server: ServerReading) -> dict[tuple[str, str], dict[int, Exemplar]]:
    """Return by method and class of status the newest exemplar of each bucket, by its number."""
    found: list[tuple[float, tuple[str, str], int, Exemplar]] = []
    bounds = server.totals.buckets
    for worker in server.workers:
        statuses = worker.reading.columns.keys[keys.HTTP.name]
        for cells in worker.slot.exemplars:
            if cells[ExemplarCell.ROW] >= len(statuses):
                continue  # its status has come up since the labels were read
            label = _duration_label(*statuses[int(cells[ExemplarCell.ROW])])
            seconds, at = cells[ExemplarCell.SECONDS], cells[ExemplarCell.TIME]
            trace_id = "".join(f"{int(word):08x}" for word in cells[ExemplarCell.TRACE_ID :])
            exemplar = Exemplar({"trace_id": trace_id}, seconds, at)
            found.append((at, label, bisect_left(bounds, seconds), exemplar))
    newest: dict[tuple[str, str], dict[int, Exemplar]] = {}
    for _, label, bucket, exemplar in sorted(found, key=itemgetter(0)):
        newest.setdefault(label, {})[bucket] = exemplar
    return newest


def _context_switches(pairs: list[tuple[str, ProcessFacts]]) -> Metric:
    metric = _counter(metrics.WORKER_CONTEXT_SWITCHES)
    for slot, fact in pairs:
        for kind in ("voluntary", "involuntary"):
            value = getattr(fact, f"{kind}_switches")
            if value is not None:
                metric.add_metric((slot, kind), value)
    return metric

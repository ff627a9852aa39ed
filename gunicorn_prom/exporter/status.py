"""The live state of a server as one document: what `/status.json` answers.

Its fields are in docs/status.md and docs/status-schema.json.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gunicorn_prom import __version__, keys
from gunicorn_prom.autopsy import Autopsy, read_autopsies
from gunicorn_prom.exporter.backlog import Queue
from gunicorn_prom.exporter.collector import Reads, ServerCollector
from gunicorn_prom.exporter.health import target, target_of
from gunicorn_prom.exporter.history import (
    INTERVAL_S,
    Change,
    History,
    Point,
    Sample,
    WorkerKey,
    WorkerRates,
    key_of,
    take_sample,
)
from gunicorn_prom.exporter.verdict import SERVING, Judge, worker_states
from gunicorn_prom.instrument.stacks import printable
from gunicorn_prom.processes import Processes, ProcessFacts, pid_namespace
from gunicorn_prom.reader import LAYOUT, MasterReading, ServerReading, Worker
from gunicorn_prom.scoreboard import (
    ABORT_REASONS,
    EXIT_REASONS,
    LANES,
    WANTED_EXITS,
    Gauge,
    Master,
    Vital,
)

__all__ = ["Status"]

VERSION = 1
RECENT = (
    "request_rate",
    "error_share",
    "aborted_rate",
    "latency_s",
    "saturation",
    "queue_pool_s",
    "cpu_share",
)
# Columns of the history without a fraction.
COUNTS = ("in_progress", "backlog", "waiting", "memory_pss_bytes", "workers")
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
DIGITS = 6

MAX_REQUEST_LENGTH = 200
MAX_STACK_LINES = 40
MAX_STACKS_LENGTH = 4000

Facts = dict[WorkerKey, ProcessFacts | None]


class _Scene(NamedTuple):
    """A server at one moment.

    Attributes:
        sample: its counters, None when no server is there.
        states: of each worker.
        listeners: address, queue and peak of each whose queue can be seen.
    """

    server: ServerReading
    sample: Sample | None
    states: list[str]
    listeners: list[tuple[str, Queue, int]]

    @property
    def backlog(self) -> int | None:
        """How many connections wait to be accepted, None where that cannot be seen."""
        return sum(queue.waiting for _, queue, _ in self.listeners) if self.listeners else None

    @property
    def waiting(self) -> int | None:
        """How many connections wait to be accepted or for a thread."""
        in_pools = (_known(worker.slot.gauges[Gauge.WAITING]) for worker, _ in self.workers)
        known = [count for count in (self.backlog, *in_pools) if count is not None]
        return sum(known) if known else None

    @property
    def workers(self) -> list[tuple[Worker, str]]:
        """The workers that have come to their slot, each with its state."""
        pairs = zip(self.server.workers, self.states, strict=True)
        return [(worker, state) for worker, state in pairs if worker.slot.gauges[Gauge.PID]]

    def master_of(self, worker: Worker) -> list[float]:
        """Return the cells of `Master` of the worker's master."""
        name = worker.board.meta["master"]
        masters = (found for found in self.server.masters if found.board.meta["master"] == name)
        return next(masters).reading.master


class Status:
    """Tell the state of one server, in the process of the metrics server.

    Args:
        name: the value of the label `server`, "" for the only one.
        reader: reads the server.
        collector: of the same server; it knows its queues and takes what goes wrong.
        names: of all servers that are shown here.

    Attributes:
        history: of the last minutes.
    """

    def __init__(
        self, name: str, reader: Reads, collector: ServerCollector, names: Sequence[str] = ("",)
    ) -> None:
        self._name = name
        self._reader = reader
        self._collector = collector
        self._names = list(names)
        self.history = History()
        self._judge = Judge()
        self._due = 0.0
        self._namespace = pid_namespace()
        self._processes = Processes()
        self._facts: Facts = {}
        self._facts_at = -math.inf

    def watch(self) -> None:
        """Take a sample for the history when it is time, see `Endpoint.watch`."""
        now = time.monotonic()
        if now < self._due:
            return
        is_late = now >= self._due + INTERVAL_S
        self._due = INTERVAL_S + (now if is_late else self._due)
        try:
            self._note(self._look())
        except Exception as error:
            self._collector.report("collector", error)

    def _look(self) -> _Scene:
        server = self._reader.read()
        # The reader may have changed over to another server while it read.
        directory, last = self._reader.directory, self.history.last
        scene = _Scene(
            server=server,
            sample=take_sample(server, directory, self._namespace, last),
            states=worker_states(server),
            listeners=self._collector.listeners(),
        )
        self._judge.look(server, scene.states)
        return scene

    def _note(self, scene: _Scene) -> None:
        row = Point(
            time=time.time(),
            backlog=scene.backlog,
            waiting=scene.waiting,
            workers=sum(state in SERVING for state in scene.states),
        )
        # To read it is a walk over all pages of a process, so it is not read just for this.
        # Who looks every few seconds has it read at some other time than this.
        if time.monotonic() - self._facts_at <= 2 * INTERVAL_S:
            row = row._replace(memory_pss_bytes=_sum_of("pss_bytes", self._facts.values()))
        self.history.add(scene.sample, row)

    def document(self, problems: dict[str, str]) -> dict[str, Any]:
        """Return the state at this moment, in JSON values, as docs/status-schema.json has them.

        Args:
            problems: why servers do not live or are not ready, by name, of all that are shown here.
        """
        scene = self._look()
        change = None if scene.sample is None else self.history.change(scene.sample)
        rates = {} if scene.sample is None else self.history.worker_rates(scene.sample)
        points = self.history.points
        facts = self._read_facts([worker for worker, _ in scene.workers])
        masters = [_master(scene.server, found) for found in scene.server.masters]
        return {
            "version": VERSION,
            "time": time.time(),
            "versions": _versions(scene.server),
            "server": self._name,
            "servers": self._names,
            "problems": problems,
            "health": self._judge.health(scene.server, scene.states, change, points, scene.waiting),
            "master": masters[-1] if masters else None,
            "masters": masters,
            "listeners": [_listener(*found) for found in scene.listeners],
            "workers": [
                _worker(worker, state, scene, rates[key_of(worker)], facts[key_of(worker)])
                for worker, state in scene.workers
            ],
            "window_s": 0.0 if change is None else round(change.seconds, 3),
            "recent": _recent(change, rates),
            "totals": _totals(scene, facts),
            "exits": None if scene.sample is None else _exits(scene.server),
            "autopsies": self._autopsies(),
            "history": _history(points),
        }

    def _read_facts(self, workers: list[Worker]) -> Facts:
        """Return what is known of the workers' processes, at most a few seconds old."""
        wanted = [key_of(worker) for worker in workers]
        is_old = time.monotonic() - self._facts_at > INTERVAL_S
        if is_old or self._facts.keys() != set(wanted):
            found = self._collector.facts(workers, self._processes)
            self._facts = dict(zip(wanted, found, strict=True))
            self._facts_at = time.monotonic()
        return self._facts

    def _autopsies(self) -> list[dict[str, Any]]:
        try:
            found = read_autopsies(self._reader.directory)
        except Exception as error:
            self._collector.report("autopsy", error)
            return []
        return [_autopsy(one) for one in reversed(found)]


def _worker(
    worker: Worker, state: str, scene: _Scene, rates: WorkerRates, facts: ProcessFacts | None
) -> dict[str, Any]:
    slot, gauges, master = worker.slot, worker.slot.gauges, scene.master_of(worker)
    assert scene.sample is not None  # where a worker is there are counters
    return {
        "id": worker.worker_id,
        "pid": int(gauges[Gauge.PID]),
        "generation": worker.board.meta["generation"],
        "age": int(gauges[Gauge.AGE]),
        "state": state,
        "start_time": gauges[Gauge.START_TIME],
        "booted": bool(gauges[Gauge.BOOTED_TIME]),
        "heartbeat_age_s": _age_s(slot.vitals[Vital.HEARTBEAT], worker.reading.time),
        "timeout_s": master[Master.TIMEOUT] or None,
        "in_progress": slot.in_progress,
        "capacity": int(gauges[Gauge.CAPACITY]) or None,
        "connections": _known(gauges[Gauge.CONNECTIONS]),
        "waiting": _known(gauges[Gauge.WAITING]),
        "busy_share": _rounded(rates.busy_share),
        "request_rate": _rounded(rates.request_rate),
        "requests": int(scene.sample.workers[key_of(worker)].requests),
        "memory_rss_bytes": facts.rss_bytes if facts is not None else None,
        "memory_pss_bytes": facts.pss_bytes if facts is not None else None,
        "memory_limit_bytes": int(master[Master.MAX_WORKER_MEMORY]) or None,
        "cpu_share": _rounded(rates.cpu_share),
        "threads": facts.threads if facts is not None else None,
        "oldest_request": _oldest_request(worker),
    }


def _recent(change: Change | None, rates: Mapping[WorkerKey, WorkerRates]) -> dict[str, Any]:
    if change is None:
        return {**dict.fromkeys(RECENT), "latency_s": dict.fromkeys(QUANTILES)}
    cpu_shares = [one.cpu_share for one in rates.values() if one.cpu_share is not None]
    return {
        "request_rate": _rounded(change.request_rate),
        "error_share": _rounded(change.error_share),
        "aborted_rate": _rounded(change.aborted_rate),
        "latency_s": {name: _rounded(change.latency_s(share)) for name, share in QUANTILES.items()},
        "saturation": _rounded(change.saturation),
        "queue_pool_s": _rounded(change.pool_wait_s),
        "cpu_share": _rounded(sum(cpu_shares)) if cpu_shares else None,
    }


def _versions(server: ServerReading) -> dict[str, str | None]:
    if not server.masters:
        return {"gunicorn_prom": __version__, "gunicorn": None, "python": None}
    meta = server.masters[-1].board.meta
    return {
        "gunicorn_prom": meta["gunicorn_prom_version"],
        "gunicorn": meta["version"],
        "python": meta["python_version"],
    }


def _master(server: ServerReading, found: MasterReading) -> dict[str, Any]:
    board, reading = found
    worker_classes = board.keys.keys(keys.WORKER_CLASSES)
    return {
        "pid": board.meta["pid"],
        "generation": board.meta["generation"],
        "worker_class": worker_classes[int(reading.master[Master.WORKER_CLASS])][0],
        "start_time": reading.master[Master.START_TIME],
        "heartbeat_age_s": _age_s(reading.master[Master.HEARTBEAT], reading.time),
        "workers_target": target_of(found),
        "stopping": bool(reading.master[Master.STOPPING]),
        "reloads": int(server.totals.fixed[LAYOUT.reloads]),
    }


def _listener(address: str, queue: Queue, peak: int) -> dict[str, Any]:
    return {
        "address": address,
        "backlog": queue.waiting,
        "backlog_peak": peak,
        "backlog_limit": queue.limit,
    }


def _oldest_request(worker: Worker) -> dict[str, Any] | None:
    """Return the request that is in progress for the longest, None where it is not known."""
    begun = worker.slot.gauges[Gauge.FIRST_LANE : Gauge.FIRST_LANE + LANES]
    began, lane = min(((began, lane) for lane, began in enumerate(begun) if began), default=(0, 0))
    request = began and worker.board.target(worker.slot.slot, lane)
    if not request:
        return None
    age_s = _age_s(began, worker.reading.time) or 0.0
    return {
        "start_time": round(time.time() - age_s, 3),
        "age_s": age_s,
        "request": printable(request)[:MAX_REQUEST_LENGTH],
    }


def _totals(scene: _Scene, facts: Facts) -> dict[str, Any]:
    server = scene.server
    fixed, tables = server.totals.fixed, server.totals.tables
    by_class: dict[str, int] = {}
    for (_, status), cells in tables[keys.HTTP.name].items():
        status_class = status if status == keys.OTHER else f"{status[0]}xx"
        by_class[status_class] = by_class.get(status_class, 0) + int(sum(cells[:-1]))
    states = scene.states
    limited = [capacity for w in server.workers if (capacity := w.slot.gauges[Gauge.CAPACITY])]
    counted = {
        "requests": sum(by_class.values()),
        "by_status_class": {name: n for name, n in sorted(by_class.items()) if n},
        "exceptions": _count(tables[keys.EXCEPTIONS.name].values()),
        "aborted": dict(zip(ABORT_REASONS, map(int, fixed[LAYOUT.aborted :]), strict=False)),
        "parse_errors": _count(tables[keys.PARSE_ERRORS.name].values()),
        "in_progress": sum(worker.slot.in_progress for worker in server.workers),
        "capacity": int(sum(limited)) if limited else None,
        "backlog": scene.backlog,
        "waiting": scene.waiting,
        "workers": {
            "running": sum(state in SERVING for state in states),
            "target": target(server),
            **{state: states.count(state) for state in ("booting", *SERVING)},
            "leaving": sum(state not in ("booting", *SERVING) for state in states),
        },
        "memory_rss_bytes": _sum_of("rss_bytes", facts.values()),
        "memory_pss_bytes": _sum_of("pss_bytes", facts.values()),
        "spawned": int(server.totals.spawns),
    }
    return counted if scene.sample is not None else _unknown(counted)


def _unknown(counted: dict[str, Any]) -> dict[str, Any]:
    """Return a copy in which no number is known."""
    return {
        name: _unknown(value) if isinstance(value, dict) else None
        for name, value in counted.items()
    }


def _count(rows: Iterable[Sequence[float]]) -> int:
    return int(sum(count for (count,) in rows))


def _sum_of(attribute: str, facts: Iterable[ProcessFacts | None]) -> int | None:
    """Return the sum over all processes of which it is known, None when it is of none."""
    values = [getattr(fact, attribute) for fact in facts if fact is not None]
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _exits(server: ServerReading) -> list[dict[str, Any]]:
    counts = zip(EXIT_REASONS, map(int, server.totals.fixed[LAYOUT.exits :]), strict=False)
    return [
        {"reason": reason, "count": count, "wanted": reason in WANTED_EXITS}
        for reason, count in sorted(counts, key=lambda pair: -pair[1])
        if count
    ]


def _autopsy(one: Autopsy) -> dict[str, Any]:
    text = one.stacks or f"there are no stacks: {one.problem}"
    lines = text.splitlines()[:MAX_STACK_LINES]
    return {
        "time": one.time,
        "pid": one.pid,
        "worker_id": str(one.worker_id),
        "route": one.route,
        "requests": [
            {"request": f"{method} {path}"[:MAX_REQUEST_LENGTH], "age_s": seconds}
            for method, path, seconds in one.requests
        ],
        "text": "\n".join(lines)[:MAX_STACKS_LENGTH],
    }


def _history(rows: Sequence[Point]) -> dict[str, Any]:
    columns: dict[str, list[float | None]] = {
        name: [_rounded(getattr(row, name)) for row in rows] for name in Point._fields
    }
    for name in COUNTS:
        columns[name] = [value if value is None else int(value) for value in columns[name]]
    return {"interval_s": INTERVAL_S, **columns}


def _known(count: float) -> int | None:
    """Return a count of the worker, None where it says that it does not know."""
    return int(count) if count >= 0 else None


def _age_s(moment: float, now: float) -> float | None:
    """Return the seconds since a moment, None when there was none so far."""
    return round(max(0.0, now - moment), 3) if moment else None


def _rounded(value: float | None) -> float | None:
    return value if value is None else round(value, DIGITS)

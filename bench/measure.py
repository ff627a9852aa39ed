"""The measures, each taken from all contenders in turn, round by round."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from bench.contenders import Contender
from bench.counters import Counter
from bench.load import Client, Load
from bench.processes import list_tree, read_cpu_seconds, read_rollup_bytes
from bench.servers import Server, run_server

__all__ = ["Effort", "Measurements", "Session", "Spread"]

_CONNECTIONS = 4
_WARM_UP_REQUESTS = 500
_FOOTPRINT_WORKERS = 4
_FOOTPRINT_REQUESTS = 1000
_WARM_UP_SCRAPES = 100


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        counted_rounds: Launches of each server under the instruction counter.
        traffic_rounds: Launches of each server for CPU time and requests per second.
        traffic_requests: Requests in each of those launches.
        footprint_rounds: Launches of each server with 4 workers.
        scrapes: Scrapes in each of those launches.
    """

    counted_rounds: int
    traffic_rounds: int
    traffic_requests: int
    footprint_rounds: int
    scrapes: int


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles beside it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass
class Measurements:
    """Values by measure, worker type and contender, in the order of the rounds.

    Measures: `instructions`, `cpu_s` and `requests_per_s` of one worker, the first two
    per request; `pss_bytes` of the whole tree, `first_answer_s`, `scrape_median_s`,
    `scrape_p95_s`, `scrape_bytes`, `master_growth_bytes`, `tree_growth_bytes` with 4
    workers.
    """

    values: dict[tuple[str, str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, measure: str, worker_type: str, contender: Contender, value: float) -> None:
        """Add the value of one round."""
        self.values[measure, worker_type, contender.name].append(value)

    def spread(self, measure: str, worker_type: str, name: str) -> Spread | None:
        """Summarise a contender's values; None where there are none."""
        values = self.values.get((measure, worker_type, name))
        return Spread.of(values) if values else None

    def ratio(self, measure: str, worker_type: str, name: str, base: str) -> Spread | None:
        """Summarise the ratios to the base, each to its value of the same round."""
        values = self.values.get((measure, worker_type, name))
        bases = self.values.get((measure, worker_type, base))
        if not values or not bases:
            return None
        return Spread.of([a / b for a, b in zip(values, bases, strict=True)])


@dataclass(frozen=True)
class Session:
    """One run of the comparison: who takes part, and how it is measured.

    Attributes:
        counter: What counts instructions; None where nothing does.
        say: Told what is under way.
        counts_only: Whether nothing but instructions is measured.
    """

    contenders: Sequence[Contender]
    worker_types: Sequence[str]
    effort: Effort
    counter: Counter | None
    say: Callable[[str], None]
    counts_only: bool = False
    measurements: Measurements = field(default_factory=Measurements)

    def measure_all(self) -> Measurements:
        """Take every measure."""
        with Client(_share_processors()[1]) as client:
            for worker_type in self.worker_types:
                if self.counter is not None:
                    self.say(f"{worker_type}: instructions")
                    self._count_instructions(worker_type, self.counter, client)
                if self.counts_only:
                    continue
                self.say(f"{worker_type}: CPU time and requests/s")
                with _off_the_processor_of_the_client():
                    self._measure_traffic(worker_type, client)
            if not self.counts_only:
                self.say("sync, 4 workers: memory, start, scrapes")
                self._measure_footprint(client)
        return self.measurements

    def _take_turns(self, worker_type: str, rounds: int) -> Iterator[tuple[int, Contender]]:
        """Yield each contender once per round, in the opposite order every other round."""
        able = self.able(worker_type)
        for number in range(rounds):
            for contender in able if number % 2 == 0 else reversed(able):
                yield number, contender

    def able(self, worker_type: str) -> list[Contender]:
        """Return the contenders that can have such workers."""
        return [one for one in self.contenders if worker_type in one.worker_types]

    def _count_instructions(self, worker_type: str, counter: Counter, client: Client) -> None:
        """Count in a fresh server per round, each round with another hash seed.

        How strings fall into hash tables shifts the count by some tenths of a percent.
        """
        for number, contender in self._take_turns(worker_type, self.effort.counted_rounds):
            with run_server(
                contender, worker_type, wrapper=counter.wrapper, hash_seed=number
            ) as server:
                pid = server.find_worker_pid()
                client.send(_make_load(server, _WARM_UP_REQUESTS))
                send = partial(client.send, _make_load(server, counter.requests))
                per_request = counter.count(server, pid, send) / counter.requests
            self.measurements.add("instructions", worker_type, contender, per_request)

    def _measure_traffic(self, worker_type: str, client: Client) -> None:
        """Measure a fresh server per round, one at a time.

        Where memory falls in the caches can favour one process over another, for all of
        its life and by more than the difference that is looked for.
        """
        for number, contender in self._take_turns(worker_type, self.effort.traffic_rounds):
            with run_server(contender, worker_type, hash_seed=number) as server:
                client.send(_make_load(server, _WARM_UP_REQUESTS))
                self._measure_round(server, client)

    def _measure_round(self, server: Server, client: Client) -> None:
        requests = self.effort.traffic_requests
        worker_type = server.launch.worker_type
        pid = server.find_worker_pid()
        cpu_before_s = read_cpu_seconds(pid)
        took_s = client.send(_make_load(server, requests))
        cpu_s = read_cpu_seconds(pid) - cpu_before_s
        self.measurements.add("cpu_s", worker_type, server.contender, cpu_s / requests)
        self.measurements.add("requests_per_s", worker_type, server.contender, requests / took_s)

    def _measure_footprint(self, client: Client) -> None:
        """Launch one server at a time: memory shared with another would count half."""
        for contender in self.able("sync"):
            with run_server(contender, "sync"):
                pass  # The first launch after an installation reads everything from disk.
        for _, contender in self._take_turns("sync", self.effort.footprint_rounds):
            with run_server(contender, "sync", workers=_FOOTPRINT_WORKERS) as server:
                client.send(_make_load(server, _FOOTPRINT_REQUESTS))
                self.measurements.add("first_answer_s", "sync", contender, server.first_answer_s)
                self.measurements.add("pss_bytes", "sync", contender, _sum_tree(server, "Pss"))
                if contender.has_metrics:
                    self._measure_scrapes(server)

    def _measure_scrapes(self, server: Server) -> None:
        for _ in range(_WARM_UP_SCRAPES):
            server.scrape()
        master_bytes = read_rollup_bytes(server.master_pid, "Rss")
        tree_bytes = _sum_tree(server, "Rss")
        times_s = sorted(_time_scrape(server) for _ in range(self.effort.scrapes))
        master_growth_bytes = read_rollup_bytes(server.master_pid, "Rss") - master_bytes
        for measure, value in (
            ("scrape_median_s", times_s[len(times_s) // 2]),
            ("scrape_p95_s", times_s[len(times_s) * 95 // 100]),
            ("scrape_bytes", len(server.scrape())),
            ("master_growth_bytes", master_growth_bytes),
            ("tree_growth_bytes", _sum_tree(server, "Rss") - tree_bytes),
        ):
            self.measurements.add(measure, "sync", server.contender, value)


def _share_processors() -> tuple[set[int], set[int]]:
    """Return the processors of the servers and the one of the client.

    Left to itself the scheduler tends to put two processes that wake each other on one
    processor, and the server then waits for the client.
    """
    processors = os.sched_getaffinity(0)
    if len(processors) == 1:
        return processors, processors
    return processors - {max(processors)}, {max(processors)}


@contextmanager
def _off_the_processor_of_the_client() -> Iterator[None]:
    """Keep the servers started meanwhile off the processor of the client."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _share_processors()[0])
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)


def _make_load(server: Server, requests: int) -> Load:
    """Make a load for the worker type; the sync worker closes after each answer."""
    keep_alive = server.launch.worker_type != "sync"
    return Load(server.launch.port, requests, _CONNECTIONS, keep_alive)


def _time_scrape(server: Server) -> float:
    started = time.perf_counter()
    server.scrape()
    return time.perf_counter() - started


def _sum_tree(server: Server, field_name: str) -> int:
    return sum(read_rollup_bytes(pid, field_name) for pid in list_tree(server.master_pid))

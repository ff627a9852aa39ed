"""Load on a server, what its clients and a scraper saw of it, and what happens to it meanwhile.

For the tests that make the worst happen to a server: storms and the soak.
"""

import contextlib
import http.client
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.support import Metrics, Server, is_running, request, wait_for
from tests.traffic import Client, Exchange, Shot

# A request a connection: where one is kept alive, Gunicorn may close it in the moment in
# which the client sends, and nobody can tell such a request from one that is lost.
CLOSING = ("Connection: close",)
PAUSE_S = 0.002
SCRAPE_PERIOD_S = 0.05

REQUESTS = "gunicorn_http_requests_total"
HITS = "app_hits_total"

# The application has a metric of each kind. It is made to boot fast, as storms make many workers.
APPLICATION = """
import os
import pathlib
import threading

from prometheus_client import Counter, Gauge, Histogram, Summary

HITS = Counter("app_hits", "Requests, by path.", ["path"])
SECONDS = Histogram("app_seconds", "As long as each request says.", buckets=(0.1, 1))
BYTES = Summary("app_bytes", "As much as each request says.")
SUM = Gauge("app_sum", "Requests of all processes.", multiprocess_mode="sum")
LARGEST = Gauge("app_largest", "The largest number in a path.", multiprocess_mode="max")
SMALLEST = Gauge("app_smallest", "The smallest number in a path.", multiprocess_mode="min")
NEWEST = Gauge("app_newest", "A number that does not change.", multiprocess_mode="mostrecent")
LIVING = Gauge("app_living", "1 for a process that lives.", multiprocess_mode="livesum")
EACH = Gauge("app_each", "1 for each process.", multiprocess_mode="liveall")


def app(environ, start_response):
    name, _, argument = environ["PATH_INFO"].strip("/").partition("/")
    HITS.labels(name).inc()
    SECONDS.observe(0.5)
    BYTES.observe(10)
    SUM.inc()
    LIVING.set(1)
    EACH.set(1)
    NEWEST.set(7)
    if name == "number":
        LARGEST.set(max(LARGEST._value.get(), int(argument)))
        SMALLEST.set(min(SMALLEST._value.get(), -int(argument)))
    elif name == "wait":
        pathlib.Path(f"{argument}.{os.getpid()}").touch()
        pause = threading.Event()
        while not pathlib.Path(argument).exists():
            pause.wait(0.02)
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

# Gunicorn pauses for a random time after each fork, 50 ms in the mean.
FAST_FORKS = """
from types import SimpleNamespace

from gunicorn import arbiter

arbiter.random = SimpleNamespace(random=lambda: 0.0)
"""

SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\n"])*"'
    r'(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\n"])*")*\})? (\S+)'
)
TYPE = re.compile(r"# TYPE (\S+) (counter|gauge|histogram|summary|info|unknown|untyped)")
# Which suffixes the samples of a family may have, in the text format.
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
CUMULATIVE = {"counter", "histogram", "summary"}
# These are one process's: of a worker, whose place another takes, or of the newest master.
OF_ONE_PROCESS = re.compile(r'(?:process_|python_)|.*\{.*worker_id="')


class Exposition(NamedTuple):
    """What a scrape said, read by the letter of the format.

    Attributes:
        values: of each series, which is written as in the text.
        cumulative: the series that must not fall.
        problems: what the format does not allow.
    """

    values: dict[str, float]
    cumulative: set[str]
    problems: list[str]

    def total(self, name: str) -> float:
        """Return the sum of the samples of that name."""
        prefix = name + "{"
        return sum(v for s, v in self.values.items() if s == name or s.startswith(prefix))


def parse(text: str) -> Exposition:
    """Read an exposition: every line, each series once, each family once and in one piece."""
    found = Exposition({}, set(), [])
    kinds: dict[str, str] = {}
    family, kind = "", ""
    for line in text.splitlines():
        if line.startswith("#"):
            if match := TYPE.fullmatch(line):
                family, kind = match.groups()
                if family in kinds:
                    found.problems.append(f"a second {line}")
                kinds[family] = kind
            continue
        match = SAMPLE.fullmatch(line)
        if match is None:
            found.problems.append(f"no sample: {line}")
            continue
        series = line[: match.start(3) - 1]
        if match[1] not in {family + suffix for suffix in SUFFIXES.get(kind, ("",))}:
            found.problems.append(f"not of the family {family}: {line}")
        if series in found.values:
            found.problems.append(f"a second {line}")
        found.values[series] = float(match[3])
        if kind in CUMULATIVE and not OF_ONE_PROCESS.match(series):
            found.cumulative.add(series)
    return found


def write_application(directory: Path) -> str:
    """Write the application with metrics of its own; return what to call it."""
    (directory / "counting.py").write_text(APPLICATION)
    return "counting:app"


class Load:
    """Threads of clients that send requests while a block runs.

    Args:
        keep_alive: over the same connection as long as the server lets them.
        paths: are asked for in turn.

    Attributes:
        failures: what should not happen to a client: a hang, or half an answer.
    """

    def __init__(
        self,
        port: int,
        *,
        clients: int = 3,
        keep_alive: bool = False,
        paths: tuple[str, ...] = ("/",),
    ) -> None:
        self._port = port
        self._shots = [Shot(path=path, headers=() if keep_alive else CLOSING) for path in paths]
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]
        self._answered: Counter[str] = Counter()
        self._lost = 0
        self.cut_off = 0
        self.failures: list[Exception] = []

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the clients read what they have asked for, and end them."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        """How many whole answers came so far."""
        return self._answered.total()

    @property
    def lost(self) -> int:
        """How many requests have got no whole answer so far."""
        return self._lost

    @property
    def statuses(self) -> set[str]:
        """What the answers said."""
        return set(self._answered)

    def note(self, exchange: Exchange) -> None:
        """Count what came of a request."""
        with self._lock:
            if exchange.is_whole:
                self._answered[exchange.status] += 1
            else:
                self._lost += 1
                self.cut_off += bool(exchange.status)

    def wait_for_more(self, count: int = 50) -> None:
        """Wait until the clients have got so many more answers."""
        wanted = self.answered + count
        wait_for(lambda: self.answered >= wanted, f"{count} more answers")

    def _send(self) -> None:
        number = 0
        with Client(self._port) as client:
            while not self._stopping.wait(PAUSE_S):
                try:
                    self.note(client.exchange(self._shots[number % len(self._shots)]))
                except ConnectionError:
                    self.note_unsent()
                except Exception as failure:
                    self.failures.append(failure)
                    return
                number += 1

    def note_unsent(self) -> None:
        """Count a connection that did not come about."""
        with self._lock:
            self._lost += 1

    def assert_exact(self, server: Server) -> Metrics:
        """Fail unless the server has counted every whole answer, and nothing else."""
        self.assert_sound()
        return self._assert_counted(server, self.answered, self.answered)

    def assert_within(self, server: Server, kills: int) -> Metrics:
        """Fail unless what was counted is what the killed have left of it.

        A worker counts an answer when it has sent it, so the last one of a killed worker
        may be missing. A request that was cut off may have been counted.
        """
        self.assert_sound()
        return self._assert_counted(server, self.answered - kills, self.answered + self.lost)

    def assert_sound(self) -> None:
        """Fail if anything came but whole answers of 200, or nothing, or the clients starved."""
        assert not self.failures, self.failures
        assert self.statuses == {"200"}, self.statuses

    def _assert_counted(self, server: Server, least: int, most: int) -> Metrics:
        def counts(metrics: Metrics) -> tuple[float, float]:
            return metrics.total(REQUESTS), metrics.total(HITS)

        def is_settled(metrics: Metrics) -> bool:
            # The application counts before it answers, so with the last answer it has.
            ours, application = counts(metrics)
            return least <= ours <= most and self.answered <= application <= most

        with contextlib.suppress(AssertionError):
            return server.wait_for_metrics(is_settled, "the counts", 10)
        raise AssertionError(
            f"counted {counts(server.scrape())}, not {least} to {most}: "
            f"{self.answered} answered, {self.lost} lost"
        )


class Watch:
    """Threads that scrape, and ask whether the server is ready, while a block runs.

    Each scrape is read strictly and compared with the last: what is cumulative must
    not fall or vanish, and each worker started must be alive or in the ledger of exits.

    Args:
        buckets_may_change: series of histograms may vanish.

    Attributes:
        failed_scrapes: what went wrong, by scrape that did not come.
        problems: what was wrong with those that came.
        not_ready: the answers of `/-/ready` that were not 200.
    """

    def __init__(
        self,
        server: Server,
        *,
        period_s: float = SCRAPE_PERIOD_S,
        buckets_may_change: bool = False,
    ) -> None:
        self._server = server
        self._period_s = period_s
        self._vanishing = "_bucket{" if buckets_may_change else "\n"
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(self._scrape,)),
            threading.Thread(target=self._repeat, args=(self._probe,)),
        ]
        self._last = Exposition({}, set(), [])
        self.scrapes = 0
        self.probes = 0
        self.failed_scrapes: list[str] = []
        self.failed_probes: list[str] = []
        self.problems: list[str] = []
        self.not_ready: list[str] = []

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def assert_flawless(self, *, failed: int = 0, is_always_ready: bool = True) -> None:
        """Fail unless all was well, but for so many scrapes, and probes, that may fail."""
        assert self.scrapes > 1
        assert self.probes > 1
        assert not self.problems, self.problems[:20]
        assert len(self.failed_scrapes) <= failed, self.failed_scrapes
        assert len(self.failed_probes) <= failed, self.failed_probes
        if is_always_ready:
            assert not self.not_ready, self.not_ready

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._stopping.wait(self._period_s):
            look()

    def _scrape(self) -> None:
        try:
            answer = request(self._server.metrics_port, "/metrics")
        except (OSError, http.client.HTTPException) as error:
            self.failed_scrapes.append(repr(error))
            return
        if answer.status != 200:
            self.failed_scrapes.append(f"{answer.status} {answer.text}")
            return
        self.scrapes += 1
        self.compare(parse(answer.text))

    def compare(self, found: Exposition) -> None:
        """Note what is wrong with an exposition, and what has fallen since the last."""
        where = f"scrape {self.scrapes}: "
        self.problems += [where + problem for problem in found.problems]
        for series in self._last.cumulative:
            before, now = self._last.values[series], found.values.get(series)
            if now is None:
                if self._vanishing not in series:
                    self.problems.append(f"{where}{series} {before} has vanished")
            elif now < before:
                self.problems.append(f"{where}{series} fell from {before} to {now}")
        spawns = found.total("gunicorn_worker_spawns_total")
        exits, living = found.total("gunicorn_worker_exits_total"), found.total("gunicorn_workers")
        if exits != spawns - living:
            self.problems.append(f"{where}{exits} exits of {spawns} spawns with {living} alive")
        self._last = found

    def _probe(self) -> None:
        try:
            answer = request(self._server.metrics_port, "/-/ready")
        except (OSError, http.client.HTTPException) as error:
            self.failed_probes.append(repr(error))
            return
        self.probes += 1
        if answer.status != 200:
            self.not_ready.append(f"probe {self.probes}: {answer.text}")


class Masters:
    """The masters of a server, which replace each other (USR2).

    Args:
        workers: how many each of them has.

    Attributes:
        pid: of the master in charge.
    """

    def __init__(self, server: Server, workers: int) -> None:
        self._server = server
        self._pidfile = server.directory / "pid"
        self._next_pidfile = server.directory / "pid.2"
        self._workers = workers
        self.pid = server.pid

    @staticmethod
    def option(directory: Path) -> str:
        """Return the option without which the next generation would not be found."""
        return f"--pid={directory / 'pid'}"

    def send_signal(self, number: int) -> None:
        """Send a signal to the master in charge."""
        os.kill(self.pid, number)

    def worker_pids(self, pid: int = 0) -> list[int]:
        """Return the pids of the workers of a master, by default of the one in charge."""
        exporter, successor = self.exporter_pid(), read_pid(self._next_pidfile)
        return sorted(set(child_pids(pid or self.pid)) - {exporter, successor})

    def exporter_pid(self) -> int:
        """Return the pid of the metrics server of the master in charge, 0 if it is a thread."""
        for pid in child_pids(self.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"gunicorn_prom.exporter" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0

    def start_next(self) -> int:
        """Send USR2, wait until all workers of the next master serve, and return its pid."""
        self.send_signal(signal.SIGUSR2)
        pid = int(wait_for(lambda: read_pid(self._next_pidfile), "a new master"))
        wait_for(lambda: self._serve(pid), "workers of the new master")
        return pid

    def replace(self, number: int = signal.SIGTERM) -> None:
        """Start the next master, end the one in charge by a signal, and put that one in charge."""
        successor = self.start_next()
        self.send_signal(number)
        self._await_end()
        wait_for(
            lambda: read_pid(self._pidfile) == successor and not self._next_pidfile.exists(),
            "the promotion of the new master",
        )
        self.pid = successor

    def roll_back(self) -> None:
        """Start the next master, and end it again."""
        successor = self.start_next()
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{successor}").exists(), "the end of the new master")

    def stop(self) -> None:
        """End the master in charge, and wait until it has gone."""
        self.send_signal(signal.SIGTERM)
        self._await_end()

    def _await_end(self) -> None:
        if self.pid == self._server.pid:
            # Our child: not reaped, it would be there for the next master, with its pid file.
            self._server.wait()
        wait_for(lambda: not is_running(self.pid), "the end of the old master")

    def _serve(self, pid: int) -> bool:
        booted = set(self.worker_pids(pid)) & running_workers(self._server.scrape())
        return len(booted) >= self._workers


def read_pid(path: Path) -> int:
    """Return what a pid file says, 0 when it does not say anything yet."""
    try:
        return int(path.read_text() or 0)
    except FileNotFoundError:
        return 0


def running_workers(metrics: Metrics) -> set[int]:
    """Return the pids of the workers that have booted and are not leaving."""
    running = {
        labels["worker_id"]
        for labels, value in metrics.all("gunicorn_worker_state")
        if labels["state"] == "running" and value
    }
    infos = metrics.all("gunicorn_worker_info")
    return {int(labels["pid"]) for labels, _ in infos if labels["worker_id"] in running}


def state_files(server: Server) -> dict[str, int]:
    """Return the sizes of the files in the state directory by path; links are followed."""
    sizes = {}
    for directory, _, names in os.walk(server.state_directory, followlinks=True):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                path = Path(directory, name)
                sizes[str(path.relative_to(server.state_directory))] = path.stat().st_size
    return sizes


def assert_clean_log(server: Server, *, expected: str = "\n") -> None:
    """Fail if something has raised, or we have complained of anything but what is expected."""
    lines = server.log.splitlines()
    assert not [line for line in lines if line.startswith("Traceback")]
    complaints = [line for line in lines if "gunicorn-prom: " in line and expected not in line]
    assert not complaints, complaints


def assert_unharmed(server: Server) -> Metrics:
    """Fail unless the server is at rest, and nothing of ours has failed; return the metrics."""
    metrics = server.wait_for_metrics(
        lambda m: m.total("gunicorn_http_requests_in_progress") == 0, "the end of all requests"
    )
    assert metrics.total("gunicorn_prom_errors_total") == 0
    assert_clean_log(server)
    return metrics


def child_pids(pid: int) -> list[int]:
    """Return the pids of the children of a master, which forks in its main thread only."""
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def answering_pid(port: int, path: str = "/") -> int:
    """Return the pid of the worker that answers a request, once it has."""
    with Client(port) as client:
        return int(client.exchange(Shot(path=path, headers=CLOSING)).raw.rpartition(b"\r\n")[2])


def wait_at_gate(port: int, gate: str) -> Exchange:
    """Send a request that is answered when the file `gate` is there; GATE.PID tells who has it."""
    with Client(port) as client:
        return client.exchange(Shot(path=f"/wait/{gate}", headers=CLOSING))

"""A fleet of servers, a Prometheus and an Alertmanager on what `emit` makes for them.

For a test of a few servers, and for bench/fleet.py, which has twenty.
"""

import contextlib
import http.client
import itertools
import json
import math
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from gunicorn_prom.fleet.alert_rules import alerts
from gunicorn_prom.settings import DEFAULT_BUCKETS
from tests.alertmanager import Alertmanager, running_alertmanager
from tests.fleet_rules import RULES, emit, hurried, in_seconds, other_ways
from tests.ledger import memory_cgroup, running_in
from tests.load import Masters
from tests.prometheus import ask, prometheus_on
from tests.support import Server, gunicorn_prom, wait_for

# Minutes of the emitted rules are seconds here; their thresholds are as they are.
FACTOR = 60
INTERVAL_S = 1
# So that a share of all, a tenth or a thirtieth of the requests is each another burn rate.
SLO = 99
TIMEOUT_S = 5
REQUESTS = "gunicorn_http_requests_total"
DURATIONS = "gunicorn_http_request_duration_seconds"
# After which what is the case has become an alert: the longest patience of one, and two looks.
SETTLING_S = max(in_seconds(alert.hold) for alert in alerts(SLO)) / FACTOR + 2 * INTERVAL_S
# Each lies in the middle of a bucket, and each quantile in the middle of those that take so long.
PATHS = ("/sleep/0.03",) * 6 + ("/sleep/0.15",) * 3 + ("/sleep/0.35",)
QUANTILES = (0.3, 0.75, 0.96)
# So that one client does not fill a server.
PAUSE_S = 0.15
PATIENCE_S = 90.0
MEMORY_BYTES = 200 << 20

Fired = set[tuple[str, str]]


@dataclass(frozen=True)
class Member:
    """A server of the fleet, as it is to be.

    Attributes:
        job: under which Prometheus has it.
        is_confined: whether it is in a cgroup with little memory.
    """

    name: str
    worker_type: str = "sync"
    workers: int = 1
    job: str = "shop"
    options: tuple[str, ...] = ()
    is_confined: bool = False

    def arguments(self, directory: Path) -> list[str]:
        """Return those of `gunicorn-prom run`."""
        is_asgi = self.worker_type in ("asgi", "uvicorn")
        return [
            "fleet_app:asgi_app" if is_asgi else "fleet_app:app",
            f"--worker-type={self.worker_type}",
            f"--workers={self.workers}",
            f"--timeout={TIMEOUT_S}",
            Masters.option(directory),
            *self.options,
        ]


class Answer(NamedTuple):
    """What a client got.

    Attributes:
        time: at which it was there, Unix seconds.
        duration_s: from before the connection.
    """

    time: float
    status: str
    duration_s: float


class Client:
    """A client that asks one server for the same paths over and over, and knows what it got.

    Attributes:
        lost: how many requests got no answer.
    """

    def __init__(self, server: Server, paths: Sequence[str] = PATHS, pause_s: float = PAUSE_S):
        self.answers: list[Answer] = []
        self.lost = 0
        self._server, self._paths, self._pause_s = server, paths, pause_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Read the last answer, and ask no more."""
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _ask(self) -> None:
        for path in itertools.cycle(self._paths):
            if self._is_over.wait(self._pause_s):
                return
            self.ask(path)

    def ask(self, path: str) -> None:
        """Ask once."""
        begin = time.monotonic()
        try:
            status = str(self._server.get(path, timeout_s=PATIENCE_S).status)
        except (OSError, http.client.HTTPException):
            self.lost += 1
            return
        self.answers.append(Answer(time.time(), status, time.monotonic() - begin))


class Fleet:
    """Servers that run, and the Prometheus and Alertmanager that watch them.

    Attributes:
        prometheus: its port.
        servers: by the names of the members.
    """

    def __init__(
        self,
        prometheus: int,
        alertmanager: Alertmanager,
        members: Sequence[Member],
        servers: dict[str, Server],
    ) -> None:
        self.prometheus, self.servers = prometheus, servers
        self.members = {member.name: member for member in members}
        self._alertmanager = alertmanager
        self._clients: dict[str, list[Client]] = {name: [] for name in servers}
        self._names = {f"localhost:{s.metrics_port}": name for name, s in servers.items()}
        self._started = time.time()

    # What the clients do and know.

    def load(self, name: str, paths: Sequence[str] = PATHS, pause_s: float = PAUSE_S) -> None:
        """Have one more client ask a server until it is told to stop."""
        client = Client(self.servers[name], paths, pause_s)
        self._clients[name].append(client)
        client.start()

    def warm_up(self) -> None:
        """Ask each server once, so that every series is there; wait until all that is scraped."""
        for name, server in self.servers.items():
            client = Client(server)
            client.ask(PATHS[0])
            self._clients[name].append(client)
        self.wait_for_counts()

    def stop_clients(self, *names: str) -> None:
        """End the clients of some servers, or of all."""
        for name in names or self.servers:
            for client in self._clients[name]:
                client.stop()

    def answers(self, begin: float = 0.0, end: float = math.inf) -> list[Answer]:
        """Return those that all clients got in a time."""
        clients = itertools.chain.from_iterable(self._clients.values())
        return [a for client in clients for a in client.answers if begin < a.time <= end]

    def answered(self, name: str) -> Counter[str]:
        """Return how many of each status the clients of a server got."""
        return Counter(a.status for client in self._clients[name] for a in client.answers)

    def lost(self) -> int:
        """Return how many requests got no answer."""
        return sum(client.lost for clients in self._clients.values() for client in clients)

    # What Prometheus knows.

    def ask(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """Return labels and values of an instant query."""
        time_part = "" if at is None else f"&time={at:.3f}"
        found = ask(self.prometheus, f"query?query={quote(expression)}{time_part}")
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def value(self, expression: str, at: float | None = None) -> float:
        """Return the one value of a query, NaN for none."""
        found = self.ask(expression, at)
        return found[0][1] if found else math.nan

    def wait_for(self, expression: str, deadline_s: float = PATIENCE_S) -> None:
        """Wait until a query has an answer."""
        wait_for(lambda: self.ask(expression), expression, deadline_s)

    def wait_for_scrapes(self) -> None:
        """Wait until every server was scraped once more."""
        self.wait_for(f"count(timestamp(up) > {time.time():.3f}) == {len(self.servers)}")

    def wait_for_counts(self) -> None:
        """Wait until each server has counted what its clients got, and nothing else."""

        def counted() -> dict[str, Counter[str]]:
            found: dict[str, Counter[str]] = {name: Counter() for name in self.servers}
            for labels, value in self.ask(f"sum by (instance, status) ({REQUESTS})"):
                found[self._names[labels["instance"]]][labels["status"]] = int(value)
            return found

        known = {name: self.answered(name) for name in self.servers}
        try:
            wait_for(lambda: counted() == known, "the counts", PATIENCE_S)
        except AssertionError:
            assert counted() == known

    def fired(self) -> Fired:
        """Return which alerts have fired in Prometheus so far, and for which server or job."""
        window_s = int(time.time() - self._started) + 1
        found = self.ask(f'count_over_time(ALERTS{{alertstate="firing"}}[{window_s}s])')
        return {self._who(labels) for labels, _ in found}

    def told(self) -> Fired:
        """Return which of them the webhook of Alertmanager was told of."""
        return {self._who(alert["labels"]) for alert in self._alertmanager.told}

    def _who(self, labels: dict[str, str]) -> tuple[str, str]:
        name = self._names.get(labels.get("instance", ""), labels["job"])
        return labels["alertname"], name


# What must be so.


class Agreement(NamedTuple):
    """How Prometheus and the clients agree.

    Attributes:
        requests: that the clients counted, as Prometheus did.
        increase: of Prometheus, to what the clients counted.
        rate: the same, while the clients asked.
        quantiles: by quantile, what Prometheus and what the clients have for it.
    """

    requests: int
    lost: int
    increase: float
    rate: float
    quantiles: dict[float, tuple[float, float]]


def assert_agreement(fleet: Fleet, begin: float, middle: tuple[float, float]) -> Agreement:
    """Fail unless Prometheus counted what the clients did, who have ended.

    Args:
        begin: a time after the last warming request was scraped, before the clients began.
        middle: begin and end of a time in which they all asked.
    """
    fleet.wait_for_counts()
    end = time.time()
    # To the millisecond: a window that is cut to seconds begins in the middle of the requests.
    window_s = end - begin
    window = f"{1000 * window_s:.0f}ms"
    answers = fleet.answers(begin)
    increase = fleet.value(f"sum(increase({REQUESTS}[{window}]))", end) / len(answers)
    # Prometheus draws the increase between the first and the last sample out to the whole
    # window, by up to 1.1 intervals on each side.
    assert 0.999 <= increase <= window_s / (window_s - 2.2 * INTERVAL_S) + 0.001
    rate = _assert_rate(fleet, *middle)
    quantiles = _assert_quantiles(fleet, answers, window, end)
    assert fleet.value("sum(gunicorn_prom_errors_total)") == 0
    return Agreement(len(fleet.answers()), fleet.lost(), increase, rate, quantiles)


def _assert_rate(fleet: Fleet, begin: float, end: float) -> float:
    window_s = int(end - begin)
    known = len(fleet.answers(end - window_s, end)) / window_s
    rate = fleet.value(f"sum(rate({REQUESTS}[{window_s}s]))", end) / known
    # Each server is scraped up to an interval before the window ends, and drawn out.
    assert abs(rate - 1) <= 2.2 * INTERVAL_S / window_s, rate
    return rate


def _assert_quantiles(
    fleet: Fleet, answers: list[Answer], window: str, end: float
) -> dict[float, tuple[float, float]]:
    durations = sorted(answer.duration_s for answer in answers)
    found = {}
    for quantile in QUANTILES:
        buckets = f"sum by (le) (increase({DURATIONS}_bucket[{window}]))"
        seen = fleet.value(f"histogram_quantile({quantile}, {buckets})", end)
        known = durations[int(quantile * len(durations))]
        found[quantile] = seen, known
        # The client's time has the connection and the wait for a worker in it.
        assert abs(bisect_left(DEFAULT_BUCKETS, seen) - bisect_left(DEFAULT_BUCKETS, known)) <= 1
    return found


def assert_fired(fleet: Fleet, expected: Fired) -> None:
    """Fail unless just these alerts fire, in Prometheus and at the webhook.

    Whatever is to fire them is the case already, so that others have had their time, too.
    """
    settled = time.time() + SETTLING_S
    for found in (fleet.fired, fleet.told):
        with contextlib.suppress(AssertionError):  # what is missing is told instead
            wait_for(lambda: found() >= expected, "the alerts", PATIENCE_S)  # noqa: B023
        assert found() >= expected, f"missing: {expected - found()}"
    fleet.wait_for(f"vector(time()) > {settled}")
    for found in (fleet.fired, fleet.told):
        assert found() == expected, f"too many: {found() - expected}"


# How it is made.


@contextlib.contextmanager
def running_fleet(directory: Path, members: Sequence[Member], *options: str) -> Iterator[Fleet]:
    """Run the servers, and a Prometheus and an Alertmanager on what is emitted for them.

    Args:
        directory: where each server has one of its own, by its name; what lies there stays.
        options: of Prometheus.
    """
    with contextlib.ExitStack() as stack:
        alertmanager = stack.enter_context(running_alertmanager(directory))
        servers = {m.name: stack.enter_context(_started(directory, m)) for m in members}
        _write_rules(directory)
        configuration = _write_configuration(directory, alertmanager.port)
        port = stack.enter_context(prometheus_on(configuration, *options))
        for name, server in servers.items():
            wait_for(server.is_ready, f"{name} to be ready", PATIENCE_S)
        _write_targets(directory, members, servers)
        fleet = Fleet(port, alertmanager, members, servers)
        stack.callback(fleet.stop_clients)
        fleet.wait_for(f"count(up == 1) == {len(members)}")
        yield fleet


@contextlib.contextmanager
def _started(directory: Path, member: Member) -> Iterator[Server]:
    """Start a server, and do not wait for it unless it must be started within a cgroup."""
    place = directory / member.name
    place.mkdir(exist_ok=True)
    arguments = member.arguments(place)
    if member.is_confined:
        with memory_cgroup(MEMORY_BYTES) as group, running_in(group, place, *arguments) as server:
            yield server
        return
    with gunicorn_prom(place, *arguments, start=False) as server:
        server.launch()
        yield server


def _write_rules(directory: Path) -> None:
    """Emit the rules and make minutes of them seconds."""
    emit(directory, "alerts", "--name=shop", f"--slo={SLO}")
    path = directory / RULES
    path.write_text(hurried(path.read_text(), FACTOR))


def _write_configuration(directory: Path, alertmanager: int) -> Path:
    """Emit the configuration, and choose that servers are found by files."""
    emit(directory, "scrape", "--name=shop")
    path = directory / "prometheus.yml"
    (text,) = [way for way in other_ways(path.read_text()) if "file_sd_configs" in way]
    changes = {
        "localhost:9093": f"localhost:{alertmanager}",
        "/etc/prometheus/targets": str(directory / "targets"),
        ": 15s": f": {INTERVAL_S}s",
        ": 10s": f": {INTERVAL_S}s",
    }
    for emitted, here in changes.items():
        assert emitted in text
        text = text.replace(emitted, here)
    path.write_text(text)
    (directory / "targets").mkdir()
    return path


def _write_targets(directory: Path, members: Sequence[Member], servers: dict[str, Server]) -> None:
    groups = [
        {
            "targets": [f"localhost:{servers[member.name].metrics_port}"],
            "labels": {"job": member.job},
        }
        for member in members
    ]
    # Prometheus reads it as soon as it is there, so it must be there as a whole.
    new = directory / "targets.new"
    new.write_text(json.dumps(groups))
    new.rename(directory / "targets" / "shop.json")


def upgraded(fleet: Fleet, name: str) -> None:
    """Replace the master of a server by USR2, as it serves."""
    Masters(fleet.servers[name], fleet.members[name].workers).replace()


def say(text: str) -> None:
    """Tell whoever runs a bench what happens."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

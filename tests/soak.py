"""The life of a server in a hurry: load, and every second something else happens to it.

The engine of the one-minute test and of `python -m bench.soak`.
"""

import contextlib
import http.client
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.load import (
    CLOSING,
    Load,
    Masters,
    Watch,
    assert_clean_log,
    running_workers,
    state_files,
    write_application,
)
from tests.support import (
    DEADLINE_S,
    Metrics,
    Server,
    descriptors,
    gunicorn_prom,
    is_running,
    request,
    wait_for,
)
from tests.traffic import Answer, Exchange, Shot

WORKERS = 3
MOST_WORKERS = 8
THREADS = 4
PERIOD_S = 1.0
SLOW_S = 0.3
STORM_CLIENTS = 6
STORM_SCRAPES = 5

# How often each happens, beside the others.
WEIGHTS = {
    "kill": 4,
    "term": 4,
    "reload": 3,
    "more": 3,
    "fewer": 3,
    "upgrade": 1,
    "roll_back": 1,
    "kill_exporter": 1,
    "scrape_storm": 2,
    "slow_clients": 2,
}


class Resources(NamedTuple):
    """What a server may not use more and more of."""

    descriptors: int
    threads: int
    files: int
    rss_bytes: int


class Outcome(NamedTuple):
    """What a soak has shown.

    Attributes:
        events: what happened, in order.
        kills: of workers, with -9.
        behind: how many whole answers were not counted.
        first: at rest, before anything happened.
        last: at rest, after everything.
    """

    events: list[str]
    kills: int
    answered: int
    lost: int
    behind: float
    scrapes: int
    failed_scrapes: int
    first: Resources
    last: Resources


class Soak:
    """One run: the same seed makes the same events happen to the same workers, in order.

    Args:
        per_kill: how many answers a killed worker may have sent and not counted: one,
            or one for each of its threads.
        say: is told of each event.
    """

    def __init__(
        self,
        server: Server,
        masters: Masters,
        seed: int,
        *,
        per_kill: int,
        say: Callable[[str], None] = lambda event: None,
    ) -> None:
        self._server, self._masters = server, masters
        self._random = random.Random(seed)
        self._per_kill = per_kill
        self._say = say
        self._load = Load(server.port)
        self._watch = Watch(server)
        self._kills = self._exporter_kills = self._handovers = 0
        self._storm_failures: list[str] = []
        self.events: list[str] = []

    def run(self, seconds: float) -> Outcome:
        """Let events happen for so long; fail unless everything is right at the end."""
        self._come_to_rest()
        first = self._resources()
        with self._load, self._watch:
            end = time.monotonic() + seconds
            while (due := time.monotonic() + PERIOD_S) < end:
                self._make_something_happen()
                # The pace of the events, not a wait for one.
                time.sleep(max(0.0, due - time.monotonic()))
            self._come_to_rest()
        return self._judge(first)

    def _make_something_happen(self) -> None:
        event = self._random.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        # Drawn whether the event needs it or not: what follows is the same in any case.
        number = self._random.randrange(1 << 16)
        self.events.append(event)
        self._say(event)
        getattr(self, f"_{event}")(number)

    def _kill(self, number: int) -> None:
        self._kills += self._signal_worker(number, signal.SIGKILL)

    def _term(self, number: int) -> None:
        self._signal_worker(number, signal.SIGTERM)

    def _signal_worker(self, number: int, sig: int) -> bool:
        pids = self._masters.worker_pids()
        if not pids:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[number % len(pids)], sig)
            return True
        return False

    def _reload(self, _: int) -> None:
        self._masters.send_signal(signal.SIGHUP)

    def _more(self, _: int) -> None:
        if len(self._masters.worker_pids()) < MOST_WORKERS:
            self._masters.send_signal(signal.SIGTTIN)

    def _fewer(self, _: int) -> None:
        self._masters.send_signal(signal.SIGTTOU)

    def _upgrade(self, _: int) -> None:
        self._handovers += 1
        self._masters.replace()

    def _roll_back(self, _: int) -> None:
        self._handovers += 1
        self._masters.roll_back()

    def _kill_exporter(self, _: int) -> None:
        pid = self._masters.exporter_pid()
        if pid:
            self._exporter_kills += 1
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: self._masters.exporter_pid() not in {0, pid}, "a metrics server")

    def _scrape_storm(self, _: int) -> None:
        with ThreadPoolExecutor(STORM_CLIENTS) as pool:
            list(pool.map(self._scrape, range(STORM_CLIENTS * STORM_SCRAPES)))

    def _scrape(self, _: int) -> None:
        try:
            answer = request(self._server.metrics_port, "/metrics", Accept_Encoding="gzip")
            if answer.status != 200:
                self._storm_failures.append(str(answer.status))
        except (OSError, http.client.HTTPException) as error:
            self._storm_failures.append(repr(error))

    def _slow_clients(self, number: int) -> None:
        """Send two requests in two parts each, which keeps sync workers from anything else."""
        with ThreadPoolExecutor(2) as pool:
            for exchange in pool.map(self._send_slowly, (number, number + 1)):
                self._load.note(exchange)

    def _send_slowly(self, number: int) -> Exchange:
        shot = Shot(headers=CLOSING)
        at = 1 + number % (len(shot.content) - 1)
        try:
            with socket.create_connection(("127.0.0.1", self._server.port), DEADLINE_S) as client:
                client.sendall(shot.content[:at])
                threading.Event().wait(SLOW_S)
                client.sendall(shot.content[at:])
                answer = Answer(client, shot.method)
                body_bytes, is_whole = answer.read_body()
        except ConnectionError:
            return Exchange(shot, "", is_whole=False, body_bytes=0, raw=b"")
        return Exchange(shot, answer.status, is_whole, body_bytes, bytes(answer.raw))

    def _come_to_rest(self) -> None:
        """Reload, which brings the number of workers back, and wait until all is over."""
        before = set(self._masters.worker_pids())
        self._masters.send_signal(signal.SIGHUP)

        def is_over(metrics: Metrics) -> bool:
            living = set(self._masters.worker_pids())
            return living == running_workers(metrics) - before and len(living) == WORKERS

        self._server.wait_for_metrics(is_over, "rest", 2 * DEADLINE_S)

    def _resources(self) -> Resources:
        pid = self._masters.pid
        # What a connection of ours was to the metrics server may be closed a moment later.
        wait_for(lambda: len(boards(self._server)) == 1, "one board")
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return Resources(
            descriptors=min(len(descriptors(pid)) for _ in range(20)),
            threads=int(status["Threads"]),
            files=len([path for path in state_files(self._server) if "/app/" not in path]),
            rss_bytes=int(status["VmRSS"].split()[0]) * 1024,
        )

    def _judge(self, first: Resources) -> Outcome:
        """Fail unless all is well; return what there is to tell."""
        server, load, watch = self._server, self._load, self._watch
        kills = self._kills
        cuts = self._exporter_kills + self._handovers
        watch.assert_flawless(failed=cuts, is_always_ready=False)
        assert len(self._storm_failures) <= STORM_CLIENTS * cuts, self._storm_failures
        if kills:
            metrics = load.assert_within(server, kills * self._per_kill)
        else:
            metrics = load.assert_exact(server)
        assert metrics.total("gunicorn_prom_errors_total") == 0
        assert_clean_log(server, expected="the metrics server died and is started again")
        last = self._resources()
        assert last.descriptors <= first.descriptors + 2, (first, last)
        assert last.threads <= first.threads, (first, last)
        assert last.files <= first.files, (first, last)
        assert last.rss_bytes <= 1.25 * first.rss_bytes, (first, last)
        wait_for(lambda: not app_files_of_the_dead(server), "the fold of the dead's files")
        return Outcome(
            events=self.events,
            kills=kills,
            answered=load.answered,
            lost=load.lost,
            behind=load.answered - metrics.total("gunicorn_http_requests_total"),
            scrapes=watch.scrapes,
            failed_scrapes=len(watch.failed_scrapes),
            first=first,
            last=last,
        )


def boards(server: Server) -> list[str]:
    """Return the boards in the state directory."""
    return [path for path in state_files(server) if "/board." in path]


def app_files_of_the_dead(server: Server) -> list[str]:
    """Return the files of the application's metrics that belong to no process that lives.

    That is any process: a pid may have been given to somebody else meanwhile, and then its
    file has to stay.
    """
    paths = [path for path in state_files(server) if path.endswith(".db")]
    pids = {path: Path(path).stem.rpartition("_")[2] for path in paths}
    return [path for path, pid in pids.items() if pid != "0" and not is_running(int(pid))]


@contextmanager
def soaking_server(
    directory: Path, worker_type: str, host: str = "process"
) -> Iterator[tuple[Server, Masters, int]]:
    """Run the server for a soak; also yield what a kill may cost, see `Soak`."""
    is_threaded = worker_type == "gthread"
    arguments = (
        write_application(directory),
        f"--worker-type={worker_type}",
        f"--workers={WORKERS}",
        *([f"--threads={THREADS}"] if is_threaded else []),
        f"--metrics-server={host}",
        Masters.option(directory),
    )
    with gunicorn_prom(directory, *arguments) as server:
        server.wait_for_workers(WORKERS)
        yield server, Masters(server, WORKERS), THREADS if is_threaded else 1

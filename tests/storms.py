"""What every Gunicorn has to show: workers and masters come and go, and no count is lost.

The tests of integration/ and compat/ are made of this module. `worker_type` and `host`, the
options that choose the workers and where the metrics server runs, are fixtures of theirs.
"""

import os
import re
import signal
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.load import (
    FAST_FORKS,
    HITS,
    Load,
    Masters,
    Watch,
    answering_pid,
    assert_unharmed,
    parse,
    running_workers,
    state_files,
    wait_at_gate,
    write_application,
)
from tests.support import Metrics, Server, gunicorn_prom, request, wait_for

WORKERS = 2
KILLS = 400
DEATHS = 300
# Workers whose master has been killed ask for it twice in this time.
TIMEOUT = "--timeout=4"
RELOADS_DEADLINE_S = 160.0
BUCKETS = "metrics_buckets = {}\n"
STUCK_LIMIT_S = 0.1
NUMBER = re.compile(r"[0-9.e+-]+")
# What tells a worker from the one that had its place.
IDENTITY = re.compile(r'(?<=pid=")\d+|(?<=age=")\d+|(?<=unique_id=")\w+')


@contextmanager
def storm_server(
    directory: Path, *options: str, workers: int = WORKERS
) -> Iterator[tuple[Server, Masters]]:
    """Run the application that counts, with all its workers up, until the block ends."""
    app = write_application(directory)
    arguments = (f"--workers={workers}", Masters.option(directory), *options)
    with gunicorn_prom(directory, app, *arguments) as server:
        server.wait_for_workers(workers)
        yield server, Masters(server, workers)


def exits(metrics: Metrics) -> dict[str, float]:
    """Return how many workers have exited for each reason for which any has."""
    found = metrics.all("gunicorn_worker_exits_total")
    return {labels["reason"]: count for labels, count in found if count}


def kill_some(masters: Masters, load: Load, killed: set[int]) -> None:
    """Kill all workers but one while they answer; none twice."""
    load.wait_for_more(8)
    for pid in sorted(set(masters.worker_pids()) - killed)[1:]:
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)


def kill(masters: Masters, count: int) -> set[int]:
    """Kill so many workers, as fast as the master makes new ones, and return their pids."""
    killed: set[int] = set()
    while len(killed) < count:
        victims = wait_for(lambda: set(masters.worker_pids()) - killed, "a worker")
        for pid in sorted(victims)[: count - len(killed)]:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    return killed


class Reloads:
    """What replaces workers and lets them finish."""

    def test_reloads_under_load(self, tmp_path: Path, worker_type: str) -> None:
        """HUP upon HUP under load: every whole answer is counted, once."""
        with storm_server(tmp_path, *worker_type.split()) as (server, masters):
            with Load(server.port) as load, Watch(server) as watch:
                for _ in range(3):
                    load.wait_for_more()
                    before = set(masters.worker_pids())
                    server.send_signal(signal.SIGHUP)
                    wait_for(
                        lambda before=before: before.isdisjoint(masters.worker_pids()),
                        "other workers",
                    )
            server.wait_for_workers(WORKERS)
            # Gunicorn sends the old workers away before the new ones have booted.
            watch.assert_flawless(is_always_ready=False)
            metrics = load.assert_exact(server)
            assert exits(metrics) == {"reload": 3 * WORKERS}
            assert metrics.one("gunicorn_reloads_total") == 3
            assert_unharmed(server)

    @pytest.mark.timeout(400)
    def test_reloads_while_old_workers_are_busy(self, tmp_path: Path, worker_type: str) -> None:
        """Five HUPs while a worker is busy: it finishes first, and all workers are counted."""
        with (
            storm_server(tmp_path, *worker_type.split()) as (server, _),
            ThreadPoolExecutor(1) as pool,
        ):
            with Load(server.port) as load, Watch(server) as watch:
                try:
                    waiting = pool.submit(wait_at_gate, server.port, "gate")
                    wait_for(lambda: list(tmp_path.glob("gate.*")), "a busy worker")
                    for number in range(1, 6):
                        # One that comes before the last is taken would be the same signal.
                        server.send_signal(signal.SIGHUP)
                        server.wait_for_metrics(
                            lambda m, number=number: (
                                m.one("gunicorn_signals_total", signal="HUP") == number
                            ),
                            "the signal",
                        )
                    load.wait_for_more()
                finally:
                    server.open_gate("gate")
                load.note(waiting.result())
                # Gunicorn waits for the old workers of each, and one that is told to go
                # while it boots does not hear it until it is told again.
                server.wait_for_metrics(
                    lambda m: m.one("gunicorn_reloads_total") == 5,
                    "reloads",
                    RELOADS_DEADLINE_S,
                )
                server.wait_for_metrics(
                    lambda m: exits(m) == {"reload": 5 * WORKERS},
                    "the end of the old workers",
                    RELOADS_DEADLINE_S,
                )
            server.wait_for_workers(WORKERS)
            watch.assert_flawless(is_always_ready=False)
            load.assert_exact(server)
            assert_unharmed(server)


class Upgrades:
    """What replaces the master: both generations count as one server."""

    def test_upgrades_in_a_row(self, tmp_path: Path, worker_type: str, host: str) -> None:
        """USR2, then TERM of the old master, three times under load: the totals go on."""
        with storm_server(tmp_path, *worker_type.split(), host) as (server, masters):
            with Load(server.port) as load, Watch(server) as watch:
                for _ in range(3):
                    load.wait_for_more()
                    masters.replace()
                load.wait_for_more()
            server.wait_for_workers(WORKERS)
            watch.assert_flawless(failed=1)
            metrics = load.assert_exact(server)
            assert exits(metrics) == {"shutdown": 3 * WORKERS}
            assert_unharmed(server)
            masters.stop()
            assert not list(server.state_directory.iterdir())

    def test_a_rollback(self, tmp_path: Path, worker_type: str, host: str) -> None:
        """USR2, then TERM of the new master, under load: the old one has the totals of both."""
        with storm_server(tmp_path, *worker_type.split(), host) as (server, masters):
            with Load(server.port) as load, Watch(server) as watch:
                for _ in range(2):
                    load.wait_for_more()
                    masters.roll_back()
                load.wait_for_more()
            server.wait_for_workers(WORKERS)
            watch.assert_flawless(failed=1)
            metrics = load.assert_exact(server)
            assert exits(metrics) == {"shutdown": 2 * WORKERS}
            assert_unharmed(server)
            masters.stop()
            assert not list(server.state_directory.iterdir())

    def test_a_killed_master_with_a_successor(
        self, tmp_path: Path, worker_type: str, host: str
    ) -> None:
        """USR2, then kill -9 of the old master, under load: what it had counted is not lost."""
        with storm_server(tmp_path, *worker_type.split(), host, TIMEOUT) as (server, masters):
            with Load(server.port) as load, Watch(server) as watch:
                load.wait_for_more()
                old_workers = set(masters.worker_pids())
                masters.replace(signal.SIGKILL)
                wait_for(
                    lambda: old_workers.isdisjoint(running_workers(server.scrape())),
                    "the end of the old workers",
                )
                load.wait_for_more()
            server.wait_for_workers(WORKERS)
            watch.assert_flawless(failed=1)
            metrics = load.assert_exact(server)
            assert sum(exits(metrics).values()) == WORKERS
            assert_unharmed(server)

    def test_an_upgrade_with_other_buckets(
        self, tmp_path: Path, worker_type: str, host: str
    ) -> None:
        """USR2 with other --metrics-buckets in the configuration file: totals stay exact."""
        configuration = tmp_path / "conf.py"
        configuration.write_text(BUCKETS.format("'0.1,1'"))
        arguments = (*worker_type.split(), host, "--config=conf.py")
        with storm_server(tmp_path, *arguments) as (server, masters):
            with Load(server.port) as load, Watch(server, buckets_may_change=True) as watch:
                for buckets in ("'0.2,0.5,2'", "'0.1,1'"):
                    load.wait_for_more()
                    configuration.write_text(BUCKETS.format(buckets))
                    masters.replace()
                load.wait_for_more()
            server.wait_for_workers(WORKERS)
            watch.assert_flawless(failed=1)
            metrics = load.assert_exact(server)
            duration = "gunicorn_http_request_duration_seconds"
            assert metrics.one(f"{duration}_bucket", le="+Inf") == load.answered
            assert metrics.one(f"{duration}_count") == load.answered
            bounds = {labels["le"] for labels, _ in metrics.all(f"{duration}_bucket")}
            assert bounds == {"0.1", "1.0", "+Inf"}
            assert_unharmed(server)


class Storms:
    """What happens to the workers of one master."""

    @pytest.mark.timeout(240)
    @pytest.mark.parametrize("keep_alive", [False, True], ids=["closing", "keep-alive"])
    def test_killed_workers(self, tmp_path: Path, keep_alive: bool) -> None:
        """400 workers killed with -9 under load: nothing falls, and a kill costs one at the most.

        The application counts before it answers and loses nothing.
        """
        # A sync worker closes after each answer, whatever it is asked for.
        worker_type = ("--worker-type=gthread", "--threads=1") if keep_alive else ()
        kills = KILLS if not keep_alive else KILLS // 4
        # Imported once, not by each of hundreds of workers.
        (tmp_path / "fast.py").write_text(FAST_FORKS + "import prometheus_client\n")
        options = (*worker_type, "--config=fast.py")
        with storm_server(tmp_path, *options, workers=4) as (server, masters):
            killed: set[int] = set()
            paths = ("/", *(f"/number/{number}" for number in range(10)))
            load = Load(server.port, keep_alive=keep_alive, paths=paths)
            with load, Watch(server) as watch:
                while len(killed) < kills:
                    kill_some(masters, load, killed)
                load.wait_for_more()
            server.wait_for_workers(4)
            watch.assert_flawless(is_always_ready=False)
            load.assert_within(server, len(killed))
            metrics = assert_unharmed(server)
            assert sum(exits(metrics).values()) == len(killed)
            assert set(exits(metrics)) <= {"signal", "oom"}
            self._assert_app_metrics(metrics, set(server.worker_pids()), len(killed))

    @staticmethod
    def _assert_app_metrics(metrics: Metrics, living: set[int], kills: int) -> None:
        hits = metrics.total(HITS)
        # A worker may be killed between the first and the last of its counts, and the client
        # itself writes the count and the sum of a distribution one after the other.
        for counted in (
            metrics.one("app_seconds_count"),
            metrics.one("app_seconds_sum") * 2,
            metrics.one("app_bytes_count"),
            metrics.one("app_bytes_sum") / 10,
            metrics.one("app_sum"),
        ):
            assert hits - kills <= counted <= hits, (hits, counted)
        assert metrics.one("app_largest") == 9
        assert metrics.one("app_smallest") == -9
        assert metrics.one("app_newest") == 7
        assert metrics.one("app_living") <= len(living)
        assert {int(labels["pid"]) for labels, _ in metrics.all("app_each")} <= living

    def test_more_and_fewer_workers_under_load(self, tmp_path: Path, worker_type: str) -> None:
        """TTIN and TTOU under load: every whole answer is counted, once."""
        with storm_server(tmp_path, *worker_type.split()) as (server, _):
            with Load(server.port) as load, Watch(server) as watch:
                for _ in range(2):
                    for number, count in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2)):
                        server.send_signal(number)
                        server.wait_for_workers(count)
                        load.wait_for_more()
            watch.assert_flawless()
            assert exits(load.assert_exact(server)) == {"scale_down": 2}
            assert_unharmed(server)

    def test_max_requests_under_load(self, tmp_path: Path, worker_type: str) -> None:
        """Workers that go after 20 requests, under load: every whole answer is counted, once."""
        options = (*worker_type.split(), "--max-requests=20", "--max-requests-jitter=5")
        with storm_server(tmp_path, *options) as (server, _):
            with Load(server.port) as load, Watch(server) as watch:
                wait_for(
                    lambda: server.scrape().total("gunicorn_worker_exits_total") >= 10, "10 exits"
                )
            server.wait_for_workers(WORKERS)
            # For a moment there may be none that has booted.
            watch.assert_flawless(is_always_ready=False)
            assert set(exits(load.assert_exact(server))) == {"max_requests"}
            assert_unharmed(server)

    def test_a_reload_storm(self, tmp_path: Path) -> None:
        """Five HUPs at once: whoever is told to go while it boots is counted as everybody else."""
        with storm_server(tmp_path) as (server, _):
            with Load(server.port) as load, Watch(server) as watch:
                for number in range(1, 6):
                    server.send_signal(signal.SIGHUP)
                    server.wait_for_metrics(
                        lambda m, number=number: m.one("gunicorn_reloads_total") == number, "HUP"
                    )
                server.wait_for_metrics(
                    lambda m: exits(m) == {"reload": 5 * WORKERS}, "the end of the old workers"
                )
            server.wait_for_workers(WORKERS)
            watch.assert_flawless(is_always_ready=False)
            load.assert_exact(server)
            assert_unharmed(server)

    @pytest.mark.parametrize("host", ["thread", "process"])
    def test_more_workers_than_slots(self, tmp_path: Path, host: str) -> None:
        """TTIN beyond the slots foreseen: each has an id of its own and counts; TTOU goes back."""
        with storm_server(tmp_path, f"--metrics-server={host}", workers=1) as (server, _):
            assert len(boards(server)) == 1
            with Load(server.port) as load, Watch(server, period_s=0.2) as watch:
                scale(server, signal.SIGTTIN, range(2, 22))
                assert len(set(server.worker_pids())) == 21
                assert len(boards(server)) == 3
                load.wait_for_more()
                scale(server, signal.SIGTTOU, range(20, 0, -1))
                load.wait_for_more()
            watch.assert_flawless()
            assert exits(load.assert_exact(server)) == {"scale_down": 20}
            wait_for(lambda: len(boards(server)) == 1, "one board")
            load.assert_exact(server)
            assert_unharmed(server)

    @pytest.mark.parametrize("host", ["thread", "process"])
    def test_all_workers_are_stuck(self, tmp_path: Path, host: str) -> None:
        """With every worker busy for good, metrics and health answer, and within 100 ms."""
        with storm_server(tmp_path, f"--metrics-server={host}") as (server, _):
            with ThreadPoolExecutor(WORKERS) as pool:
                answers = [pool.submit(wait_at_gate, server.port, "gate") for _ in range(WORKERS)]
                try:
                    wait_for(lambda: len(list(tmp_path.glob("gate.*"))) == WORKERS, "stuck workers")
                    for path in ("/metrics", "/-/healthy", "/-/ready"):
                        times = [seconds_for(server.metrics_port, path) for _ in range(11)]
                        assert statistics.median(times) < STUCK_LIMIT_S
                    assert server.scrape().one("gunicorn_workers", state="busy") == WORKERS
                finally:
                    server.open_gate("gate")
            assert all(answer.result().is_whole for answer in answers)

    @pytest.mark.parametrize("has_metrics", [False, True], ids=["plain", "with metrics"])
    def test_deaths_leave_nothing(self, tmp_path: Path, has_metrics: bool) -> None:
        """After 300 deaths a scrape has the series that it had, and the directory the files."""
        workers = 4
        app = write_application(tmp_path) if has_metrics else "behave:app"
        path = "/" if has_metrics else "/pid"
        (tmp_path / "fast.py").write_text(FAST_FORKS)
        options = (app, f"--workers={workers}", Masters.option(tmp_path), "--config=fast.py")
        with gunicorn_prom(tmp_path, *options) as server:
            masters = Masters(server, workers)
            at_rest(server, workers, path, set())
            # The first deaths leave the files of totals, which then stay.
            first, files = at_rest(server, workers, path, kill(masters, workers))
            last, files_later = at_rest(server, workers, path, kill(masters, DEATHS))
            assert last.total("gunicorn_worker_exits_total") == workers + DEATHS
            assert sorted(series_of(last)) == sorted(series_of(first))
            assert len(files_later) == len(files)
            assert sum(files_later.values()) == sum(files.values())
            # Other bytes than digits there are as many as before.
            assert len(NUMBER.sub("", last.text)) == len(NUMBER.sub("", first.text))
            assert_unharmed(server)


def boards(server: Server) -> list[str]:
    """Return the boards in the state directory."""
    return [path for path in state_files(server) if "/board." in path]


def scale(server: Server, number: int, counts: range) -> None:
    """Send a signal for each of the counts of workers, and wait for it."""
    for count in counts:
        server.send_signal(number)
        server.wait_for_metrics(
            lambda m, count=count: m.one("gunicorn_workers_target") == count, f"{count} workers"
        )
    server.wait_for_workers(counts[-1])


def seconds_for(port: int, path: str) -> float:
    """Return how long an answer takes."""
    began = time.perf_counter()
    assert request(port, path).status == 200
    return time.perf_counter() - began


def at_rest(
    server: Server, workers: int, path: str, killed: set[int]
) -> tuple[Metrics, dict[str, int]]:
    """Let every worker answer, and return what is to be seen when that is counted and folded."""
    server.wait_for_metrics(
        lambda m: len(running_workers(m) - killed) == workers, "successors of the killed"
    )
    pids = set(server.worker_pids())
    answered: set[int] = set()
    wait_for(
        lambda: answered.add(answering_pid(server.port, path)) or answered >= pids,
        "an answer of each worker",
    )
    metrics = server.wait_for_metrics(
        lambda m: (
            len(m.all("gunicorn_worker_heartbeat_timestamp_seconds")) == workers
            and m.total("gunicorn_http_requests_in_progress") == 0
        ),
        "all series",
    )
    living = {str(pid) for pid in pids}
    wait_for(lambda: app_processes(server) <= living | {"0"}, "the files of the dead to go")
    return metrics, state_files(server)


def app_processes(server: Server) -> set[str]:
    """Return whose files are there of the application's metrics."""
    names = [Path(path).stem for path in state_files(server) if path.endswith(".db")]
    return {name.rpartition("_")[2] for name in names}


def series_of(metrics: Metrics) -> list[str]:
    """Return every series, without what tells one worker from its predecessor."""
    return [IDENTITY.sub("", series) for series in parse(metrics.text).values]

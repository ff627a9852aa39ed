"""The document behind /status.json: rates from samples, words from facts."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gunicorn_prom.autopsy import AUTOPSIES
from gunicorn_prom.exporter import history
from gunicorn_prom.exporter.collector import ServerCollector
from gunicorn_prom.exporter.endpoint import Endpoint
from gunicorn_prom.exporter.health import HEARTBEAT_LIMIT_S
from gunicorn_prom.exporter.history import POINTS, History, quantile
from gunicorn_prom.exporter.message import Request
from gunicorn_prom.exporter.sidecar import RootReader
from gunicorn_prom.exporter.status import Status
from gunicorn_prom.processes import Processes
from gunicorn_prom.reader import ServerReader
from gunicorn_prom.scoreboard import (
    CELL_BYTES,
    LANES,
    TARGET_BYTES,
    TARGET_CELLS,
    Board,
    Gauge,
    Leaving,
    Master,
    State,
    Vital,
)
from gunicorn_prom.slot import Slot
from gunicorn_prom.state import State as Directory
from tests.support import ROOT
from tests.unit.boards import META, log, opened, start_worker

SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "status-schema.json").read_text()))
TIMEOUT_S = 30.0
# Source: PID_MAX_LIMIT in include/linux/threads.h.
MAX_PID = 4 * 1024 * 1024


class Clock:
    """CLOCK_MONOTONIC as the test has it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


class Scene:
    """A server of which the test is the master and all workers."""

    def __init__(self, board: Board, directory: Path, clock: Clock) -> None:
        self.board, self.clock = board, clock
        self.reader = ServerReader(directory, [board])
        self.collector = ServerCollector(self.reader, log)
        self.status = Status("", self.reader, self.collector)
        self.workers: list[Slot] = []
        board.set_master(Master.TIMEOUT, TIMEOUT_S)
        self.beat()

    def start(self, slot: int, age: int, capacity: int = 1) -> Slot:
        """Start a worker that serves."""
        worker = start_worker(self.board, slot, age)
        worker.set_gauge(Gauge.START_TIME, age)
        worker.set_gauge(Gauge.STATE, State.RUNNING)
        worker.set_gauge(Gauge.BOOTED_TIME, 1.0)
        worker.set_gauge(Gauge.CAPACITY, capacity)
        worker.set_gauge(Gauge.CONNECTIONS, -1.0)
        worker.set_gauge(Gauge.WAITING, -1.0)
        worker.observe_boot(0.1)
        self.workers.append(worker)
        self.board.set_master(Master.TARGET, len(self.workers))
        self.beat()
        return worker

    def beat(self, *silent: Slot) -> None:
        """Have the master's loop turn, and hear of all workers but the silent."""
        self.board.set_master(Master.HEARTBEAT, self.clock.now)
        for worker in self.workers:
            if worker not in silent:
                self.board.set_vital(worker.number, Vital.HEARTBEAT, self.clock.now)

    def pass_time(self, seconds: float, *silent: Slot) -> None:
        """Let time pass, with a turn of the metrics server's loop in each half second."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now += 0.5
            self.beat(*silent)
            self.status.watch()

    def document(self) -> dict[str, Any]:
        """Return the document, which fits the schema."""
        found = self.status.document({})
        SCHEMA.validate(json.loads(json.dumps(found, allow_nan=False)))
        return found

    def health(self) -> tuple[str, str]:
        """Return the word and its reason."""
        health = self.document()["health"]
        return health["word"], health["reason"]


@pytest.fixture
def scene(tmp_path: Path, clock: Clock) -> Iterator[Scene]:
    with opened(tmp_path) as board:
        scene = Scene(board, tmp_path, clock)
        scene.status.watch()
        yield scene
        scene.reader.close()


def be_busy(worker: Slot, since: float) -> None:
    """Have a worker do what it does when it begins with a request."""
    worker.cells[worker.counters + worker.layout.busy_seconds] -= since
    worker.set_gauge(Gauge.FIRST_LANE, since)


def be_idle(worker: Slot, now: float) -> None:
    worker.cells[worker.counters + worker.layout.busy_seconds] += now
    worker.set_gauge(Gauge.FIRST_LANE, 0.0)


# Rates and quantiles.


def test_rates_are_of_the_window(scene: Scene) -> None:
    """Rates and shares are the difference of counters over the last minute, no more."""
    worker = scene.start(0, 1)
    for _ in range(1000):
        worker.observe_request(("GET", "200"), 0.5)
    scene.pass_time(10)
    before = scene.document()
    assert before["window_s"] == 10
    for _ in range(30):
        worker.observe_request(("GET", "200"), 0.05)
    for _ in range(10):
        worker.observe_request(("GET", "503"), 0.5)
    worker.count_aborted("timeout")
    scene.pass_time(60)
    found = scene.document()
    assert found["window_s"] == 60
    recent = found["recent"]
    assert recent["request_rate"] == pytest.approx(40 / 60, abs=1e-6)
    # A timeout is a failed request besides those that were answered.
    assert recent["error_share"] == pytest.approx(11 / 41, abs=1e-6)
    assert recent["aborted_rate"] == pytest.approx(1 / 60, abs=1e-6)
    # 30 of 40 are in the bucket up to 0.1, the others in that from 0.1 to 1.
    assert recent["latency_s"]["p50"] == pytest.approx(0.1 * 20 / 30, abs=1e-6)
    assert recent["latency_s"]["p90"] == pytest.approx(0.1 + 0.9 * 6 / 10)
    [shown] = found["workers"]
    assert shown["request_rate"] == pytest.approx(40 / 60, abs=1e-6)
    assert (shown["requests"], found["totals"]["requests"]) == (1040, 1040)
    assert found["totals"]["by_status_class"] == {"2xx": 1030, "5xx": 10}
    scene.pass_time(65)
    assert scene.document()["recent"]["latency_s"] == {"p50": None, "p90": None, "p99": None}


def test_nothing_is_made_up_at_the_start(scene: Scene) -> None:
    """Before there is anything to compare with, there are no rates and no shares."""
    scene.start(0, 1)
    found = scene.document()
    assert found["recent"]["request_rate"] is None
    assert found["recent"]["error_share"] is None
    [worker] = found["workers"]
    assert (worker["request_rate"], worker["busy_share"], worker["cpu_share"]) == (None,) * 3


def test_the_next_worker_of_a_slot_has_rates_of_its_own(scene: Scene) -> None:
    """What the predecessor in the slot has done is not taken for the successor's, nor lost."""
    first = scene.start(0, 1)
    for _ in range(50):
        first.observe_request(("GET", "200"), 0.05)
    scene.pass_time(10)
    scene.board.retire_slot(0, "max_requests")
    scene.workers.clear()
    second = scene.start(0, 2)
    assert scene.document()["workers"][0]["request_rate"] is None
    scene.pass_time(5)
    for _ in range(20):
        second.observe_request(("GET", "200"), 0.05)
    scene.pass_time(5)
    found = scene.document()
    assert found["workers"][0]["request_rate"] == pytest.approx(4)
    assert found["totals"]["requests"] == 70
    assert min(filter(None, found["history"]["request_rate"])) > 0


def test_saturation_of_one_at_a_time_is_exact(scene: Scene) -> None:
    """Where workers serve one request at a time, saturation is their busy seconds."""
    worker, _ = scene.start(0, 1), scene.start(1, 2)
    scene.pass_time(5)
    began = scene.clock.now
    scene.pass_time(8)
    be_busy(worker, began + 6)
    be_idle(worker, began + 8)
    scene.pass_time(2)
    assert scene.document()["recent"]["saturation"] == pytest.approx(2 / (15 * 2), abs=0.01)
    be_busy(worker, scene.clock.now)
    scene.pass_time(5)
    found = scene.document()
    assert found["history"]["saturation"][-1] == pytest.approx(0.5, abs=0.06)
    assert found["workers"][0]["busy_share"] == pytest.approx(7 / 15, abs=0.02)


def test_saturation_of_threads_is_sampled(scene: Scene) -> None:
    """Where workers serve several requests, what is in progress at each sample is averaged."""
    worker = scene.start(0, 1, capacity=4)
    scene.pass_time(10)
    for lane in range(3):
        worker.set_gauge(Gauge.FIRST_LANE + lane, scene.clock.now)
    assert scene.document()["recent"]["saturation"] == 0
    scene.pass_time(10)
    found = scene.document()
    assert found["recent"]["saturation"] == pytest.approx(0.75 / 2, abs=0.05)
    assert found["history"]["saturation"][-1] == 0.75
    assert (found["totals"]["in_progress"], found["totals"]["capacity"]) == (3, 4)


@pytest.mark.parametrize(
    ("share", "cells", "expected"),
    [
        (0.5, [10, 0, 0, 0], 0.05),
        (0.9, [0, 10, 0, 0], 0.1 + 0.9 * 0.9),
        (0.5, [5, 5, 0, 0], 0.1),
        (0.99, [0, 0, 7, 0], 1.0),
        (0.5, [0, 0, 0, 0], None),
    ],
)
def test_quantiles(share: float, cells: list[float], expected: float | None) -> None:
    """A quantile is what histogram_quantile makes of the buckets 0.1 and 1."""
    found = quantile(share, (0.1, 1.0), cells)
    assert found == (None if expected is None else pytest.approx(expected))


# History.


def test_history_is_bounded(scene: Scene) -> None:
    """It has a row for every five seconds, 60 at most, in columns of one length."""
    scene.start(0, 1)
    scene.pass_time(100)
    history = scene.document()["history"]
    columns = {name: column for name, column in history.items() if name != "interval_s"}
    assert {len(column) for column in columns.values()} == {21}
    scene.pass_time(900)
    columns = scene.document()["history"]
    del columns["interval_s"]
    assert {len(column) for column in columns.values()} == {POINTS}
    assert len(scene.status.history._samples) == 13


def test_history_goes_on_elsewhere(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was dumped is what is loaded, but by another version, which may have another form."""
    worker = scene.start(0, 1)
    scene.pass_time(10)
    worker.observe_request(("GET", "200"), 0.05)
    scene.pass_time(10)
    dumped = scene.status.history.dump()
    other = History()
    other.load(dumped)
    assert other.points == scene.status.history.points
    assert other.last == scene.status.history.last
    monkeypatch.setattr(history, "__version__", "0.0")
    other = History()
    other.load(dumped)
    assert (other.points, other.last) == ([], None)


def test_history_has_memory_only_while_somebody_looks(scene: Scene) -> None:
    """PSS costs a walk over all pages, so it is not read unless the document is."""
    scene.start(0, 1)
    scene.pass_time(10)
    scene.document()
    scene.pass_time(20)
    column = scene.document()["history"]["memory_pss_bytes"]
    assert column[:3] == [None, None, None]
    assert column[3] == pytest.approx(scene.document()["totals"]["memory_pss_bytes"], rel=0.5)
    assert column[5:] == [None, None]


def test_a_failing_sample_ends_nothing(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that cannot be taken is logged once and counted, and the next one is tried."""

    def fail() -> None:
        raise OSError("no reading")

    with monkeypatch.context() as broken:
        broken.setattr(scene.reader, "read", fail)
        scene.pass_time(20)
    assert caplog.text.count("no reading") == 1
    scene.pass_time(10)
    assert len(scene.document()["history"]["time"]) == 3


# States and health.


def test_healthy(scene: Scene) -> None:
    """Workers that serve make a healthy server."""
    scene.start(0, 1)
    be_busy(scene.start(1, 2), scene.clock.now)
    scene.pass_time(5)
    assert scene.health() == ("healthy", "2 of 2 workers serve")
    assert [worker["state"] for worker in scene.document()["workers"]] == ["idle", "busy"]


def test_an_idle_sync_worker_is_not_stuck(scene: Scene) -> None:
    """A worker that waits shows that it lives every half of its timeout, and that is enough."""
    worker = scene.start(0, 1)
    scene.pass_time(TIMEOUT_S / 2 + 1, worker)
    assert scene.document()["workers"][0]["state"] == "idle"
    assert scene.document()["workers"][0]["heartbeat_age_s"] == TIMEOUT_S / 2 + 1


def test_a_stuck_worker(scene: Scene) -> None:
    """A worker silent for more than half of its timeout is stuck, all of them make it the word."""
    first, second = scene.start(0, 1), scene.start(1, 2)
    scene.pass_time(TIMEOUT_S / 2 + 3, first)
    assert [worker["state"] for worker in scene.document()["workers"]] == ["stuck", "idle"]
    assert scene.health() == ("degraded", "1 of 2 workers stuck")
    scene.pass_time(TIMEOUT_S / 2 + 3, first, second)
    assert scene.health() == ("stuck", "every worker is stuck")


def test_without_a_timeout_a_worker_may_be_silent_for_long(scene: Scene) -> None:
    """With --timeout 0 a worker is stuck only after five minutes."""
    worker = scene.start(0, 1)
    scene.board.set_master(Master.TIMEOUT, 0.0)
    scene.pass_time(290, worker)
    assert scene.health()[0] == "healthy"
    assert scene.document()["workers"][0]["timeout_s"] is None
    scene.pass_time(20, worker)
    assert scene.health() == ("stuck", "every worker is stuck")


def test_a_stuck_master_is_not_the_workers_fault(scene: Scene) -> None:
    """When the master's loop stands still it hears of no worker, and none is called stuck."""
    scene.start(0, 1)
    scene.clock.now += 60
    word, reason = scene.health()
    assert (word, reason) == ("stuck", "the master's loop has not turned for 60 s")
    assert scene.document()["workers"][0]["state"] == "idle"


def test_starting_and_stopping(scene: Scene) -> None:
    """Before the first worker has booted it is starting; once told to go it is stopping."""
    scene.board.set_master(Master.TARGET, 1)
    start_worker(scene.board, 0, 1)
    assert scene.health() == ("starting", "no worker has booted")
    assert scene.document()["workers"][0]["state"] == "booting"
    scene.board.set_master(Master.STOPPING, 1.0)
    assert scene.health() == ("stopping", "shutting down")
    assert scene.document()["master"]["workers_target"] == 0


def test_an_import_that_hangs_is_no_start(scene: Scene) -> None:
    """Gunicorn kills no worker that has not booted, so the page must say that it takes long."""
    scene.board.set_master(Master.TARGET, 1)
    start_worker(scene.board, 0, 1)
    scene.document()
    scene.pass_time(TIMEOUT_S)
    assert scene.health() == ("starting", "no worker has booted")
    scene.pass_time(2)
    assert scene.health() == ("degraded", "no worker has booted for 32 s")


def test_a_worker_that_leaves_of_itself_is_ready(scene: Scene) -> None:
    """Another one takes its place; one that was told to go says nothing of that."""
    worker = scene.start(0, 1)
    worker.set_gauge(Gauge.STATE, State.QUITTING)
    assert not scene.document()["health"]["ready"]
    worker.set_gauge(Gauge.LEAVING, Leaving.MAX_REQUESTS)
    assert scene.document()["health"]["ready"]


def test_a_server_that_wants_no_worker_is_degraded(scene: Scene) -> None:
    """Nothing is going to start there."""
    scene.board.set_master(Master.TARGET, 0)
    assert scene.health() == ("degraded", "no worker is wanted")
    scene.board.set_master(Master.READY_UNTIL, scene.clock.now + 60)  # a reload changes nothing
    assert scene.health() == ("degraded", "no worker is wanted")


def test_a_server_whose_workers_are_gone_is_degraded(scene: Scene) -> None:
    """No worker at all, where there was one, is not a start."""
    scene.start(0, 1)
    scene.pass_time(5)
    scene.board.retire_slot(0, "max_requests")
    assert scene.health() == ("degraded", "no worker serves")


def test_a_boot_loop_is_no_start(scene: Scene) -> None:
    """What dies while it boots will do so again, and nobody has to wait for the timeout."""
    scene.board.set_master(Master.TARGET, 1)
    start_worker(scene.board, 0, 1)
    assert scene.health() == ("starting", "no worker has booted")
    scene.pass_time(5)
    scene.board.retire_slot(0, "error")
    start_worker(scene.board, 0, 2)
    reason = "no worker has booted; 1 worker died in the last minute: error"
    assert scene.health() == ("degraded", reason)


def test_the_last_workers_of_a_start(scene: Scene) -> None:
    """A young server of which only some workers are there is ready, and starting."""
    scene.board.set_master(Master.START_TIME, time.time())
    scene.start(0, 1)
    scene.board.set_master(Master.TARGET, 4)
    health = scene.document()["health"]
    assert (health["word"], health["reason"]) == ("starting", "1 of 4 workers serves")
    assert health["ready"]
    scene.board.set_master(Master.START_TIME, time.time() - TIMEOUT_S - 1)
    assert scene.health() == ("healthy", "1 of 4 workers serves")


def test_missing_workers(scene: Scene) -> None:
    """Workers may be missing for as long as a boot may take."""
    scene.start(0, 1)
    scene.board.set_master(Master.TARGET, 2)
    scene.document()
    scene.pass_time(TIMEOUT_S)
    assert scene.health() == ("healthy", "1 of 2 workers serves")
    scene.pass_time(2)
    assert scene.health() == ("degraded", "1 of 2 workers serves, 1 missing for 32 s")


@pytest.mark.parametrize(
    ("reason", "word"), [("oom", "degraded"), ("timeout", "degraded"), ("reload", "healthy")]
)
def test_a_death_counts_for_a_minute(scene: Scene, reason: str, word: str) -> None:
    """A worker that has died of something degrades the server for a minute."""
    scene.start(0, 1)
    scene.start(1, 2)
    scene.pass_time(10)
    scene.board.retire_slot(1, reason)
    scene.workers.pop()
    scene.start(1, 3)
    assert scene.health()[0] == word
    assert scene.document()["exits"] == [
        {"reason": reason, "count": 1, "wanted": word == "healthy"}
    ]
    scene.pass_time(66)
    assert scene.health()[0] == "healthy"


def test_errors(scene: Scene) -> None:
    """More than 5 % of failures degrade the server, but one or two are no share."""
    worker = scene.start(0, 1)
    worker.observe_request(("GET", "500"), 0.05)
    assert scene.health()[0] == "healthy"
    for status in ["200"] * 95 + ["500"] * 4:
        worker.observe_request(("GET", status), 0.05)
    assert scene.health()[0] == "healthy"
    worker.observe_request(("GET", "500"), 0.05)
    assert scene.health() == ("degraded", "6% of the requests fail")


def test_requests_without_an_answer_are_failures(scene: Scene) -> None:
    """When none gets an answer the server is not healthy, though there is no 5xx either."""
    worker = scene.start(0, 1)
    scene.pass_time(10, worker)
    for _ in range(30):
        worker.count_aborted("no_response")
    for _ in range(30):
        worker.count_aborted("client_disconnect")
    assert scene.document()["recent"]["error_share"] == 1.0
    assert scene.health() == ("degraded", "100% of the requests fail")


def test_nobody_serves(scene: Scene) -> None:
    """While all workers boot after a reload the server is ready perhaps, but not healthy."""
    worker = scene.start(0, 1)
    scene.board.set_master(Master.READY_UNTIL, scene.clock.now + 60)
    worker.set_gauge(Gauge.STATE, State.BOOTING)
    word, reason = scene.health()
    assert (word, reason) == ("degraded", "0 of 1 worker serve")


def test_busy(scene: Scene) -> None:
    """A server whose workers do nothing but work for a while is busy."""
    worker = scene.start(0, 1)
    scene.pass_time(10)
    be_busy(worker, scene.clock.now)
    assert scene.health()[0] == "healthy"
    scene.pass_time(16)
    assert scene.health() == ("busy", "100% of the capacity is in use now")


def test_clients_wait_at_one_worker_while_another_is_idle(scene: Scene) -> None:
    """Half of the threads are free, and still nobody calls a server well where clients wait."""
    worker, other = scene.start(0, 1, capacity=2), scene.start(1, 2, capacity=2)
    for lane in range(2):
        worker.set_gauge(Gauge.FIRST_LANE + lane, scene.clock.now)
    worker.set_gauge(Gauge.WAITING, 3.0)
    other.set_gauge(Gauge.WAITING, 0.0)
    scene.pass_time(5)
    assert scene.health()[0] == "healthy"
    scene.pass_time(10)
    assert scene.health() == ("busy", "3 connections wait for a worker")
    found = scene.document()
    assert [each["waiting"] for each in found["workers"]] == [3, 0]
    assert (found["totals"]["waiting"], found["totals"]["backlog"]) == (3, None)
    assert found["history"]["waiting"][-2:] == [3, 3]
    worker.set_gauge(Gauge.WAITING, 0.0)
    assert scene.health()[0] == "healthy"


def test_no_server(tmp_path: Path) -> None:
    """A sidecar without a server says so, and has no figures."""
    reader = RootReader(tmp_path, log)
    status = Status("", reader, ServerCollector(reader, log))
    status.watch()
    found = status.document({})
    SCHEMA.validate(json.loads(json.dumps(found, allow_nan=False)))
    assert found["health"]["word"] == "down"
    assert (found["master"], found["masters"], found["workers"]) == (None, [], [])
    assert found["recent"]["request_rate"] is None
    totals = found["totals"]
    assert (totals["requests"], totals["workers"]["target"], found["exits"]) == (None,) * 3
    assert found["history"]["workers"] == [0]


@pytest.mark.parametrize("is_left_to_reap", [False, True])
def test_a_master_that_has_died(scene: Scene, is_left_to_reap: bool) -> None:
    """The kernel knows it at once, also while nobody has asked for its end."""
    scene.start(0, 1)
    pid = dead_child() if is_left_to_reap else MAX_PID + 1
    scene.board.meta["pid"] = pid
    assert scene.document()["health"] == {
        "word": "down",
        "reason": f"the master (pid {pid}) has died, its workers are left; 1 worker still serves",
        "live": False,
        "ready": True,
    }
    assert scene.document()["totals"]["workers"]["target"] == 0
    if is_left_to_reap:
        os.waitpid(pid, 0)


def dead_child() -> int:
    """Return the pid of a child that has ended and waits for us."""
    with subprocess.Popen(["true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        child.returncode = 0  # the test asks itself
    return child.pid


def test_a_master_of_another_container(scene: Scene) -> None:
    """Its pid means nothing here, and only its heart tells that it lives."""
    scene.start(0, 1)
    scene.board.meta.update(pid=MAX_PID + 1, pid_namespace="pid:[1]")
    assert scene.health() == ("healthy", "1 of 1 worker serves")
    scene.clock.now += HEARTBEAT_LIMIT_S + 1
    assert scene.health() == ("stuck", "the master's loop has not turned for 6 s")


# What a worker does.


def write_target(worker: Slot, lane: int, target: str) -> None:
    """Write what a request asks for, as the recorder does."""
    cell = worker.gauges + worker.layout.targets + lane * TARGET_CELLS
    text = target.encode()[:TARGET_BYTES].ljust(TARGET_BYTES, b"\0")
    worker.bytes[cell * CELL_BYTES : cell * CELL_BYTES + TARGET_BYTES] = text


def test_the_oldest_request(scene: Scene) -> None:
    """The request in progress for the longest is shown, without what moves a cursor."""
    worker = scene.start(0, 1, capacity=4)
    scene.pass_time(10)
    worker.set_gauge(Gauge.FIRST_LANE + 7, scene.clock.now - 1)
    worker.set_gauge(Gauge.FIRST_LANE + LANES - 1, scene.clock.now - 4.5)
    write_target(worker, 7, "GET /young")
    write_target(worker, LANES - 1, "GET /<script>\x1b[31m\n/" + "o" * 200)
    oldest = scene.document()["workers"][0]["oldest_request"]
    assert oldest["request"] == ("GET /<script>?[31m?/" + "o" * 200)[:TARGET_BYTES]
    assert oldest["age_s"] == 4.5
    assert oldest["start_time"] == pytest.approx(time.time() - 4.5, abs=60)


def test_a_request_that_is_not_noted_is_not_shown(scene: Scene) -> None:
    """Without --timeout-autopsy nobody notes what a request asks for."""
    worker = scene.start(0, 1)
    be_busy(worker, scene.clock.now)
    assert scene.document()["workers"][0]["oldest_request"] is None


@pytest.mark.parametrize("is_there", [True, False], ids=["broken", "missing"])
def test_an_unreadable_proc(scene: Scene, tmp_path: Path, is_there: bool) -> None:
    """Where /proc cannot be read the document comes all the same, without memory."""
    scene.start(0, 1)
    if is_there:
        (tmp_path / str(os.getpid()) / "stat").mkdir(parents=True)
    scene.status._processes = Processes(tmp_path)
    found = scene.document()
    assert found["workers"][0]["memory_rss_bytes"] is None
    assert found["totals"]["memory_pss_bytes"] is None


def test_autopsies_that_cannot_be_read(scene: Scene, tmp_path: Path) -> None:
    """A broken file of autopsies is counted as an error, and the document comes."""
    (tmp_path / AUTOPSIES).write_text("{")
    scene.start(0, 1)
    assert scene.document()["autopsies"] == []
    errors = {m.name: m for m in scene.collector.collect()}["gunicorn_prom_errors"].samples
    assert [s.value for s in errors if s.labels["where"] == "autopsy"] == [1]


@pytest.mark.parametrize("path", ["/", "/status.json"])
def test_a_failure_is_logged_once(
    scene: Scene,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An open page asks again and again; each failure is counted, and the first one logged."""
    endpoint = Endpoint({"": scene.reader}, "/metrics", log)
    monkeypatch.setattr(Status, "document", None)
    answers = [endpoint.respond(Request("GET", path, "", {})) for _ in range(3)]
    assert [answer.status for answer in answers] == [500] * 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    errors = {m.name: m for m in scene.collector.collect()}["gunicorn_prom_errors"].samples
    assert [s.value for s in errors if s.labels["where"] == "collector"] == [3]


def test_two_generations(tmp_path: Path, clock: Clock) -> None:
    """During an upgrade both masters are told, oldest first, and each worker's."""
    older = Directory.create(tmp_path, {**META, "master": "1.1"})
    newer = Directory(older.path)
    newer.add_board({**META, "master": "2.2"})
    newer.add_board({**META, "master": "2.2"})
    for board in (older.board, *newer.boards):
        board.set_master(Master.HEARTBEAT, clock.now)
    start_worker(older.board, 0, 1)
    start_worker(newer.board, 1, 1).set_gauge(Gauge.START_TIME, 1.0)
    reader = ServerReader(older.path, older.boards)
    found = Status("", reader, ServerCollector(reader, log)).document({})
    SCHEMA.validate(json.loads(json.dumps(found, allow_nan=False)))
    assert [master["generation"] for master in found["masters"]] == [1, 2]
    assert found["master"] == found["masters"][1]
    assert {worker["generation"] for worker in found["workers"]} == {1, 2}
    reader.close()
    newer.close()
    older.close()


def test_every_field_is_in_the_page() -> None:
    """docs/status.md names every field of the schema, and the schema has no loose end."""
    page = (ROOT / "docs" / "status.md").read_text()
    Draft202012Validator.check_schema(SCHEMA.schema)
    missing = [name for name in sorted(_names(SCHEMA.schema)) if f"`{name}`" not in page]
    assert not missing


def _names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for part in schema.values():
            yield from _names(part)

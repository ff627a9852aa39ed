"""What the metrics tell of each worker, from a real one that does the thing."""

import os
import platform
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gunicorn
import pytest

from gunicorn_prom import __version__
from tests.support import Metrics, Server, gunicorn_prom, request, wait_for

APP = "behave:app"
MEBIBYTE = 1 << 20
HELD_MEBIBYTES = 200


def test_memory_is_the_workers_own(tmp_path: Path) -> None:
    """Only the worker that holds 200 MB reports them."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        server.wait_for_workers(2)
        server.get(f"/hold/{HELD_MEBIBYTES}")
        metrics = server.scrape()
        for family in ("gunicorn_worker_memory_bytes", "gunicorn_worker_memory_pss_bytes"):
            small, large = sorted(value for _, value in metrics.all(family))
            assert large - small > 0.95 * HELD_MEBIBYTES * MEBIBYTE, family
        assert metrics.one("process_resident_memory_bytes") < HELD_MEBIBYTES * MEBIBYTE


def test_a_stuck_worker_is_still_reported(tmp_path: Path) -> None:
    """While its only worker spins in a request, what a scrape says of it is fresh."""
    with gunicorn_prom(tmp_path, APP, "--timeout=300") as server, ThreadPoolExecutor() as pool:
        assert server.scrape().all("gunicorn_worker_oldest_request_start_time_seconds") == []
        before = time.time()
        answer = pool.submit(server.get, "/spin/gate")
        first = server.wait_for_metrics(is_busy, "a busy worker")
        later = server.wait_for_metrics(
            lambda m: (
                m.one("gunicorn_worker_cpu_seconds_total")
                >= first.one("gunicorn_worker_cpu_seconds_total") + 0.2
            ),
            "CPU seconds of the busy worker",
        )
        assert later.one("gunicorn_worker_cpu_percent") > 10
        assert later.one("gunicorn_worker_memory_bytes") > MEBIBYTE
        busy = "gunicorn_worker_busy_seconds_total"
        assert later.one(busy) >= first.one(busy) + 0.1
        oldest = "gunicorn_worker_oldest_request_start_time_seconds"
        assert before - 0.1 <= first.one(oldest) <= time.time()
        assert later.one(oldest) == pytest.approx(first.one(oldest), abs=0.1)
        assert later.one("gunicorn_worker_requests_in_progress") == 1
        assert later.one("gunicorn_http_requests_in_progress") == 1
        server.open_gate("gate")
        assert answer.result().text == "spun"
        rest = server.wait_for_metrics(lambda m: not is_busy(m), "rest")
        assert rest.one("gunicorn_http_requests_in_progress") == 0
        assert rest.all(oldest) == []
        assert server.scrape().one(busy) == rest.one(busy) >= later.one(busy)


def is_busy(metrics: Metrics) -> bool:
    """Tell whether the only worker is busy; it is in exactly one state."""
    states = {labels["state"]: value for labels, value in metrics.all("gunicorn_workers")}
    assert set(states) == {"booting", "idle", "busy", "quitting"}
    assert sum(states.values()) == 1
    return states["busy"] == 1


def worker_states(metrics: Metrics) -> dict[str, str]:
    """Return the state of each worker; there is exactly one."""
    states: dict[str, str] = {}
    for labels, value in metrics.all("gunicorn_worker_state"):
        assert value in {0, 1}
        if value:
            assert labels["worker_id"] not in states
            states[labels["worker_id"]] = labels["state"]
    assert len(states) == len(metrics.all("gunicorn_worker_info"))
    return states


def test_every_worker_is_in_one_state(tmp_path: Path) -> None:
    """A worker is running, and quitting while it finishes its last request."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server, ThreadPoolExecutor() as pool:
        server.wait_for_workers(2)
        assert worker_states(server.scrape()) == {"0": "running", "1": "running"}
        answer = pool.submit(server.get, "/wait/gate")
        busy = server.wait_for_metrics(
            lambda m: m.one("gunicorn_workers", state="busy") == 1, "a busy worker"
        )
        slot = next(
            labels["worker_id"]
            for labels, value in busy.all("gunicorn_worker_requests_in_progress")
            if value
        )
        os.kill(pid_in_slot(busy, slot), signal.SIGTERM)
        quitting = server.wait_for_metrics(
            lambda m: worker_states(m).get(slot) == "quitting", "a quitting worker"
        )
        assert quitting.one("gunicorn_workers", state="quitting") == 1
        server.open_gate("gate")
        assert answer.result().text == "waited"


def pid_in_slot(metrics: Metrics, slot: str) -> int:
    """Return the pid of the worker in a slot."""
    infos = metrics.all("gunicorn_worker_info")
    return next(int(labels["pid"]) for labels, _ in infos if labels["worker_id"] == slot)


@pytest.mark.parametrize(
    ("arguments", "capacity"),
    [
        ((), 1),
        (("--threads=3",), 3),
        (("--worker-type=gevent", "--worker-connections=77"), 77),
    ],
)
def test_capacity_and_requests_in_progress(
    tmp_path: Path, arguments: tuple[str, ...], capacity: int
) -> None:
    """A worker tells how much it can do at once, and how much it does."""
    if "--worker-type=gevent" in arguments:
        pytest.importorskip("gevent", exc_type=ImportError)
    at_once = min(capacity, 3)
    with gunicorn_prom(tmp_path, APP, *arguments) as server, ThreadPoolExecutor() as pool:
        answers = [pool.submit(server.get, "/wait/gate") for _ in range(at_once)]
        metrics = server.wait_for_metrics(
            lambda m: m.one("gunicorn_worker_requests_in_progress") == at_once,
            f"{at_once} requests in progress",
        )
        assert metrics.one("gunicorn_worker_capacity") == capacity
        assert metrics.one("gunicorn_workers", state="busy") == 1
        server.open_gate("gate")
        assert [answer.result().text for answer in answers] == ["waited"] * at_once
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_worker_requests_in_progress") == 0, "rest"
        )


def test_counters_of_the_process_grow(tmp_path: Path) -> None:
    """Context switches and garbage collections are counted while the worker works."""
    with gunicorn_prom(tmp_path, APP) as server:
        switches, collections = (
            "gunicorn_worker_context_switches_total",
            "gunicorn_worker_gc_collections_total",
        )
        before = server.scrape()
        for _ in range(5):
            server.get("/collect")
        after = server.scrape()
        assert {labels["kind"] for labels, _ in after.all(switches)} == {
            "voluntary",
            "involuntary",
        }
        assert after.one(switches, kind="voluntary") > before.one(switches, kind="voluntary")
        grown = after.one(collections, generation="2") - before.one(collections, generation="2")
        assert grown >= 5
        assert after.one("gunicorn_worker_gc_pause_seconds_total", generation="2") > 0
        assert after.one("gunicorn_worker_threads") == 1
        descriptors = Path(f"/proc/{server.worker_pids()[0]}/fd")
        # The last connection may just be closing.
        server.wait_for_metrics(
            lambda metrics: metrics.one("gunicorn_worker_open_fds") == len(os.listdir(descriptors)),
            "as many descriptors as there are",
        )


def test_a_slot_outlives_its_worker(tmp_path: Path) -> None:
    """The series of a killed worker go, its successor takes its worker_id, the totals stay."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        server.wait_for_workers(2)
        for _ in range(10):
            server.get("/")
        server.wait_for_requests(10)
        before = server.wait_for_metrics(two_are_heard_of, "two heartbeats")
        killed = pid_in_slot(before, "0")
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: killed not in server.worker_pids(), "the end of the worker")
        after = server.wait_for_metrics(two_are_heard_of, "two heartbeats")
        assert series(after) == series(before)
        assert after.one("gunicorn_worker_requests_total", worker_id="0") == 0
        assert after.total("gunicorn_http_requests_total") == 10
        ages = [{int(i["age"]) for i, _ in m.all("gunicorn_worker_info")} for m in (before, after)]
        assert ages == [{1, 2}, {2, 3}]


def two_are_heard_of(metrics: Metrics) -> bool:
    """Tell whether two workers have begun to report to the master."""
    return len(metrics.all("gunicorn_worker_heartbeat_timestamp_seconds")) == 2


def series(metrics: Metrics) -> set[tuple[str, ...]]:
    """Return the per-worker series of a scrape, but for those that name the worker."""
    return {
        (sample.name, *sorted(map("=".join, sample.labels.items())))
        for sample in metrics.samples
        if "worker_id" in sample.labels and sample.name != "gunicorn_worker_info"
    }


def test_facts_that_do_not_change(tmp_path: Path) -> None:
    """Start, uptime and identity of a worker agree with one another and with the clock."""
    before = time.time()
    with gunicorn_prom(tmp_path, APP) as server:
        metrics = server.scrape()
        (info, one), *others = metrics.all("gunicorn_worker_info")
        started = metrics.one("gunicorn_worker_start_time_seconds")
        assert before - 0.1 <= started <= time.time()
        uptime = metrics.one("gunicorn_worker_uptime_seconds")
        assert uptime == pytest.approx(time.time() - started, abs=1)
        assert (one, others) == (1, [])
        assert info["unique_id"] == f"worker_{info['age']}_{int(started)}"
        assert server.get("/pid").text == info["pid"]


def test_a_worker_is_shown_when_it_is_known(tmp_path: Path) -> None:
    """One that is still writing who it is has no samples, and no start at zero."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "import pathlib, time\n"
        "def post_fork(server, worker):\n"
        "    setting = worker.cfg.settings['threads']\n"
        "    def get():\n"
        "        pathlib.Path('is_there').touch()\n"
        "        while not pathlib.Path('gate').exists():\n"
        "            time.sleep(0.01)\n"
        "        return setting.value\n"
        "    setting.get = get\n"
    )
    with gunicorn_prom(tmp_path, APP, start=False) as server:
        server.launch()
        wait_for((tmp_path / "is_there").exists, "the worker")
        names = {s.name for s in server.scrape().samples if "worker_id" in s.labels}
        assert names == set()
        (tmp_path / "gate").touch()
        server.wait_for_workers(1)
        assert server.scrape().one("gunicorn_worker_start_time_seconds") > 0


@pytest.mark.parametrize("server_option", ["thread", "process"])
def test_names_of_processes_are_bytes(tmp_path: Path, server_option: str) -> None:
    """A name that is cut in the middle of a character hides no process, nor any other one."""
    (tmp_path / "gunicorn.conf.py").write_text(
        "def rename():\n"
        "    with open('/proc/self/comm', 'wb') as comm:\n"
        "        comm.write('\\u0439'.encode()[:1] + b') S 1')\n"
        "def when_ready(server):\n"
        "    rename()\n"
        "def post_fork(server, worker):\n"
        "    if worker.age == 1:\n"
        "        rename()\n"
    )
    options = ("--workers=2", f"--metrics-server={server_option}")
    with gunicorn_prom(tmp_path, APP, *options) as server:
        server.wait_for_workers(2)
        metrics = server.wait_for_metrics(two_are_heard_of, "two heartbeats")
        for family in ("memory_bytes", "cpu_seconds_total", "threads", "open_fds"):
            assert len(metrics.all(f"gunicorn_worker_{family}")) == 2, family
        for target in ("/-/healthy", "/-/ready", "/status.json", "/"):
            assert request(server.metrics_port, target).status == 200, target
        assert metrics.total("gunicorn_prom_errors_total") == 0


def test_the_heartbeat_is_fresh(tmp_path: Path) -> None:
    """The time at which the master last heard of a worker is Unix time and moves on."""
    heartbeat = "gunicorn_worker_heartbeat_timestamp_seconds"
    with gunicorn_prom(tmp_path, APP, "--timeout=2") as server:
        first = server.wait_for_metrics(lambda m: m.all(heartbeat), "a heartbeat").one(heartbeat)
        assert abs(time.time() - first) < 10
        server.wait_for_metrics(lambda m: m.one(heartbeat) > first, "another heartbeat")


def test_info_tells_the_versions(tmp_path: Path) -> None:
    """`gunicorn_info` names what runs, once."""
    with gunicorn_prom(tmp_path, APP, "--threads=2") as server:
        assert server.scrape().all("gunicorn_info") == [
            (
                {
                    "version": gunicorn.__version__,
                    "python_version": platform.python_version(),
                    "worker_class": "gthread",
                    "gunicorn_prom_version": __version__,
                },
                1,
            )
        ]


def test_the_target_follows_ttin_and_ttou(tmp_path: Path) -> None:
    """The number of workers that the master means to keep is told, and is reached."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        expect_target(server, 2)
        server.send_signal(signal.SIGTTIN)
        expect_target(server, 3)
        server.send_signal(signal.SIGTTOU)
        expect_target(server, 2)


def expect_target(server: Server, target: int) -> None:
    """Wait until the master means to keep so many workers, and has them."""
    server.wait_for_metrics(
        lambda m: (
            m.one("gunicorn_workers_target") == target
            and len(m.all("gunicorn_worker_info")) == target
            and m.one("gunicorn_workers", state="idle") == target
        ),
        f"{target} workers",
    )

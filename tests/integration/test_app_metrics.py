"""The application's own metrics, counted by real workers and served beside ours."""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.real_parts import find_program, unavailable
from tests.support import (
    DEADLINE_S,
    Metrics,
    Server,
    gunicorn_prom,
    is_running,
    plain_gunicorn,
    request,
    run_to_end,
    start_next_generation,
    wait_for,
)

APP = "jobs:app"
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
HOOKS = "from gunicorn_prom.hooks import *\n"
# Their sums are exact.
VALUES = (0.25, 0.75, 2.0)
# A configuration file that has nothing to do with the client, imports it, or counts with it.
FILES = {"apart": "", "importing": "import jobs\n", "counting": "import jobs; jobs.do('load', 1)\n"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Jobs:
    """Jobs that a server is asked to do, and what was asked of it.

    Attributes:
        done: the values, in order.
        last: of each worker, the value that it had last.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._values = itertools.cycle(VALUES)
        self.done: list[float] = []
        self.last: dict[int, float] = {}

    def do(self) -> int:
        """Have one job done and return the pid of the worker."""
        value = next(self._values)
        pid = int(self._server.get(f"/do/mail/{value}").text)
        self.done.append(value)
        self.last[pid] = value
        return pid

    def do_by_all(self, pids: list[int]) -> None:
        """Have jobs done until each of the workers has done one."""
        missing = set(pids)

        def is_done() -> bool:
            missing.discard(self.do())
            return not missing

        wait_for(is_done, "a job of each worker")

    def assert_counted(self, metrics: Metrics) -> None:
        """Fail unless the metrics that are added up have every job once."""
        count, total = len(self.done), sum(self.done)
        assert metrics.one("jobs_total", kind="mail") == count
        for name in ("job_seconds", "job_bytes"):
            assert metrics.one(f"{name}_count", kind="mail") == count
            assert metrics.one(f"{name}_sum", kind="mail") == total
        for bound in (0.5, 1.0):
            below = sum(value <= bound for value in self.done)
            assert metrics.one("job_seconds_bucket", kind="mail", le=str(bound)) == below
        assert metrics.one("job_seconds_bucket", kind="mail", le="+Inf") == count


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A directory for the temporary files of servers: `environ={"TMPDIR": ...}`."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


def files_in(directory: Path) -> list[str]:
    """Return what is in a directory, at any depth."""
    return [str(path.relative_to(directory)) for path in directory.rglob("*")]


# What is served.


@pytest.mark.parametrize("worker_type", ["sync", "gthread", "gevent"])
def test_every_job_is_counted_once(tmp_path: Path, worker_type: str) -> None:
    """Over all workers, killed and replaced ones too, sums are exact in every scrape."""
    if worker_type == "gevent":
        pytest.importorskip("gevent", exc_type=ImportError)
    arguments = (APP, "--workers=3", f"--worker-type={worker_type}", "--threads=2")
    with gunicorn_prom(tmp_path, *arguments) as server:
        jobs = Jobs(server)
        first = server.wait_for_workers(3)
        jobs.do_by_all(first)
        jobs.assert_counted(server.scrape())
        for pid in first[:2]:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: set(server.worker_pids()).isdisjoint(first[:2]), "others in their place")
        jobs.assert_counted(server.scrape())
        second = server.wait_for_workers(3)
        jobs.do_by_all(second)
        jobs.assert_counted(server.scrape())
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: set(server.worker_pids()).isdisjoint(second), "the reload")
        jobs.assert_counted(server.scrape())
        jobs.do_by_all(server.wait_for_workers(3))
        jobs.assert_counted(server.scrape())
        assert server.scrape().total("gunicorn_prom_errors_total") == 0


def test_gauges_follow_their_mode(tmp_path: Path) -> None:
    """Each mode merges the workers as prometheus_client says; of the dead, `live` ones forget."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        jobs = Jobs(server)
        jobs.do_by_all(server.wait_for_workers(2))
        metrics, last = server.scrape(), jobs.last
        for live in ("", "live"):
            shown = metrics.all(f"job_last_{live}all")
            assert {int(labels["pid"]): value for labels, value in shown} == last
            for mode, merge in (("min", min), ("max", max), ("sum", sum)):
                assert metrics.one(f"job_last_{live}{mode}") == merge(last.values())
            assert metrics.one(f"job_last_{live}mostrecent") == jobs.done[-1]
        for pid in last:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: set(server.worker_pids()).isdisjoint(last), "other workers")
        # One file after the other is removed.
        live = [f"job_last_live{mode}" for mode in ("all", "min", "max", "sum", "mostrecent")]
        metrics = server.wait_for_metrics(
            lambda m: not any(map(m.all, live)), "the files of the dead to be folded"
        )
        kept = {"min": min(last.values()), "max": max(last.values()), "sum": sum(last.values())}
        for mode, value in {**kept, "mostrecent": jobs.done[-1]}.items():
            assert metrics.one(f"job_last_{mode}") == value
            assert not metrics.all(f"job_last_live{mode}")


@pytest.mark.parametrize("file", ["apart", "counting"])
def test_both_generations_are_summed(tmp_path: Path, temporary: Path, file: str) -> None:
    """During and after USR2 the jobs of both masters' workers are in one sum.

    So they are where the configuration file has made metrics before there is a directory.
    """
    (tmp_path / "gunicorn.conf.py").write_text(FILES[file])
    pidfile, environ = tmp_path / "pid", {"TMPDIR": str(temporary)}
    with gunicorn_prom(tmp_path, APP, f"--pid={pidfile}", environ=environ) as server:
        jobs = Jobs(server)
        jobs.do_by_all(server.wait_for_workers(1))
        successor = start_next_generation(server, pidfile)
        jobs.assert_counted(server.scrape())
        jobs.do_by_all(server.wait_for_workers(2))
        jobs.assert_counted(server.scrape())
        assert server.stop() == 0
        wait_for(lambda: len(server.worker_pids()) == 1, "the end of the old workers")
        jobs.assert_counted(server.scrape())
        jobs.do()
        jobs.assert_counted(server.scrape())
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not is_running(successor), "the end of the next generation")
        assert files_in(temporary) == []
        assert files_in(server.state_directory) == []


def test_what_is_served_is_well_formed(tmp_path: Path) -> None:
    """Together with ours the application's families are valid in both formats."""
    with gunicorn_prom(tmp_path, APP) as server:
        Jobs(server).do()
        promtool = find_program("promtool", "prometheus")
        text = server.wait_for_requests(1).text
        checked = subprocess.run(
            [promtool, "check", "metrics"],
            check=False,
            input=text,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        # It also says what it thinks of names; 3 is its exit code for that alone.
        ours = [line for line in checked.stderr.splitlines() if not line.startswith("job")]
        assert checked.returncode in {0, 3}, checked.stderr
        assert not [line for line in ours if not line.startswith("process_")], checked.stderr
        answer = request(server.metrics_port, "/metrics", Accept=OPENMETRICS)
        families = {f.name: f.type for f in text_string_to_metric_families(answer.text)}
        assert families["jobs"] == "counter"
        assert families["job_seconds"] == "histogram"
        assert families["gunicorn_http_requests"] == "counter"


# Where it is kept.


@pytest.mark.parametrize(
    ("run", "option", "file"),
    [
        (gunicorn_prom, "", "apart"),
        (gunicorn_prom, "--preload", "apart"),
        (gunicorn_prom, "", "importing"),
        (gunicorn_prom, "--preload", "counting"),
        (plain_gunicorn, "--preload", "apart"),
        (plain_gunicorn, "", "importing"),
        (plain_gunicorn, "--preload", "counting"),
    ],
)
def test_the_client_finds_a_directory(
    tmp_path: Path, temporary: Path, run: Any, option: str, file: str
) -> None:
    """Whoever imports prometheus_client first, it is in its mode for many processes.

    In the end nothing is left behind, and the next run begins at 0.
    """
    (tmp_path / "gunicorn.conf.py").write_text(HOOKS * (run is plain_gunicorn) + FILES[file])
    arguments = (APP, "--workers=2", *filter(None, [option]))
    with run(tmp_path, *arguments, environ={"TMPDIR": str(temporary)}) as server:
        for number in range(2):
            jobs = Jobs(server)
            jobs.do_by_all(server.wait_for_workers(2))
            assert Path(server.get("/directory").text).is_absolute()
            jobs.assert_counted(server.scrape())
            assert server.stop() == 0
            assert files_in(temporary) == []
            assert files_in(server.state_directory) == []
            if number == 0:
                server.start()


COUNTING_HOOKS = """
from prometheus_client import Counter

import hook_counts


def post_worker_init(worker):
    hook_counts.BOOTED.inc()


def child_exit(server, worker):
    hook_counts.EXITED.inc()
"""
HOOK_COUNTS = """
from prometheus_client import Counter

BOOTED = Counter("booted", "Workers that have booted.")
EXITED = Counter("exited", "Workers that have gone, counted in the master.")
"""


@pytest.mark.parametrize("run", [gunicorn_prom, plain_gunicorn])
def test_hooks_count(tmp_path: Path, run: Any) -> None:
    """What hooks of the configuration file count, in the master or a worker, is served too."""
    (tmp_path / "hook_counts.py").write_text(HOOK_COUNTS)
    (tmp_path / "gunicorn.conf.py").write_text(HOOKS * (run is plain_gunicorn) + COUNTING_HOOKS)
    with run(tmp_path, APP, "--workers=2") as server:
        jobs = Jobs(server)
        first = server.wait_for_workers(2)
        jobs.do_by_all(first)
        os.kill(first[0], signal.SIGKILL)
        server.wait_for_metrics(lambda m: m.one("exited_total") == 1, "the hook in the master")
        server.wait_for_metrics(lambda m: m.one("booted_total") == 3, "the hook in the worker")
        server.send_signal(signal.SIGHUP)
        server.wait_for_metrics(lambda m: m.one("exited_total") == 3, "the reload")
        server.wait_for_metrics(lambda m: m.one("booted_total") == 5, "the reload")
        jobs.assert_counted(server.scrape())


def test_a_killed_master_leaves_what_the_next_start_sweeps(tmp_path: Path, temporary: Path) -> None:
    """After kill -9 and another start and end neither files nor totals of before are there."""
    (tmp_path / "gunicorn.conf.py").write_text(FILES["counting"])
    with gunicorn_prom(tmp_path, APP, "--timeout=2", environ={"TMPDIR": str(temporary)}) as server:
        Jobs(server).do()
        workers = server.worker_pids()
        server.stop(signal.SIGKILL)
        wait_for(lambda: not any(map(is_running, workers)), "the end of its workers")
        server.start()
        jobs = Jobs(server)
        jobs.do()
        jobs.assert_counted(server.scrape())
        assert server.stop() == 0
        assert files_in(server.state_directory) == []
        assert files_in(temporary) == []


WAITING = """
import time
from pathlib import Path

while not Path("gate").exists():
    time.sleep(0.02)
"""


@pytest.mark.parametrize("run", [gunicorn_prom, plain_gunicorn])
def test_a_start_that_is_killed_leaves_what_the_next_one_sweeps(
    tmp_path: Path, temporary: Path, run: Any
) -> None:
    """Killed while the configuration is read, by whatever signal, it leaves nothing for long."""
    file = "from gunicorn_prom.hooks import *\n" * (run is plain_gunicorn) + FILES["counting"]
    (tmp_path / "gunicorn.conf.py").write_text(file + WAITING)
    with run(tmp_path, APP, environ={"TMPDIR": str(temporary)}, start=False) as server:
        for signal_number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            before = files_in(temporary)
            server.launch()
            left = wait_for(lambda b=before: set(files_in(temporary)) - set(b), "a directory")
            assert server.stop(signal_number) == -signal_number
        server.open_gate("gate")
        server.start()
        assert files_in(temporary)  # which the application uses
        assert not left & set(files_in(temporary))
        assert server.stop() == 0
        assert files_in(temporary) == []


def counted_in(directory: Path) -> float:
    """Return how many jobs the files in a directory tell of, as prometheus_client reads them."""
    collector = MultiProcessCollector(CollectorRegistry(), path=str(directory))
    samples = [sample for family in collector.collect() for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "jobs_total")


SET_IN_PYTHON = "import os\nos.environ['PROMETHEUS_MULTIPROC_DIR'] = {directory!r}\n"
OWN_APP = SET_IN_PYTHON + "from jobs import app\n"
OWN_WAYS: dict[str, dict[str, Any]] = {
    "environment": {"environ": {VARIABLE: "{directory}"}},
    "option": {"arguments": [f"--env={VARIABLE}={{directory}}"]},
    "setting": {"file": "raw_env = ['PROMETHEUS_MULTIPROC_DIR={directory}']\n"},
    "file": {"file": SET_IN_PYTHON},
    "preloaded": {"app": "own:app", "arguments": ["--preload"]},
}


@pytest.mark.parametrize(
    ("run", "way"),
    [
        *((gunicorn_prom, way) for way in OWN_WAYS),
        *((plain_gunicorn, way) for way in ("setting", "file", "preloaded")),
    ],
)
def test_the_users_own_directory_stays_the_users(
    tmp_path: Path, temporary: Path, run: Any, way: str
) -> None:
    """However the variable is set: it is left alone, its files are served and survive the end."""
    own = tmp_path / "own"
    own.mkdir()
    given = {"app": APP, "arguments": [], "environ": {}, "file": "", **OWN_WAYS[way]}
    file = given["file"].replace("{directory!r}", repr(str(own)))
    file = file.replace("{directory}", str(own))
    (tmp_path / "own.py").write_text(OWN_APP.format(directory=str(own)))
    (tmp_path / "gunicorn.conf.py").write_text(file + HOOKS * (run is plain_gunicorn))
    arguments = [argument.format(directory=own) for argument in given["arguments"]]
    environ = {name: value.format(directory=own) for name, value in given["environ"].items()}
    environ["TMPDIR"] = str(temporary)
    with run(tmp_path, given["app"], "--workers=2", *arguments, environ=environ) as server:
        jobs = Jobs(server)
        first = server.wait_for_workers(2)
        jobs.do_by_all(first)
        assert server.get("/directory").text == str(own)
        assert counted_in(own) == len(jobs.done)
        jobs.assert_counted(server.scrape())
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: first[0] not in server.worker_pids(), "another worker")
        jobs.assert_counted(server.scrape())
        assert server.stop() == 0
        assert counted_in(own) == len(jobs.done)
        assert files_in(temporary) == []
        assert files_in(server.state_directory) == []


def test_an_application_that_sets_it_too_late_is_told(tmp_path: Path, temporary: Path) -> None:
    """Set by the application in each worker, it is left alone, and the log says the rest."""
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "own.py").write_text(OWN_APP.format(directory=str(own)))
    with gunicorn_prom(tmp_path, "own:app", environ={"TMPDIR": str(temporary)}) as server:
        jobs = Jobs(server)
        jobs.do_by_all(server.wait_for_workers(1))
        assert counted_in(own) == len(jobs.done)
        assert f"the application has set {VARIABLE} itself" in server.log
        assert server.scrape().all("jobs_total") == []
        assert server.stop() == 0
        assert counted_in(own) == len(jobs.done)


@pytest.mark.parametrize(
    ("run", "way", "file"),
    [
        (gunicorn_prom, "option", "apart"),
        (gunicorn_prom, "environment", "importing"),
        (gunicorn_prom, "file", "counting"),
        (plain_gunicorn, "environment", "apart"),
        (plain_gunicorn, "file", "importing"),
        (plain_gunicorn, "file", "counting"),
    ],
)
def test_without_app_metrics(
    tmp_path: Path, temporary: Path, run: Any, way: str, file: str
) -> None:
    """Switched off, the application finds no variable, nothing of it is served or left behind.

    Only the configuration file itself is read before it is known that it is switched off.
    """
    switch = "app_metrics = False\n" if way == "file" else ""
    (tmp_path / "gunicorn.conf.py").write_text(
        HOOKS * (run is plain_gunicorn) + FILES[file] + switch
    )
    environ = {"TMPDIR": str(temporary)}
    if way == "environment":
        environ["GUNICORN_PROM_APP_METRICS"] = "0"
    arguments = ["--no-app-metrics"] if way == "option" else []
    with run(tmp_path, APP, *arguments, environ=environ) as server:
        jobs = Jobs(server)
        pid = jobs.do()
        metrics = server.wait_for_requests(1)
        assert not metrics.all("jobs_total")
        if file == "apart":
            assert server.get("/directory").text == ""
            assert VARIABLE.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert server.stop() == 0
        assert files_in(temporary) == []
        assert files_in(server.state_directory) == []


# What can go wrong with it.


def test_broken_files_fail_nothing(tmp_path: Path) -> None:
    """Garbage among the files costs no scrape, and the sound ones are exact all along."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        jobs = Jobs(server)
        first = server.wait_for_workers(2)
        jobs.do_by_all(first)
        directory = Path(server.get("/directory").text)
        for name, content in {
            "counter_1.db": b"",
            "histogram_1.db": b"\xff" * 4096,
            "counter_999999.db": b"\x00\x10\x00\x00\x00\x00\x00\x00\xff\xff\xff\x7f",
            "summary_1.db": (100).to_bytes(4, "little"),
            "gauge_nonsense_1.db": b"nonsense",
            "readme.txt": b"not ours",
        }.items():
            (directory / name).write_bytes(content)
        (directory / "counter_2.db").symlink_to("/nowhere")
        (directory / "counter_3.db").mkdir()
        os.mkfifo(directory / "counter_4.db")
        jobs.assert_counted(server.scrape())
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: first[0] not in server.worker_pids(), "another worker")
        jobs.assert_counted(server.scrape())
        jobs.do()
        jobs.assert_counted(server.scrape())
        assert "Traceback" not in server.log
        assert server.stop() == 0


def test_vanishing_files_fail_nothing(tmp_path: Path) -> None:
    """While files of the application come and go every scrape is answered."""
    with gunicorn_prom(tmp_path, APP) as server:
        jobs = Jobs(server)
        jobs.do()
        directory = Path(server.get("/directory").text)
        template = next(directory.glob("counter_*.db"))
        for number in range(50):
            copy = directory / f"histogram_{os.getpid()}.db"
            shutil.copy(template, copy)
            assert request(server.metrics_port, "/metrics").status == 200
            copy.unlink()
            if number % 10 == 0:
                jobs.do()
        jobs.assert_counted(server.scrape())


CLASHING = """
from prometheus_client import CollectorRegistry, Counter, Gauge

from jobs import app

APART = CollectorRegistry()
Gauge("gunicorn_workers", "Theirs.", registry=APART, multiprocess_mode="max").set(77)
Counter("process_cpu_seconds", "Theirs.", registry=APART).inc(77)
Gauge("gunicorn_http_requests_total", "Theirs.", registry=APART, multiprocess_mode="max").set(77)
"""


def test_a_clash_is_left_out(tmp_path: Path) -> None:
    """A family that is called like one of ours is not served, and that is told once."""
    (tmp_path / "clashing.py").write_text(CLASHING)
    with gunicorn_prom(tmp_path, "clashing:app", "--workers=2") as server:
        jobs = Jobs(server)
        jobs.do_by_all(server.wait_for_workers(2))
        for _ in range(3):
            metrics = server.scrape()
            jobs.assert_counted(metrics)
            assert 77 not in [sample.value for sample in metrics.samples]
            assert metrics.one("gunicorn_workers", state="idle") == 2
        for name in ("gunicorn_workers", "process_cpu_seconds", "gunicorn_http_requests_total"):
            assert server.log.count(f"metric {name} is not served") == 1
        assert metrics.text.count("# TYPE gunicorn_workers ") == 1


def test_losing_the_directory_stops_nothing(tmp_path: Path) -> None:
    """With the files gone workers count on, new ones get the directory back, scrapes go on."""
    with gunicorn_prom(tmp_path, APP) as server:
        Jobs(server).do()
        shutil.rmtree(server.get("/directory").text)
        assert Jobs(server).do()
        assert not server.scrape().all("jobs_total")
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        server.wait_for_metrics(lambda m: m.one("gunicorn_worker_spawns_total") == 2, "another")
        jobs = Jobs(server)
        jobs.do()
        jobs.assert_counted(server.scrape())
        assert server.stop() == 0
        assert files_in(server.state_directory) == []


# Another user.


@pytest.fixture
def public(tmp_path: Path) -> Iterator[Path]:
    """A directory that every user can come to, which is not true of pytest's."""
    directory = Path(tempfile.mkdtemp(prefix="gunicorn-prom-test-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("file", ["apart", "counting"])
def test_workers_of_another_user(public: Path, file: str) -> None:
    """Workers that have dropped root count, and what they counted outlives them."""
    if os.geteuid() != 0:
        unavailable("needs root, which workers can drop")
    temporary = public / "temporary"
    temporary.mkdir()
    # A user must not be able to come to Python: all is loaded before.
    (public / "gunicorn.conf.py").write_text(FILES[file])
    arguments = (APP, "--workers=2", "--preload", "--user=nobody", "--group=nogroup")
    with gunicorn_prom(public, *arguments, environ={"TMPDIR": str(temporary)}) as server:
        jobs = Jobs(server)
        first = server.wait_for_workers(2)
        jobs.do_by_all(first)
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in first} == {65534}
        jobs.assert_counted(server.scrape())
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: set(server.worker_pids()).isdisjoint(first), "other workers")
        jobs.assert_counted(server.scrape())
        jobs.do_by_all(server.wait_for_workers(2))
        metrics = server.wait_for_requests(len(jobs.done))
        jobs.assert_counted(metrics)
        assert metrics.total("gunicorn_prom_errors_total") == 0
        assert server.stop() == 0
        assert files_in(server.state_directory) == []
        assert files_in(temporary) == []


def test_workers_that_may_not_write_where_the_master_may(public: Path) -> None:
    """What root does not notice keeps no worker of another user from its work."""
    if os.geteuid() != 0:
        unavailable("needs root, which workers can drop")
    arguments = (APP, "--preload", "--user=nobody", "--group=nogroup")
    with gunicorn_prom(public, *arguments) as server:
        (first,) = server.wait_for_workers(1)
        (directory,) = server.state_directory.glob("gunicorn-prom.*/app")
        os.chown(directory, 0, 0)
        assert server.get("/do/mail/1").status == 200
        server.wait_for_requests(1)
        os.kill(first, signal.SIGKILL)
        server.wait_for_metrics(lambda m: m.total("gunicorn_worker_exits_total") == 1, "the exit")
        assert server.get("/do/mail/1").status == 200
        metrics = server.wait_for_requests(2)
        # One for each kind of metric and worker, and one line for each worker.
        assert 0 < metrics.one("gunicorn_prom_errors_total", where="app_metrics") <= 26
        assert server.log.count("metrics of app_metrics failed: PermissionError") == 2
        assert server.stop() == 0


@pytest.mark.parametrize("option", ["--check-config", "--print-config"])
def test_what_only_looks_leaves_nothing(tmp_path: Path, temporary: Path, option: str) -> None:
    """A check of the configuration loads the application, metrics and all, and cleans up."""
    ended = run_to_end(tmp_path, APP, option, environ={"TMPDIR": str(temporary)})
    assert ended.returncode == 0, ended.stderr
    assert files_in(temporary) == []

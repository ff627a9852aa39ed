"""What every Gunicorn and worker type has to show: why each worker has gone, once.

The tests of integration/ and compat/ are made of this module. `worker_type` is a fixture of theirs.
"""

import contextlib
import fcntl
import http.client
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gunicorn_prom.reader import ServerReader, ServerReading
from gunicorn_prom.scoreboard import EXIT_REASONS, Layout
from gunicorn_prom.state import servers
from tests.real_parts import unavailable
from tests.support import (
    OWN_OPTIONS,
    POLL_S,
    Metrics,
    Server,
    gunicorn_prom,
    plain_gunicorn,
    running,
    wait_for,
)

APP = "leaving:app"
EXITS = "gunicorn_worker_exits_total"
# Gunicorn's greenlet workers show that they live once a second.
TIMEOUT = "--timeout=3"
SPAWNS = "gunicorn_worker_spawns_total"
BOOTED = "gunicorn_worker_boot_seconds_count"
RESTARTS = "gunicorn_worker_restart_total"
RESTART_COUNTS = "gunicorn_worker_restart_count_total"
NEVER_FALLING = (
    EXITS,
    SPAWNS,
    BOOTED,
    RESTARTS,
    RESTART_COUNTS,
    "gunicorn_reloads_total",
    "gunicorn_signals_total",
    "gunicorn_http_requests_total",
    "gunicorn_http_aborted_total",
)

# Of `behave`, with more ways to go than a request should have.
APPLICATION = """
import itertools
import os
import signal
import time

from behave import ANSWERS, app


def leave(code):
    os._exit(int(code))


def seize(_argument):
    '''Keep the interpreter to this call: no handler of a signal runs any more.'''
    all(itertools.repeat(True))


def shut_out(_argument):
    '''Let no SIGABRT in.'''
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])
    time.sleep(600)


def devour(_argument):
    '''Use up all memory, and be the one to go for it.'''
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    held = []
    while True:
        held.append(b"\\1" * (1 << 20))


ANSWERS |= {"leave": leave, "seize": seize, "shut-out": shut_out, "devour": devour}
"""

# Hooks before Gunicorn gives a worker its own handlers of signals, and between that and serving.
SLOW_HOOKS = {
    "post_fork": "def post_fork(server, worker):\n",
    "post_worker_init": "def post_worker_init(worker):\n",
}
# A worker whose handler leaves at once is held too, or the master could end before a scrape.
SLOW_HOOK = """
    if worker.age > 1:
        pathlib.Path("begun").touch()
        try:
            wait_for_gate()
        except SystemExit:
            wait_for_gate()
            raise


def wait_for_gate():
    while not pathlib.Path("gate").exists():
        time.sleep(0.02)
"""

# The end of a worker by which signal, and what the worker itself has said of it.
SIGNALS = {
    signal.SIGKILL: {},
    signal.SIGSEGV: {},
    signal.SIGTERM: {("graceful", "term"): 1},
    signal.SIGQUIT: {("graceful", "quit"): 1},
    signal.SIGINT: {("graceful", "quit"): 1},
    signal.SIGABRT: {("forced", "abort"): 1},
}

BOOT_FAILURES = {
    "hook": (
        "import pathlib, time\n"
        "def post_worker_init(worker):\n"
        "    while not pathlib.Path('gate').exists():\n"
        "        time.sleep(0.02)\n"
        "    raise ValueError('refused')\n"
    ),
    "init": (
        "import pathlib, time\n"
        "from gunicorn.workers.sync import SyncWorker\n"
        "class Failing(SyncWorker):\n"
        "    def init_process(self):\n"
        "        while not pathlib.Path('gate').exists():\n"
        "            time.sleep(0.02)\n"
        "        raise ValueError('refused')\n"
        "worker_class = Failing\n"
    ),
}


def write_application(directory: Path) -> None:
    """Write the module of APP."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "leaving.py").write_text(APPLICATION)


def exits(metrics: Metrics) -> dict[str, float]:
    """Return how many workers have gone, by reason, without the reasons of none."""
    return {labels["reason"]: count for labels, count in metrics.all(EXITS) if count}


def restarts(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Return how many workers were told to go, by type and reason, without those of none."""
    counts = {
        (labels["restart_type"], labels["reason"]): count
        for labels, count in metrics.all(RESTART_COUNTS)
        if count
    }
    by_reason: Counter[str] = Counter()
    for (_, reason), count in counts.items():
        by_reason[reason] += int(count)
    assert by_reason == {r["reason"]: count for r, count in metrics.all(RESTARTS) if count}
    return counts


def exits_read(reading: ServerReading) -> dict[str, float]:
    """Return what `exits` does, out of the scoreboards."""
    first = Layout(buckets=(), slots=0).exits
    counts = reading.totals.fixed[first : first + len(EXIT_REASONS)]
    return {reason: n for reason, n in zip(EXIT_REASONS, counts, strict=True) if n}


def balance(metrics: Metrics) -> float:
    """Return how many workers are neither there nor gone: 0 if the books are right."""
    return metrics.total(SPAWNS) - metrics.total(EXITS) - metrics.total("gunicorn_workers")


def wait_for_exits(server: Server, wanted: Mapping[str, float], workers: int = 1) -> Metrics:
    """Wait until the ledger says that and no more, and that many workers serve again."""
    metrics = server.wait_for_metrics(
        lambda m: m.total(EXITS) >= sum(wanted.values()), f"the exits {wanted}"
    )
    assert exits(metrics) == wanted
    server.wait_for_workers(workers)
    metrics = server.scrape()
    assert exits(metrics) == wanted
    return metrics


class Audit:
    """A thread that scrapes and balances the books of each scrape.

    Args:
        pause_s: between two scrapes. Without one they keep a core from the others.

    Attributes:
        scrapes: how many there were.
        last: the last one.
        faults: what was wrong, by scrape.
        lost: the scrapes that got no answer.
    """

    def __init__(self, server: Server, pause_s: float = POLL_S) -> None:
        self._server = server
        self._pause_s = pause_s
        self.scrapes = 0
        self.last: Metrics | None = None
        self.faults: list[str] = []
        self.lost: list[Exception] = []
        self._counted: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Audit":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def assert_flawless(self, lost: int) -> None:
        """Fail unless every scrape but so many came, was balanced, and was no step back."""
        assert not self.faults, self.faults[:5]
        assert len(self.lost) <= lost, self.lost[:5]
        assert self.scrapes > 1

    def _run(self) -> None:
        while not self._stopping.wait(self._pause_s):
            try:
                self._look_at(self._server.scrape())
            except AssertionError as error:
                self.faults.append(f"scrape {self.scrapes} failed: {error!r}")
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(error)
            self.scrapes += 1

    def _look_at(self, metrics: Metrics) -> None:
        if balance(metrics):
            workers = metrics.all("gunicorn_workers")
            self.faults.append(
                f"scrape {self.scrapes}: {metrics.total(SPAWNS)} spawns, "
                f"{exits(metrics)}, {workers}"
            )
        found = {
            f"{name} {labels}": value
            for name in NEVER_FALLING
            for labels, value in metrics.all(name)
        }
        fallen = [name for name, value in self._counted.items() if found.get(name, 0.0) < value]
        for name in fallen:
            self.faults.append(
                f"scrape {self.scrapes}: {name} is {found.get(name)} after {self._counted[name]}"
            )
        self._counted = found
        self.last = metrics


@contextlib.contextmanager
def audited(server: Server, lost: int = 0) -> Iterator[None]:
    """Balance the books of the server in scrape after scrape until the block ends.

    Args:
        lost: how many scrapes may go without an answer.
    """
    with Audit(server) as audit:
        yield
        wait_for(lambda: audit.scrapes > 1, "two scrapes to compare")
    audit.assert_flawless(lost)


@contextlib.contextmanager
def state_kept(server: Server) -> Iterator[ServerReader]:
    """Read a server beyond its end: its directory stays while somebody holds a board in it."""

    def directory() -> Path | None:
        with contextlib.suppress(FileNotFoundError):
            return next(iter(servers(server.state_directory)), None)
        return None

    path: Path = wait_for(directory, "a state directory")
    board_fd = os.open(path / "board.1", os.O_RDWR | os.O_CREAT)
    fcntl.flock(board_fd, fcntl.LOCK_EX)
    reader = ServerReader(path)
    try:
        yield reader
    finally:
        reader.close()
        os.close(board_fd)


@contextlib.contextmanager
def memory_cgroup(limit_bytes: int) -> Iterator[Path]:
    """Make a cgroup of so much memory below that of the tests; skip where none can be made."""
    group = _own_memory_cgroup() / f"gunicorn-prom-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        unavailable(f"no memory cgroup can be made here: {error}")
    try:
        limits = [group / "memory.max", group / "memory.limit_in_bytes"]
        limit = next((path for path in limits if path.exists()), None)
        if limit is None:
            unavailable("the cgroup of the tests has no memory controller for those below it")
        limit.write_text(str(limit_bytes))
        yield group
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "the end of its processes")
        group.rmdir()


@contextlib.contextmanager
def running_in(group: Path, directory: Path, *arguments: str) -> Iterator[Server]:
    """Run `gunicorn-prom run ARGUMENTS` in a cgroup until the block ends."""
    script = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
    program = [sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS, *arguments]
    enter = ["sh", "-c", script, "sh"]
    with _decoys(enter), running(Server(directory, [*enter, *program], {}), start=True) as server:
        yield server


@contextlib.contextmanager
def _decoys(enter: list[str]) -> Iterator[None]:
    """Let the kernel have these rather than the master.

    It takes a second process when one asks for memory while that of the first is being freed.
    """
    decoys = [subprocess.Popen([*enter, "sleep", "600"]) for _ in range(3)]
    try:
        for decoy in decoys:
            Path(f"/proc/{decoy.pid}/oom_score_adj").write_text("999")
        yield
    finally:
        for decoy in decoys:
            decoy.kill()
            decoy.wait()


def _own_memory_cgroup() -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    if "memory" in paths:
        return Path("/sys/fs/cgroup/memory" + paths["memory"])
    return Path("/sys/fs/cgroup" + paths.get("", "/"))


class Departures:
    """Workers that go of themselves, one at a time, counted as they go.

    Attributes:
        exits: what the ledger has to say by now.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.exits: Counter[str] = Counter()

    def happen(self, reason: str, cause: Callable[[], object], times: int = 1) -> Metrics:
        """Cause the end of so many workers, and wait until that is in the ledger."""
        cause()
        self.exits[reason] += times
        return wait_for_exits(self._server, self.exits)

    def kill(self, number: int) -> None:
        """Send a signal to the one worker."""
        os.kill(self._server.worker_pids()[0], number)

    def ask(self, target: str) -> None:
        """Send a request that gets no answer, or none worth reading."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._server.get(target)

    def lead_a_life(self) -> None:
        """Let workers go for every reason that leaves the master alive."""
        self.happen("signal", lambda: self.kill(signal.SIGKILL))
        self.happen("signal", lambda: self.kill(signal.SIGTERM))
        self.happen("error", lambda: self.ask("/leave/7"))
        self.happen("exit", lambda: self.ask("/leave/0"))
        self.happen("reload", lambda: self._server.send_signal(signal.SIGHUP))
        self._server.send_signal(signal.SIGTTIN)
        self._server.wait_for_workers(2)
        self.happen("scale_down", lambda: self._server.send_signal(signal.SIGTTOU))
        self.happen("timeout", lambda: self.ask("/seize"))


def assert_early_signal_is_heard(
    directory: Path, app: str, worker_type: str, number: int, hook: str
) -> None:
    """End a server while one of its workers is still in a hook before it serves."""
    configuration = f"import pathlib, time\n{SLOW_HOOKS[hook]}{SLOW_HOOK}"
    (directory / "gunicorn.conf.py").write_text(configuration)
    # Whoever was not heard lives on for longer than a test waits.
    arguments = (f"--worker-type={worker_type}", "--graceful-timeout=60")
    with gunicorn_prom(directory, app, *arguments) as server:
        server.wait_for_workers(1)
        server.send_signal(signal.SIGTTIN)
        wait_for((directory / "begun").exists, "the second worker")
        server.send_signal(number)
        metrics = server.wait_for_metrics(lambda m: m.total(EXITS) >= 1, "the end of the first")
        assert set(exits(metrics)) == {"shutdown"}
        counted = {s["signal"]: n for s, n in metrics.all("gunicorn_signals_total") if n}
        assert counted == {"TTIN": 1, signal.Signals(number).name.removeprefix("SIG"): 1}
        server.open_gate("gate")
        assert server.wait() == 0
        assert "SIGKILL" not in server.log


class ExitReasons:
    """One reason after the other, each provoked for real."""

    def test_max_requests(self, tmp_path: Path, worker_type: str) -> None:
        """Each worker that has had its share of requests is counted as that, not as told."""
        arguments = (APP, f"--worker-type={worker_type}", "--max-requests=3")
        write_application(tmp_path)
        with gunicorn_prom(tmp_path, *arguments) as server, audited(server):
            for round_number in (1, 2):
                for _ in range(3):
                    assert server.get("/", Connection="close").status == 200
                metrics = wait_for_exits(server, {"max_requests": round_number})
            assert restarts(metrics) == {("graceful", "max_requests"): 2}

    def test_timeout(self, tmp_path: Path, worker_type: str) -> None:
        """A worker that hears nothing any more is killed by the master: a timeout, no signal."""
        arguments = (APP, f"--worker-type={worker_type}", TIMEOUT)
        write_application(tmp_path)
        with gunicorn_prom(tmp_path, *arguments) as server, audited(server):
            Departures(server).happen("timeout", lambda: Departures(server).ask("/seize"))

    def test_signals(self, tmp_path: Path, worker_type: str) -> None:
        """Whatever signal somebody else sends a worker, that is the reason."""
        write_application(tmp_path)
        with (
            gunicorn_prom(tmp_path, APP, f"--worker-type={worker_type}") as server,
            audited(server),
        ):
            departures = Departures(server)
            said: Counter[tuple[str, str]] = Counter()
            for number, words in SIGNALS.items():
                metrics = departures.happen("signal", lambda n=number: departures.kill(n))
                said.update(words)
                assert restarts(metrics) == said, number

    def test_the_applications_own_ends(self, tmp_path: Path, worker_type: str) -> None:
        """A worker that the application ends is an error or an exit, as its code says."""
        write_application(tmp_path)
        with (
            gunicorn_prom(tmp_path, APP, f"--worker-type={worker_type}") as server,
            audited(server),
        ):
            departures = Departures(server)
            departures.happen("error", lambda: departures.ask("/leave/7"))
            metrics = departures.happen("exit", lambda: departures.ask("/leave/0"))
            assert restarts(metrics) == {}
            assert metrics.one("gunicorn_http_aborted_total", reason="no_response") == 2

    def test_reload_and_scaling(self, tmp_path: Path, worker_type: str) -> None:
        """HUP and TTOU are the reasons of those they end, and what they do is counted."""
        arguments = (APP, f"--worker-type={worker_type}", "--workers=2")
        write_application(tmp_path)
        with gunicorn_prom(tmp_path, *arguments) as server, audited(server):
            server.wait_for_workers(2)
            before = server.scrape()
            assert (before.one(SPAWNS), before.one(BOOTED)) == (2, 2)
            assert before.total("gunicorn_signals_total") == 0
            server.send_signal(signal.SIGHUP)
            wait_for_exits(server, {"reload": 2}, workers=2)
            server.send_signal(signal.SIGTTIN)
            server.wait_for_workers(3)
            server.send_signal(signal.SIGTTOU)
            after = wait_for_exits(server, {"reload": 2, "scale_down": 1}, workers=2)
            assert (after.one(SPAWNS), after.one(BOOTED)) == (5, 5)
            assert restarts(after) == {("graceful", "term"): 3}
            assert after.one("gunicorn_reloads_total") == 1
            counted = {s["signal"]: n for s, n in after.all("gunicorn_signals_total") if n}
            assert counted == {"HUP": 1, "TTIN": 1, "TTOU": 1}
            for family, has_moved in (
                ("gunicorn_start_time_seconds", False),
                ("gunicorn_config_reload_success_timestamp_seconds", True),
            ):
                assert (after.one(family) > before.one(family)) == has_moved, family

    def test_shutdown(self, tmp_path: Path, worker_type: str) -> None:
        """What the end of a master ends is a shutdown, in the books of the next generation."""
        pidfile = tmp_path / "pid"
        arguments = (APP, f"--worker-type={worker_type}", "--workers=2", f"--pid={pidfile}")
        write_application(tmp_path)
        with gunicorn_prom(tmp_path, *arguments) as server, audited(server):
            server.wait_for_workers(2)
            server.send_signal(signal.SIGUSR2)
            server.wait_for_workers(4)
            assert server.stop() == 0
            metrics = wait_for_exits(server, {"shutdown": 2}, workers=2)
            assert (metrics.one(SPAWNS), metrics.one(BOOTED)) == (4, 4)
            assert restarts(metrics) == {("graceful", "term"): 2}
            assert metrics.one("gunicorn_signals_total", signal="USR2") == 1
            assert metrics.one("gunicorn_signals_total", signal="TERM") == 1
            wait_for(pidfile.exists, "the promotion of the next generation")

    @pytest.mark.parametrize("hook", SLOW_HOOKS)
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
    def test_shutdown_before_a_worker_serves(
        self, tmp_path: Path, worker_type: str, number: int, hook: str
    ) -> None:
        """A worker that is told to go before it has a handler for it goes when it has one."""
        write_application(tmp_path)
        assert_early_signal_is_heard(tmp_path, APP, worker_type, number, hook)

    @pytest.mark.parametrize(
        ("source", "reason"),
        [("", "app_load_error"), ("raise ValueError('broken')", "boot_error")],
        ids=["load", "boot"],
    )
    def test_an_upgrade_that_fails(
        self, tmp_path: Path, worker_type: str, source: str, reason: str
    ) -> None:
        """A next generation whose application is broken is in the books of the one that stays."""
        write_application(tmp_path)
        arguments = (APP, f"--worker-type={worker_type}")
        with gunicorn_prom(tmp_path, *arguments) as server, audited(server):
            worker = server.wait_for_workers(1)
            (tmp_path / "leaving.py").write_text(source)
            server.send_signal(signal.SIGUSR2)
            metrics = wait_for_exits(server, {reason: 1})
            assert server.worker_pids() == worker
            assert (metrics.one(SPAWNS), metrics.one(BOOTED)) == (2, 1)


class Ledger:
    """What does not differ from type to type."""

    @pytest.mark.parametrize(
        ("target", "words"),
        [("/wait/never", {("forced", "abort"): 1}), ("/shut-out", {})],
        ids=["asleep", "deaf"],
    )
    def test_timeouts_of_the_sync_worker(
        self, tmp_path: Path, target: str, words: dict[tuple[str, str], int]
    ) -> None:
        """Whether or not it hears SIGABRT, and whatever its status then is, it is a timeout."""
        write_application(tmp_path)
        with gunicorn_prom(tmp_path, APP, "--timeout=1") as server, audited(server):
            departures = Departures(server)
            metrics = departures.happen("timeout", lambda: departures.ask(target))
            assert restarts(metrics) == words

    def test_shutdown_is_read_from_outside(self, tmp_path: Path) -> None:
        """While a master drains the boards say who has gone, and behind it who has gone last."""
        write_application(tmp_path)
        with gunicorn_prom(tmp_path, APP, "--workers=2") as server, ThreadPoolExecutor() as pool:
            server.wait_for_workers(2)
            answer = pool.submit(server.get, "/wait/gate")
            server.wait_for_metrics(
                lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "a request"
            )
            with state_kept(server) as reader:
                assert exits_read(reader.read()) == {}
                server.send_signal(signal.SIGTERM)
                wait_for(lambda: exits_read(reader.read()) == {"shutdown": 1}, "the idle worker")
                assert len(reader.read().workers) == 1
                server.open_gate("gate")
                assert answer.result().text == "waited"
                assert server.wait() == 0
                reading = reader.read()
                assert exits_read(reading) == {"shutdown": 2}
                assert (reading.totals.spawns, reading.workers, reading.masters) == (2, [], [])

    @pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT, signal.SIGTERM])
    def test_a_worker_that_does_not_drain_in_time(self, tmp_path: Path, number: int) -> None:
        """Whom the master kills in the end is a shutdown too, its request got no answer."""
        write_application(tmp_path)
        arguments = (APP, "--worker-type=gthread", "--graceful-timeout=1")
        with gunicorn_prom(tmp_path, *arguments) as server, state_kept(server) as reader:
            with ThreadPoolExecutor() as pool:
                pool.submit(server.get, "/seize")
                server.wait_for_metrics(
                    lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "a request"
                )
                assert server.stop(number) == 0
            reading = reader.read()
            assert exits_read(reading) == {"shutdown": 1}
            aborted = Layout(buckets=(), slots=0).aborted
            assert sum(reading.totals.fixed[aborted : aborted + 4]) == 1

    @pytest.mark.parametrize("failure", BOOT_FAILURES)
    def test_boot_error(self, tmp_path: Path, failure: str) -> None:
        """A worker that fails to boot is that, although it halts the server; others shut down."""
        (tmp_path / "conf.py").write_text(BOOT_FAILURES[failure])
        arguments = ("behave:app", "--config=conf.py")
        with gunicorn_prom(tmp_path, *arguments, start=False) as server:
            server.launch()
            with state_kept(server) as reader:
                wait_for(lambda: reader.read().totals.spawns == 1, "a worker")
                server.open_gate("gate")
                assert server.wait() == 3
                reading = reader.read()
            assert exits_read(reading) == {"boot_error": 1}
            assert reading.totals.spawns == 1

    def test_workers_that_fail_to_boot_together(self, tmp_path: Path) -> None:
        """Gunicorn's exit code is that of one, and the log ends without a traceback of its own."""
        (tmp_path / "conf.py").write_text(BOOT_FAILURES["hook"])
        arguments = ("behave:app", "--config=conf.py", "--workers=4")
        with gunicorn_prom(tmp_path, *arguments, start=False) as server:
            server.launch()
            with state_kept(server) as reader:
                wait_for(lambda: reader.read().totals.spawns == 4, "the workers")
                server.open_gate("gate")
                assert server.wait() == 3
                found = exits_read(reader.read())
        assert found.keys() <= {"boot_error", "shutdown"}
        assert sum(found.values()) == 4
        assert "Traceback" not in server.log.partition("Shutting down: Master")[2]

    def test_app_load_error(self, tmp_path: Path) -> None:
        """So is one that finds no application."""
        source = "import pathlib\nwhile not pathlib.Path('gate').exists():\n    pass\n"
        (tmp_path / "empty.py").write_text(source)
        with gunicorn_prom(tmp_path, "empty:app", start=False) as server:
            server.launch()
            with state_kept(server) as reader:
                wait_for(lambda: reader.read().totals.spawns == 1, "a worker")
                server.open_gate("gate")
                assert server.wait() == 4
                assert exits_read(reader.read()) == {"app_load_error": 1}

    def test_codes_of_a_failed_boot_after_the_boot(self, tmp_path: Path) -> None:
        """A worker that served and then left with 3 has not failed to boot, whatever 3 means."""
        write_application(tmp_path)
        with gunicorn_prom(tmp_path, APP) as server, state_kept(server) as reader:
            Departures(server).ask("/leave/3")
            assert server.wait() == 3
            assert exits_read(reader.read()) == {"error": 1}

    def test_oom(self, tmp_path: Path) -> None:
        """A worker that the kernel kills for memory is told from one that somebody kills."""
        write_application(tmp_path)
        with memory_cgroup(150 << 20) as group, running_in(group, tmp_path, APP) as server:
            with audited(server):
                departures = Departures(server)
                departures.happen("signal", lambda: departures.kill(signal.SIGKILL))
                departures.happen("oom", lambda: departures.ask("/devour"))
                departures.happen("oom", lambda: departures.ask("/devour"))
            assert server.stop() == 0

    def test_a_patched_master(self, tmp_path: Path) -> None:
        """In a master that gevent has patched every reason is known all the same."""
        pytest.importorskip("gevent", exc_type=ImportError)
        source = "from gevent import monkey\n\nmonkey.patch_all()\n" + APPLICATION
        (tmp_path / "leaving.py").write_text(source)
        arguments = (APP, "--preload", "--worker-type=gevent", TIMEOUT)
        with gunicorn_prom(tmp_path, *arguments) as server, audited(server):
            assert server.exporter_pid()
            Departures(server).lead_a_life()

    def test_plain_gunicorn(self, tmp_path: Path) -> None:
        """With the hooks in its configuration plain Gunicorn keeps the same books."""
        write_application(tmp_path)
        (tmp_path / "conf.py").write_text("from gunicorn_prom.hooks import *\n")
        arguments = (APP, "-k", "gunicorn_prom.PrometheusWorker", "-c", "conf.py", "--timeout=1")
        with plain_gunicorn(tmp_path, *arguments) as server, audited(server):
            Departures(server).lead_a_life()

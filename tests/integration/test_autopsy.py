"""A worker that times out tells in which request, and where."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gunicorn_prom.autopsy import Autopsy
from tests.autopsies import (
    TIMEOUTS,
    assert_discreet,
    assert_tells_greenlets_apart,
    autopsies_of,
    line_of,
    our_records,
    unanswered,
    wait_for_autopsies,
)
from tests.support import Server, gunicorn_prom, wait_for

HEARTBEAT = "gunicorn_worker_heartbeat_timestamp_seconds"
STUCK = ("/sleep/%0aforged", "/seize/1", "/deadlock/2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("sync")
    with gunicorn_prom(directory, "stuck:app", "--timeout=1", "--workers=3") as server:
        server.wait_for_workers(3)
        yield server


@pytest.fixture(scope="module")
def autopsies(server: Server) -> list[Autopsy]:
    return wait_for_autopsies(server, *STUCK)


class TestSyncWorkers:
    """Three workers of one server, stuck at the same time."""

    def test_sleep(self, autopsies: list[Autopsy]) -> None:
        """Of a worker asleep the line is known, and since when it was in the request."""
        asleep = autopsies[0]
        assert f"{line_of('asleep')}sleep" in asleep.stacks
        assert [(one.method, one.path) for one in asleep.requests] == [("GET", STUCK[0])]
        assert 1 < asleep.requests[0].seconds < 30
        assert 1 < asleep.silent_s < 30

    def test_c_code(self, autopsies: list[Autopsy]) -> None:
        """The line is known of a call in C that lets no other thread run, and no handler."""
        assert f"{line_of('seized')}seize" in autopsies[1].stacks
        assert autopsies[1].requests[0].path == STUCK[1]

    def test_deadlock(self, autopsies: list[Autopsy]) -> None:
        """Of two threads that wait for each other both lines are known, and whose request it is."""
        stacks = autopsies[2].stacks
        assert f"{line_of('this thread')}deadlock" in stacks
        assert f"{line_of('the other thread')}take_both" in stacks
        assert ": GET /deadlock/2" in stacks

    def test_log(self, server: Server, autopsies: list[Autopsy]) -> None:
        """The log has each autopsy once, and no line in it is the client's own."""
        records = our_records(server)
        for one in autopsies:
            name = f"worker {one.worker_id} (pid:{one.pid})"
            announced, concluded = [record for record in records if name in record]
            assert f"  GET {one.requests[0].path} for " in announced
            assert all(f"  {line}" in concluded for line in one.stacks.splitlines() if line)
        assert not [line for line in server.log.splitlines() if line.startswith("forged")]
        assert_discreet(server)

    def test_routes(self, server: Server, autopsies: list[Autopsy]) -> None:
        """Timeouts are counted by route where Python could still run, else as `_OTHER`."""
        metrics = server.wait_for_metrics(lambda m: m.total(TIMEOUTS) == 3, "three timeouts")
        routes = {"/sleep/<rest>": 1, "/deadlock/<rest>": 1, "_OTHER": 1}
        assert {labels["route"]: n for labels, n in metrics.all(TIMEOUTS)} == routes
        assert [one.route for one in autopsies] == ["/sleep/<rest>", "_OTHER", "/deadlock/<rest>"]
        assert metrics.total("gunicorn_prom_errors_total") == 0

    def test_stopped(self, server: Server, autopsies: list[Autopsy]) -> None:
        """Of a worker that was stopped there are no stacks, and it is said why."""
        pid = server.wait_for_workers(3)[0]
        os.kill(pid, signal.SIGSTOP)
        stopped = wait_for(
            lambda: [one for one in autopsies_of(server) if one.pid == pid], "the autopsy"
        )[0]
        assert (stopped.stacks, stopped.problem) == ("", "it was stopped")
        assert stopped.requests == []
        # What the workers have written is gone with them.
        server.wait_for_workers(3)
        files = [path.name for path in server.state_directory.glob("*/stacks.*")]
        assert len(files) == 3


@pytest.mark.parametrize("worker_type", ["gthread", "tornado"])
def test_threads_and_loops(tmp_path: Path, worker_type: str) -> None:
    """The request and the line are known, whichever thread it is that lets no other run."""
    options = (f"--worker-type={worker_type}", "--threads=2", "--timeout=2")
    with gunicorn_prom(tmp_path, "stuck:app", *options) as server:
        # Before its first sign of life Gunicorn takes no worker for stuck.
        server.wait_for_metrics(lambda m: m.all(HEARTBEAT), "a sign of life")
        (autopsy,) = wait_for_autopsies(server, "/seize/1")
        assert line_of("seized") in autopsy.stacks
        assert [one.path for one in autopsy.requests] == ["/seize/1"]


def test_greenlets(tmp_path: Path) -> None:
    """A greenlet that does not give way is told from those that wait, which are shown once."""
    with gunicorn_prom(tmp_path, "stuck:app", "--worker-type=gevent", "--timeout=2") as server:
        assert_tells_greenlets_apart(server)


@pytest.mark.parametrize("worker_type", ["asgi", "uvicorn"])
def test_tasks(tmp_path: Path, worker_type: str) -> None:
    """A coroutine that blocks the loop is told from those that wait, which are shown too."""
    options = (f"--worker-type={worker_type}", "--timeout=2")
    with gunicorn_prom(tmp_path, "stuck:asgi_app", *options) as server:
        with unanswered(server, "/linger/1"):
            server.wait_for_metrics(
                lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "a request"
            )
            with unanswered(server, "/sleep/2%0aforged"):
                (autopsy,) = wait_for(lambda: autopsies_of(server), "the autopsy")
        current, *others = autopsy.stacks.split("\n\n")
        assert line_of("asleep") in current
        assert any(line_of("suspended") in block for block in others)
        assert "Task in GET /linger/1" in autopsy.stacks
        assert [one.path for one in autopsy.requests] == ["/linger/1", "/sleep/2?forged"]
        server.wait_for_metrics(lambda m: m.total(TIMEOUTS, route="/sleep/<rest>") == 1, "it")
        assert_discreet(server)


def test_switched_off(tmp_path: Path) -> None:
    """With --no-timeout-autopsy a timeout is only counted."""
    with (
        gunicorn_prom(tmp_path, "stuck:app", "--timeout=1", "--no-timeout-autopsy") as server,
        unanswered(server, "/sleep/1"),
    ):
        server.wait_for_metrics(lambda m: m.total(TIMEOUTS, route="_OTHER") == 1, "a timeout")
        assert "WORKER TIMEOUT" in server.log
        assert our_records(server) == []
        assert [*server.state_directory.glob("*/stacks.*")] == []
        assert autopsies_of(server) == []


def test_flask(tmp_path: Path) -> None:
    """A timeout in a Flask application is counted by the template of the rule."""
    (tmp_path / "shop.py").write_text(
        "import time\n"
        "from flask import Flask\n"
        "app = Flask(__name__)\n"
        "@app.get('/orders/<int:number>')\n"
        "def order(number):\n"
        "    time.sleep(600)\n"
    )
    with gunicorn_prom(tmp_path, "shop:app", "--timeout=1") as server:
        (autopsy,) = wait_for_autopsies(server, "/orders/7")
        assert 'shop.py", line 6 in order' in autopsy.stacks
        assert autopsy.route == "/orders/<int:number>"

"""A directory of the application's metrics that becomes of no use, and takes nothing along."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.test_faults import COUNTED, PROM_ERRORS, REQUESTS, fill_up, jobs
from tests.integration.test_lifecycle import in_mount_namespace
from tests.ledger import exits
from tests.support import (
    OWN_OPTIONS,
    Server,
    gunicorn_prom,
    is_running,
    running,
    start_next_generation,
    wait_for,
)

MAX_REQUESTS = 8
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'


class Place(NamedTuple):
    """Where a server keeps what its application counts, as we see it.

    Attributes:
        runtime: the state directory, in a small file system.
        app: the directory of the application's metrics in it.
    """

    server: Server
    runtime: Path
    app: Path

    def run(self, script: str, path: Path) -> None:
        """Run a shell script where the server is; `$1` is a path there."""
        enter = ["nsenter", "--mount", "--user", "--preserve-credentials"]
        command = [*enter, f"--target={self.server.pid}", "sh", "-ec", script, "sh", str(path)]
        subprocess.run(command, check=True)


Undo = Callable[[], None]


def become_read_only(place: Place) -> Undo:
    runtime = place.server.state_directory / "runtime"
    place.run(READ_ONLY, runtime)
    return partial(place.run, 'umount "$1"', runtime)


def run_out_of_inodes(place: Place) -> Undo:
    fillers = place.runtime / "fillers"
    fillers.mkdir()
    with contextlib.suppress(OSError):
        for number in itertools.count():
            (fillers / str(number)).touch()
    return partial(shutil.rmtree, fillers)


def become_a_file(place: Place) -> Undo:
    shutil.rmtree(place.app)
    place.app.touch()
    return place.app.unlink


def go_for_good(place: Place) -> Undo:
    shutil.rmtree(place.runtime)
    place.run(READ_ONLY, place.server.state_directory)
    return partial(place.run, 'umount "$1"', place.server.state_directory)


def become_full(place: Place) -> Undo:
    return fill_up(place.runtime).unlink


FAULTS = [become_read_only, run_out_of_inodes, become_a_file, go_for_good, become_full]


@contextlib.contextmanager
def on_small_tmpfs(directory: Path, *arguments: str) -> Iterator[Place]:
    """Run the application that has metrics of its own, its state in a file system for itself."""
    (directory / "counted.py").write_text(COUNTED)
    state = directory / "state"
    state.mkdir()
    prefix = in_mount_namespace('mount -t tmpfs -o size=16m,nr_inodes=300 tmpfs "$1"', state)
    runtime = "--metrics-state-dir={server.state_directory}/runtime"
    program = [sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS, "counted:app"]
    with running(
        Server(directory, [*prefix, *program, runtime, *arguments], {}), start=True
    ) as server:
        assert server.get("/").status == 200
        (own,) = Path(f"/proc/{server.pid}/root{state}/runtime").glob("gunicorn-prom.*")
        yield Place(server, own.parent, own / "app")


@pytest.mark.parametrize("option", ["", "--preload"])
@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_directory_ends_nothing(
    tmp_path: Path, fault: Callable[[Place], Undo], option: str
) -> None:
    """Workers live and come up and answer, whatever is wrong; and are served when it is over."""
    arguments = [f"--max-requests={MAX_REQUESTS}", *filter(None, [option])]
    with on_small_tmpfs(tmp_path, *arguments) as place:
        server = place.server
        (first,) = server.wait_for_workers(1)
        undo = fault(place)

        # A first value of a kind in a worker that runs.
        assert server.get("/observe/first").status == 200
        assert is_running(first)

        os.kill(first, signal.SIGKILL)
        server.wait_for_metrics(lambda m: exits(m) == {"signal": 1}, "the exit")
        answer(server)
        server.send_signal(signal.SIGHUP)
        server.wait_for_metrics(lambda m: exits(m) == {"signal": 1, "reload": 1}, "the reload")
        answer(server)
        server.send_signal(signal.SIGTTIN)
        server.wait_for_workers(2)
        for _ in range(2 * MAX_REQUESTS):
            answer(server)
        metrics = server.wait_for_metrics(
            lambda m: m.total("gunicorn_worker_exits_total", reason="max_requests"), "a renewal"
        )
        assert exits(metrics).keys() == {"signal", "reload", "max_requests"}
        # One for the worker that was there, one for the master, one for its folds.
        assert 1 <= metrics.one(PROM_ERRORS, where="app_metrics") <= 4
        assert server.log.count("metrics of app_metrics failed") == 2
        assert "Traceback" not in server.log

        undo()
        without, before = server.worker_pids(), jobs(server)
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: set(server.worker_pids()).isdisjoint(without), "other workers")
        answer(server)
        wait_for(lambda: jobs(server) > before, "the application's metrics")
        assert server.stop() == 0


def answer(server: Server) -> None:
    assert server.get("/").status == 200
    assert server.get("/observe/later").status == 200


def test_new_values_in_a_full_directory(tmp_path: Path) -> None:
    """A worker that runs out of room for them lives, and goes on with what it has."""
    with on_small_tmpfs(tmp_path) as place:
        server = place.server
        workers = server.wait_for_workers(1)
        assert server.get("/observe/known").status == 200
        filler = fill_up(place.runtime)
        for number in range(20):
            assert server.get(f"/observe/{number}").status == 200
        metrics = server.wait_for_metrics(lambda m: m.total("jobs_total") == 22, "the jobs")
        assert metrics.one("sizes_count", kind="known") == 1
        assert metrics.total("sizes_count") < 21
        assert metrics.one(PROM_ERRORS, where="app_metrics") == metrics.total(PROM_ERRORS) == 1
        filler.unlink()
        assert server.get("/observe/later").status == 200
        server.wait_for_metrics(lambda m: m.total("sizes_count", kind="later") == 1, "a new value")
        assert server.worker_pids() == workers


@pytest.mark.parametrize("option", ["", "--preload"])
@pytest.mark.parametrize("level", [0, 1, 2], ids=["application", "server", "root"])
def test_a_next_generation_beside_an_unusable_directory(
    tmp_path: Path, level: int, option: str
) -> None:
    """It takes over whatever has become of the last one's directory, which is told and counted."""
    (tmp_path / "counted.py").write_text(COUNTED)
    pidfile = tmp_path / "pid"
    arguments = ("counted:app", f"--pid={pidfile}", *filter(None, [option]))
    with gunicorn_prom(tmp_path, *arguments) as server:
        assert server.get("/").status == 200
        (own,) = server.state_directory.glob("gunicorn-prom.*")
        broken = (own / "app", own, server.state_directory)[level]
        shutil.rmtree(broken)
        broken.touch()
        successor = start_next_generation(server, pidfile)
        assert server.stop() == 0
        for _ in range(3):
            assert server.get("/").status == 200
        metrics = server.wait_for_metrics(lambda m: m.total(REQUESTS) >= 3, "its requests")
        assert metrics.total(PROM_ERRORS) > 0
        assert "gunicorn-prom: metrics of" in server.log
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not is_running(successor), "its end")

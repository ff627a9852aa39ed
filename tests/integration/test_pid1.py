"""gunicorn-prom as PID 1 of a namespace: what a container asks of it, without an engine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.real_parts import unavailable
from tests.support import OWN_OPTIONS, Server, children, request, running, wait_for

STOP_AT_REST_S = 2.0


class PidOneServer(Server):
    """A server whose master is PID 1; the process started is `unshare`.

    `unshare` exits with the code of the master, but does not pass signals on to it.
    """

    def send_signal(self, number: int) -> None:
        (master,) = children(self.pid)
        os.kill(master, number)


def test_the_master_is_pid_1_and_ends_soon_at_rest(server: Server) -> None:
    """TERM at rest ends the server within 2 seconds with exit code 0."""
    assert server.get("/parent").text == "1"
    start = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - start < STOP_AT_REST_S


def test_term_drains(server: Server) -> None:
    """A request in progress when TERM arrives gets its answer, and the master exits with 0."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.get, "/wait/gate")
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_http_requests_in_progress") == 1, "the request"
        )
        server.send_signal(signal.SIGTERM)
        wait_for(lambda: request(server.metrics_port, "/-/ready").status == 503, "the shutdown")
        server.open_gate("gate")
        assert answer.result().text == "waited"
    assert server.wait() == 0


def test_orphans_are_reaped(server: Server) -> None:
    """An orphan that PID 1 inherits does not stay a zombie, and the server goes on."""
    orphan = server.get("/orphan").text
    wait_for(lambda: server.get(f"/process/{orphan}").text.startswith("1 "), "the inheritance")
    server.get(f"/kill/{orphan}")
    wait_for(lambda: server.get(f"/process/{orphan}").text == "gone", "the end of the orphan")
    assert server.stop() == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    command = [*unshare_command(), sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS]
    with running(PidOneServer(tmp_path, [*command, "processes:app"], {}), start=True) as server:
        yield server


def unshare_command() -> list[str]:
    """Find out how to make a PID namespace here: as root, or with a user namespace."""
    program = shutil.which("unshare")
    if program is None:
        unavailable("unshare is not installed (Debian: util-linux)")
    command = [program, "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() != 0:
        command += ["--user", "--map-root-user"]
    trial = subprocess.run([*command, "true"], check=False, capture_output=True, text=True)
    if trial.returncode != 0:
        unavailable(f"no PID namespace can be made here: {trial.stderr.strip()}")
    return command

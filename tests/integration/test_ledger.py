"""Why workers have gone is known, on the newest Gunicorn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ledger import ExitReasons, Ledger, exits
from tests.support import DEADLINE_S, gunicorn_prom, request, wait_for

GUNICORNC = str(Path(sys.executable).with_name("gunicornc"))


@pytest.fixture(params=["sync", "gthread", "gevent"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type that the newest Gunicorn has."""
    return request.param


class TestExitReasons(ExitReasons):
    """See tests/ledger.py."""


class TestLedger(Ledger):
    """See tests/ledger.py."""


@pytest.mark.parametrize("worker_type", ["sync", "gevent"])
def test_the_control_socket(tmp_path: Path, worker_type: str) -> None:
    """A worker that somebody kills by gunicornc was one too many, and nobody is to be called."""
    socket = tmp_path / "control"
    options = ("--workers=2", f"--worker-type={worker_type}", f"--control-socket={socket}")
    with gunicorn_prom(tmp_path, "behave:app", *options) as server:
        worker, _ = server.wait_for_workers(2)
        wait_for(socket.exists, "the control socket")
        command = [GUNICORNC, "-s", str(socket), "-c", f"worker kill {worker}"]
        subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE_S)
        metrics = server.wait_for_metrics(exits, "an exit")
        assert exits(metrics) == {"scale_down": 1}
        status = json.loads(request(server.metrics_port, "/status.json").text)
        assert "died" not in status["health"]["reason"]

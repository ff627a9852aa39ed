"""A master that gevent or eventlet has patched, in part or in whole, and how it lives."""

import contextlib
import os
import signal
from pathlib import Path

from tests.support import DEADLINE_S, Server, can_bind, gunicorn_prom, request, wait_for

APP = "behave:app"
# Gunicorn's own wait for workers that it has lost count of, as it does after a late patch.
OPTIONS = ("--graceful-timeout=2",)


def lead_a_life(
    directory: Path,
    configuration: str,
    *options: str,
    app: str = APP,
    end_s: float = DEADLINE_S,
) -> str:
    """Run a server with that configuration from its start to its end; return its log.

    A worker is killed and replaced; whatever patches does so by then. From then on a process
    serves the metrics.

    Args:
        end_s: the end may take so long.
    """
    (directory / "gunicorn.conf.py").write_text(configuration)
    with gunicorn_prom(directory, app, *OPTIONS, *options) as server:
        replace_the_worker(server)
        for _ in range(3):
            assert request(server.metrics_port, "/metrics").status == 200
            assert request(server.metrics_port, "/-/healthy").status == 200
        assert server.exporter_pid()
        server.send_signal(signal.SIGTERM)
        assert server.wait(end_s) == 0
        assert can_bind(server.metrics_port)
        assert not list(server.state_directory.iterdir())
        return server.log


def replace_the_worker(server: Server) -> None:
    """Kill the only worker and wait until another one answers.

    Nothing is scraped meanwhile: what a thread has accepted when it must leave is lost.
    """
    pid = server.get("/pid").text
    os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: pid_of_worker(server) not in ("", pid), "another worker")


def pid_of_worker(server: Server) -> str:
    """Return the pid of the worker that answers, "" when the connection was that of a dead one."""
    with contextlib.suppress(OSError):
        return server.get("/pid").text
    return ""

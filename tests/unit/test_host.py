"""The metrics server as the master has it."""

import logging
import threading
from pathlib import Path

import pytest

from gunicorn_prom.exporter.host import Service, ThreadHost
from gunicorn_prom.exporter.listener import MetricsSocket
from gunicorn_prom.exporter.server import Server
from gunicorn_prom.state import State
from tests.support import Metrics, request, wait_for
from tests.unit.boards import META, log


def test_a_history_that_cannot_be_read_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server serves without it, and the failure is logged and counted."""
    state = State.create(tmp_path, {**META, "generation": 1})
    listener = MetricsSocket.open("127.0.0.1:0")
    port = listener.address[1]
    service = Service(state.path, "127.0.0.1:0", "/metrics", "thread", None)
    host = ThreadHost(listener, service, state, log, None)
    host.history = b"nonsense"
    with caplog.at_level(logging.ERROR):
        host.begin()
    metrics = Metrics(request(port, "/metrics").text)
    assert metrics.one("gunicorn_prom_errors_total", where="server") == 1
    assert "the last minutes are not known" in caplog.text
    host.stop()
    state.close()


def test_a_failure_of_another_kind_is_logged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread is started again after each; one that comes again and again is logged once."""
    failures = [OSError("first"), OSError("first"), ValueError("second")]
    serve, serves = Server.serve, threading.Event()

    def fail_at_first(server: Server) -> None:
        if failures:
            raise failures.pop(0)
        serves.set()
        serve(server)

    monkeypatch.setattr(Server, "serve", fail_at_first)
    state = State.create(tmp_path, {**META, "generation": 1})
    listener = MetricsSocket.open("127.0.0.1:0")
    port = listener.address[1]
    service = Service(state.path, "127.0.0.1:0", "/metrics", "thread", None)
    host = ThreadHost(listener, service, state, log, None)
    with caplog.at_level(logging.ERROR):
        host.begin()
        wait_for(lambda: host.revive() or serves.is_set(), "a server that serves")
    assert request(port, "/metrics").status == 200
    host.stop()
    state.close()
    logged = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [str(error) for error in logged] == ["first", "second"]

"""The metrics server as the master has it."""

import logging
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from gunicorn_prom.exporter import host as host_module
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


def test_who_comes_once_the_master_is_patched_is_answered_by_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The thread leaves and takes nobody along; the process goes on at the same socket."""
    state = State.create(tmp_path, {**META, "generation": 1})
    listener = MetricsSocket.open("127.0.0.1:0")
    port = listener.address[1]
    service = Service(state.path, "127.0.0.1:0", "/metrics", "thread", None)
    thread = ThreadHost(listener, service, state, log, None)
    thread.begin()
    settings = SimpleNamespace(metrics_server="thread")
    assert thread.fit(settings) is thread
    assert request(port, "/metrics").status == 200
    monkeypatch.setattr(host_module, "is_patched", lambda: True)
    server = thread._server
    assert server is not None
    server.must_leave = lambda: True
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_for(lambda: not thread.revive() and not thread._life.locked(), "the thread's end")
        with caplog.at_level(logging.WARNING):
            process = thread.fit(settings)
        process.begin()
        assert client.recv(12) == b"HTTP/1.1 200"
    assert caplog.text.count("the metrics server is a process, no thread") == 1
    assert process.fit(settings) is process
    process.stop()
    state.close()

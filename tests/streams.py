"""What HTTP/2 has to show: that each stream is counted as its client saw it.

The tests of integration/ and compat/ are made of this module. `worker_type` is a fixture of theirs.
"""

from pathlib import Path

import gunicorn
import pytest

from tests.exactness import ANSWERED, BODY, FAILED, expected, observed, options, settled
from tests.http2 import Client, StreamExchange, send, server_options
from tests.support import Server, gunicorn_prom, wait_for
from tests.traffic import Shot, shuffled

# Gunicorn 25 sends what is written to start_response() past HTTP/2, does not keep to a length,
# puts a body to the answer of a HEAD, and takes an answer back as long as it is not complete.
UNLIKE = ("/write", "/stop/late", "/too-long", "/nothing", "/start/late")
# What it hears of other streams while it waits for a window it forgets.
IS_FORGETFUL = gunicorn.version_info < (26,)
WINDOW = [
    Shot("POST", "/echo", body=BODY * 100),
    *(shot for shot in ANSWERED if shot.path.startswith("/file") and shot.version == "1.1"),
]
MIX = [
    *(
        shot
        for shot in [*ANSWERED, *FAILED]
        if shot.version == "1.1"
        and not shot.raw
        and shot.path not in UNLIKE
        and shot not in WINDOW
        and (shot.method, shot.path) not in {("HEAD", "/stream"), ("HEAD", "/nowhere")}
    ),
    *([] if IS_FORGETFUL else WINDOW),
]


def assert_exact_streams(server: Server, exchanges: list[StreamExchange]) -> None:
    """Fail unless the metrics say exactly what the clients saw."""
    want = expected(exchanges)
    # HTTP/2 answers errors by itself.
    del want["gunicorn_worker_error_handling_total"]
    metrics = settled(server, want)
    assert observed(metrics, want) == want
    answered = [exchange for exchange in exchanges if exchange.is_whole]
    if len(answered) == len(exchanges):
        body_bytes = sum(exchange.body_bytes for exchange in answered)
        assert metrics.one("gunicorn_http_response_size_bytes_sum") == body_bytes


class Streams:
    """Requests over HTTP/2, with TLS."""

    def test_are_counted_as_the_clients_saw_them(self, tmp_path: Path, worker_type: str) -> None:
        """500 mixed requests, 8 streams at a time on each of 4 connections, failures included."""
        arguments = (*options(worker_type), *server_options(tmp_path))
        with gunicorn_prom(tmp_path, "mix:app", *arguments) as server:
            exchanges = send(server.port, shuffled(MIX, 500), connections=4, streams=8)
            assert {exchange.status for exchange in exchanges} >= {"200", "201", "304", "500"}
            assert_exact_streams(server, exchanges)

    def test_bodies(self, tmp_path: Path, worker_type: str) -> None:
        """Bytes are those of the bodies, and of the text by which Gunicorn answers an exception."""
        arguments = (*options(worker_type), *server_options(tmp_path))
        whole = [Shot(), Shot("HEAD"), Shot(path="/stream"), Shot(path="/os", raises="OSError")]
        with gunicorn_prom(tmp_path, "mix:app", *arguments) as server:
            exchanges = send(server.port, whole)
            assert [exchange.status for exchange in exchanges] == ["200", "200", "200", "500"]
            assert_exact_streams(server, exchanges)

    @pytest.mark.skipif(IS_FORGETFUL, reason="Gunicorn 25 waits long for who has gone")
    def test_departures(self, tmp_path: Path, worker_type: str) -> None:
        """A stream that is reset and a connection that is lost are answered and aborted."""
        arguments = (*options(worker_type), *server_options(tmp_path))
        with gunicorn_prom(tmp_path, "mix:app", *arguments) as server:

            def is_aborted(count: int) -> None:
                reason = {"reason": "client_disconnect"}
                server.wait_for_metrics(
                    lambda m: (
                        m.total("gunicorn_http_aborted_total", **reason) == count
                        and m.one("gunicorn_http_requests_in_progress") == 0
                    ),
                    f"{count} disconnects",
                )

            (left,) = send(server.port, [Shot(path="/big", hangs_up="reading")])
            assert left.status == "200"
            is_aborted(1)
            with Client(server.port) as client:
                client.ask([Shot(path="/big")])
                wait_for(client.receive, "the first of the answer")
            is_aborted(2)
            metrics = server.scrape()
            assert metrics.one("gunicorn_http_requests_total", status="200") == 2
            assert metrics.total("gunicorn_http_exceptions_total") == 0

    @pytest.mark.parametrize("path", ["/exit", "/alarm"])
    def test_what_no_handler_catches(self, tmp_path: Path, worker_type: str, path: str) -> None:
        """SystemExit and the like leave the stream without an answer, and are counted so."""
        arguments = (*options(worker_type), *server_options(tmp_path))
        with gunicorn_prom(tmp_path, "mix:app", *arguments) as server:
            with Client(server.port) as client:
                (exchange,) = client.exchange([Shot(path=path)])
                while not client.is_closed:
                    client.receive()
            assert not exchange.status
            assert_exact_streams(server, [exchange])

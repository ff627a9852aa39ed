"""What every worker type of every Gunicorn has to show: that the counts are what clients saw.

The tests of integration/ and compat/ are made of this module. `worker_type` is a fixture of theirs.
"""

import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import gunicorn
import pytest

from gunicorn_prom.keys import OTHER
from gunicorn_prom.workers import REGISTRY
from tests.support import (
    DEADLINE_S,
    POLL_S,
    ROOT,
    Metrics,
    Server,
    bare_gunicorn,
    gunicorn_prom,
    plain_gunicorn,
)
from tests.traffic import Exchange, Shot, send, shuffled

GUNICORN = gunicorn.version_info
CONNECTIONS = 8
# So long that no server closes a connection on which its client is about to send.
KEEP_ALIVE = "--keep-alive=30"
KNOWN_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")

CHUNKED = b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
ANNOUNCED = b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n"
BODY = b"x" * 3000

# Whole answers; as clients send them.
ANSWERED = [
    Shot(),
    Shot(version="1.0"),
    Shot(version="1.0", headers=("Connection: keep-alive",)),
    Shot(headers=("Connection: close",)),
    Shot("HEAD"),
    Shot("HEAD", "/stream"),
    Shot("OPTIONS"),
    Shot("FOO"),
    Shot("PROPFIND", "/stream"),
    Shot(path="/stream"),
    Shot(path="/stream", version="1.0"),
    Shot(path="/status/204"),
    Shot("DELETE", "/status/204"),
    Shot(path="/status/304"),
    Shot(path="/status/299"),
    Shot(path="/status/500"),
    Shot("PUT", "/status/503"),
    Shot(path="/nowhere"),
    Shot("HEAD", "/nowhere", headers=("Connection: close",)),
    Shot("POST", "/echo", body=BODY),
    Shot("PATCH", "/echo", body=BODY, version="1.0"),
    Shot("POST", "/echo", body=BODY, headers=("Expect: 100-continue",)),
    Shot("POST", "/echo", raw=CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"),
    Shot("POST", "/unread", body=BODY),
    Shot(path="/file"),
    Shot(path="/file", version="1.0"),
    Shot(path="/file/unsaid"),
    Shot(path="/file/unsaid", version="1.0"),
    Shot(path="/file/rest"),
    Shot(path="/file/memory"),
    Shot(path="/too-long"),
    Shot(path="/write"),
    Shot(path="/write", version="1.0"),
    Shot(path="/nothing", version="1.0"),
    Shot(path="/start/again"),
]

# Answers of Gunicorn's, answers that break off, and none at all.
FAILED = [
    Shot(path="/raise/ZeroDivisionError", raises="ZeroDivisionError"),
    Shot("POST", "/raise/KeyError", body=BODY, raises="KeyError"),
    Shot("FOO", "/raise/KeyError", version="1.0", raises="KeyError"),
    Shot(path="/start/twice", raises="AssertionError"),
    Shot(path="/start/late", raises="RuntimeError"),
    Shot(path="/fail/first", raises="LookupError"),
    Shot(path="/fail/late", raises="LookupError"),
    Shot(path="/fail/length", raises="LookupError"),
    Shot(path="/fail/length", version="1.0", raises="LookupError"),
    Shot(path="/fail/text", raises="TypeError"),
    Shot(path="/fail/close", raises="ArithmeticError"),
    Shot(path="/fail/close/stream", raises="ArithmeticError"),
    Shot(path="/fail/close/os", raises="OSError"),
    Shot(path="/fail/twice", raises="ArithmeticError"),
    Shot(path="/os", raises="OSError"),
    Shot(path="/os/late", raises="OSError"),
    Shot(path="/reset", raises="ConnectionResetError"),
    Shot(path="/reset/late", raises="ConnectionResetError"),
    Shot(path="/stop", raises="StopIteration"),
    Shot(path="/stop/late", raises="StopIteration"),
    Shot("POST", raw=CHUNKED + b"no size\r\n", raises="InvalidChunkSize"),
]

UNREADABLE = [
    Shot(raw=raw, parse_error=error)
    for raw, error in {
        b"GARBAGE\r\n\r\n": "InvalidRequestLine",
        b"get /plain HTTP/1.1\r\n\r\n": "InvalidRequestMethod",
        b"GET /plain HTTP/9.9\r\n\r\n": "InvalidHTTPVersion",
        b"GET /plain HTTP/1.1\r\nno colon\r\n\r\n": "InvalidHeader",
        b"GET /plain HTTP/1.1\r\nbad name: x\r\n\r\n": "InvalidHeaderName",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n": "LimitRequestLine",
        b"GET /plain HTTP/1.1\r\nlong: " + b"x" * 9000 + b"\r\n\r\n": "LimitRequestHeaders",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: new\r\n\r\n": "UnsupportedTransferCoding",
    }.items()
]

LEFT = [
    Shot(path="/big", hangs_up="reading"),
    Shot(path="/big", version="1.0", hangs_up="reading"),
    Shot(path="/big/file", hangs_up="reading"),
    Shot(path="/outlast", hangs_up="reading"),
    Shot("POST", raw=CHUNKED + b"3\r\nab", hangs_up="asking"),
]

MIX = [*ANSWERED, *FAILED, *UNREADABLE, *LEFT]

FLASK_AND_DJANGO = [
    Shot(path="/"),
    Shot("HEAD", "/", headers=("Connection: close",)),
    Shot(path="/", version="1.0"),
    Shot(path="/hello/you"),
    Shot("POST", "/echo", body=BODY),
    Shot(path="/echo"),
    Shot(path="/stream"),
    Shot(path="/download"),
    Shot(path="/error"),
    Shot(path="/nowhere"),
    Shot("FOO", "/"),
]

HTTPBIN = [
    Shot(path="/get?a=b"),
    Shot("HEAD", "/get"),
    Shot(path="/get", version="1.0"),
    Shot("POST", "/post", body=BODY),
    Shot("PUT", "/put", body=BODY),
    Shot("PATCH", "/patch", body=BODY),
    Shot("DELETE", "/delete"),
    Shot("OPTIONS", "/get"),
    Shot("FOO", "/get"),
    Shot("POST", "/get"),
    Shot(path="/status/418"),
    Shot(path="/status/503"),
    Shot(path="/redirect-to?url=/get"),
    Shot(path="/stream/5"),
    Shot(path="/stream-bytes/5000?chunk_size=1000"),
    Shot(path="/range/1024", headers=("Range: bytes=10-99",)),
    Shot(path="/gzip"),
    Shot(path="/image/png"),
    Shot(path="/cookies/set?a=b"),
    Shot(path="/basic-auth/user/password"),
    Shot(path="/nowhere"),
]

APPLICATIONS = [
    pytest.param(
        ("app:app", "--chdir", str(ROOT / "examples/flask")), FLASK_AND_DJANGO, id="flask"
    ),
    pytest.param(
        ("django_app.wsgi:application", "--chdir", str(ROOT / "examples/django")),
        FLASK_AND_DJANGO,
        id="django",
    ),
    pytest.param(("httpbin:app",), HTTPBIN, id="httpbin"),
]

OWN_WORKER = """
from {module} import {name}

class OwnWorker({name}):
    def init_process(self):
        self.log.info("the user's own worker")
        super().init_process()
"""


def options(worker_type: str) -> list[str]:
    """Return how the tests run that type."""
    return [f"--worker-type={worker_type}", *sizes(worker_type)]


def sizes(worker_type: str) -> list[str]:
    return ["--workers=2", KEEP_ALIVE, *(["--threads=4"] if worker_type == "gthread" else [])]


def method_label(exchange: Exchange) -> str:
    method = exchange.shot.method
    return method if method in KNOWN_METHODS else OTHER


def status_label(exchange: Exchange) -> str:
    return exchange.status if exchange.status.isdigit() else OTHER


def status_class(exchange: Exchange) -> str:
    return f"{exchange.status[0]}xx" if exchange.status.isdigit() else OTHER


def abort_reason(exchange: Exchange) -> str:
    """Return why the client has no whole answer, "" when it has one."""
    if exchange.shot.hangs_up:
        return "client_disconnect"
    if not exchange.status:
        return "no_response"
    return "" if exchange.is_whole else "error"


def expected(exchanges: Iterable[Exchange]) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples other than 0 that the metrics must have, by family and labels.

    The values of the labels are in the order of the labels' names.
    """
    unreadable = [e for e in exchanges if e.shot.parse_error]
    requests = [e for e in exchanges if not e.shot.parse_error]
    answered = [e for e in requests if e.status]
    raised = [e for e in requests if e.shot.raises]
    # What was raised before the answer began; the application's own errors raise nothing.
    handled = [e for e in raised if e.status >= "400"]
    every = Counter({(): len(answered)})
    sent_bytes = sum(len(e.shot.body) for e in answered)
    families: dict[str, Counter[tuple[str, ...]]] = {
        "gunicorn_http_requests_total": Counter(
            (method_label(e), status_label(e)) for e in answered
        ),
        "gunicorn_http_request_duration_seconds_count": Counter(
            (method_label(e), status_class(e)) for e in answered
        ),
        "gunicorn_http_request_size_bytes_count": every,
        "gunicorn_http_request_size_bytes_sum": Counter({(): sent_bytes}),
        "gunicorn_http_response_size_bytes_count": every,
        "gunicorn_http_aborted_total": Counter((r,) for r in map(abort_reason, requests) if r),
        "gunicorn_http_exceptions_total": Counter((e.shot.raises,) for e in raised),
        "gunicorn_http_parse_errors_total": Counter((e.shot.parse_error,) for e in unreadable),
        "gunicorn_worker_failed_requests_total": Counter(
            (OTHER, e.shot.raises, method_label(e)) for e in raised
        ),
        "gunicorn_worker_error_handling_total": Counter(
            [(OTHER, e.shot.raises, method_label(e)) for e in handled]
            + [(OTHER, e.shot.parse_error, OTHER) for e in unreadable]
        ),
        "gunicorn_http_requests_in_progress": Counter(),
        "gunicorn_prom_errors_total": Counter(),
        "gunicorn_prom_series_overflow_total": Counter(),
    }
    return {name: dict(+samples) for name, samples in families.items()}


def observed(metrics: Metrics, families: Iterable[str]) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the samples other than 0, as `expected` does."""
    return {
        name: {
            tuple(value for _, value in sorted(labels.items())): count
            for labels, count in metrics.all(name)
            if count
        }
        for name in families
    }


def settled(server: Server, want: dict[str, dict[tuple[str, ...], float]]) -> Metrics:
    """Return the first scrape that shows what is wanted, or the last before the deadline.

    A client has its answer a moment before the worker has counted it.
    """
    end = time.monotonic() + DEADLINE_S / 2
    metrics = server.scrape()
    while observed(metrics, want) != want and time.monotonic() < end:
        time.sleep(POLL_S)
        metrics = server.scrape()
    return metrics


def assert_exact(server: Server, exchanges: Iterable[Exchange]) -> Metrics:
    """Fail unless the metrics say exactly what the clients saw; return them."""
    want = expected(exchanges)
    metrics = settled(server, want)
    assert observed(metrics, want) == want
    return metrics


def own_worker(directory: Path, dotted: str) -> str:
    """Write a worker class of the user's own, derived from another; return its dotted name."""
    module, _, name = dotted.rpartition(".")
    (directory / "own_worker.py").write_text(OWN_WORKER.format(module=module, name=name))
    return "own_worker.OwnWorker"


class TheMix:
    """The application that answers and fails in every way."""

    def test_is_counted_as_the_clients_saw_it(self, tmp_path: Path, worker_type: str) -> None:
        """2,000 mixed requests over 8 connections: every family says what the clients saw."""
        with gunicorn_prom(tmp_path, "mix:app", *options(worker_type)) as server:
            exchanges = send(server.port, shuffled(MIX, 2000), connections=CONNECTIONS)
            metrics = assert_exact(server, exchanges)
        assert len(metrics.all("gunicorn_http_requests_total")) >= 12
        total = metrics.total("gunicorn_http_requests_total")
        assert metrics.total("gunicorn_worker_requests_total") == total
        assert metrics.total("gunicorn_worker_request_duration_seconds_count") == total

    def test_answers_are_those_of_bare_gunicorn(self, tmp_path: Path, worker_type: str) -> None:
        """Not a byte of an answer differs from Gunicorn's own, besides the date."""
        shots = [replace(shot, version=version) for shot in MIX for version in ("1.0", "1.1")]
        shots = [shot for shot in shots if not shot.hangs_up]
        arguments = ("mix:app", "-k", worker_type, *sizes(worker_type))
        with bare_gunicorn(tmp_path / "bare", *arguments) as server:
            bare = send(server.port, shots)
        with gunicorn_prom(tmp_path / "ours", *arguments) as server:
            ours = send(server.port, shots)
        assert [undated(exchange) for exchange in ours] == [undated(exchange) for exchange in bare]

    def test_plugin_class_under_plain_gunicorn(self, tmp_path: Path, worker_type: str) -> None:
        """`gunicorn -k gunicorn_prom.Prometheus...` with the hooks counts the same."""
        worker_class = f"gunicorn_prom.{REGISTRY[worker_type].plugin_class}"
        (tmp_path / "conf.py").write_text("from gunicorn_prom.hooks import *\n")
        arguments = ("mix:app", "-k", worker_class, "-c", "conf.py", *sizes(worker_type))
        with plain_gunicorn(tmp_path, *arguments) as server:
            exchanges = send(server.port, shuffled(MIX, 500), connections=CONNECTIONS)
            assert_exact(server, exchanges)

    def test_users_own_worker_class(self, tmp_path: Path, worker_type: str) -> None:
        """`gunicorn-prom run -k module.Worker` instruments a class of the user's own."""
        worker_class = own_worker(tmp_path, REGISTRY[worker_type].class_path)
        arguments = ("mix:app", "-k", worker_class, *sizes(worker_type))
        with gunicorn_prom(tmp_path, *arguments) as server:
            exchanges = send(server.port, shuffled(MIX, 500), connections=CONNECTIONS)
            assert_exact(server, exchanges)
            assert server.log.count("the user's own worker") == 2

    @pytest.mark.parametrize("path", ["/exit", "/exit/late", "/alarm", "/alarm/late"])
    def test_what_no_handler_catches(self, tmp_path: Path, worker_type: str, path: str) -> None:
        """SystemExit and the like, which may end the worker, are counted as the client saw them."""
        if GUNICORN < (24,) and worker_type == "gthread":
            pytest.skip("Gunicorn 23 closes such a connection when it is garbage, if ever")
        with gunicorn_prom(tmp_path, "mix:app", *options(worker_type), "--keep-alive=1") as server:
            want = expected(send(server.port, [Shot(path=path)]))
            # Whether Gunicorn handles them differs, and is not for the client to see.
            del want["gunicorn_worker_error_handling_total"]
            metrics = settled(server, want)
        assert observed(metrics, want) == want

    def test_counts_outlive_their_workers(self, tmp_path: Path, worker_type: str) -> None:
        """With --max-requests totals stay exact over the workers' ends, and no series is added."""
        arguments = (*options(worker_type), "--max-requests=50", "--max-requests-jitter=5")
        shots = shuffled(ANSWERED, 1000)
        exchanges: list[Exchange] = []
        with gunicorn_prom(tmp_path, "mix:app", *arguments) as server:
            metrics = server.wait_for_metrics(all_were_heard_of, "heartbeats")
            series = worker_series(metrics)
            for first in range(0, len(shots), 250):
                # Of two workers one has had its 50 requests at the least.
                age = newest_age(metrics)
                part = shots[first : first + 250]
                exchanges += send(server.port, part, connections=CONNECTIONS, repeats=True)
                metrics = server.wait_for_metrics(
                    lambda m, age=age: newest_age(m) > age, "a new worker"
                )
            assert worker_series(assert_exact(server, exchanges)) <= series
            server.wait_for_metrics(lambda m: worker_series(m) == series, "the same series")


class Applications:
    """Real applications, of real frameworks."""

    @pytest.mark.parametrize(("arguments", "kinds"), APPLICATIONS)
    def test_are_counted_as_the_clients_saw_it(
        self, tmp_path: Path, worker_type: str, arguments: tuple[str, ...], kinds: list[Shot]
    ) -> None:
        """Counts and sizes of a real application are what the clients saw."""
        with gunicorn_prom(tmp_path, *arguments, *options(worker_type)) as server:
            exchanges = send(server.port, shuffled(kinds, 400), connections=CONNECTIONS)
            metrics = assert_exact(server, exchanges)
        assert all(exchange.is_whole for exchange in exchanges)
        body_bytes = sum(exchange.body_bytes for exchange in exchanges)
        assert metrics.one("gunicorn_http_response_size_bytes_sum") == body_bytes


def undated(exchange: Exchange) -> tuple[Shot, bytes]:
    return exchange.shot, re.sub(rb"\r\nDate: [^\r]*", b"", exchange.raw)


def newest_age(metrics: Metrics) -> int:
    """Return the age, as Gunicorn counts them from 1, of the newest worker; 0 without any."""
    return max((int(info["age"]) for info, _ in metrics.all("gunicorn_worker_info")), default=0)


def all_were_heard_of(metrics: Metrics) -> bool:
    """Tell whether both workers have all their series: that of the heartbeat comes late."""
    return len(metrics.all("gunicorn_worker_heartbeat_timestamp_seconds")) == 2


def worker_series(metrics: Metrics) -> Counter[tuple[str, str]]:
    """Return how many series each family has for each worker."""
    ids = [(sample.name, sample.labels.get("worker_id")) for sample in metrics.samples]
    return Counter((name, worker_id) for name, worker_id in ids if worker_id is not None)

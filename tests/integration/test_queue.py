"""How long requests wait before a worker begins with them, and how long workers are busy."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import http2
from tests.integration.test_endpoint import query, running_prometheus
from tests.pools import APP, BUSY, ONE_THREAD, QUEUE, Pool, Work
from tests.support import ROOT, Metrics, Server, gunicorn_prom, wait_for
from tests.traffic import Shot

GUIDE = ROOT / "docs" / "guide" / "queue.md"
IGNORED = "gunicorn_http_queue_headers_ignored_total"
# For what a proxy says to be an hour ago, a deadline away is still about that.
HOUR_S = 3600.0

ASGI_APP = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "http":
        await asyncio.sleep(float(scope["path"].rpartition("/")[2]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"slept"})
    else:
        while message := await receive():
            await send({"type": message["type"] + ".complete"})
"""


# The proxy's stage.


@pytest.fixture(scope="module", params=["sync", "gthread", "gevent"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of each kind that understands the hooks."""
    directory = tmp_path_factory.mktemp("queue")
    with gunicorn_prom(directory, APP, f"--worker-type={request.param}") as server:
        yield server


def ask_with(server: Server, **headers: str) -> Metrics:
    """Send a request with these headers and return a scrape in which it is counted."""
    before = server.scrape().total("gunicorn_http_requests_total")
    assert server.get("/", **headers).status == 200
    return server.wait_for_requests(int(before) + 1)


@pytest.mark.parametrize("name", ["X_Request_Start", "X_Queue_Start"])
@pytest.mark.parametrize(
    "template", ["{0:.3f}", "t={0:.3f}", "{1:.0f}", "t={1:.0f}", "t={2:.0f}", "{3:.0f}"]
)
def test_the_proxys_time_is_taken(server: Server, name: str, template: str) -> None:
    """In every unit and with both headers, the wait is from then until the worker begins."""
    before = server.scrape().total(f"{QUEUE}_sum", stage="proxy")
    sent = time.time() - HOUR_S
    header = template.format(sent, sent * 1e3, sent * 1e6, sent * 1e9)
    metrics = ask_with(server, **{name: header})
    waited = metrics.one(f"{QUEUE}_sum", stage="proxy") - before
    assert HOUR_S - 0.01 <= waited <= time.time() - sent


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("soon", "garbage"),
        ("-1", "garbage"),
        ("t=1,t=2", "garbage"),
        ("", "garbage"),
        ("t=1.5", "past"),
        ("99999999999", "future"),
    ],
)
def test_what_is_ignored_is_counted(server: Server, header: str, reason: str) -> None:
    """A time that cannot be is in no histogram, and counted by what is wrong with it."""
    before = server.scrape()
    metrics = ask_with(server, X_Request_Start=header)
    for each in ("garbage", "future", "past"):
        added = metrics.one(IGNORED, reason=each) - before.one(IGNORED, reason=each)
        assert added == (each == reason)
    count = f"{QUEUE}_count"
    assert metrics.total(count, stage="proxy") == before.total(count, stage="proxy")
    assert metrics.total("gunicorn_prom_errors_total") == 0


def test_a_clock_that_is_ahead_has_no_negative_wait(server: Server) -> None:
    """A proxy whose clock is a little ahead is believed, and the wait is 0."""
    before = server.scrape()
    metrics = ask_with(server, X_Request_Start=f"t={time.time() + 0.5:.6f}")
    ignored = metrics.total(IGNORED) - before.total(IGNORED)
    count = metrics.total(f"{QUEUE}_count") - before.total(f"{QUEUE}_count")
    waited = metrics.total(f"{QUEUE}_sum", stage="proxy") - before.total(
        f"{QUEUE}_sum", stage="proxy"
    )
    assert ignored == 0
    assert count >= 1
    assert 0 <= waited < HOUR_S


def test_no_header_no_stage(server: Server) -> None:
    """Without a header nothing is said of the proxy."""
    before = server.scrape()
    metrics = ask_with(server)
    count = f"{QUEUE}_count"
    assert metrics.total(count, stage="proxy") == before.total(count, stage="proxy")
    assert metrics.total(IGNORED) == before.total(IGNORED)


# The pool's stage.


class TestPool(Pool):
    """See tests/pools.py."""


@pytest.mark.parametrize("worker_type", ["gevent", "asgi"])
def test_many_at_once(tmp_path: Path, worker_type: str) -> None:
    """The same where all are worked on at once: half a second busy, and nobody waits."""
    (tmp_path / "sleeper.py").write_text(ASGI_APP)
    app = "sleeper:app" if worker_type == "asgi" else APP
    arguments = (f"--worker-type={worker_type}", "--worker-connections=50")
    with gunicorn_prom(tmp_path, app, *arguments) as server:
        work = Work(server)
    assert work.metrics.one("gunicorn_worker_capacity") == 50
    assert 0.5 <= work.metrics.one(BUSY) <= min(work.span_s, 2.0)
    assert not work.metrics.all(f"{QUEUE}_count")


def test_a_connection_of_http2_waits_once(tmp_path: Path) -> None:
    """Its streams are served by the thread that it was given; each is counted."""
    options = http2.server_options(tmp_path)
    with gunicorn_prom(tmp_path, APP, *ONE_THREAD, *options) as server:
        shots = [Shot(path="/", headers=(f"X-Request-Start: {time.time():.3f}",))] * 4
        exchanges = http2.send(server.port, shots)
        assert [exchange.status for exchange in exchanges] == ["200"] * 4
        metrics = server.wait_for_requests(4)
    assert metrics.one(f"{QUEUE}_count", stage="pool") == 1
    assert metrics.one(f"{QUEUE}_count", stage="proxy") == 4


# Busy seconds.


def test_busy_seconds_grow_while_a_request_runs(server: Server) -> None:
    """Between scrapes they grow with the clock, never go back, and stand still at rest."""
    shown = [server.scrape().one(BUSY)]

    def has_grown() -> bool:
        shown.append(server.scrape().one(BUSY))
        return shown[-1] > shown[0] + 0.5

    with ThreadPoolExecutor() as pool:
        begin = time.monotonic()
        stuck = pool.submit(server.get, "/wait/gate")
        wait_for(has_grown, "half a second")
        server.open_gate("gate")
        assert stuck.result().text == "waited"
    server.wait_for_metrics(lambda m: m.one("gunicorn_workers", state="idle") == 1, "the end")
    shown += [server.scrape().one(BUSY), server.scrape().one(BUSY)]
    (server.directory / "gate").unlink()
    assert shown == sorted(shown)
    assert shown[-1] == shown[-2]
    assert 0.5 < shown[-1] - shown[0] < time.monotonic() - begin
    assert len(set(shown)) > 3


# What the guide says.


@pytest.mark.real_parts
def test_the_queries_of_the_guide(tmp_path: Path) -> None:
    """A real Prometheus understands each of them, and all but the alert have an answer."""
    queries = re.findall(r"```promql\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(queries) == 9
    arguments = ("--worker-type=gthread", "--threads=2")
    with (
        gunicorn_prom(tmp_path, APP, *arguments) as server,
        running_prometheus(tmp_path, server.metrics_port) as port,
    ):
        for text in queries:

            def is_answered(text: str = text.replace("[5m]", "[10s]")) -> bool:
                assert server.get("/", X_Request_Start=f"{time.time():.3f}").status == 200
                return bool(query(port, text)) or ">=" in text

            wait_for(is_answered, f"an answer to {text}")

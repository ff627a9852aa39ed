"""Requests are counted by route in real servers, on every seam."""

import math
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gunicorn_prom.keys import OTHER, ROUTES, UNMATCHED
from gunicorn_prom.workers import unavailable
from tests.integration.test_endpoint import query, running_prometheus
from tests.routed import BOTTLE, DJANGO, FALCON, FLASK, STARLETTE, Cases
from tests.support import ROOT, Metrics, Server, gunicorn_prom, wait_for
from tests.traffic import Shot, send

REQUESTS = "gunicorn_http_route_requests_total"
DURATIONS = "gunicorn_http_route_duration_seconds"
PROMQL = re.compile(r"```promql\n(.*?)```", re.DOTALL)

SERVED: list[tuple[str, str, Cases]] = [
    ("gthread", "routed_flask:mounted", FLASK),
    ("sync", "routed_django:app", DJANGO),
    ("gevent", "routed_bottle:app", BOTTLE),
    ("gevent_pywsgi", "routed_falcon:app", FALCON),
    ("asgi", "routed_asgi:app", STARLETTE),
    ("uvicorn", "routed_asgi:app", STARLETTE),
]
BROKEN = "/users/<int:user_id>/posts/<slug>/broken"
SCAN = [Shot(path=f"/scan/{number:x}/wp-login.php") for number in range(5000)]


class Served:
    """A server that was asked for every case of its application.

    Attributes:
        wanted: how often each method, route and class of the status was asked for.
        broken: routes whose requests ended in an exception.
    """

    def __init__(self, server: Server, cases: Cases) -> None:
        self.server = server
        self.wanted: Counter[tuple[str, str, str]] = Counter()
        for path, route in cases:
            status = server.get(path).status
            self.wanted["GET", route, f"{status // 100}xx"] += 1
        self.broken = {route for path, route in cases if "/broken" in path}
        self.metrics = server.wait_for_requests(len(cases))


@pytest.fixture(scope="module", params=SERVED, ids=lambda served: f"{served[0]}-{served[1]}")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve an application, and ask for all of its routes."""
    worker_type, app, cases = request.param
    if unavailable(worker_type):
        pytest.skip(str(unavailable(worker_type)))
    preload = ["--preload"] if worker_type == "gthread" else []
    with gunicorn_prom(
        tmp_path_factory.mktemp("routes"), app, f"--worker-type={worker_type}", *preload
    ) as server:
        yield Served(server, cases)


def counted(metrics: Metrics, name: str = REQUESTS) -> Counter[Any]:
    """Return what is counted by method, route and class of the status."""
    return Counter(
        {
            (labels["method"], labels["route"], labels["status_class"]): value
            for labels, value in metrics.all(name)
        }
    )


def test_requests_are_counted_by_template(served: Served) -> None:
    """Each request is under the template of its route, once, with the status its client saw."""
    assert counted(served.metrics) == served.wanted
    assert served.metrics.total("gunicorn_prom_errors_total") == 0


def test_durations_have_the_same_requests(served: Served) -> None:
    """The histogram by route has the requests of the counter, and its sum is the server's."""
    assert counted(served.metrics, f"{DURATIONS}_count") == served.wanted
    by_route = served.metrics.total(f"{DURATIONS}_sum")
    by_method = served.metrics.total("gunicorn_http_request_duration_seconds_sum")
    # The sum of each series is rounded by itself.
    assert by_route == pytest.approx(by_method, rel=0, abs=2**-20 * len(served.wanted))


def test_failed_requests_name_their_route(served: Served) -> None:
    """An exception of the application is counted under the template of its request."""
    failed = served.metrics.all("gunicorn_worker_failed_requests_total")
    assert {labels["endpoint"] for labels, _ in failed} == served.broken
    assert {labels["error_type"] for labels, _ in failed} == {"LookupError"}


@pytest.fixture(scope="module")
def flask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a preloaded Flask application; the tests go on from each other's counts."""
    directory = tmp_path_factory.mktemp("flask")
    options = ("--preload", "--workers=2", "--threads=4", "--keep-alive=30")
    with gunicorn_prom(directory, "routed_flask:mounted", *options) as server:
        yield server


def send_counted(server: Server, shots: list[Shot]) -> tuple[Metrics, Metrics]:
    """Return what was counted before and after these requests."""
    before = server.scrape()
    so_far = int(before.total("gunicorn_http_requests_total"))
    send(server.port, shots, connections=8)
    return before, server.wait_for_requests(so_far + len(shots))


def test_a_scan_adds_one_series(flask: Server) -> None:
    """Five thousand paths that nothing matches are one series."""
    before, after = send_counted(flask, SCAN)
    assert counted(before) == {}
    assert counted(after) == {("GET", UNMATCHED, "4xx"): len(SCAN)}


def test_a_reload_does_not_count_twice(flask: Server) -> None:
    """After a reload a request is still counted once by its route."""
    pids = set(flask.worker_pids())
    flask.send_signal(signal.SIGHUP)
    wait_for(lambda: pids.isdisjoint(flask.wait_for_workers(2)), "new workers")
    shots = [Shot(path="/users/7"), Shot(path="/users/7/posts/hello/broken")]
    before, after = send_counted(flask, shots * 20)
    assert counted(after) - counted(before) == {
        ("GET", "/users/<int:user_id>", "2xx"): 20,
        ("GET", BROKEN, "5xx"): 20,
    }


def test_more_routes_than_the_cap(flask: Server) -> None:
    """Where the application gives paths for routes, the rest beyond the cap is one series."""
    routes = [Shot(path=f"/own/{number}") for number in range(2 * ROUTES.cap)]
    before, after = send_counted(flask, routes)
    places = ROUTES.cap - len(counted(before))
    overflow = len(routes) - places
    assert len(counted(after)) == ROUTES.cap + 1
    assert after.one(REQUESTS, method=OTHER, route=OTHER, status_class=OTHER) == overflow
    assert after.one("gunicorn_prom_series_overflow_total", family=REQUESTS) == overflow
    assert after.total(REQUESTS) == after.total("gunicorn_http_requests_total")


@pytest.mark.real_parts
def test_the_queries_of_the_guide(flask: Server, tmp_path: Path) -> None:
    """Each query in docs/guide/routes.md finds something in a real Prometheus.

    But for what a server that is well does not have.
    """
    blocks = PROMQL.findall((ROOT / "docs/guide/routes.md").read_text())
    queries = [block for block in blocks if "# may be empty" not in block]
    assert len(queries) > 1
    paths = ["/users/7", "/nowhere", "/users/7/posts/hello/broken"]
    with running_prometheus(tmp_path, flask.metrics_port) as port:
        wait_for(lambda: query(port, "up") == {(): 1}, "a scrape")
        for expression in queries:

            def answered(expression: str = expression) -> dict[tuple[str, ...], float]:
                for path in paths:
                    flask.get(path)
                found = query(port, expression)
                # What was not asked for meanwhile is 0 / 0.
                return {key: value for key, value in found.items() if not math.isnan(value)}

            wait_for(answered, expression)
        slowest = query(port, queries[0])
        assert ("GET", "/users/<int:user_id>") in slowest
        assert query(port, queries[3])[BROKEN,] == 1.0


def test_turned_off(tmp_path: Path) -> None:
    """With --no-route-labels nothing is counted by route, and errors name none."""
    with gunicorn_prom(tmp_path, "routed_flask:mounted", "--no-route-labels") as server:
        for path, _ in FLASK:
            server.get(path)
        metrics = server.wait_for_requests(len(FLASK))
    assert metrics.all(REQUESTS) == metrics.all(f"{DURATIONS}_count") == []
    failed = metrics.all("gunicorn_worker_failed_requests_total")
    assert {labels["endpoint"] for labels, _ in failed} == {OTHER}

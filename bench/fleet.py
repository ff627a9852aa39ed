"""The proof on a fleet, and what a server costs Prometheus: `python -m bench.fleet`.

From the project root. Twenty servers of every worker type, under load, two of them upgraded, on a
real Prometheus with the emitted configuration and rules: every count, the rates and the quantiles
are those that the clients have; no alert fires. Then one incident of each kind at once: each
fires its alert and no other, in Prometheus and at a webhook behind Alertmanager. Minutes of the
emitted rules are seconds here; promtool's tests prove them as they are.

Then the page of one server under many names, for what a large fleet costs Prometheus.

Its engine is that of tests/integration/test_fleet.py. It wants Debian's prometheus and
prometheus-alertmanager, and root for a memory cgroup.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.processes import read_cpu_seconds
from gunicorn_prom.keys import ROUTES
from tests.fleet import (
    SETTLING_S,
    Agreement,
    Fleet,
    Member,
    assert_agreement,
    assert_fired,
    running_fleet,
    say,
    upgraded,
)
from tests.fleet_rules import dashboard_queries, load_dashboard, without_numbers
from tests.incidents import INCIDENTS, provoke
from tests.prometheus import prometheus_on
from tests.support import QuietHandler, Server, gunicorn_prom, http_server, request, wait_for

__all__ = ["main"]

_UPGRADED = ("sync-upgraded", "gthread-upgraded")
_THREADS = ("--threads=4",)
_MEMBERS = (
    Member("sync-upgraded", workers=2),
    Member("gthread-upgraded", "gthread", options=_THREADS),
    Member("gevent", "gevent", workers=2),
    Member("asgi", "asgi", workers=2),
    Member("uvicorn", "uvicorn"),
    Member("killed", "gevent_pywsgi"),
    Member("boot-loop", workers=2),
    Member("restarted", "gthread", options=_THREADS),
    Member("out-of-memory", is_confined=True),
    Member("timing-out", workers=3, options=("--timeout=2",)),
    Member("hanging", "gthread", options=_THREADS),
    Member("short-of-workers", workers=2),
    Member("stopped", workers=2, options=("--metrics-server=process",)),
    Member("crowded"),
    Member("full", "gthread", options=_THREADS),
    Member("misconfigured", "gevent", options=("--metrics-web-config=web.yml",)),
    Member("all-fail", "asgi", job="all-fail"),
    Member("some-fail", "uvicorn", job="some-fail"),
    Member("few-fail", "tornado", job="few-fail"),
    Member("alone", "tornado", job="alone"),
)
# The one that takes longest comes first: its limit of a minute is no duration of the rules.
_INCIDENTS = {
    "GunicornHeartbeatStale": "stopped",
    "GunicornErrorBudgetBurnsFast": "all-fail",
    "GunicornErrorBudgetBurns": "some-fail",
    "GunicornErrorBudgetBurnsSlowly": "few-fail",
    "GunicornWorkersBelowTarget": "short-of-workers",
    "GunicornSaturated": "full",
    "GunicornBacklog": "crowded",
    "GunicornNoWorkers": "hanging",
    "GunicornMetricsFailing": "misconfigured",
    "GunicornWorkerOutOfMemory": "out-of-memory",
    "GunicornWorkerTimeouts": "timing-out",
    "GunicornBootLoop": "boot-loop",
    "GunicornServerRestarting": "restarted",
    "GunicornJobMissing": "alone",
    "GunicornServerMissing": "killed",
}
# The one that sees what no incident brings, and how many times, a scrape behind each.
_EXPERIENCED = "gevent"
_EXPERIENCES = 4
# Those whose failures are to be all that Prometheus knows of their jobs.
_IDLE = ("all-fail", "some-fail", "few-fail")

_SCRAPES = 200
# As Prometheus asks.
_ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
_DEFAULT_ROUTES = 10
_REPLICAS = (0, 250)
_REPLICAS_INTERVAL_S = 5
_REPLICAS_SCRAPES = 12
_SERVERS = (
    *(("sync", workers, _DEFAULT_ROUTES) for workers in (1, 2, 4, 8)),
    *(("sync", 4, routes) for routes in (0, 100)),
    *(
        (worker_type, 2, _DEFAULT_ROUTES)
        for worker_type in ("gthread", "gevent", "gevent_pywsgi", "tornado", "asgi", "uvicorn")
    ),
)


def main() -> int:
    """Run the proof and measure the cost; return 1 if anything was wrong."""
    options = _make_parser().parse_args()
    try:
        if options.only in (None, "proof"):
            with tempfile.TemporaryDirectory(prefix="fleet-") as name:
                _prove(Path(name), options.calm)
        if options.only in (None, "cost"):
            print(_format_costs(map(_measure, _SERVERS)))
        if options.only in (None, "scale"):
            print(_format_scale(_scale()))
    except AssertionError:
        traceback.print_exc()
        return 1
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=__doc__)
    parser.add_argument("--only", choices=("proof", "cost", "scale"))
    parser.add_argument("--calm", type=float, default=90, help="seconds of load without incidents")
    return parser


def _prove(directory: Path, calm_s: float) -> None:
    assert set(_INCIDENTS) == set(INCIDENTS), "an alert that has no incident here"
    web_config = directory / "misconfigured" / "web.yml"
    web_config.parent.mkdir()
    web_config.write_text("basic_auth_users: {}\n")
    say(f"{len(_MEMBERS)} servers start")
    with running_fleet(directory, _MEMBERS, "--web.enable-admin-api") as fleet:
        print(_format_agreement(_pass_calmly(fleet, calm_s)))
        assert fleet.fired() == set(), "a calm fleet fires"
        print("calm: no alert has fired")
        print(_format_prometheus(fleet, directory))
        expected = set()
        for name in ("gevent", "asgi", "uvicorn", *_UPGRADED):
            fleet.load(name)
        for alert, name in _INCIDENTS.items():
            say(f"{alert}: {name}")
            expected.add(provoke(fleet, alert, name))
        say("waiting for the alerts")
        assert_fired(fleet, expected)
        print(f"incidents: {len(expected)} alerts fired for {len(expected)} incidents, no other")
        _have_the_rest_happen(fleet)
        print(_ask_dashboard(fleet, directory))


def _pass_calmly(fleet: Fleet, calm_s: float) -> Agreement:
    say("the clients begin")
    fleet.warm_up()
    begin = time.time()
    fleet.wait_for_scrapes()
    for name in fleet.servers:
        if name not in _IDLE:
            fleet.load(name)
    middle = time.time()
    for name in _UPGRADED:
        say(f"upgrade of {name}")
        upgraded(fleet, name)
    calm_s = max(calm_s, SETTLING_S)
    fleet.wait_for(f"vector(time()) > {middle + calm_s}", 10 * calm_s)
    end = time.time()
    fleet.stop_clients()
    say("the clients have ended")
    agreement = assert_agreement(fleet, begin, (middle, end))
    assert agreement.lost == 0, f"{agreement.lost} requests were lost"
    return agreement


def _have_the_rest_happen(fleet: Fleet) -> None:
    """Have a server see what no incident brings, so that the whole dashboard has something."""
    say("mistakes of clients and of the application, a proxy, many routes, reloads, an upgrade")
    server = fleet.servers[_EXPERIENCED]
    for number in range(ROUTES.cap + 1):
        server.get(f"/route/{number}")
    for _ in range(_EXPERIENCES):
        server.get("/200", X_Request_Start=f"t={time.time() - 0.02:.3f}")
        server.get("/200", X_Request_Start="yesterday")
        assert server.get("/no-number").status == 500
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 400")
        server.send_signal(signal.SIGHUP)
        fleet.wait_for_scrapes()
    upgraded(fleet, _EXPERIENCED)
    fleet.wait_for_scrapes()


def _format_agreement(found: Agreement) -> str:
    quantiles = (
        f"{quantile}: {1000 * seen:.0f} ms, clients {1000 * known:.0f} ms"
        for quantile, (seen, known) in found.quantiles.items()
    )
    return "\n".join(
        (
            f"{found.requests:,} requests counted by the clients and by Prometheus, of each server"
            " and status; none without an answer",
            f"increase over all: {found.increase:.4f} of what the clients counted",
            f"rate while they asked: {found.rate:.4f} of what the clients counted",
            f"quantiles: {'; '.join(quantiles)}",
        )
    )


def _format_prometheus(fleet: Fleet, directory: Path) -> str:
    """Return what Prometheus has of the fleet, and what it takes up."""
    series = fleet.value("sum(scrape_samples_post_metric_relabeling)")
    own = _read_own(fleet.prometheus)
    request(fleet.prometheus, "/api/v1/admin/tsdb/snapshot", "POST", timeout_s=60)
    (block,) = (directory / "data" / "snapshots").glob("*/*")
    stats = json.loads((block / "meta.json").read_text())["stats"]
    chunks = sum(path.stat().st_size for path in (block / "chunks").iterdir())
    index = (block / "index").stat().st_size
    head = own["prometheus_tsdb_head_series"]
    resident = own["process_resident_memory_bytes"]
    return "\n".join(
        (
            f"Prometheus: {series:,.0f} samples a round, {head:,.0f} series with those of rules",
            f"{chunks / stats['numSamples']:.2f} bytes a sample on disk"
            f" ({stats['numSamples']:,} samples), {index / stats['numSeries']:.0f} bytes of index"
            " a series and block",
            f"resident memory {resident / 2**20:.0f} MiB,"
            f" CPU {own['process_cpu_seconds_total']:.1f} s",
        )
    )


def _ask_dashboard(fleet: Fleet, directory: Path) -> str:
    """Fail unless every query of the emitted dashboard finds numbers in the fleet."""
    asked = list(dashboard_queries(load_dashboard(directory), __rate_interval="60s"))
    empty = without_numbers(fleet.prometheus, asked)
    assert not empty, empty
    return f"dashboard: all {len(asked)} queries find numbers"


def _read_own(prometheus: int) -> dict[str, float]:
    """Return what a Prometheus says of itself, by sample."""
    lines = request(prometheus, "/metrics").text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


class Cost(NamedTuple):
    """What a server costs whoever scrapes it."""

    worker_type: str
    workers: int
    routes: int
    series: int
    plain_bytes: int
    gzip_bytes: int
    cpu_s: float


def _measure(server_of: tuple[str, int, int]) -> Cost:
    worker_type, workers, routes = server_of
    say(f"cost of {worker_type}, {workers} workers, {routes} routes")
    with _asked_server(worker_type, workers, routes) as server:
        return Cost(*server_of, *_scrape(server))


@contextlib.contextmanager
def _asked_server(worker_type: str, workers: int, routes: int) -> Iterator[Server]:
    """Run a server that has answered on so many routes, and 200, 404 and 500 on another one."""
    member = Member("server", worker_type, workers)
    with tempfile.TemporaryDirectory(prefix="cost-") as name:
        place = Path(name)
        with gunicorn_prom(place, *member.arguments(place)) as server:
            server.wait_for_workers(workers)
            for path in ("/200", "/404", "/500", *(f"/route/{n}" for n in range(routes))):
                server.get(path)
            server.wait_for_requests(3 + routes)
            yield server


def _page(server: Server) -> bytes:
    return request(server.metrics_port, "/metrics", Accept=_ACCEPT, Accept_Encoding="gzip").body


def _scrape(server: Server) -> tuple[int, int, int, float]:
    for _ in range(_SCRAPES // 10):
        _page(server)
    begin = read_cpu_seconds(server.pid)
    for _ in range(_SCRAPES):
        body = _page(server)
    cpu_s = (read_cpu_seconds(server.pid) - begin) / _SCRAPES
    plain = gzip.decompress(body)
    series = sum(not line.startswith(b"#") for line in plain.splitlines())
    return series, len(plain), len(body), cpu_s


def _format_costs(costs: Iterable[Cost]) -> str:
    lines = [
        "| worker type | workers | routes | series | /metrics | gzip | CPU of a scrape |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cost.worker_type} | {cost.workers} | {cost.routes} | {cost.series:,} "
        f"| {cost.plain_bytes / 1024:.0f} KiB | {cost.gzip_bytes / 1024:.1f} KiB "
        f"| {1000 * cost.cpu_s:.1f} ms |"
        for cost in costs
    ]
    return "\n".join(lines)


class Load(NamedTuple):
    """What a Prometheus says of itself that scrapes the same page under many names."""

    series: float
    resident_bytes: float
    cpu_s: float
    samples: float


def _scale() -> list[Load]:
    with _asked_server("sync", 4, _DEFAULT_ROUTES) as server:
        page = _page(server)
    with _replaying(page) as port:
        return [_watch(port, replicas) for replicas in _REPLICAS]


@contextlib.contextmanager
def _replaying(page: bytes) -> Iterator[int]:
    """Answer everything with a compressed page, until the block ends; yield the port."""

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", _ACCEPT.partition(",")[0])
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    with http_server(Handler) as port:
        yield port


def _watch(port: int, replicas: int) -> Load:
    say(f"{replicas} replicas")
    groups = [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"instance": f"server-{n}.example:9464", "__metrics_path__": f"/{n}"},
        }
        for n in range(replicas)
    ]
    configuration = {
        "global": {"scrape_interval": f"{_REPLICAS_INTERVAL_S}s"},
        "scrape_configs": [{"job_name": "shop", "static_configs": groups}],
    }
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        path = Path(name) / "prometheus.yml"
        path.write_text(json.dumps(configuration))
        with prometheus_on(path) as prometheus:
            samples = "prometheus_tsdb_head_samples_appended_total"

            def watched() -> dict[str, float]:
                own = _read_own(prometheus)
                found = sum(value for key, value in own.items() if key.startswith(samples))
                series = own["prometheus_tsdb_head_series"]
                is_enough = series >= replicas and found >= _REPLICAS_SCRAPES * series
                return own | {samples: found} if is_enough else {}

            own = wait_for(watched, "the scrapes", 10 * _REPLICAS_SCRAPES * _REPLICAS_INTERVAL_S)
            return Load(
                own["prometheus_tsdb_head_series"],
                own["process_resident_memory_bytes"],
                own["process_cpu_seconds_total"],
                own[samples],
            )


def _format_scale(loads: list[Load]) -> str:
    empty, full = loads
    more = full.resident_bytes - empty.resident_bytes
    cpu_s = (full.cpu_s - empty.cpu_s) / full.samples
    return "\n".join(
        (
            f"Prometheus with {full.series:,.0f} series: {full.resident_bytes / 2**20:,.0f} MiB"
            f" resident, {empty.resident_bytes / 2**20:,.0f} MiB without any",
            f"{more / full.series:,.0f} bytes a series, {1e6 * cpu_s:.2f} us of CPU a sample"
            f" ({full.samples:,.0f} samples)",
        )
    )


if __name__ == "__main__":
    raise SystemExit(main())

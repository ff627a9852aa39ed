"""`gunicorn-prom emit dashboard`: its form, and its queries against a real Prometheus."""

import itertools
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from gunicorn_prom.fleet.alert_rules import RATES
from gunicorn_prom.metrics import FAMILIES
from tests.fleet_rules import (
    RULES,
    dashboard_queries,
    emitted_alerts,
    hurried,
    load_dashboard,
    without_numbers,
)
from tests.prometheus import ask, prometheus_on, promtool, query, running_prometheus
from tests.support import ROOT, Server, gunicorn_prom, wait_for

COLUMNS = 24
PATHS = ("/", "/users/7", "/users/7/posts/hello", "/users/7/posts/hello/broken", "/nowhere")
# What rightly does not happen to a server that is well.
MAY_BE_EMPTY = {
    "Exits, timeouts, restarts: Timeouts by route A",
    "Versions and gunicorn-prom itself: Own errors A",
    "Versions and gunicorn-prom itself: Folded labels A",
    "Workers: Oldest requests A",
    "annotation: Reloads",
    "annotation: Starts and upgrades",
}
# The schema leaves these to the data source.
BEYOND_THE_SCHEMA = ("titleFormat", "textFormat", "step", "definition")
OPEN_FILES = "Runtime: Open file descriptors"
# When nobody scraped anything, a whole minute as Grafana asks for it; and how to keep it.
PAST_S = 1_699_999_200
KEEP_ALL = "--storage.tsdb.retention.time=100y"
SERVERS = 30
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the dashboard as it is emitted."""
    return load_dashboard(tmp_path_factory.mktemp("dashboard"))


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Prometheus with the rules in a hurry, which has scraped two loaded servers; its port."""
    directory: Path = tmp_path_factory.mktemp("prometheus")
    rules = directory / RULES
    rules.write_text(hurried(emitted_alerts(directory / "emitted")[RULES]))
    threads = ("--workers=2", "--threads=2", "--worker-type=gthread")
    with (
        gunicorn_prom(directory / "wsgi", "routed_flask:app", *threads) as wsgi,
        gunicorn_prom(directory / "asgi", "asgi_mix:app", "--worker-type=asgi") as asgi,
    ):
        is_over = threading.Event()
        load = threading.Thread(target=keep_asking, args=(wsgi, asgi, is_over))
        load.start()
        try:
            with running_prometheus(
                directory, wsgi.metrics_port, more_ports=[asgi.metrics_port], rule_files=[rules]
            ) as port:
                wait_for(lambda: query(port, BURNS), "recorded rules")
                yield port
        finally:
            is_over.set()
            load.join()


# The last to be there: it is made of what other rules have recorded a few times.
BURNS = "count_over_time(job:gunicorn_http_failures:ratio_rate3d[5m]) >= 4"


def keep_asking(wsgi: Server, asgi: Server, is_over: threading.Event) -> None:
    for path in itertools.cycle(PATHS):
        if is_over.wait(0.02):
            return
        wsgi.get(path, X_Request_Start=f"t={time.time() - 0.02:.3f}")
        wsgi.get(path, X_Request_Start="yesterday")
        asgi.get("/")
        with socket.create_connection(("127.0.0.1", wsgi.port), 10) as client:
            client.sendall(b"nonsense\r\n\r\n")
            client.recv(4096)


def panels_of(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_grafana_knows_every_field(dashboard: dict[str, Any]) -> None:
    """Grafana's own types read the dashboard and write it again with nothing lost."""
    plugins.register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))
    found = lost(dashboard, again)
    assert [place for place in found if not place.endswith(BEYOND_THE_SCHEMA)] == []


def lost(given: Any, again: Any, place: str = "") -> list[str]:
    """Return where `again` has not what was given."""
    if isinstance(given, dict) and isinstance(again, dict):
        found = [lost(value, again.get(key), f"{place}.{key}") for key, value in given.items()]
    elif isinstance(given, list) and isinstance(again, list) and len(given) == len(again):
        pairs = zip(given, again, strict=True)
        found = [lost(*pair, f"{place}[{number}]") for number, pair in enumerate(pairs)]
    else:
        found = [] if given == again else [[place]]
    return [each for part in found for each in part]


def test_panels_are_well_formed(dashboard: dict[str, Any]) -> None:
    """Each has an id of its own, a title, an explanation and a unit."""
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels_of(dashboard):
        assert panel["title"]
        assert panel["description"].endswith(".")
        if panel["type"] != "text":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert [target["refId"] for target in panel["targets"]]


def test_panels_do_not_overlap(dashboard: dict[str, Any]) -> None:
    """No two take the same place, and none leaves the grid."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert not cells & taken, panel["title"]
        taken |= cells


def test_queries_follow_the_variables(dashboard: dict[str, Any]) -> None:
    """A query is about the job that is chosen, and draws a bounded number of lines."""
    for panel in panels_of(dashboard):
        for target in panel.get("targets", ()):
            expression = target["expr"]
            assert 'job=~"$job"' in expression
            is_aggregate = re.match(r"\(*(sum|avg|max|min|count|histogram_quantile)\b", expression)
            assert is_aggregate or re.search(r" and topk\((5|10), .* @ end\(\)\)\)$", expression)


def test_queries_ask_for_what_is_there(dashboard: dict[str, Any]) -> None:
    """Each parses and names families of ours."""
    for asked in dashboard_queries(dashboard):
        promql_parser.parse(asked.expression)
        for name in re.findall(r"\bgunicorn_\w+(?=[{])", asked.expression):
            assert name in FAMILIES or SUFFIXES.sub("", name) in FAMILIES, name


def test_what_fails_is_what_the_alerts_take_for_a_failure(dashboard: dict[str, Any]) -> None:
    """Dashboard and rules choose requests that failed by the same status and the same reasons."""
    chosen = re.compile(r'(?:status|reason)=~"[^"]*"')
    queries = dashboard_queries(dashboard)
    (shown,) = {asked.expression for asked in queries if ": Failed" in asked.place}
    _, failures, _ = (record.expression for record in RATES)
    above, _, _ = shown.partition("/")
    assert chosen.findall(above) == chosen.findall(failures)
    assert any("error" in reasons for reasons in chosen.findall(above))


def test_the_page_lists_the_rows(dashboard: dict[str, Any]) -> None:
    """docs/dashboard.md has each row of the dashboard."""
    page = (ROOT / "docs" / "dashboard.md").read_text()
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert re.findall(r"^\| \*\*(.+?)\*\* \|", page, re.MULTILINE) == rows


@pytest.mark.real_parts
def test_every_query_has_an_answer(prometheus: int, dashboard: dict[str, Any]) -> None:
    """Prometheus understands it, and finds numbers."""
    asked = dashboard_queries(dashboard, __rate_interval="20s")
    assert without_numbers(prometheus, asked) <= MAY_BE_EMPTY


@pytest.mark.real_parts
def test_the_worst_are_few_over_time(tmp_path: Path, dashboard: dict[str, Any]) -> None:
    """At each moment another server is the worst, and a graph shows the five that were it most."""
    lines = ["# TYPE gunicorn_worker_open_fds gauge"]
    for server in range(SERVERS):
        labels = f'job="shop",instance="{server}:9464",worker_id="0"'
        for minute in range(60):
            value = 100 + minute if minute % SERVERS == server else 10
            lines.append(f"gunicorn_worker_open_fds{{{labels}}} {value} {PAST_S + 60 * minute}")
    (tmp_path / "samples").write_text("\n".join([*lines, "# EOF", ""]))
    promtool(tmp_path, "tsdb", "create-blocks-from", "openmetrics", "samples", "data")
    queries = dashboard_queries(dashboard, __range="1h", __interval="1m")
    (shown,) = [each.expression for each in queries if each.place.startswith(OPEN_FILES)]
    (tmp_path / "prometheus.yml").write_text("{}")
    with prometheus_on(tmp_path / "prometheus.yml", KEEP_ALL) as port:
        when = f"start={PAST_S}&end={PAST_S + 3540}&step=60"
        found = ask(port, f"query_range?query={urllib.parse.quote(shown)}&{when}")["result"]
    last = [f"{server}:9464" for server in range(SERVERS - 5, SERVERS)]
    assert sorted(each["metric"]["instance"] for each in found) == sorted(last)
    assert {len(each["values"]) for each in found} == {60}


@pytest.mark.real_parts
def test_rules_work_on_real_servers(prometheus: int) -> None:
    """Prometheus evaluates every rule without an error, and has a value of what is recorded."""
    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in rules} == {"ok"}
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert [name for name in recorded if not query(prometheus, name)] == []


@pytest.mark.real_parts
def test_a_route_that_fails_fires_the_alert(prometheus: int) -> None:
    """What one route answers with 500 burns the error budget, of a real server too."""
    firing = 'ALERTS{alertname="GunicornErrorBudgetBurnsFast", alertstate="firing"}'
    wait_for(lambda: query(prometheus, firing), "the alert")

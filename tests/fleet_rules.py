"""What `gunicorn-prom emit alerts` and `dashboard` make, for tests against real engines."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.prometheus import query
from tests.support import run_to_end

RULES, TESTS = "gunicorn-prom-rules.yml", "gunicorn-prom-tests.yml"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\[|\bfor: |\binterval: |\boffset )([0-9]+[smhd])\b")


def emitted_alerts(directory: Path, *options: str) -> dict[str, str]:
    """Emit the alerts with their rules and tests into a directory; return texts by file."""
    emit(directory, "alerts", *options)
    return {name: (directory / name).read_text() for name in (RULES, TESTS)}


def emit(directory: Path, kind: str, *options: str) -> None:
    """Run `gunicorn-prom emit KIND` to write into a directory."""
    ended = run_to_end(directory, kind, "--output", str(directory), *options, command=("emit",))
    assert ended.returncode == 0, ended.stderr


def hurried(text: str, factor: int = 60) -> str:
    """Return rules whose windows and patience are shorter, so that minutes are seconds.

    Thresholds stay what they are, those that are seconds too.
    """

    def shorter(match: re.Match[str]) -> str:
        return f"{match[1]}{in_seconds(match[2]) * 1000 // factor}ms"

    return DURATION.sub(shorter, text)


def in_seconds(duration: str) -> int:
    """Return the seconds of a duration of one unit, such as 5m."""
    return int(duration[:-1]) * SECONDS[duration[-1]]


def other_ways(configuration: str) -> list[str]:
    """Return an emitted scrape configuration with each way to find servers that is commented out.

    With that alone, and with Alertmanager, which is commented out, too.
    """
    head, _, ways = configuration.partition("scrape_configs:\n")
    head = re.sub(r"^#   ", "  ", head.replace("# alerting", "alerting"), flags=re.MULTILINE)
    return [
        f"{head}scrape_configs:\n" + re.sub(r"^  # ", "  ", way, flags=re.MULTILINE)
        for way in ways.split("\n\n")
        if way.startswith("  # - job_name: ")
    ]


# Those of the dashboard, and of Grafana: everything is chosen, over five minutes.
VARIABLES = {
    "job": ".+",
    "instance": ".+",
    "route": ".+",
    "__rate_interval": "1m",
    "__range": "5m",
    "__interval": "1s",
}


class Query(NamedTuple):
    """A query of the dashboard, with its variables filled in.

    Attributes:
        place: what asks: row and panel, annotation or variable.
    """

    place: str
    expression: str


def dashboard_queries(dashboard: dict[str, Any], **values: str) -> Iterator[Query]:
    """Yield the queries of all panels, annotations and variables, of these the series alone.

    Args:
        values: of variables, where they are others than `VARIABLES`.
    """
    variables = VARIABLES | values

    def filled(expression: str) -> str:
        for name, value in variables.items():
            expression = expression.replace(f"${name}", value)
        assert "$" not in expression, expression
        return expression

    row = ""
    for panel in dashboard["panels"]:
        row = panel["title"] if panel["type"] == "row" else row
        for target in panel.get("targets", ()):
            place = f"{row}: {panel['title']} {target['refId']}"
            yield Query(place, filled(target["expr"]))
    for annotation in dashboard["annotations"]["list"]:
        yield Query(f"annotation: {annotation['name']}", filled(annotation["expr"]))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            values_of = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            assert values_of
            yield Query(f"variable: {variable['name']}", filled(values_of[1]))


def without_numbers(prometheus: int, queries: Iterable[Query]) -> set[str]:
    """Return the places whose queries find nothing, or nothing but NaN, in the last minutes."""
    return {
        asked.place
        for asked in queries
        if all(map(math.isnan, query(prometheus, _over_time(asked.expression)).values()))
    }


def _over_time(expression: str) -> str:
    return f"max_over_time(({expression})[{VARIABLES['__range']}:{VARIABLES['__interval']}])"


def load_dashboard(directory: Path) -> dict[str, Any]:
    """Emit the dashboard and return what it is."""
    emit(directory, "dashboard")
    dashboard: dict[str, Any] = json.loads((directory / "gunicorn-prom-dashboard.json").read_text())
    return dashboard

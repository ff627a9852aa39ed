"""The kind `dashboard`: JSON for Grafana 10 and newer."""

import json
from typing import Any

from gunicorn_prom.fleet.dashboard_panels import ROWS, Panel
from gunicorn_prom.fleet.plan import File, Plan
from gunicorn_prom.fleet.text import exact

__all__ = ["UID", "dashboard", "files"]

UID = "gunicorn-prom"
# Of Grafana 10; newer ones bring it up to theirs when they load it.
SCHEMA_VERSION = 38
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What a query is about, for `{@` in it.
SELECTION = 'job=~"$job", instance=~"$instance"'

Json = dict[str, Any]


def files(plan: Plan) -> list[File]:
    """Make the dashboard."""
    text = json.dumps(dashboard(plan.slo), indent=2, ensure_ascii=False)
    return [File("gunicorn-prom-dashboard.json", text + "\n")]


def dashboard(slo: float) -> Json:
    """Return the dashboard, which shows all jobs until one is chosen.

    Args:
        slo: percentage of requests that shall succeed.
    """
    return {
        "uid": UID,
        "title": "Gunicorn",
        "description": "Servers run by gunicorn-prom: one, or all of a fleet.",
        "tags": ["gunicorn", "gunicorn-prom"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": _links(),
        "annotations": {"list": _annotations()},
        "templating": {"list": _variables()},
        "panels": _panels(slo),
    }


def _panels(slo: float) -> list[Json]:
    """Return rows and panels, each row's from left to right and down."""
    panels: list[Json] = []
    top = 0
    for row in ROWS:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        panels.append({"type": "row", "title": row.title, "collapsed": False, "panels": []})
        panels[-1] |= {"id": len(panels), "gridPos": place}
        top += 1
        left, height = 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                left, top = 0, top + height
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(panel, slo)})
            left, height = left + panel.width, panel.height
        top += height
    return panels


def _panel(panel: Panel, slo: float) -> Json:
    made: Json = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description.replace("<slo>", f"{exact(slo)} %"),
    }
    if panel.kind == "text":
        return made | {"options": {"mode": "markdown", "content": panel.text}}
    defaults: Json = {"unit": panel.unit}
    if panel.unit == "percentunit":
        defaults |= {"min": 0}
    if panel.limits:
        defaults["thresholds"] = _thresholds(*panel.limits)
    budget = f"{(100 - slo) / 100:.6g}"
    made |= {
        "datasource": DATASOURCE,
        "targets": [
            _target(panel, chr(ord("A") + number), expression.replace("<budget>", budget), legend)
            for number, (expression, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }
    return LOOKS[panel.kind](panel, made)


def _target(panel: Panel, ref: str, expression: str, legend: str) -> Json:
    is_instant = panel.kind == "table"
    return {
        "refId": ref,
        "datasource": DATASOURCE,
        "expr": _selected(expression),
        "legendFormat": legend,
        "editorMode": "code",
        "range": not is_instant,
        "instant": is_instant,
        "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
    }


def _thresholds(warning: float, critical: float) -> Json:
    steps = [{"color": "green", "value": None}]
    colors = ("orange", warning), ("red", critical)
    return {
        "mode": "absolute",
        "steps": [*steps, *({"color": color, "value": value} for color, value in colors)],
    }


def _time_series(panel: Panel, made: Json) -> Json:
    custom: Json = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}
    if panel.is_stacked:
        custom |= {"fillOpacity": 60, "stacking": {"mode": "normal", "group": "A"}}
    made["fieldConfig"]["defaults"]["custom"] = custom
    made["options"] = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if "instance" in made["targets"][0]["legendFormat"]:
        made["fieldConfig"]["defaults"]["links"] = [SERVER_LINK]
    return made


def _stat(panel: Panel, made: Json) -> Json:
    made["options"] = {
        "reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""},
        "colorMode": "value" if panel.limits else "none",
        "graphMode": "area",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    }
    return made


def _heatmap(panel: Panel, made: Json) -> Json:
    made["options"] = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "scale": "exponential",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
            "fill": "dark-orange",
        },
        "legend": {"show": True},
        "tooltip": {"show": True, "yHistogram": False},
        "cellValues": {"unit": "reqps"},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": panel.unit},
    }
    return made


def _table(panel: Panel, made: Json) -> Json:
    by_first = [{"displayName": panel.queries[0][1], "desc": True}]
    made["options"] = {"showHeader": True, "cellHeight": "sm", "sortBy": by_first}
    hidden = {"Time": True, "__name__": True}
    names = {f"Value #{chr(ord('A') + n)}": legend for n, (_, legend) in enumerate(panel.queries)}
    names["Value"] = panel.queries[0][1]
    made["transformations"] = [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": hidden, "renameByName": names}},
    ]
    made["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "unit", "value": unit}],
        }
        for name, unit in panel.units.items()
    ]
    return made


LOOKS = {"timeseries": _time_series, "stat": _stat, "heatmap": _heatmap, "table": _table}

SERVER_LINK = {
    "title": "Only ${__field.labels.instance}",
    "url": f"/d/{UID}?var-instance=${{__field.labels.instance}}&${{__url_time_range}}",
    "targetBlank": False,
}


def _links() -> list[Json]:
    shared: Json = {
        "icon": "external link",
        "tooltip": "",
        "targetBlank": True,
        "asDropdown": False,
    }
    return [
        {
            **shared,
            "type": "link",
            "title": "Alerts",
            "url": "/alerting/list?search=Gunicorn",
            "tags": [],
            "includeVars": False,
            "keepTime": False,
        },
        {
            **shared,
            "type": "dashboards",
            "title": "More of Gunicorn",
            "url": "",
            "tags": ["gunicorn"],
            "asDropdown": True,
            "includeVars": True,
            "keepTime": True,
        },
    ]


def _annotations() -> list[Json]:
    return [
        _annotation("Reloads", "blue", "changes(gunicorn_reloads_total{@}[$__rate_interval]) > 0"),
        _annotation(
            "Starts and upgrades",
            "purple",
            "changes(gunicorn_start_time_seconds{@}[$__rate_interval]) > 0",
        ),
    ]


def _annotation(name: str, color: str, expression: str) -> Json:
    # One mark for each job: a thousand servers that restart would cover everything.
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": f"count by (job) ({_selected(expression)})",
        "titleFormat": name,
        "textFormat": "{{job}}: {{value}} servers",
        "step": "60s",
    }


def _variables() -> list[Json]:
    labels = {"job": "gunicorn_info", "instance": 'gunicorn_info{job=~"$job"}'}
    labels["route"] = f"gunicorn_http_route_requests_total{{{SELECTION}}}"
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "query": "prometheus",
            "regex": "",
            "hide": 0,
            "multi": False,
            "includeAll": False,
            "refresh": 1,
            "current": {},
            "options": [],
            "skipUrlSync": False,
        },
        *(_variable(name, series) for name, series in labels.items()),
    ]


def _variable(name: str, series: str) -> Json:
    query = f"label_values({series}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "regex": "",
        "sort": 1,
        "refresh": 2,
        "hide": 0,
        "multi": True,
        "includeAll": True,
        # Not the names of a thousand servers in every query.
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "skipUrlSync": False,
    }


def _selected(expression: str) -> str:
    return expression.replace("{@", f"{{{SELECTION}")

"""A document as /status.json has it, of a server to which everything happens at once."""

import math
from typing import Any

NOW = 1790000000.0
POINTS = 60
INTERVAL_S = 5.0
STATES = ("stuck", "busy", "idle", "booting", "quitting", "aborting")


def document(**changes: Any) -> dict[str, Any]:
    """Return a document that has every kind of thing in it."""
    return {
        "version": 1,
        "time": NOW,
        "versions": {"gunicorn_prom": "0.1.0", "gunicorn": "27.0.1", "python": "3.13.0"},
        "server": "",
        "servers": [""],
        "problems": {},
        "health": {
            "word": "degraded",
            "reason": "1 of 6 workers stuck",
            "live": True,
            "ready": True,
        },
        "master": master(),
        "masters": [master(pid=4600, stopping=True), master(generation=2)],
        "listeners": [
            {
                "address": "127.0.0.1:8000",
                "backlog": 3,
                "backlog_peak": 17,
                "backlog_limit": 2048,
            },
            {
                "address": "unix:/run/shop/gunicorn-with-quite-a-long-name.sock",
                "backlog": None,
                "backlog_peak": None,
                "backlog_limit": None,
            },
        ],
        "workers": [worker(number, state) for number, state in enumerate(STATES)],
        "window_s": 60.0,
        "recent": {
            "request_rate": 1204.5,
            "error_share": 0.12,
            "aborted_rate": 0.0,
            "latency_s": {"p50": 0.012, "p90": 0.05, "p99": 1.34},
            "saturation": 0.97,
            "queue_pool_s": None,
            "cpu_share": 0.8,
        },
        "totals": totals(),
        "exits": [
            {"reason": "max_requests", "count": 12, "wanted": True},
            {"reason": "timeout", "count": 2, "wanted": False},
        ],
        "autopsies": [autopsy(age_s) for age_s in (100, 300)],
        "history": history(),
    } | changes


def master(**changes: Any) -> dict[str, Any]:
    """Return a master."""
    return {
        "pid": 4700,
        "generation": 1,
        "worker_class": "gthread",
        "start_time": NOW - 90061,
        "heartbeat_age_s": 0.3,
        "workers_target": len(STATES),
        "stopping": False,
        "reloads": 2,
    } | changes


def worker(number: int, state: str, **changes: Any) -> dict[str, Any]:
    """Return a worker."""
    is_serving = state in ("stuck", "busy")
    return {
        "id": str(number),
        "pid": 4711 + number,
        "generation": 2,
        "age": 7 + number,
        "state": state,
        "start_time": NOW - 8000 * number - 5,
        "booted": state != "booting",
        "heartbeat_age_s": 16.2 if state == "stuck" else 0.4,
        "timeout_s": 30.0,
        "in_progress": 3 if is_serving else 0,
        "capacity": None if state == "aborting" else 4,
        "connections": 3,
        "waiting": 2 if state == "busy" else 0,
        "busy_share": 0.92 if is_serving else 0.0,
        "request_rate": None if state == "booting" else 12.1,
        "requests": 1234,
        "memory_rss_bytes": 60 << 20,
        "memory_pss_bytes": None if state == "aborting" else (38 + 7 * number) << 20,
        "memory_limit_bytes": 150 << 20 if state == "busy" else None,
        "cpu_share": 0.2,
        "threads": 6,
        "oldest_request": {"start_time": NOW - 31, "age_s": 31.0, "request": "GET /orders/7"}
        if is_serving
        else None,
    } | changes


def totals() -> dict[str, Any]:
    """Return what was counted since the start."""
    return {
        "requests": 12345678,
        "by_status_class": {"2xx": 12300000, "4xx": 41000, "5xx": 4678},
        "exceptions": 3,
        "aborted": {"client_disconnect": 40, "no_response": 0, "timeout": 2},
        "parse_errors": 0,
        "in_progress": 6,
        "capacity": 24,
        "backlog": 3,
        "waiting": 5,
        "workers": {
            "running": 3,
            "target": 6,
            "booting": 1,
            "busy": 1,
            "idle": 1,
            "stuck": 1,
            "leaving": 2,
        },
        "memory_rss_bytes": 400 << 20,
        "memory_pss_bytes": 312 << 20,
        "spawned": 14,
    }


def autopsy(age_s: float) -> dict[str, Any]:
    """Return what is known of a worker that timed out so long ago."""
    return {
        "time": NOW - age_s,
        "pid": 4600 - int(age_s),
        "worker_id": "0",
        "route": "/orders/{number}",
        "requests": [{"request": "GET /orders/7", "age_s": 31.0}],
        "text": 'Thread 0x1\n  File "app.py", line 3, in slow\n' + "    wait()  # " + "x" * 300,
    }


def history() -> dict[str, Any]:
    """Return five minutes; in the middle the latency is not known for a while."""
    waves = [1 + math.sin(number / 5) for number in range(POINTS)]
    return {
        "interval_s": INTERVAL_S,
        "time": [NOW - INTERVAL_S * (POINTS - 1 - number) for number in range(POINTS)],
        "request_rate": [1000 + 100 * wave for wave in waves],
        "error_share": [0.06 * wave for wave in waves],
        "latency_p99_s": [
            None if 20 < number < 25 else 0.3 + wave for number, wave in enumerate(waves)
        ],
        "saturation": [0.48 * wave for wave in waves],
        "in_progress": [12 * wave for wave in waves],
        "backlog": [None] * (POINTS // 2) + [3] * (POINTS // 2),
        "waiting": [None] * (POINTS // 2) + [5] * (POINTS // 2),
        "memory_pss_bytes": [(300 << 20) + (number << 18) for number in range(POINTS)],
        "workers": [6.0] * POINTS,
    }


def of_nothing() -> dict[str, Any]:
    """Return the document of a server that is not there."""
    empty = history()
    return document(
        health={"word": "down", "reason": "no master is running", "live": False, "ready": False},
        master=None,
        masters=[],
        listeners=[],
        workers=[],
        window_s=0.0,
        recent=dict.fromkeys(("request_rate", "error_share", "saturation", "cpu_share"))
        | {"latency_s": dict.fromkeys(("p50", "p90", "p99"))},
        versions={"gunicorn_prom": "0.1.0", "gunicorn": None, "python": None},
        totals=dict.fromkeys(totals())
        | {name: dict.fromkeys(totals()[name]) for name in ("aborted", "workers")}
        | {"by_status_class": {}},
        exits=None,
        autopsies=[],
        history={name: [] if isinstance(empty[name], list) else empty[name] for name in empty},
    )


def without_what_may_be_null(found: Any, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """Return a copy in which all is None that `schema`, a part of `root`, allows to be."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    choices = [schema, *schema.get("anyOf", ())]
    if any("null" in choice.get("type", ()) for choice in choices):
        return None
    if isinstance(found, dict):
        parts = schema.get("properties", {})
        return {
            key: without_what_may_be_null(value, parts.get(key, {}), root)
            for key, value in found.items()
        }
    if isinstance(found, list):
        return [without_what_may_be_null(value, schema["items"], root) for value in found]
    return found


def with_text(found: Any, text: str) -> Any:
    """Return a copy of a document in which every string is `text`."""
    if isinstance(found, dict):
        return {key: with_text(value, text) for key, value in found.items()}
    if isinstance(found, list):
        return [with_text(value, text) for value in found]
    return text if isinstance(found, str) else found

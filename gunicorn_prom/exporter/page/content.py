"""The words and figures of the page, from the document that /status.json is.

Whatever a client or an application has written is text here: `html.escape` is called on every
string of the document.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias
from urllib.parse import quote

from gunicorn_prom.exporter.health import MANY_ERRORS, NEARLY_FULL
from gunicorn_prom.exporter.page.drawing import bar, shape, sparkline
from gunicorn_prom.exporter.page.figures import (
    UNKNOWN,
    big,
    plain,
    rate,
    seconds,
    share,
    size,
)

__all__ = ["Document", "body", "head"]

Document: TypeAlias = Mapping[str, Any]

# By word: how it is coloured, and its shape.
WORDS = {
    "healthy": ("good", "check"),
    "busy": ("strained", "up"),
    "degraded": ("strained", "warning"),
    "stuck": ("bad", "stop"),
    "down": ("bad", "cross"),
}
OTHER_WORD = ("changing", "unclear")
STATE_SHAPES = {
    "booting": "up",
    "idle": "ring",
    "busy": "disc",
    "stuck": "stop",
    "quitting": "down",
    "aborting": "cross",
}
# What a browser's tab can show: shapes, for colour alone tells some people nothing.
ICON_COLOURS = {
    "good": "1a7f37",
    "strained": "bf6a02",
    "bad": "cf222e",
    "changing": "6e7781",
}
ICON_PATHS = {
    "good": "M8 0a8 8 0 1 1 0 16A8 8 0 0 1 8 0Z",
    "strained": "M8 1 16 15H0Z",
    "bad": "M0 0h16v16H0Z",
    "changing": "M8 0 16 8 8 16 0 8Z",
}
DOT = " \N{MIDDLE DOT} "
HIGH = "high"
# A younger request is nothing to look at.
OLD_REQUEST_S = 1.0


def head(document: Document, host: str) -> str:
    """Return what the browser's tab shows: the word, and of which server it is."""
    word = document["health"]["word"]
    tone, _ = WORDS.get(word, OTHER_WORD)
    name = document["server"] or host or "gunicorn-prom"
    icon = (
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
        f"%3Cpath fill='%23{ICON_COLOURS[tone]}' d='{ICON_PATHS[tone]}'/%3E%3C/svg%3E"
    )
    return (
        f'<title>{escape(word)}{DOT}{escape(name)}</title><link id="icon" rel="icon" href="{icon}">'
    )


def body(document: Document, metrics_path: str) -> str:
    """Return the page itself, which the script asks for again and again."""
    word = document["health"]["word"]
    tone, _ = WORDS.get(word, OTHER_WORD)
    return (
        f'<div id="page" class="{tone}" data-word="{escape(word)}"'
        f' data-time="{_clock(document["time"])}">'
        f"{_header(document, metrics_path)}"
        f"<main>{_health(document)}{_tiles(document)}{_workers(document)}"
        f'<div class="columns">{_listeners(document)}{_exits(document)}'
        f"{_masters(document)}</div>{_totals(document)}"
        f"{_autopsies(document)}</main>{_footer(document)}</div>"
    )


def _header(document: Document, metrics_path: str) -> str:
    # Relative, for a proxy may show all of it below a path of its own.
    links = (
        (f".{quote(metrics_path)}", "metrics"),
        ("./-/healthy", "healthy"),
        ("./-/ready", "ready"),
        ("./status.json", "status.json"),
    )
    others = ""
    if len(document["servers"]) > 1:
        items = "".join(
            f'<a href="?server={quote(name, safe="")}"'
            f"{_current(name == document['server'])}>{escape(name)}"
            f"{_problem(document['problems'].get(name))}</a>"
            for name in document["servers"]
        )
        others = f'<nav aria-label="Servers">{items}</nav>'
    shown = "".join(f'<a href="{escape(path)}">{name}</a>' for path, name in links)
    return f'<header><p>gunicorn-prom</p>{others}<nav aria-label="Endpoints">{shown}</nav></header>'


def _problem(problem: str | None) -> str:
    return f" ({escape(problem)})" if problem else ""


def _current(is_current: bool) -> str:
    return ' aria-current="page"' if is_current else ""


def _health(document: Document) -> str:
    health, master = document["health"], document["master"]
    _, symbol = WORDS.get(health["word"], OTHER_WORD)
    facts = [("live", _yes(health["live"])), ("ready", _yes(health["ready"]))]
    if master is not None:
        facts += [
            ("up for", plain(seconds(_since(document, master["start_time"])))),
            ("master pid", str(master["pid"])),
            ("worker type", escape(master["worker_class"])),
            ("reloads", _count(master["reloads"])),
        ]
    return (
        '<section class="health" aria-label="Health">'
        f'<h1>{shape(symbol)}<span id="word" aria-live="polite">{escape(health["word"])}</span>'
        "</h1>"
        f'<p id="reason">{escape(health["reason"])}</p>{_facts(facts, "facts")}</section>'
    )


def _tiles(document: Document) -> str:
    recent, totals = document["recent"], document["totals"]
    latency, workers = recent["latency_s"], totals["workers"]
    # Those that are left of a master that has died are not of any number.
    is_any_wanted = workers["target"] != 0
    wanted = f"<small> of {_count(workers['target'])}</small>" if is_any_wanted else ""
    history = document["history"]
    tiles = (
        _tile(
            "Requests",
            big(rate(recent["request_rate"])),
            sparkline(history, "request_rate", 1.0),
            f"peak {plain(rate(_peak(history['request_rate'])))}",
        ),
        _tile(
            "Errors",
            big(share(recent["error_share"])),
            sparkline(history, "error_share", 0.1),
            "5xx and failures",
            _kind(recent["error_share"], MANY_ERRORS),
        ),
        _tile(
            "Latency",
            f"<span><i>p50</i> {big(seconds(latency['p50']))}</span>"
            f"<span><i>p99</i> {big(seconds(latency['p99']))}</span>",
            sparkline(history, "latency_p99_s", 0.001),
            f"p90 {plain(seconds(latency['p90']))}, peak of p99"
            f" {plain(seconds(_peak(history['latency_p99_s'])))}",
            "wide",
        ),
        _tile(
            "Saturation",
            big(share(recent["saturation"])),
            sparkline(history, "saturation", 1.0),
            f"{_load(totals)} in progress",
            _kind(recent["saturation"], NEARLY_FULL),
        ),
        _tile(
            "Waiting",
            _count(totals["waiting"]),
            sparkline(history, "waiting", 10.0),
            _where_they_wait(document),
        ),
        _tile(
            "Memory",
            big(size(totals["memory_pss_bytes"] or totals["memory_rss_bytes"])),
            sparkline(history, "memory_pss_bytes", 1.0),
            f"CPU {plain(share(recent['cpu_share']))}",
        ),
        _tile(
            "Workers",
            _count(workers["running"]) + wanted,
            sparkline(history, "workers", 1.0),
            _worker_counts(workers),
        ),
    )
    return (
        '<section aria-labelledby="now"><h2 id="now" class="unseen">Now</h2>'
        f'<ul class="tiles">{"".join(tiles)}</ul></section>'
    )


def _tile(title: str, figure: str, line: str, note: str, kind: str = "") -> str:
    mark = f'{shape("warning")} <span class="unseen">High: </span>' if kind == HIGH else ""
    return (
        f'<li class="tile {kind}"><h3>{title}</h3>'
        f'<p class="big">{figure}</p>{line}<p class="note">{mark}{note}</p></li>'
    )


def _where_they_wait(document: Document) -> str:
    backlog = document["totals"]["backlog"]
    in_pools = [each["waiting"] for each in document["workers"] if each["waiting"] is not None]
    if not in_pools:
        return "in the backlog"
    return f"{_count(backlog)} in the backlog, {_count(sum(in_pools))} for a thread"


def _worker_counts(counts: Mapping[str, Any]) -> str:
    states = ("busy", "idle", "stuck", "booting", "leaving")
    shown = [f"{counts[state]} {state}" for state in states if counts[state]]
    return ", ".join(shown) or ("" if counts["running"] is None else "none")


def _workers(document: Document) -> str:
    workers = document["workers"]
    largest = max((_memory(worker) or 0 for worker in workers), default=0)
    cards = "".join(_worker(document, worker, largest) for worker in workers)
    shown = f'<ul class="workers">{cards}</ul>' if cards else "<p>None runs.</p>"
    return _section("workers", "Workers", shown)


def _worker(document: Document, worker: Document, largest: int) -> str:
    state, capacity, memory = worker["state"], worker["capacity"], _memory(worker)
    whole = worker["memory_limit_bytes"] or largest or 1
    rows = (
        ("active", bar(worker["in_progress"] / capacity if capacity else None), _load(worker)),
        ("memory", bar((memory or 0) / whole), plain(size(memory))),
        ("CPU", bar(worker["cpu_share"]), plain(share(worker["cpu_share"]))),
    )
    lines = "".join(
        f"<dt>{term}</dt><dd>{drawn}<span>{text}</span></dd>" for term, drawn, text in rows
    )
    facts = " ".join(f"<span>{fact}</span>" for fact in _worker_facts(document, worker))
    name = escape(worker["id"])
    return (
        f'<li id="worker-{name}" class="worker {escape(state)}">'
        f"<h3>{shape(STATE_SHAPES.get(state, 'unclear'))}<span>Worker {name}</span>"
        f' <span class="state">{escape(state)}</span></h3><dl>{lines}</dl>'
        f'<p class="note">{facts}</p>{_trouble(worker)}</li>'
    )


def _worker_facts(document: Document, worker: Document) -> Iterator[str]:
    yield f"pid {worker['pid']}"
    if worker["request_rate"] is not None:
        yield plain(rate(worker["request_rate"]))
    if worker["busy_share"] is not None:
        yield f"busy {plain(share(worker['busy_share']))}"
    yield f"up {plain(seconds(_since(document, worker['start_time'])))}"
    if worker["waiting"]:
        yield f"<b>{worker['waiting']} waiting</b>"
    if worker["memory_limit_bytes"]:
        yield f"limit {plain(size(worker['memory_limit_bytes']))}"
    if len(document["masters"]) > 1:
        yield f"generation {worker['generation']}"


def _trouble(worker: Document) -> str:
    """Return what a person should look at in a worker, "" when there is nothing."""
    shown = ""
    if worker["state"] == "stuck":
        silence = plain(seconds(worker["heartbeat_age_s"]))
        limit = plain(seconds(worker["timeout_s"]))
        shown = f"<p>no heartbeat for {silence}, timeout {limit}</p>"
    oldest = worker["oldest_request"]
    if oldest is not None and oldest["age_s"] > OLD_REQUEST_S:
        shown += (
            f"<p><b>{plain(seconds(oldest['age_s']))}</b>"
            f" <code>{escape(oldest['request'] or 'one request')}</code></p>"
        )
    return f'<div class="trouble">{shown}</div>' if shown else ""


def _listeners(document: Document) -> str:
    rows = [
        (
            f"<code>{escape(listener['address'])}</code>",
            _count(listener["backlog"]),
            _count(listener["backlog_peak"]),
            _count(listener["backlog_limit"]),
        )
        for listener in document["listeners"]
    ]
    shown = (
        _table(("address", "waiting", "peak", "limit"), rows) if rows else "<p>None is known.</p>"
    )
    return _section("listeners", "Listeners", shown)


def _exits(document: Document) -> str:
    if document["exits"] is None:
        return _section("exits", "Exits of workers", f"<p>{UNKNOWN}</p>")
    rows = [
        (
            escape(found["reason"]),
            _count(found["count"]),
            "as wanted" if found["wanted"] else f"<b>{shape('warning')} unwanted</b>",
        )
        for found in document["exits"]
    ]
    shown = _table(("reason", "count", ""), rows) if rows else "<p>No worker has left so far.</p>"
    return _section("exits", "Exits of workers", shown)


def _masters(document: Document) -> str:
    rows = [
        (
            str(master["pid"]),
            f"{master['generation']}{', stopping' if master['stopping'] else ''}",
            plain(seconds(_since(document, master["start_time"]))),
            plain(seconds(master["heartbeat_age_s"])),
        )
        for master in document["masters"]
    ]
    names = ("pid", "generation", "up for", "heartbeat")
    return _section("masters", "Masters", _table(names, rows) if rows else "<p>None runs.</p>")


def _totals(document: Document) -> str:
    totals = document["totals"]
    facts = [("requests", _count(totals["requests"]))]
    facts += [(escape(name), _count(n)) for name, n in totals["by_status_class"].items()]
    facts += [
        (f"aborted, {escape(reason)}", _count(n)) for reason, n in totals["aborted"].items() if n
    ]
    facts += [
        ("exceptions", _count(totals["exceptions"])),
        ("parse errors", _count(totals["parse_errors"])),
        ("workers started", _count(totals["spawned"])),
    ]
    return _section("totals", "Since the start", _facts(facts, "totals"))


def _autopsies(document: Document) -> str:
    if not document["autopsies"]:
        return ""
    return _section("autopsies", "Timeouts", "".join(map(_autopsy, document["autopsies"])))


def _autopsy(autopsy: Document) -> str:
    requests = ", ".join(
        f"<code>{escape(found['request'] or 'one request')}</code>"
        f" for {plain(seconds(found['age_s']))}"
        for found in autopsy["requests"]
    )
    date = time.strftime("%Y-%m-%d", time.gmtime(autopsy["time"]))
    return (
        f'<details id="autopsy-{autopsy["time"]:.3f}-{autopsy["pid"]}"><summary>'
        f"{date} {_clock(autopsy['time'])}, worker {escape(autopsy['worker_id'])},"
        f" pid {autopsy['pid']}: {requests or 'no request known'}</summary>"
        # Long lines scroll, which the keyboard can only do where it can go.
        f'<pre tabindex="0" role="region" aria-label="Stacks">{escape(autopsy["text"])}</pre>'
        "</details>"
    )


def _footer(document: Document) -> str:
    versions = ", ".join(
        f"{name} {escape(document['versions'][key] or 'not known')}"
        for key, name in (
            ("gunicorn_prom", "gunicorn-prom"),
            ("gunicorn", "Gunicorn"),
            ("python", "Python"),
        )
    )
    return (
        f"<footer><p>As of {_clock(document['time'])}. {_span(document['window_s'])}</p>"
        f"<p>{versions}</p>"
        "<noscript><p>Without JavaScript the page loads again every 10 s.</p></noscript></footer>"
    )


def _span(window_s: float) -> str:
    if not window_s:
        return "Rates and latencies come with the next look, in a few seconds."
    return (
        f"Rates and latencies are those of the last {plain(seconds(window_s))},"
        " lines those of five minutes."
    )


def _section(name: str, title: str, content: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title}</h2>{content}</section>'
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' if name else "<td></td>" for name in names)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>"


def _facts(facts: Iterable[tuple[str, str]], name: str) -> str:
    pairs = "".join(f"<div><dt>{term}</dt><dd>{text}</dd></div>" for term, text in facts)
    return f'<dl class="{name}">{pairs}</dl>'


def _load(found: Document) -> str:
    capacity = "" if found["capacity"] is None else f" of {_count(found['capacity'])}"
    return f"{_count(found['in_progress'])}{capacity}"


def _memory(worker: Document) -> int | None:
    memory: int | None = worker["memory_pss_bytes"] or worker["memory_rss_bytes"]
    return memory


def _count(number: float | None) -> str:
    return UNKNOWN if number is None else f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _since(document: Document, start_time: float | None) -> float | None:
    return max(0.0, document["time"] - start_time) if start_time else None


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(at))


def _peak(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _kind(value: float | None, limit: float) -> str:
    return HIGH if value is not None and value >= limit else ""


def _yes(is_so: bool) -> str:
    return "yes" if is_so else f"<b>{shape('warning')} no</b>"

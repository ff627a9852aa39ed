"""What `top` shows: made of the document, the view and the size of the terminal alone."""

import time as clock
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from typing import Any, NamedTuple

from rich.console import OverflowMethod
from rich.text import Text

from gunicorn_prom.cli.top_text import (
    ABSENT,
    cleaned,
    duration,
    latency,
    number,
    percent,
    size,
    sparkline,
)
from gunicorn_prom.cli.top_workers import (
    COLUMNS,
    Placed,
    Worker,
    chosen,
    columns,
    row,
    title,
)
from gunicorn_prom.exporter.health import MANY_ERRORS, NEARLY_FULL

__all__ = ["Frame", "View", "frame"]

Document = dict[str, Any]

WORDS = {
    "healthy": "black on green",
    "busy": "black on yellow",
    "degraded": "black on yellow",
    "stuck": "white on red",
    "down": "white on red",
    "starting": "black on cyan",
    "stopping": "black on cyan",
}
# A share below which the curve stays low, whatever its highest point is.
ERROR_SCALE = 0.05
LABEL_WIDTH, VALUE_WIDTH = 12, 8
TWO_PANELS_WIDTH = 64
AUTOPSIES = 3
# How much of the screen is for workers, if there are so many.
WORKERS_SHARE = 0.5
# What is left out first on a terminal with few lines.
LESS_IMPORTANT = ("space", "autopsies", "totals", "listeners", "exits", "facts", "panels")
KEYS = (
    ("q", "quit"),
    ("p, space", "pause and go on"),
    ("s, S", "sort by the next column, or the other way round"),
    ("/", "filter the workers; Enter keeps it, Esc ends it"),
    ("arrows, PgUp, PgDn, Home, End", "scroll the workers"),
    ("?", "this help; any key leaves it"),
)


@dataclass(frozen=True, slots=True)
class View:
    """How a person wants to see it.

    Attributes:
        url: where the document is from.
        sort: a key of `top_workers.SORT_KEYS`.
        is_reversed: the other way round.
        filter: what the workers are searched for.
        is_filtering: while that is typed.
        offset: how many workers are above those that are shown.
        silence: why there is no newer document, "" when there is.
        is_unicode: whether the terminal shows more than ASCII.
    """

    url: str = ""
    sort: str = "id"
    is_reversed: bool = False
    filter: str = ""
    is_filtering: bool = False
    offset: int = 0
    is_paused: bool = False
    is_help: bool = False
    silence: str = ""
    is_unicode: bool = True

    @property
    def order(self) -> str:
        """The column, with a dash before it for the other way round."""
        return f"-{self.sort}" if self.is_reversed else self.sort


class Frame(NamedTuple):
    """What fills a terminal.

    Attributes:
        lines: no longer and no more than there is room for.
        page: how many workers are shown.
        last_offset: how many can be above them.
        columns: the keys of those that are shown.
    """

    lines: list[Text]
    page: int = 1
    last_offset: int = 0
    columns: Sequence[str] = ()


def frame(document: Document, view: View, width: int, height: int | None) -> Frame:
    """Return what a terminal of that size shows.

    Args:
        document: as /status.json has it.
        height: None for as many lines as there are, without help.
    """
    document = cleaned(document, is_unicode=view.is_unicode)
    if view.is_help and height is not None:
        return Frame(_help(view, width)[:height])
    workers = chosen(document["workers"], view.order, view.filter, document["time"])
    sections = _sections(document, view, width)
    if height is None:
        del sections["help"]
        page = len(workers)
    else:
        page = _make_room(sections, height, len(workers))
    last_offset = len(workers) - min(page, len(workers))
    offset = min(view.offset, last_offset)
    span = range(offset, min(offset + page, len(workers)))
    placed = _placed(document, view, workers, width)
    shown = workers[span.start : span.stop]
    table = [_summary(document, view, span, len(workers))]
    table += _table(view, shown, placed, width, document["time"])
    if height is not None:
        table += [Text()] * (page - len(span))
    lines = [line for name in sections for line in (table if name == "table" else sections[name])]
    if view.silence:
        for line in lines[1:-1]:
            line.stylize("dim")
    for line in lines:
        line.truncate(width, overflow=_overflow(view))
    keys = [place.column.key for place in placed]
    return Frame(lines[:height], max(1, page), last_offset, keys)


def _make_room(sections: dict[str, list[Text]], height: int, workers: int) -> int:
    """Leave out what is less important than workers; return how many of these fit."""
    heads = 2
    for name in LESS_IMPORTANT:
        if name not in sections:
            continue
        free = height - heads - sum(map(len, sections.values()))
        wanted = workers if name == "space" else min(workers, int(height * WORKERS_SHARE))
        while sections[name] and free < wanted:
            sections[name].pop()
            free += 1
    return max(0, height - heads - sum(map(len, sections.values())))


def _sections(document: Document, view: View, width: int) -> dict[str, list[Text]]:
    """Return the parts of the screen from the top down; the table's place is empty."""
    return {
        "head": [_head(document, view, width)],
        "facts": [_facts(document, view)],
        "panels": _panels(document, view, width),
        "listeners": _listeners(document),
        "space": [Text()],
        "table": [],
        "totals": [_totals(document)],
        "exits": [_exits(document)],
        "autopsies": _autopsies(document),
        "help": [_keys(view)],
    }


def _head(document: Document, view: View, width: int) -> Text:
    """Return the health with its reason; what is beside them goes where they need the room."""
    name, clock, paused = Text("gunicorn-prom top "), Text(), Text()
    if view.silence:
        word, style = " no answer ", "white on red"
        reason = Text(f" {_clean(view.silence, view)}", "red")
    else:
        known = document["health"]
        word, style = f" {known['word']} ", WORDS.get(known["word"], "reverse")
        reason = Text(f" {known['reason']}")
        clock = Text(f" {_time_of_day(document['time'])}", "dim")
        paused = Text(" PAUSED " if view.is_paused else "", "black on yellow")
    health = Text.assemble((word, style), reason)
    for part, needed in ((name, health.cell_len), (clock, health.cell_len), (paused, len(word))):
        if needed + name.cell_len + paused.cell_len + clock.cell_len > width:
            part.truncate(0)
    room = width - name.cell_len - paused.cell_len - clock.cell_len
    health.truncate(room, overflow=_overflow(view), pad=True)
    return Text("", "bold").join((name, health, paused, clock))


def _overflow(view: View) -> OverflowMethod:
    return "ellipsis" if view.is_unicode else "crop"


def _clean(text: str, view: View) -> str:
    return str(cleaned(text, is_unicode=view.is_unicode))


def _time_of_day(time: float) -> str:
    return clock.strftime("%H:%M:%S", clock.localtime(time))


def _facts(document: Document, view: View) -> Text:
    master, versions = document["master"], document["versions"]
    facts = []
    if document["server"]:
        facts.append(f"server {document['server']} of {', '.join(document['servers'])}")
    if master:
        generations = [str(each["generation"]) for each in document["masters"]]
        named = "generations" if len(generations) > 1 else "generation"
        facts += [
            f"up {duration(document['time'] - master['start_time'])}",
            f"{named} {' and '.join(generations)}",
            f"{master['worker_class']}, pid {master['pid']}",
        ]
        if master["reloads"]:
            facts.append(f"reloads {master['reloads']}")
    if versions["gunicorn"]:
        facts.append(f"Gunicorn {versions['gunicorn']}, Python {versions['python']}")
    facts.append(view.url)
    return Text(("  ·  " if view.is_unicode else "  ").join(map(str, facts)), "dim")


class _Panel(NamedTuple):
    """A number of the server.

    Attributes:
        history: the name of its curve, "" for none.
        most: what the highest character of that stands for at least.
        details: beside the number, as far as there is room.
        is_lasting: stays what it was until it is looked at again.
    """

    label: str
    value: str
    history: str = ""
    most: float = 0.0
    style: str = ""
    details: tuple[str, ...] = ()
    is_lasting: bool = False


def _panels(document: Document, view: View, width: int) -> list[Text]:
    """Return the numbers of the server, each with its curve, in one or two columns."""
    left, right = _panels_of(document)
    if width < TWO_PANELS_WIDTH:
        pairs: Iterable[tuple[_Panel | None, ...]] = [(panel,) for panel in (*left, *right)]
    else:
        pairs = zip_longest(left, right)
    lines = []
    for pair in pairs:
        each = (width - 3 * (len(pair) - 1)) // len(pair)
        parts = [_panel(p, document["history"], each, view) for p in pair if p is not None]
        lines.append(Text("   ").join(parts))
    return lines


def _panels_of(document: Document) -> tuple[list[_Panel], list[_Panel]]:
    recent, totals = document["recent"], document["totals"]
    rate, errors, saturation = (
        recent[name] for name in ("request_rate", "error_share", "saturation")
    )
    capacity, waiting = totals["capacity"], totals["waiting"]
    in_progress = number(totals["in_progress"]) + (f"/{number(capacity)}" if capacity else "")
    is_failing, is_full = (errors or 0) > MANY_ERRORS, (saturation or 0) >= NEARLY_FULL
    p50, p99 = (recent["latency_s"][name] for name in ("p50", "p99"))
    left = [
        _Panel("requests", ABSENT if rate is None else f"{number(rate)}/s", "request_rate"),
        _Panel("errors", percent(errors, digits=2), "error_share", ERROR_SCALE, _red(is_failing)),
        _Panel("saturation", percent(saturation), "saturation", 1.0, _red(is_full)),
        _Panel("in progress", in_progress, "in_progress"),
    ]
    memory = totals["memory_pss_bytes"]
    right = [
        _Panel("latency p99", latency(p99), "latency_p99_s"),
        _Panel("latency p50", latency(p50), details=_details(document)),
        _Panel("waiting", number(waiting), "waiting", 1.0, _red(bool(waiting))),
        _Panel(
            "memory",
            size(totals["memory_rss_bytes"] if memory is None else memory),
            "memory_pss_bytes",
            is_lasting=True,
        ),
    ]
    return left, right


def _details(document: Document) -> tuple[str, ...]:
    recent = document["recent"]
    named = (
        ("p90", recent["latency_s"]["p90"], latency),
        ("queue", recent["queue_pool_s"], latency),
        ("cpu", recent["cpu_share"], percent),
    )
    return tuple(f"{name} {text(value)}" for name, value, text in named if value is not None)


def _red(is_bad: bool) -> str:
    return "bold red" if is_bad else "bold"


def _panel(panel: _Panel, history: dict[str, Any], width: int, view: View) -> Text:
    line = Text.assemble((panel.label.ljust(LABEL_WIDTH), "dim"))
    line.append(panel.value.rjust(VALUE_WIDTH), panel.style or "bold")
    room = width - len(line) - 1
    if panel.history:
        values: Iterable[float | None] = history.get(panel.history, ())
        if panel.is_lasting:
            values = accumulate(values, lambda last, value: last if value is None else value)
        curve = sparkline(list(values), room, most=panel.most, is_unicode=view.is_unicode)
        line.append(" ").append(curve, "red" if "red" in panel.style else "cyan")
    for detail in panel.details:
        if len(line) + 2 + len(detail) <= width:
            line.append(f"  {detail}", "dim")
    line.truncate(width, pad=True)
    return line


def _listeners(document: Document) -> list[Text]:
    parts = []
    for listener in document["listeners"]:
        waiting, limit = listener["backlog"], listener["backlog_limit"]
        said = f"{number(waiting)} waiting, peak {number(listener['backlog_peak'])}"
        if limit is not None:
            said += f", room for {limit}"
        parts.append(Text.assemble((listener["address"], "bold"), (f"  {said}", "dim")))
    return [Text.assemble(("listens at  ", "dim"), part) for part in parts]


def _placed(document: Document, view: View, workers: Sequence[Worker], width: int) -> list[Placed]:
    """Return the columns; made for all workers, or they would jump when these are scrolled."""
    has_generations = len(document["masters"]) > 1
    return columns(workers, view.order, width, document["time"], has_generations=has_generations)


def _table(
    view: View, shown: Iterable[Worker], placed: Sequence[Placed], width: int, time: float
) -> list[Text]:
    head = title(placed, view.order, width, is_unicode=view.is_unicode)
    return [head, *(row(each, placed, width, time, is_unicode=view.is_unicode) for each in shown)]


def _summary(document: Document, view: View, span: range, found: int) -> Text:
    counts = document["totals"]["workers"]
    running, target = counts["running"], counts["target"]
    is_short = None not in (running, target) and running < target
    # Those that are left of a master that has died are not of any number.
    of = "" if target == 0 else f" of {number(target)}"
    summary = Text.assemble(
        ("workers ", "dim"),
        (f"{number(running)}{of}", "bold yellow" if is_short else "bold"),
    )
    if view.is_filtering or view.filter:
        cursor = "_" if view.is_filtering else ""
        summary.append(", with ", "dim").append(f"{_clean(view.filter, view)}{cursor}", "yellow")
    if len(span) < found:
        shown = f"{span.start + 1} to {span.stop} of {found}"
        summary.append(", shown ", "dim").append(shown, "yellow")
    for state in ("stuck", "busy", "idle", "booting", "leaving"):
        if counts[state]:
            style = "bold red" if state == "stuck" else "dim"
            summary.append(f", {counts[state]} {state}", style)
    return summary


def _totals(document: Document) -> Text:
    totals = document["totals"]
    line = Text.assemble(("since start ", "dim"), f"{number(totals['requests'])} requests")
    for status_class, count in sorted(totals["by_status_class"].items()):
        is_bad = status_class == "5xx" and count
        line.append(f"  {status_class} ", "dim").append(number(count), "red" if is_bad else "")
    aborted = sum(filter(None, totals["aborted"].values()))
    for label, count in (
        ("exceptions", totals["exceptions"]),
        ("aborted", aborted),
        ("parse errors", totals["parse_errors"]),
    ):
        if count:
            line.append(f"  {label} ", "dim").append(number(count))
    return line


def _exits(document: Document) -> Text:
    line = Text.assemble(("exits       ", "dim"))
    for each in document["exits"] or ():
        style = "dim" if each["wanted"] else "bold red"
        line.append(f"{each['reason']} {number(each['count'])}", style).append("  ")
    if not document["exits"]:
        line.append(ABSENT if document["exits"] is None else "none", "dim")
    return line


def _autopsies(document: Document) -> list[Text]:
    lines = []
    for each in document["autopsies"][:AUTOPSIES]:
        requests = each["requests"] or [{"request": each["route"] or "", "age_s": None}]
        first = requests[0]
        said = f"{_time_of_day(each['time'])}  worker {each['worker_id']} (pid {each['pid']})"
        line = Text.assemble(("timed out   ", "dim"), said)
        line.append(f"  {first['request'] or ABSENT}", "red")
        if first["age_s"] is not None:
            line.append(f" after {duration(first['age_s'])}")
        if len(requests) > 1:
            line.append(f" and {len(requests) - 1} more", "dim")
        lines.append(line)
    return lines


def _keys(view: View) -> Text:
    if view.is_filtering:
        return Text("type what to search for, Enter keeps it, Esc clears it", "reverse")
    keys = Text()
    for key, does in (
        ("q", "quit"),
        ("p", "go on" if view.is_paused else "pause"),
        ("s", "sort"),
        ("S", "reverse"),
        ("/", "filter"),
        ("?", "help"),
    ):
        keys.append(f" {key} ", "reverse").append(f" {does}  ")
    return keys


def _help(view: View, width: int) -> list[Text]:
    lines = [Text("Keys", "bold")]
    lines += [Text.assemble((f"  {key:<31}", "bold"), does) for key, does in KEYS]
    lines.append(Text("Columns", "bold"))
    lines += [
        Text.assemble((f"  {column.title:<15}", "bold"), column.meaning) for column in COLUMNS
    ]
    for line in lines:
        line.truncate(width, overflow=_overflow(view))
    return lines

"""The workers in `top`: which columns there are, and which workers in which order."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from gunicorn_prom.cli.top_text import ABSENT, bar, duration, number, percent, size
from gunicorn_prom.exporter.health import NEARLY_FULL

__all__ = [
    "COLUMNS",
    "SORT_KEYS",
    "Column",
    "Placed",
    "Worker",
    "chosen",
    "columns",
    "row",
    "title",
]

# A worker as /status.json has it, and the Unix time at which it was so.
Worker = dict[str, Any]
Shown = tuple[str, str]

BAR_WIDTH = 10
# What the last column has at least, and what it has before one of a higher rank is shown beside it:
# an age, a method and so much of a path that it tells what is asked for.
REQUEST_WIDTH, GOOD_REQUEST_WIDTH = 14, 28
STATES = {
    "busy": "green",
    "idle": "dim",
    "booting": "cyan",
    "quitting": "cyan",
    "stuck": "bold red",
    "aborting": "bold red",
}


class Column(NamedTuple):
    """What is shown of each worker.

    Attributes:
        key: how it is called by `--sort`.
        title: at its head.
        meaning: in the help.
        value: of a worker, at a time, to sort by; None where it is not known.
        shown: the text and its style.
        width: the least.
        rank: of two columns the one with the higher rank is left out first.
        is_left: stands on the left.
        is_upwards: the least first; of all others the most is what is looked for.
    """

    key: str
    title: str
    meaning: str
    value: Callable[[Worker, float], Any]
    shown: Callable[[Worker, float], Shown]
    width: int
    rank: int
    is_left: bool = False
    is_upwards: bool = False


def _memory(worker: Worker) -> float | None:
    pss: float | None = worker["memory_pss_bytes"]
    rss: float | None = worker["memory_rss_bytes"]
    return rss if pss is None else pss


def _shown_rss(worker: Worker, _time: float) -> Shown:
    rss, limit = worker["memory_rss_bytes"], worker["memory_limit_bytes"]
    if not limit or rss is None:
        return size(rss), ""
    return f"{size(rss)}/{size(limit)}", "yellow" if rss > NEARLY_FULL * limit else ""


def _shown_active(worker: Worker, _time: float) -> Shown:
    in_progress, capacity = worker["in_progress"], worker["capacity"]
    if capacity is None:
        return number(in_progress), ""
    is_full = in_progress is not None and capacity and in_progress >= capacity
    return f"{number(in_progress)}/{number(capacity)}", "yellow" if is_full else ""


def _shown_busy(worker: Worker, _time: float) -> Shown:
    share = worker["busy_share"]
    return percent(share), "yellow" if (share or 0.0) >= NEARLY_FULL else ""


def _shown_heartbeat(worker: Worker, _time: float) -> Shown:
    return duration(worker["heartbeat_age_s"]), "red" if worker["state"] == "stuck" else ""


def _uptime(worker: Worker, time: float) -> float | None:
    started: float | None = worker["start_time"]
    return None if started is None else max(0.0, time - started)


def _oldest(worker: Worker, _time: float) -> float | None:
    age_s: float | None = (worker["oldest_request"] or {}).get("age_s")
    return age_s


def _shown_oldest(worker: Worker, _time: float) -> Shown:
    oldest = worker["oldest_request"]
    if not oldest:
        return "", ""
    is_late = worker["state"] == "stuck"
    return f"{duration(oldest['age_s'])} {oldest['request'] or ''}", "red" if is_late else ""


def _plain(field: str, text: Callable[[Any], str] = str) -> Callable[[Worker, float], Shown]:
    def shown(worker: Worker, _time: float) -> Shown:
        value = worker[field]
        return (ABSENT if value is None else text(value)), ""

    return shown


def _field(field: str) -> Callable[[Worker, float], Any]:
    return lambda worker, _time: worker[field]


def _by_id(worker: Worker, _time: float) -> tuple[int, str]:
    label = str(worker["id"])
    return (int(label) if label.isdecimal() else 0), label


COLUMNS = (
    Column(
        "id",
        "ID",
        "its slot, as in the metrics",
        _by_id,
        _plain("id"),
        2,
        0,
        is_left=True,
        is_upwards=True,
    ),
    Column(
        "generation",
        "GEN",
        "the generation of the master that it belongs to",
        _field("generation"),
        _plain("generation"),
        3,
        3,
        is_left=True,
        is_upwards=True,
    ),
    Column("pid", "PID", "its process", _field("pid"), _plain("pid"), 5, 2),
    Column(
        "state",
        "STATE",
        "booting, idle, busy, stuck, quitting or aborting",
        _field("state"),
        lambda worker, _time: (worker["state"], STATES.get(worker["state"], "")),
        8,
        1,
        is_left=True,
        is_upwards=True,
    ),
    Column(
        "active",
        "ACTIVE",
        "requests in progress, and how many it can have",
        _field("in_progress"),
        _shown_active,
        6,
        4,
    ),
    Column(
        "busy",
        "BUSY",
        "share of the time with a request in progress",
        _field("busy_share"),
        _shown_busy,
        4,
        2,
    ),
    Column(
        "rate",
        "REQ/S",
        "requests a second",
        _field("request_rate"),
        _plain("request_rate", number),
        5,
        3,
    ),
    Column(
        "requests",
        "REQUESTS",
        "requests since its start",
        _field("requests"),
        _plain("requests", number),
        8,
        12,
    ),
    Column(
        "memory",
        "MEM",
        "memory: its part of what is shared and all that is not (PSS), else as RSS",
        lambda worker, _time: _memory(worker),
        lambda worker, _time: (size(_memory(worker)), ""),
        5,
        4,
    ),
    Column(
        "rss",
        "RSS",
        "resident memory, and the limit of --max-worker-memory",
        _field("memory_rss_bytes"),
        _shown_rss,
        5,
        10,
    ),
    Column(
        "cpu",
        "CPU",
        "of one CPU",
        _field("cpu_share"),
        lambda worker, _time: (percent(worker["cpu_share"]), ""),
        4,
        5,
    ),
    Column(
        "threads",
        "THR",
        "threads",
        _field("threads"),
        _plain("threads"),
        3,
        14,
    ),
    Column(
        "connections",
        "CONN",
        "open connections",
        _field("connections"),
        _plain("connections"),
        4,
        13,
    ),
    Column(
        "waiting",
        "WAIT",
        "connections that wait for a thread",
        _field("waiting"),
        lambda worker, _time: (number(worker["waiting"]), "yellow" if worker["waiting"] else ""),
        4,
        10,
    ),
    Column(
        "uptime",
        "UP",
        "since its start",
        _uptime,
        lambda worker, time: (duration(_uptime(worker, time)), ""),
        6,
        9,
    ),
    Column(
        "heartbeat",
        "BEAT",
        "since it last told the master that it lives",
        _field("heartbeat_age_s"),
        _shown_heartbeat,
        5,
        8,
    ),
    Column(
        "oldest",
        "OLDEST REQUEST",
        "the request that it has had for longest",
        _oldest,
        _shown_oldest,
        REQUEST_WIDTH,
        6,
        is_left=True,
    ),
)
SORT_KEYS = {column.key: column for column in COLUMNS}


class Placed(NamedTuple):
    """A column on the screen: how wide it is, and whether a bar stands before its value."""

    column: Column
    width: int
    has_bar: bool = False


def chosen(workers: Iterable[Worker], sort: str, search: str, time: float) -> list[Worker]:
    """Return the workers that `search` is found in, those first that matter.

    Args:
        sort: a key of SORT_KEYS, with a dash before it for the other direction.
    """
    column = SORT_KEYS[sort.removeprefix("-")]
    found = sorted(
        (worker for worker in workers if search.lower() in _searched(worker)),
        key=lambda worker: _by_id(worker, time),
    )
    known = [worker for worker in found if column.value(worker, time) is not None]
    known.sort(
        key=lambda worker: column.value(worker, time),
        reverse=column.is_upwards == sort.startswith("-"),
    )
    return known + [worker for worker in found if column.value(worker, time) is None]


def _searched(worker: Worker) -> str:
    request = (worker["oldest_request"] or {}).get("request")
    words = (f"worker {worker['id']}", worker["pid"], worker["state"], request or "")
    return " ".join(map(str, words)).lower()


def columns(
    workers: Sequence[Worker], sort: str, width: int, time: float, *, has_generations: bool
) -> list[Placed]:
    """Return the columns that fit, in which the longest value of each does.

    Args:
        sort: see `chosen`; that column is left out last.
        has_generations: whether there is more than one master.
    """
    key = sort.removeprefix("-")
    by_rank = sorted(COLUMNS, key=lambda column: (column.key != key, column.rank))
    fitting = [column for column in by_rank if column.key != "generation" or has_generations]
    while True:
        ordered = [column for column in COLUMNS if column in fitting]
        widths = (_width(column, workers, time, fitting[-1]) for column in ordered)
        placed = list(map(Placed, ordered, widths))
        room = width - sum(place.width for place in placed) - _gap(width) * (len(placed) - 1)
        if room >= 0 or len(fitting) == 1:
            return _stretched(placed, room)
        fitting.pop()


def _width(column: Column, workers: Iterable[Worker], time: float, last: Column) -> int:
    """Return the width of a column, where `last` would be the next to be left out."""
    if column.key == "oldest":
        return GOOD_REQUEST_WIDTH if last.rank > column.rank else column.width
    values = (cell_len(column.shown(worker, time)[0]) for worker in workers)
    return max(column.width, len(column.title) + 1, *values)


def _gap(width: int) -> int:
    return 1 if width < 140 else 2  # noqa: PLR2004  # where columns need not be packed


def _stretched(placed: list[Placed], room: int) -> list[Placed]:
    """Give the rest of a line to the oldest request, and what it can spare to a bar of `busy`."""
    requests = [place.width for place in placed if place.column.key == "oldest"]
    spare = room - sum(max(0, GOOD_REQUEST_WIDTH - width) for width in requests)
    stretched = []
    for place in placed:
        if place.column.key == "busy" and spare > BAR_WIDTH:
            room -= BAR_WIDTH + 1
            place = Placed(place.column, place.width + BAR_WIDTH + 1, has_bar=True)  # noqa: PLW2901  # the wider one
        if place.column.key == "oldest":
            place = Placed(place.column, place.width + max(0, room))  # noqa: PLW2901  # the wider one
        stretched.append(place)
    return stretched


def title(placed: Iterable[Placed], sort: str, width: int, *, is_unicode: bool) -> Text:
    """Return the head of the table, in which the column that sorts is marked."""
    heads = []
    for place in placed:
        mark = ""
        if place.column.key == sort.removeprefix("-"):
            is_upwards = place.column.is_upwards != sort.startswith("-")
            marks = "▲▼" if is_unicode else "^v"
            mark = marks[0] if is_upwards else marks[1]
        heads.append(_aligned(f"{place.column.title}{mark}", place))
    head = Text((" " * _gap(width)).join(heads), "bold reverse")
    head.truncate(width, pad=True)
    return head


def row(
    worker: Worker, placed: Iterable[Placed], width: int, time: float, *, is_unicode: bool
) -> Text:
    """Return the line of a worker."""
    cells = [_cell(worker, place, time, is_unicode=is_unicode) for place in placed]
    return Text(" " * _gap(width)).join(cells)


def _cell(worker: Worker, place: Placed, time: float, *, is_unicode: bool) -> Text:
    text, style = place.column.shown(worker, time)
    if not place.has_bar:
        cell = Text(_aligned(text, place), style)
    else:
        drawn = bar(worker["busy_share"], BAR_WIDTH, is_unicode=is_unicode)
        cell = Text(drawn, style or "green")
        cell.append(text.rjust(place.width - BAR_WIDTH), style)
    cell.truncate(place.width, overflow="ellipsis" if is_unicode else "crop")
    return cell


def _aligned(text: str, place: Placed) -> str:
    missing = " " * (place.width - cell_len(text))
    return f"{text}{missing}" if place.column.is_left else f"{missing}{text}"

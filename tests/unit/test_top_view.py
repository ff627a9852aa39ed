"""What `top` draws, and what its keys do, without a terminal."""

import contextlib
import json
import os
import pty
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from gunicorn_prom.cli import top_text
from gunicorn_prom.cli.top_client import PARTS, Access, Source, UnreachableError, normalized
from gunicorn_prom.cli.top_keys import Keyboard, press
from gunicorn_prom.cli.top_view import View, frame
from gunicorn_prom.cli.top_workers import COLUMNS, SORT_KEYS, chosen
from gunicorn_prom.errors import UsageError
from gunicorn_prom.exporter.page.content import body
from tests.status_document import NOW, STATES, document, master, of_nothing, worker
from tests.support import ROOT, QuietHandler, free_port, http_server

NOTHING = of_nothing() | {"recent": dict.fromkeys(document()["recent"])}
NOTHING["recent"]["latency_s"] = dict.fromkeys(("p50", "p90", "p99"))
UNKNOWN_WORKER = dict.fromkeys(worker(0, "idle")) | {"id": "0", "state": "booting"}


def lines(shown: dict[str, Any], view: View, width: int, height: int | None) -> list[str]:
    """Return the lines of a frame as text."""
    return [line.plain.rstrip() for line in frame(shown, view, width, height).lines]


def many(count: int) -> dict[str, Any]:
    """Return a document with so many workers."""
    return document(workers=[worker(n, STATES[n % len(STATES)]) for n in range(count)])


@pytest.mark.parametrize("width", [20, 63, 80, 139, 160])
@pytest.mark.parametrize("height", [1, 3, 10, 24, 60])
@pytest.mark.parametrize("is_unicode", [True, False])
def test_it_fits_every_terminal(width: int, height: int, is_unicode: bool) -> None:
    """No frame has more lines, and no line more cells, than there is room for."""
    for shown in (document(), NOTHING, NOTHING | {"workers": [UNKNOWN_WORKER]}, many(80)):
        for view in (
            View(is_unicode=is_unicode),
            View(is_unicode=is_unicode, is_help=True),
            View(is_unicode=is_unicode, is_filtering=True, filter="x" * 400),
            View(is_unicode=is_unicode, silence="since 12:00:00: nothing listens there"),
            View(is_unicode=is_unicode, is_paused=True, sort="oldest", offset=70),
        ):
            drawn = frame(shown, view, width, height).lines
            assert len(drawn) <= height
            assert max(cell_len(line.plain) for line in drawn) <= width
            assert is_unicode or all(line.plain.isascii() for line in drawn)


def test_what_is_not_known_is_a_dash() -> None:
    """Of a server that is not there nothing is shown as none or 0."""
    text = "\n".join(lines(NOTHING, View(), 80, None))
    for known_of_nothing in ("in progress        -", "since start - requests", "exits       -"):
        assert known_of_nothing in text
    assert "workers - of -" in text


def test_a_terminal_of_80_columns() -> None:
    """It has the essential facts of the server and of each worker, and the keys at the bottom."""
    text = "\n".join(drawn := lines(document(), View(url="http://a"), 80, 24))
    assert len(drawn) == 24
    for fact in ("degraded  1 of 6 workers stuck", "up 1d01h", "generations 1 and 2", "gthread"):
        assert fact in text
    for panel in ("1204/s", "12.00%", "97%", "1.34s", "12ms  p90 50ms", "6/24", "312M"):
        assert panel in text
    for header in ("ID", "PID", "STATE", "ACTIVE", "BUSY", "REQ/S", "MEM", "CPU", "OLDEST"):
        assert header in text
    for fact in ("timeout 2", "max_requests 12", "5xx 4678", "GET /orders/7 after 31s"):
        assert fact in text
    assert drawn[-1].split()[:4] == ["q", "quit", "p", "pause"]


def test_a_terminal_of_160_columns() -> None:
    """Every column is there, and the request that a worker has had for longest is whole."""
    text = "\n".join(lines(document(), View(), 160, 40))
    assert [column.title for column in COLUMNS if column.title not in text] == []
    assert "31s GET /orders/7" in text
    assert "60.0M/150M" in text
    assert "█████████▏   92%" in "\n".join(lines(document(), View(), 180, 40))


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_oldest_request_can_be_read(width: int) -> None:
    """It has room for a path before columns of which less depends."""
    request = "GET /orders/{id}/all"
    oldest = {"start_time": 0.0, "age_s": 12.3, "request": request}
    stuck = worker(0, "stuck", oldest_request=oldest)
    alone = document(workers=[stuck])
    for shown in (alone, alone | {"masters": alone["masters"][-1:]}):
        assert f"12s {request}" in "\n".join(lines(shown, View(), width, 24))


def test_the_order_in_which_columns_are_left_out() -> None:
    """The column that sorts stays on the narrowest terminal, and so does the state."""
    for width in (40, 60, 80):
        header = next(
            line for line in lines(document(), View(sort="connections"), width, 24) if "ID" in line
        )
        assert "CONN▼" in header
        assert "STATE" in header


def test_a_low_terminal_shows_workers_first() -> None:
    """On ten lines there are the health, four workers and the keys."""
    drawn = lines(document(), View(), 80, 10)
    assert drawn[0].startswith("gunicorn-prom top  degraded")
    assert sum(" busy " in line or " stuck " in line or " idle " in line for line in drawn) >= 3
    assert drawn[-1].startswith(" q  quit")


DEGRADED = {"word": "degraded", "reason": "100% of the requests fail"}
TIME = r"\d\d:\d\d:\d\d"


@pytest.mark.parametrize(
    ("width", "seen", "paused"),
    [
        (8, " degrad…", " degrad…"),
        (18, " degraded  100% o…", " degraded… PAUSED"),
        (20, " degraded  100% of …", " degraded  … PAUSED"),
        (30, " degraded  100% of the reques…", " degraded  100% of th… PAUSED"),
        (40, " degraded  100% of the requests fail", " degraded  100% of the requests… PAUSED"),
        (60, f" degraded  100%.*fail +{TIME}", f" degraded  100%.*fail +PAUSED  {TIME}"),
        (80, f"gunicorn-prom top  degraded  100%.*fail +{TIME}", f"gunicorn-.*PAUSED  {TIME}"),
        (160, f"gunicorn-prom top  degraded  100%.*fail +{TIME}", f"gunicorn-.*PAUSED  {TIME}"),
    ],
)
def test_the_health_stays_on_a_narrow_terminal(width: int, seen: str, paused: str) -> None:
    """The name goes first, then the clock, then the end of the reason, and the word at last."""
    shown = document(health=DEGRADED)
    assert re.fullmatch(seen, lines(shown, View(), width, 24)[0])
    assert re.fullmatch(paused, lines(shown, View(is_paused=True), width, 24)[0])


def test_no_answer_stays_on_a_narrow_terminal() -> None:
    """That the server is silent is said in the same place, by the same rule."""
    silent = View(silence="since 12:00:00: nothing listens there")
    assert lines(document(), silent, 20, 24)[0] == " no answer  since 1…"
    assert lines(document(), silent, 60, 24)[0].endswith("  since 12:00:00: nothing listens there")


@pytest.mark.parametrize("key", SORT_KEYS)
def test_each_column_sorts(key: str) -> None:
    """Names begin with the first, all else with the highest; what is not known comes last."""
    workers = many(12)["workers"]
    column = SORT_KEYS[key]
    for order in (key, f"-{key}"):
        values = [column.value(each, NOW) for each in chosen(workers, order, "", NOW)]
        known = [value for value in values if value is not None]
        assert values == known + [None] * (len(values) - len(known))
        is_upwards = column.is_upwards != order.startswith("-")
        assert known == sorted(known, reverse=not is_upwards)


@pytest.mark.parametrize(
    ("search", "found"),
    [("stuck", ["0"]), ("4712", ["1"]), ("orders/7", ["0", "1"]), ("WORKER 3", ["3"]), ("no", [])],
)
def test_the_filter(search: str, found: list[str]) -> None:
    """It looks into id, pid, state and oldest request, whatever the case."""
    workers = chosen(document()["workers"], "id", search, NOW)
    assert [each["id"] for each in workers] == found


HOSTILE = "GET /\x1b[2J\x9b31m[red]x[/red]\u202eabc\n\t\udc80"


def test_what_clients_sent_stays_text() -> None:
    """A request path brings no escape code, no line, no markup and no change of direction."""
    request = {"start_time": NOW, "age_s": 1.0, "request": HOSTILE}
    shown = document(
        workers=[worker(0, "busy", oldest_request=request)],
        autopsies=[document()["autopsies"][0] | {"requests": [request]}],
    )
    console = Console(force_terminal=True, width=200, color_system="standard")
    with console.capture() as captured:
        for line in frame(shown, View(filter="busy"), 200, 40).lines:
            console.print(line, soft_wrap=True)
    seen = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
    assert all(c.isprintable() or c == "\n" for c in seen)
    assert seen.count("GET /?[2J?31m[red]x[/red]?abc???") == 2


FRAME = frame(document(), View(), 80, 24)


def test_keys_sort_and_reverse() -> None:
    """`s` takes the next column that is shown, `S` turns the order round."""
    view: View | None = View(offset=3)
    for column in ("generation", "pid", "state"):
        assert view is not None
        view = press(view, "s", FRAME)
        assert view == View(sort=column)
    assert press(View(sort=FRAME.columns[-1]), "s", FRAME) == View(sort="id")
    # The generations of a server that has one master are no column.
    alone = frame(document(masters=[master()]), View(sort="generation"), 80, 24)
    assert "generation" not in alone.columns
    assert press(View(sort="generation"), "s", alone) == View(sort="id")
    assert press(View(), "S", FRAME) == View(is_reversed=True)


def test_keys_scroll() -> None:
    """Arrows and pages scroll as far as there are workers, whatever the offset was before."""
    shown, view = many(50), View(offset=999)
    laid_out = frame(shown, view, 80, 24)
    last = laid_out.last_offset
    assert (laid_out.page, last) == (12, 38)
    for key, offset in (
        ("up", last - 1),
        ("page up", last - 1 - laid_out.page),
        ("home", 0),
        ("up", 0),
        ("page down", laid_out.page),
        ("down", laid_out.page + 1),
        ("end", last),
        ("down", last),
    ):
        view = press(view, key, laid_out) or View()
        assert view.offset == offset
    assert f"{last + 1} to 50 of 50" in "\n".join(lines(shown, view, 80, 24))


def test_keys_filter() -> None:
    """After `/` letters are searched for, also those that are keys; Enter keeps, Esc clears."""
    view = View()
    for key in ("/", "q", "?", "é", "backspace", "s"):
        view = press(view, key, FRAME) or View(filter="ended")
    assert (view.filter, view.is_filtering) == ("q?s", True)
    kept = press(view, "enter", FRAME)
    assert kept == View(filter="q?s")
    assert press(kept, "escape", FRAME) == View()
    assert press(view, "escape", FRAME) == View()
    assert press(view, "clear", FRAME) == View(is_filtering=True)


def test_keys_end_pause_and_help() -> None:
    """`q` ends, `p` and space pause and go on, `?` shows what the keys are until the next one."""
    assert press(View(), "q", FRAME) is None
    assert press(View(), "p", FRAME) == press(View(), " ", FRAME) == View(is_paused=True)
    assert press(View(is_paused=True), "p", FRAME) == View()
    assert press(View(is_help=True), "q", FRAME) == View()
    assert press(View(), "x", FRAME) == View()
    assert "  ?    " in "\n".join(lines(document(), View(is_help=True), 80, 24))


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"\x1b[A\x1bOB\x1b[5~\x1b[6~", ["up", "down", "page up", "page down"]),
        (b"\x1b[H\x1b[F\x1b[1;5Cq", ["home", "end", "q"]),
        (b"\x1b", ["escape"]),
        (b"\x1b\x1b[6~", ["escape", "page down"]),
        ("aé/\r\x7f".encode(), ["a", "é", "/", "enter", "backspace"]),
        (b"\xff\xfe", []),
    ],
)
def test_what_a_terminal_sends(
    typed: bytes, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Escape sequences are keys by name, unknown ones nothing, and Esc alone is Esc."""
    ours, theirs = pty.openpty()
    with open(theirs) as terminal, contextlib.closing(os.fdopen(ours, "wb", 0)) as hands:
        monkeypatch.setattr("sys.stdin", terminal)
        keyboard = Keyboard()
        with keyboard.open():
            hands.write(typed)
            assert keyboard.read() == keys


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (top_text.number(None), "-"),
        (top_text.number(0), "0"),
        (top_text.number(12.34), "12.3"),
        (top_text.number(9999), "9999"),
        (top_text.number(12345), "12.3k"),
        (top_text.number(12345678), "12.3M"),
        (top_text.number(5e9), "5.0G"),
        (top_text.percent(0.4249), "42%"),
        (top_text.size(512 << 10), "512K"),
        (top_text.size(38 << 20), "38.0M"),
        (top_text.size(3 << 40), "3.0T"),
        (top_text.latency(0.00042), "0.4ms"),
        (top_text.latency(0.012), "12ms"),
        (top_text.latency(1.234), "1.23s"),
        (top_text.duration(-1), "0.0s"),
        (top_text.duration(31), "31s"),
        (top_text.duration(725), "12m05s"),
        (top_text.duration(11533), "3h12m"),
        (top_text.duration(356400), "4d03h"),
        (top_text.sparkline([0, None, 7, 14], 3, is_unicode=True), " ▅█"),
        (top_text.sparkline([0, 0.5], 9, most=1.0, is_unicode=False), "_="),
        (top_text.bar(0.5, 3, is_unicode=True), "█▌ "),
        (top_text.bar(2.0, 3, is_unicode=False), "###"),
    ],
)
def test_numbers_in_few_characters(text: str, expected: str) -> None:
    """A number says what matters of it in few characters."""
    assert text == expected


@pytest.mark.parametrize(("errors", "is_marked"), [(0.04, False), (0.06, True)])
def test_what_is_high_is_high_on_the_page_too(errors: float, is_marked: bool) -> None:
    """The terminal marks a share of errors from where the page does."""
    shown = document(recent=document()["recent"] | {"error_share": errors, "saturation": 0.5})
    line = next(line for line in frame(shown, View(), 160, 40).lines if "errors" in line.plain)
    style = line.get_style_at_offset(Console(), line.plain.index("%") - 1)
    assert (style.color is not None) is is_marked
    assert ('class="tile high"' in body(shown, "/metrics")) is is_marked


def test_one_generation_needs_no_column() -> None:
    """Which generation a worker belongs to is shown while there are two."""
    alone = lines(document(masters=[master()]), View(), 160, 40)
    assert not any(" GEN " in line for line in alone)
    assert any(" GEN " in line for line in lines(document(), View(), 160, 40))


@contextlib.contextmanager
def answering(body: bytes, status: int = 200) -> Iterator[str]:
    """Run a server that gives the same answer to everything, and yield its URL."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.send_response(status, "It\x1b[2J")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def failure(url: str) -> UnreachableError:
    """Return how it fails to ask a server."""
    with pytest.raises(UnreachableError) as raised:
        Source(url, None, Access(), None).fetch()
    return raised.value


@pytest.mark.parametrize(
    ("body", "status", "reason", "hint"),
    [
        (b"<html>", 200, "not the state of a gunicorn-prom", "--metrics-bind"),
        (b'{"version": 1}', 200, "not the state of a gunicorn-prom", "--metrics-bind"),
        (b"[" * 100_000, 200, "not the state of a gunicorn-prom", "--metrics-bind"),
        (b'{"version": 2}', 200, "its state has version 2", "update"),
        (b"", 401, "it answers 401 It?[2J", "--user"),
        (b"", 403, "it answers 403 It?[2J", "--cert"),
        (b"not here", 404, "it answers 404 It?[2J (not here)", "--metrics-bind"),
        (b"a page\nof lines", 500, "it answers 500 It?[2J", "log"),
    ],
)
def test_answers_that_are_no_state(body: bytes, status: int, reason: str, hint: str) -> None:
    """What is wrong is one sentence, with what to do, and nothing of it moves the cursor."""
    with answering(body, status) as url:
        error = failure(url)
    assert reason in str(error)
    assert url in str(error)
    assert hint in error.hint
    assert str(error).isprintable()


def test_the_form_of_a_state() -> None:
    """What a state is known by is all that is drawn of it, and stands in every one."""
    schema = json.loads((ROOT / "docs" / "status-schema.json").read_text())
    assert set(schema["required"]) > PARTS
    shown = {part: value for part, value in document().items() if part in PARTS}
    assert frame(shown, View(), 160, None).lines
    with answering(json.dumps(document(workers=[{}])).encode()) as url:
        broken = Source(url, None, Access(), None).fetch()
    with pytest.raises(KeyError):  # a bug, and not what the user has to see to
        frame(broken, View(), 160, None)


def test_nobody_and_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing listens is told apart from one that does not answer."""
    assert "nothing listens there" in str(failure(f"http://127.0.0.1:{free_port()}"))
    monkeypatch.setattr("gunicorn_prom.cli.top_client.LIMIT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        assert "no answer within" in str(failure(url))


@pytest.mark.parametrize("path", ["", "/", "/metrics", "/status.json"])
def test_any_url_of_the_metrics_server_will_do(path: str) -> None:
    """The state is asked of whatever page of the metrics server is named."""
    with answering(json.dumps(document()).encode()) as url:
        source = Source(normalized(f"{url}{path}".removeprefix("http://")), None, Access(), None)
        assert source.fetch()["version"] == 1
        assert source.url == f"{url}/status.json"


@pytest.mark.parametrize("url", ["", "http://", "ftp://a", "http://a:b", "http://[::1", "a:0"])
def test_what_is_no_url(url: str) -> None:
    """It is refused with how to write one."""
    with pytest.raises(UsageError, match="not a URL"):
        normalized(url)


def test_no_password_in_a_url() -> None:
    """It is refused, and not repeated."""
    with pytest.raises(UsageError) as raised:
        normalized("http://me:secret@127.0.0.1:9464")
    assert "secret" not in f"{raised.value} {raised.value.hint}"

"""What the status page says, without a browser."""

import json
import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest

from gunicorn_prom.exporter.page.answer import show
from gunicorn_prom.exporter.page.drawing import sparkline
from gunicorn_prom.exporter.page.figures import plain, rate, seconds, share, size
from tests.status_document import (
    STATES,
    document,
    history,
    of_nothing,
    with_text,
    without_what_may_be_null,
    worker,
)
from tests.support import ROOT

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"
VOID = {"meta", "link"}


class Outline(HTMLParser):
    """The tags of a page, and the text between them; fails where they do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(found: dict[str, Any], *, is_fragment: bool = False, host: str = "web:9464") -> str:
    return show(found, "/metrics", host, is_fragment=is_fragment).body.decode()


# Numbers.


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (seconds(0), "0 ms"),
        (seconds(0.00004), "<0.1 ms"),
        (seconds(0.0042), "4.2 ms"),
        (seconds(0.345), "345 ms"),
        (seconds(1.34), "1.3 s"),
        (seconds(9.97), "10 s"),
        (seconds(119), "119 s"),
        (seconds(125), "2 min"),
        (seconds(11_580), "3 h 13 min"),
        (seconds(352_800), "4 d 2 h"),
        (rate(0), "0 /s"),
        (rate(0.25), "0.2 /s"),
        (rate(1204.5), "1 204 /s"),
        (rate(12_345), "12 k/s"),
        (share(0.0004), "<0.1 %"),
        (share(0.012), "1.2 %"),
        (share(1), "100 %"),
        (size(900), "0.9 KiB"),
        (size(38 << 20), "38 MiB"),
        (size(3 << 30), "3.0 GiB"),
    ],
)
def test_a_figure_is_short_and_has_its_unit(figure: Any, text: str) -> None:
    """Numbers are shown with two or three digits and the unit that fits."""
    assert re.sub(r"\s", " ", plain(figure)) == text


def test_what_is_not_known_is_said_to_be_so() -> None:
    """No number is made up: a dash is shown, and read out as words."""
    page = rendered(of_nothing())
    assert Outline(page).text.count("not known") > 20
    assert not re.search(r">0<|No worker has left", page)


def test_whatever_may_be_null_may_be_null() -> None:
    """A document with null wherever its schema allows that makes a page."""
    schema = json.loads((ROOT / "docs" / "status-schema.json").read_text())
    found = without_what_may_be_null(document(), schema, schema)
    assert found["master"] is found["workers"][0]["capacity"] is None
    assert Outline(rendered(found)).text.count("not known") > 20


# Safety.


def test_no_text_of_a_client_becomes_markup() -> None:
    """Whatever stands in the strings of the document, the tags of the page are the same."""
    plain_page = Outline(rendered(with_text(document(), "harmless")))
    hostile_page = Outline(rendered(with_text(document(), HOSTILE), host=HOSTILE))
    assert [tag for tag, _ in hostile_page.tags] == [tag for tag, _ in plain_page.tags]
    names = [set(attributes) for _, attributes in hostile_page.tags]
    assert names == [set(attributes) for _, attributes in plain_page.tags]
    assert HOSTILE in hostile_page.text


@pytest.mark.parametrize("text", ["\udcff", "\0", "\u202egnp.exe", "{head}"])
def test_no_text_breaks_the_answer(text: str) -> None:
    """Bytes that are no UTF-8, controls and the template's own marks do no harm."""
    page, harmless = (Outline(rendered(with_text(document(), one))) for one in (text, "harmless"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]


def test_the_policy_names_exactly_our_style_and_script() -> None:
    """The hashes in the Content-Security-Policy are those of what stands in the page."""
    answer = show(document(), "/metrics", "", is_fragment=False)
    policy = answer.headers["Content-Security-Policy"]
    text = answer.body.decode()
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = b64encode(sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|\sstyle=", text.partition("<body>")[2].partition("<script>")[0])


def test_nothing_is_loaded_from_elsewhere() -> None:
    """The page refers to no other host, and its links stay below a proxy's path."""
    tags = Outline(rendered(document())).tags
    targets = [a["href"] for _, a in tags if a.get("href")]
    assert not [a for _, a in tags if "src" in a]
    assert all(str(target).startswith(("#", "./", "data:")) for target in targets)


# Content.


def test_the_fragment_is_what_changes() -> None:
    """The script is answered with the title, the icon and the page, not with itself."""
    fragment = rendered(document(), is_fragment=True)
    page = rendered(document())
    assert all(part in page for part in fragment.partition('<div id="page"'))
    assert "<script>" not in fragment
    assert [tag for tag, a in Outline(fragment).tags if a.get("id") in ("icon", "page")] == [
        "link",
        "div",
    ]


@pytest.mark.parametrize(
    "word", ["healthy", "busy", "degraded", "stuck", "starting", "stopping", "down", "new word"]
)
def test_every_word_of_health_has_its_shape(word: str) -> None:
    """The word is shown with its reason, a shape, and in the title of the tab."""
    health = {"word": word, "reason": "because", "live": False, "ready": False}
    page = Outline(rendered(document(health=health)))
    assert f"{word} · web:9464" in page.text
    assert "because" in page.text
    symbols = {a["id"] for tag, a in page.tags if tag == "symbol"}
    assert {str(a["href"])[1:] for tag, a in page.tags if tag == "use"} <= symbols


def test_every_worker_is_told_by_shape_and_word() -> None:
    """A worker's state stands there as a word, beside a shape that no other state has."""
    text = rendered(document())
    cards = re.findall(r'<li id="worker-\d+".*?</li>', text)
    shapes = [re.findall(r'href="(#\w+)"', card)[0] for card in cards]
    assert len(set(shapes)) == len(cards)
    for card, state in zip(cards, STATES, strict=True):
        assert f">{state}</span>" in card


def test_only_a_request_that_takes_long_is_shown() -> None:
    """The oldest request is shown with its age once that is more than a second."""
    requests = [
        {"start_time": 0.0, "age_s": age_s, "request": f"GET /{name}"}
        for name, age_s in (("young", 0.9), ("old", 1.1))
    ]
    workers = [worker(n, "busy", oldest_request=found) for n, found in enumerate(requests)]
    text = rendered(document(workers=workers))
    assert "GET /old" in text
    assert "GET /young" not in text


def test_servers_can_be_chosen() -> None:
    """With several servers there is a link to each, and the one that is shown is marked."""
    shown = rendered(
        document(server="a b", servers=["a b", "c&d"], problems={"c&d": "shutting down"})
    )
    assert "c&amp;d (shutting down)" in shown
    tags = Outline(shown).tags
    links = [a for tag, a in tags if tag == "a" and str(a["href"]).startswith("?")]
    assert [a["href"] for a in links] == ["?server=a%20b", "?server=c%26d"]
    assert ["aria-current" in a for a in links] == [True, False]


def test_links_follow_the_path_of_the_metrics() -> None:
    """The link to the metrics leads to where they are."""
    page = show(document(), "/internal/stats", "", is_fragment=True).body.decode()
    assert '<a href="./internal/stats">' in page


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    """A value that is not known is not drawn as zero."""
    drawn = sparkline(history(), "latency_p99_s", 0.001)
    (line,) = re.findall(r'class="line" d="([^"]+)"', drawn)
    assert line.count("M") == 2


def test_a_page_is_imported_only_for_who_asks() -> None:
    """The metrics server does without the page's modules until somebody looks at it."""
    code = (
        "import sys; import gunicorn_prom.exporter.endpoint;"
        "print([name for name in sys.modules if name.startswith('gunicorn_prom.exporter.page')])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[]\n"

"""The status page of real servers, in a real browser."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from gunicorn_prom.exporter.page.answer import show
from tests.browser import (
    CONTRASTS,
    SCHEMES,
    WIDTHS,
    Viewer,
    chromium,
    is_scrolling_sideways,
)
from tests.status_document import autopsy, document, of_nothing, with_text
from tests.support import DEADLINE_S, Server, gunicorn_prom, request, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.real_parts

WORKERS = 2
HOSTILE_PATH = "/wait/<script>document.title='owned'</script><img/src=x/onerror=alert(1)>"
# Seconds. A worker counts as stuck from 12 on, and is ended at 20.
TIMEOUT_S = 20
NOT_READABLE = 4.5


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """One browser for all."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def viewer(browser: "Browser") -> Iterator[Viewer]:
    """Somebody at the browser, who must have nothing to complain about."""
    viewer = Viewer(browser)
    yield viewer
    viewer.close()
    assert viewer.complaints == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that is well."""
    directory = tmp_path_factory.mktemp("page")
    # A worker that has something to do shall not count as stuck.
    with gunicorn_prom(directory, "behave:app", f"--workers={WORKERS}", "--timeout=300") as server:
        server.wait_for_workers(WORKERS)
        yield server


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server to which something is about to happen."""
    directory = tmp_path_factory.mktemp("troubled")
    # Threads show every second that their worker lives.
    options = ("--workers=2", "--threads=2", f"--timeout={TIMEOUT_S}")
    with gunicorn_prom(directory, "behave:app", *options) as server:
        server.wait_for_workers(2)
        yield server


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.metrics_port}/"


def wait_for_text(page: "Page", selector: str, text: str) -> None:
    """Wait until the page, which keeps itself up to date, shows the text."""
    found = page.locator(selector, has_text=text).first
    found.wait_for(state="visible", timeout=DEADLINE_S * 1000)


# The answer.


def test_the_answer_forbids_all_but_itself(server: Server) -> None:
    """The page is HTML that is not kept, not framed, and loads and runs nothing of others."""
    answer = request(server.metrics_port, "/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    policy = answer.headers["Content-Security-Policy"].split("; ")
    for rule in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert f"{rule} 'none'" in policy
    assert "connect-src 'self'" in policy


def test_head_has_no_body(server: Server) -> None:
    """HEAD has the headers of GET and no body."""
    answer = request(server.metrics_port, "/", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert "Content-Security-Policy" in answer.headers


def test_a_server_that_is_not_there_is_not_found(server: Server) -> None:
    """The page of an unknown server is 404."""
    assert request(server.metrics_port, "/?server=other").status == 404


# What it shows.


def test_a_healthy_server(server: Server, viewer: Viewer) -> None:
    """The word is the heading, with its reason, and each worker is a card; links work."""
    page = viewer.open(url_of(server))
    assert page.get_by_role("heading", level=1).inner_text() == "healthy"
    assert page.locator("#reason").inner_text() == "2 of 2 workers serve"
    assert page.title() == f"healthy · 127.0.0.1:{server.metrics_port}"
    cards = page.get_by_role("region", name="Workers").get_by_role("listitem")
    assert [card.locator(".state").inner_text() for card in cards.all()] == ["idle", "idle"]
    for pid, card in zip(server.worker_pids(), cards.all(), strict=True):
        assert str(pid) in card.inner_text()
    links = page.get_by_role("navigation", name="Endpoints").get_by_role("link").all()
    targets = [link.get_attribute("href") for link in links]
    assert targets == ["./metrics", "./-/healthy", "./-/ready", "./status.json"]
    for target in targets:
        assert request(server.metrics_port, str(target).removeprefix(".")).status == 200


def test_a_screen_reader_finds_its_way(server: Server, viewer: Viewer) -> None:
    """The page has its landmarks and headings, and only the word is read out when it changes."""
    page = viewer.open(url_of(server))
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    headings = [heading.inner_text() for heading in page.get_by_role("heading", level=2).all()]
    assert headings == [
        "Now",
        "Workers",
        "Listeners",
        "Exits of workers",
        "Masters",
        "Since the start",
    ]
    assert page.locator("[aria-live]").count() == 1
    assert page.locator("[aria-live]").get_attribute("id") == "word"


def test_a_saturated_server(server: Server, viewer: Viewer) -> None:
    """An open page comes to show that all is taken: who is busy with what, and for how long.

    What a client has put into the path stays text.
    """
    page = viewer.open(url_of(server))
    clients = [hold(server) for _ in range(WORKERS)]
    try:
        wait_for_text(page, ".tile", f"{WORKERS} of {WORKERS} in progress")
        wait_for_text(page, ".worker.busy .trouble", HOSTILE_PATH)
        assert page.locator(".worker.busy").count() == WORKERS
        wait_for_text(page, "#word", "busy")
        assert "100% of the capacity" in page.locator("#reason").inner_text()
        assert page.title().startswith("busy ·")
        assert page.locator("#page script, #page img").count() == 0
    finally:
        for client in clients:
            client.close()
        # The gate's name is a path.
        gate = server.directory / HOSTILE_PATH.removeprefix("/wait/")
        gate.parent.mkdir(parents=True)
        gate.touch()
    wait_for_text(page, "#word", "healthy")


def hold(server: Server) -> socket.socket:
    """Take a place in the server; no client of http.client would send such a path."""
    client = socket.create_connection(("127.0.0.1", server.port), DEADLINE_S)
    client.sendall(f"GET {HOSTILE_PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return client


def test_it_is_readable_without_javascript(server: Server, viewer: Viewer) -> None:
    """Without JavaScript the page says the same, and loads again by itself."""
    page = viewer.open(url_of(server), java_script_enabled=False)
    text = page.locator("body").inner_text()
    for part in ("healthy", "2 of 2 workers serve", "Latency", "Worker 1", "10 s"):
        assert part in text
    assert page.locator('head meta[http-equiv="refresh"]').count() == 1


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits(server: Server, viewer: Viewer, width: int) -> None:
    """Nobody has to scroll sideways, on a telephone or on a screen."""
    assert not is_scrolling_sideways(viewer.open(url_of(server), width=width))


# A server in trouble. Each test leaves it as the next one needs it to begin with: serving.


def test_a_stuck_worker(troubled: Server, viewer: Viewer) -> None:
    """A worker that does not move is marked as stuck, and no more when it moves again."""
    page = viewer.open(url_of(troubled))
    pid = troubled.worker_pids()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for_text(page, ".worker.stuck .trouble", "no heartbeat for")
        assert page.locator("#word").inner_text() == "degraded"
        assert page.locator("#reason").inner_text() == "1 of 2 workers stuck"
    finally:
        os.kill(pid, signal.SIGCONT)
    page.locator(".worker.stuck").wait_for(state="detached")
    assert pid in troubled.worker_pids()


def test_dying_workers(troubled: Server, viewer: Viewer) -> None:
    """Workers that are killed stand in the ledger as unwanted, and their successors as cards."""
    page = viewer.open(url_of(troubled))
    killed = troubled.worker_pids()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for_text(page, "#exits tr", "unwanted")
    wait_for_text(page, "#word", "degraded")
    assert "died in the last minute" in page.locator("#reason").inner_text()
    troubled.wait_for_workers(2)
    for pid in troubled.worker_pids():
        wait_for_text(page, ".worker", str(pid))
    assert not set(troubled.worker_pids()) & set(killed)


def test_a_server_that_does_not_answer(troubled: Server, viewer: Viewer) -> None:
    """When the whole server stands still the page says so after a while, by the word too."""
    page = viewer.open(url_of(troubled))
    os.kill(troubled.pid, signal.SIGSTOP)
    try:
        wait_for_text(page, "#banner", "No answer for")
        assert page.locator("#word").inner_text() == "no answer"
    finally:
        os.kill(troubled.pid, signal.SIGCONT)
    page.locator("#banner").wait_for(state="hidden")


def test_a_server_that_is_gone_and_comes_back(troubled: Server, viewer: Viewer) -> None:
    """A page keeps what it last saw, greyed out under a banner, and goes on by itself."""
    page = viewer.open(url_of(troubled))
    word = page.locator("#word").inner_text()
    troubled.stop()
    wait_for_text(page, "#banner", "last seen")
    assert re.fullmatch(
        rf"No answer for \d+ s; last seen \d\d:\d\d:\d\d UTC, ({word}|stopping)\.",
        page.locator("#banner").inner_text(),
    )
    assert page.title().startswith("no answer ·")
    assert page.locator(".worker").count() == 2
    assert "grayscale" in page.evaluate("getComputedStyle(document.querySelector('main')).filter")
    troubled.start()
    page.locator("#banner").wait_for(state="hidden")
    wait_for_text(page, "#word", "healthy")
    assert page.title().startswith("healthy ·")
    assert page.evaluate("getComputedStyle(document.querySelector('main')).filter") == "none"


# What takes long to happen, or does not happen together: the page of a document.


class Documents:
    """Answers as the metrics server would, from documents that the test makes.

    Attributes:
        current: the document of the next answer.
        urls: that were asked for.
    """

    def __init__(self, current: dict[str, Any]) -> None:
        self.current = current
        self.urls: list[str] = []

    def answer(self, url: str) -> Any:
        self.urls.append(url)
        is_fragment = "fragment" in url
        return show(self.current, "/metrics", "status.test", is_fragment=is_fragment)


def test_the_reader_is_not_disturbed(viewer: Viewer) -> None:
    """An update leaves alone what is opened, focused and scrolled to, and what is marked."""
    source = Documents(document())
    page = viewer.show(source.answer)
    page.locator("details summary").last.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")  # to the stacks, which scroll by the keys
    page.keyboard.press("ArrowRight")
    page.mouse.wheel(0, 300)
    page.evaluate("getSelection().selectAllChildren(document.getElementById('reason'))")
    page.wait_for_function("scrollY > 0 && document.activeElement.scrollLeft > 0")
    page.evaluate("seen = [scrollY, document.activeElement]")
    workers = document()["workers"]
    source.current = document(
        autopsies=[autopsy(1), *document()["autopsies"]], workers=[workers[3], *workers[1:3]]
    )
    page.locator("details").nth(2).wait_for()
    assert [one.get_attribute("open") for one in page.locator("details").all()] == [None, None, ""]
    assert page.evaluate("scrollY === seen[0] && document.activeElement === seen[1]")
    assert page.evaluate("document.activeElement.scrollLeft > 0")
    assert page.evaluate("String(getSelection())") == source.current["health"]["reason"]
    shown = [card.get_attribute("id") for card in page.locator(".worker").all()]
    assert shown == ["worker-3", "worker-1", "worker-2"]


def test_a_hidden_page_asks_for_nothing(viewer: Viewer) -> None:
    """While nobody can see the page it asks for nothing, and at once when somebody can."""
    source, other = Documents(document()), Documents(document())
    page = viewer.show(source.answer)
    page.evaluate(
        "isHidden = true; Object.defineProperty(document, 'hidden', {get: () => isHidden})"
    )
    viewer.show(other.answer)
    asked = len(source.urls)
    # One more may have been on its way.
    wait_for(lambda: page.evaluate("1") and len(other.urls) > 2, "two updates of the other page")
    assert len(source.urls) <= asked + 1
    page.evaluate("isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    wait_for(lambda: page.evaluate("1") and len(source.urls) > asked + 1, "an update")
    assert all("fragment=1" in url for url in source.urls[1:])


def test_what_is_no_page_of_ours_is_not_shown(viewer: Viewer) -> None:
    """When something else answers, a proxy's page say, the banner says that."""
    page = viewer.show(Documents(document()).answer)
    page.unroute("**/*")
    page.route("**/*", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    wait_for_text(page, "#banner", "it says 502")
    page.unroute("**/*")
    page.route("**/*", lambda route: route.fulfill(status=200, body="<h1>Log in</h1>"))
    wait_for_text(page, "#banner", "something else answers")
    assert page.locator("h1").inner_text() == "no answer"
    page.unroute("**/*")
    page.close()
    assert all("502 (Bad Gateway)" in complaint for complaint in viewer.complaints)
    viewer.complaints.clear()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_everything_is_readable(viewer: Viewer, scheme: str, width: int) -> None:
    """With everything on it at once the page fits, and every text stands out enough."""
    page = viewer.show(Documents(document()).answer, width=width, scheme=scheme)
    assert not is_scrolling_sideways(page)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [found for found in contrasts if found[1] < NOT_READABLE] == []


@pytest.mark.parametrize("width", WIDTHS)
def test_long_hostile_texts_stay_in_their_places(viewer: Viewer, width: int) -> None:
    """Endless words of a client neither widen the page nor run."""
    text = "<script>alert(1)</script>" * 20
    found = with_text(document(), text) | {"health": document()["health"]}
    page = viewer.show(Documents(found).answer, width=width)
    assert not is_scrolling_sideways(page)
    assert page.locator("#page script").count() == 0


def test_of_nothing_there_is_a_page_too(viewer: Viewer) -> None:
    """A server that is down is shown as down."""
    page = viewer.show(Documents(of_nothing()).answer)
    assert page.locator("#word").inner_text() == "down"


def test_no_other_script_runs(browser: "Browser") -> None:
    """The browser itself refuses a script that somebody would have smuggled in."""
    viewer = Viewer(browser)
    page = viewer.show(Documents(document()).answer)
    page.evaluate(
        "() => { const script = document.createElement('script');"
        " script.textContent = 'ran = true'; document.body.append(script); }"
    )
    assert page.evaluate("typeof ran") == "undefined"
    viewer.close()
    assert "Content Security Policy" in viewer.complaints[0]

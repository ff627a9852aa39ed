"""A real browser, which looks at the status page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.real_parts import find_program, unavailable

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCHEMES = ("light", "dark")
# The smallest telephone and a usual screen.
WIDTHS = (360, 1600)
HEIGHT = 900
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# A browser says so itself when it cannot reach a server.
UNREACHABLE = "Failed to load resource: net::ERR_"

# Of every text that is shown: its contrast to what lies behind it, as WCAG 2 computes it. A
# canvas turns whatever colour the browser names into red, green, blue.
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((part) => part / 255)
      .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.nodeValue.trim();
    if (!text || !element.checkVisibility() || element.closest("script, .unseen")) continue;
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      layers.unshift(getComputedStyle(at).backgroundColor);
    }
    const behind = paint(["white", ...layers]);
    const front = paint(["white", ...layers, getComputedStyle(element).color]);
    const [low, high] = [luminance(behind), luminance(front)].sort((a, b) => a - b);
    found.push([text, (high + 0.05) / (low + 0.05)]);
  }
  return found;
}"""


@contextmanager
def chromium() -> "Iterator[Browser]":
    """Run Debian's Chromium without a window until the block ends."""
    path = find_program("chromium", "chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class Viewer:
    """Whoever opens pages, and hears what the browser has to say against them.

    Attributes:
        complaints: errors of scripts, and whatever was written on the console: violations of
            the Content-Security-Policy among others.
    """

    def __init__(self, browser: "Browser") -> None:
        self._browser = browser
        self.complaints: list[str] = []

    def new_page(self, width: int = WIDTHS[-1], scheme: Any = "light", **options: Any) -> "Page":
        """Return an empty page of that width."""
        viewport: Any = {"width": width, "height": HEIGHT}
        page = self._browser.new_page(viewport=viewport, color_scheme=scheme, **options)
        page.on("console", lambda message: self._note(message.text))
        page.on("pageerror", lambda error: self._note(str(error)))
        return page

    def open(self, url: str, **options: Any) -> "Page":
        """Return a page that shows `url`; `options` as for `new_page`."""
        page = self.new_page(**options)
        page.goto(url)
        return page

    def show(self, answer: "Callable[[str], Any]", **options: Any) -> "Page":
        """Return a page for which `answer` gives the answers to its requests, by their URL."""
        page = self.new_page(**options)

        def fulfil(route: Any) -> None:
            given = answer(route.request.url)
            route.fulfill(status=given.status, headers=dict(given.headers), body=given.body)

        page.route("**/*", fulfil)
        page.goto("http://status.test/")
        return page

    def close(self) -> None:
        """Close every page."""
        for context in self._browser.contexts:
            context.close()

    def _note(self, text: str) -> None:
        if not text.startswith(UNREACHABLE):
            self.complaints.append(text)


def is_scrolling_sideways(page: "Page") -> bool:
    """Tell whether the page is wider than its window."""
    root = "document.documentElement"
    return bool(page.evaluate(f"{root}.scrollWidth > {root}.clientWidth"))

"""Make the pictures of the status page: a real server under load, in a real browser.

`python -m scripts.page_pictures`, from the project root. It takes three minutes, so that there is
something in the lines.
"""

import random
import tempfile
import threading
from pathlib import Path

from scripts.clients import clients
from tests.browser import SCHEMES, Viewer, chromium
from tests.support import gunicorn_prom, request

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
WIDTH = 1400
SERVED_S = 180
CLIENTS = 10
OPTIONS = ("--workers=6", "--threads=2", "--worker-type=gthread", "--max-requests=1500")
# Most answers come soon, a report takes seconds, and now and then something breaks.
SHOP = """\
import random
import time


def app(environ, start_response):
    is_report = environ["PATH_INFO"].startswith("/reports")
    time.sleep(4 if is_report else random.expovariate(20))
    status = "500 Internal Server Error" if random.random() < 0.002 else "200 OK"
    start_response(status, [("Content-Length", "2")])
    return [b"ok"]
"""


def main() -> None:
    """Serve for a while, then photograph the page in both schemes; the lines want an open page."""

    def ask(client: int, is_over: threading.Event) -> None:
        is_over.wait(random.expovariate(20))
        orders = f"/orders/{random.randrange(1000)}"
        request(server.port, f"/reports/{client}" if random.random() < 0.002 else orders)

    with tempfile.TemporaryDirectory() as name:
        Path(name, "shop.py").write_text(SHOP)
        with (
            gunicorn_prom(Path(name), "shop:app", "--chdir", name, *OPTIONS) as server,
            clients(CLIENTS, ask),
            chromium() as browser,
        ):
            page = Viewer(browser).open(f"http://127.0.0.1:{server.metrics_port}/", width=WIDTH)
            page.wait_for_timeout(SERVED_S * 1000)
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=PICTURES / f"status-page-{scheme}.png", full_page=True)


if __name__ == "__main__":
    main()

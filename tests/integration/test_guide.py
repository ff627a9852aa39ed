"""The queries of the documentation, asked of a real Prometheus that scrapes a loaded server."""

import math
import re
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from tests.prometheus import query, running_prometheus
from tests.support import ROOT, Server, gunicorn_prom, wait_for

PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(r"^```promql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A query for what rightly never happens, in a block with this line.
MAY_BE_EMPTY = "# may be empty\n"
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text()))
]
# In docs/migrate: | `old query` | `new query` | ... |
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \|", re.MULTILINE)
QUERIES = re.compile(r"^\| old query \| new query \|.*\n(?:\|.*\n)+", re.MULTILINE)
ROWS = [
    pytest.param(*row, id=f"{page.stem}-{number}")
    for page in PAGES
    for table in QUERIES.findall(page.read_text())
    for number, row in enumerate(ROW.findall(table))
]
PATHS = ("/", "/users/7", "/users/7/posts/hello", "/users/7/posts/hello/broken", "/nowhere")
SCRAPES = 4

pytestmark = pytest.mark.real_parts


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Prometheus that has scraped a server under load several times; its port."""
    directory: Path = tmp_path_factory.mktemp("guide")
    options = ("--workers=2", "--threads=2", "--worker-type=gthread")
    with gunicorn_prom(directory, "routed_flask:app", *options) as server:
        server.wait_for_workers(2)
        is_over = threading.Event()
        load = threading.Thread(target=keep_asking, args=(server, is_over))
        load.start()
        try:
            with running_prometheus(directory, server.metrics_port) as port:
                expression = f"count_over_time(up[5m]) >= {SCRAPES}"
                wait_for(lambda: query(port, expression), f"{SCRAPES} scrapes")
                yield port
        finally:
            is_over.set()
            load.join()


def keep_asking(server: Server, is_over: threading.Event) -> None:
    for path in cycle(PATHS):
        if is_over.wait(0.01):
            return
        server.get(path, X_Request_Start=f"t={time.time() - 0.02:.3f}")


@pytest.mark.parametrize("block", BLOCKS)
def test_a_query_of_the_guide_answers(prometheus: int, block: str) -> None:
    """Prometheus understands it, and finds something."""
    values = query(prometheus, block).values()
    assert MAY_BE_EMPTY in block or not all(map(math.isnan, values))


@pytest.mark.parametrize(("old", "new"), ROWS)
def test_a_new_query_answers_in_place_of_an_old_one(prometheus: int, old: str, new: str) -> None:
    """Both are PromQL, and the new one finds something."""
    query(prometheus, old)
    assert not all(map(math.isnan, query(prometheus, new).values()))

"""What every Gunicorn has to show of a worker that times out: in what, and where.

The tests of integration/ and compat/ are made of this module.
"""

import contextlib
import re
import socket
from collections.abc import Iterator

from gunicorn_prom.autopsy import Autopsy, read_autopsies
from gunicorn_prom.state import servers
from tests.support import APPS, Server, wait_for

SECRET = "secret=hunter2"
SOURCE = (APPS / "stuck.py").read_text().splitlines()
TIMEOUTS = "gunicorn_worker_timeouts_total"


def line_of(mark: str) -> str:
    """Return how a stack shows the line of the application that has the comment `mark`."""
    number = next(n for n, line in enumerate(SOURCE, 1) if f"# {mark}" in line)
    return f'File "{APPS / "stuck.py"}", line {number} in '


@contextlib.contextmanager
def unanswered(server: Server, *targets: str) -> Iterator[list[socket.socket]]:
    """Have requests in progress that nobody waits for, each on a connection of its own."""
    with contextlib.ExitStack() as connections:
        opened = []
        for target in targets:
            client = socket.create_connection(("127.0.0.1", server.port), 10)
            connections.enter_context(client)
            opened.append(client)
            client.sendall(
                f"GET {target}?{SECRET} HTTP/1.1\r\nHost: test\r\nCookie: {SECRET}\r\n\r\n".encode()
            )
        yield opened


def autopsies_of(server: Server) -> list[Autopsy]:
    """Return what the server keeps of its autopsies."""
    return [one for path in servers(server.state_directory) for one in read_autopsies(path)]


def wait_for_autopsies(server: Server, *targets: str, count: int = 0) -> list[Autopsy]:
    """Let workers time out in these requests; return their autopsies by the order of `targets`."""
    with unanswered(server, *targets):
        found: list[Autopsy] = wait_for(
            lambda: len(autopsies_of(server)) >= (count or len(targets)) and autopsies_of(server),
            "the autopsies",
        )
    return sorted(found, key=lambda one: targets.index(one.requests[0].path))


def our_records(server: Server) -> list[str]:
    """Return what we have logged, each record with all its lines."""
    records = re.split(r"^(?=\[\d{4}-)", server.log, flags=re.MULTILINE)
    return [record for record in records if "] gunicorn-prom: " in record]


def assert_discreet(server: Server) -> None:
    """Nothing that a client has sent beside method and path is in our log or our state."""
    for text in (*our_records(server), *map(str, autopsies_of(server))):
        assert "hunter2" not in text


def assert_tells_greenlets_apart(server: Server) -> None:
    """Let a worker of greenlets time out, and see that each of them is in its autopsy."""
    waiting = ["/linger/1", "/linger/2", "/linger/3"]
    with unanswered(server, *waiting):
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_http_requests_in_progress") == 3, "three requests"
        )
        with unanswered(server, "/spin/4"):
            (autopsy,) = wait_for(lambda: autopsies_of(server), "the autopsy")
    current, *others = autopsy.stacks.split("\n\n")
    assert line_of("spinning") in current
    assert sum(line_of("lingering") in block for block in others) == 1
    assert "3 greenlets in " in autopsy.stacks
    assert sorted(one.path for one in autopsy.requests) == [*waiting, "/spin/4"]
    assert autopsy.route == "/spin/<rest>"
    assert_discreet(server)

"""What the ASGI workers have to show: that the counts are what clients saw.

The tests of integration/ and compat/ are made of this module.
"""

import contextlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import gunicorn

from tests.exactness import ANNOUNCED, BODY, CHUNKED, CONNECTIONS, KEEP_ALIVE, assert_exact
from tests.support import Metrics, Server, gunicorn_prom
from tests.traffic import Exchange, Shot, send, shuffled

GUNICORN = gunicorn.version_info
CLASSES = {
    "asgi": "gunicorn.workers.gasgi.ASGIWorker",
    "uvicorn": "uvicorn_worker.UvicornWorker",
}
CLOSE = ("Connection: close",)

# With 1.0 where Gunicorn 25 sends a body to an answer that has none.
ANSWERED = [
    Shot(),
    Shot(version="1.0"),
    Shot(version="1.0", headers=("Connection: keep-alive",)),
    Shot(headers=CLOSE),
    Shot("HEAD", version="1.0"),
    Shot("HEAD", "/stream", version="1.0"),
    Shot("OPTIONS"),
    Shot("PROPFIND", "/stream"),
    Shot(path="/stream"),
    Shot(path="/stream", version="1.0"),
    Shot(path="/status/204", version="1.0"),
    Shot("DELETE", "/status/304", version="1.0"),
    Shot("PUT", "/status/503"),
    Shot(path="/nowhere"),
    Shot("POST", "/echo", body=BODY),
    Shot("PATCH", "/echo", body=BODY, version="1.0"),
    Shot("POST", "/echo", raw=CHUNKED + b"3\r\nabc\r\n0\r\n\r\n"),
    Shot("POST", "/unread", body=BODY, headers=CLOSE),
    Shot(path="/empty"),
    Shot(path="/again", headers=CLOSE),
    Shot(path="/big"),
]

# What the servers make of it differs; the clients see it.
FAILED = [
    Shot(path="/silent", headers=CLOSE),
    Shot(path="/unfinished", headers=CLOSE),
    Shot(path="/headless", headers=CLOSE),
    *(
        Shot(path=f"/{name}/ZeroDivisionError", raises="ZeroDivisionError", headers=CLOSE)
        for name in ("fail", "fail-late", "fail-between", "fail-behind")
    ),
    *(
        Shot(path=f"/{name}/ConnectionResetError", raises="ConnectionResetError", headers=CLOSE)
        for name in ("fail", "fail-late")
    ),
    *(
        Shot(path=f"/{name}/CancelledError", headers=CLOSE)
        for name in ("fail", "fail-late", "fail-between", "fail-behind")
    ),
]

LEFT = [
    Shot(path="/big", hangs_up="reading"),
    Shot("POST", raw=CHUNKED + b"3\r\nab", hangs_up="asking"),
    Shot("POST", raw=ANNOUNCED + b"ab", hangs_up="asking"),
]
# Gunicorn 25 tells an application that has read the body that its client has gone.
OUTLASTED = Shot(path="/outlast", hangs_up="reading")

OWN_WORKER = "from {module} import {name}\nclass OwnWorker({name}):\n    pass\n"


def mix(worker_type: str) -> list[Shot]:
    """Return requests of every kind, as the worker type takes them."""
    if worker_type == "asgi":
        errors = {b"GARBAGE\r\n\r\n": "InvalidRequestLine"}
    elif find_spec("httptools") is None:
        errors = {b"GARBAGE\r\n\r\n": "RemoteProtocolError"}
    else:
        errors = {b"GARBAGE\r\n\r\n": "HttpParserInvalidMethodError"}
    refused = [Shot(raw=raw, parse_error=error) for raw, error in errors.items()]
    left = LEFT if worker_type == "asgi" and GUNICORN < (26,) else [*LEFT, OUTLASTED]
    return [*ANSWERED, *FAILED, *left, *refused]


def options(worker_type: str, workers: int = 2) -> list[str]:
    """Return how the tests run that type."""
    return [f"--worker-type={worker_type}", f"--workers={workers}", KEEP_ALIVE]


class Traffic:
    """A server that several tests ask, and everything that its clients saw so far."""

    def __init__(self, server: Server, worker_type: str) -> None:
        self.server, self.worker_type = server, worker_type
        self._exchanges: list[Exchange] = []

    def send(self, shots: Iterable[Shot], connections: int = 1) -> list[Exchange]:
        """Send requests; what came of them is to be counted."""
        exchanges = send(self.server.port, shots, connections=connections)
        self._exchanges += exchanges
        return exchanges

    def assert_exact(self) -> Metrics:
        """Fail unless the metrics say exactly what the clients saw; return them."""
        return assert_exact(self.server, self._exchanges)


@contextlib.contextmanager
def traffic(directory: Path, worker_type: str, *arguments: str) -> Iterator[Traffic]:
    """Run the application that does everything until the block ends."""
    with gunicorn_prom(directory, "asgi_mix:app", *options(worker_type), *arguments) as server:
        yield Traffic(server, worker_type)


def own_worker(directory: Path, worker_type: str) -> str:
    """Write a worker class of the user's own; return its dotted name."""
    module, _, name = CLASSES[worker_type].rpartition(".")
    (directory / "own_worker.py").write_text(OWN_WORKER.format(module=module, name=name))
    return "own_worker.OwnWorker"


class Mix:
    """The application that answers and fails in every way; `asked` is a fixture."""

    def test_is_counted_as_the_clients_saw_it(self, asked: Traffic) -> None:
        """600 mixed requests over 8 connections: every family says what the clients saw."""
        exchanges = asked.send(shuffled(mix(asked.worker_type), 600), CONNECTIONS)
        assert {exchange.status for exchange in exchanges} >= {"200", "201", "304", "400", "500"}
        metrics = asked.assert_exact()
        total = metrics.total("gunicorn_http_requests_total")
        assert metrics.total("gunicorn_worker_requests_total") == total

    def test_background_tasks(self, asked: Traffic) -> None:
        """What the application does behind its answer is no part of the request."""
        asked.send([Shot(path="/background/behind", headers=("Connection: keep-alive",))])
        try:
            # Nothing is in progress any more, though the application still waits.
            asked.assert_exact()
        finally:
            asked.server.open_gate("behind")

    def test_lifespan(self, asked: Traffic) -> None:
        """What lifespan has stored reaches requests; its channels are the server's own."""
        module = "gunicorn.asgi.lifespan" if asked.worker_type == "asgi" else "uvicorn.lifespan.on"
        (exchange,) = asked.send([Shot(path="/state", headers=CLOSE)])
        assert exchange.raw.endswith(f"{module} {module}".encode())

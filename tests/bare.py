"""The same set-up under bare Gunicorn and under ours, and that nothing of it differs.

    case = Case("a hook", ("simple:app",), {"gunicorn.conf.py": "def when_ready(server): ..."})
    assert_as_bare(tmp_path, case)

Both servers run at the same time, each in a directory of its own with the case's files in it.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.support import (
    GUNICORN,
    OWN_OPTIONS,
    POLL_S,
    BareServer,
    Metrics,
    Server,
    running,
)
from tests.traffic import Client, Exchange, Shot

# What users start. `python -m` would have the directory on the import path from the beginning.
GUNICORN_PROM = str(Path(sys.executable).with_name("gunicorn-prom"))
OPTIONS = ("--graceful-timeout=3",)
DATE = re.compile(rb"^date:[^\r]*\r\n", re.IGNORECASE | re.MULTILINE)

SIMPLE = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
SIMPLE_ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})
"""
# The end of a server that refuses comes within this, an answer of one that serves as well.
PATIENCE_S = 20.0
# For how long a count or an end may follow the last answer.
SETTLING_S = 10.0


def send(port: int, shots: Sequence[Shot]) -> list[Exchange]:
    """Send the requests over one connection as far as the server keeps it."""
    with Client(port, timeout_s=PATIENCE_S) as client:
        return [client.exchange(shot) for shot in shots]


Send = Callable[[int, Sequence[Shot]], Sequence[Exchange]]
Talk = Callable[[int], object]


@dataclass(frozen=True)
class Case:
    """A set-up that bare Gunicorn serves, or refuses.

    Attributes:
        arguments: of the command, see `Server` for what stands for its ports.
        files: by their path in the directory of the server.
        environ: beside what the tests have.
        prefix: a command that becomes the server.
        prepare: puts into the directory what is no file with text.
        shots: what is asked, with one answer each. The first is sent again until somebody listens.
        send: sends the shots, where that is not plain HTTP.
        talk: what else is said, and what has come of it.
        counted: how many requests are to be counted, None: as many as were answered.
        is_counted: False for workers of which nobody knows how they serve.
        may_fail: whether something of ours may fail by what the set-up does to it.
        refuses: the exit code with which bare Gunicorn ends instead, None: it serves.
        ours: ours, where our contract has another one for it.
        ends: the exit code after SIGTERM.
        program: what is started instead of `gunicorn`, and under ours with our hooks.
    """

    name: str
    arguments: tuple[str, ...] = ("simple:app",)
    files: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    prepare: Callable[[Path], object] | None = None
    shots: tuple[Shot, ...] = (Shot(path="/"), Shot(path="/"))
    send: Send = send
    talk: Talk | None = None
    counted: int | None = None
    is_counted: bool = True
    may_fail: bool = False
    refuses: int | None = None
    ours: int | None = None
    ends: int = 0
    program: tuple[str, ...] = ()


@dataclass
class Outcome:
    """What has come of a case in one server so far.

    Attributes:
        refused: the exit code of a server that has ended without an answer.
        answers: one for each shot, without its date.
        said: what `talk` returned.
        answered: how many shots have got an answer.
    """

    refused: int | None = None
    answers: list[object] = field(default_factory=list)
    said: object = None
    answered: int = 0


def assert_as_bare(directory: Path, case: Case) -> None:
    """Fail unless ours serves or refuses as bare Gunicorn does, with the same exit code.

    Where both serve, the answers must be the same, byte by byte, each request be counted, and
    nothing of ours have failed.
    """
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        servers = [
            stack.enter_context(running(make(directory, case), start=False))
            for make in (_bare, _ours)
        ]
        bare, ours = pool.map(partial(_ask, case), servers)
        assert bare.refused == case.refuses, "bare Gunicorn does otherwise"
        expected = case.refuses if case.ours is None else case.ours
        assert (ours.refused, ours.answers, ours.said) == (expected, bare.answers, bare.said)
        if case.refuses is None:
            counted = ours.answered if case.counted is None else case.counted
            _assert_metrics(servers[1], counted if case.is_counted else None, case.may_fail)
            ends = list(pool.map(_end, servers))
            assert ends[0] == case.ends, "bare Gunicorn does otherwise"
            assert ends[1] == case.ends


def _bare(directory: Path, case: Case) -> Server:
    program = case.program or (GUNICORN, OWN_OPTIONS[0], *OPTIONS)
    return _server(directory / "bare", case, BareServer, program)


def _ours(directory: Path, case: Case) -> Server:
    program = case.program or (GUNICORN_PROM, "run", *OWN_OPTIONS, *OPTIONS)
    server = _server(directory / "ours", case, Server, program)
    if case.program:
        server._environ |= {
            "GUNICORN_PROM_METRICS_BIND": f"127.0.0.1:{server.metrics_port}",
            "GUNICORN_PROM_METRICS_STATE_DIR": str(server.state_directory),
        }
    return server


def _server(directory: Path, case: Case, kind: type[Server], program: Sequence[str]) -> Server:
    for name, text in {"simple.py": SIMPLE, "simple_asgi.py": SIMPLE_ASGI, **case.files}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if case.prepare is not None:
        case.prepare(directory)
    # Flask lists methods in the order of a set.
    environ = {"PYTHONHASHSEED": "0", **case.environ}
    return kind(directory, [*case.prefix, *program, *case.arguments], environ)


def _ask(case: Case, server: Server) -> Outcome:
    """Start a server, and ask it everything if it does not end."""
    server.launch()
    outcome = Outcome()
    first = _first(case, server)
    if isinstance(first, int):
        outcome.refused = first
        return outcome
    try:
        exchanges = [*first, *case.send(server.port, case.shots[1:])]
        if case.talk is not None:
            outcome.said = case.talk(server.port)
    except OSError as error:  # the end of the server, or of our patience
        raise AssertionError(f"{server.directory.name}: {error!r}") from error
    outcome.answers = [_comparable(exchange, server.directory) for exchange in exchanges]
    outcome.answered = sum(bool(exchange.status) for exchange in exchanges)
    return outcome


def _first(case: Case, server: Server) -> Sequence[Exchange] | int:
    """Return what came of the first shot, or the exit code of the server."""
    assert server.process is not None
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        ended = server.process.poll()
        if ended is not None:
            return ended
        try:
            exchanges = case.send(server.port, case.shots[:1])
        except ConnectionRefusedError:
            time.sleep(POLL_S)
            continue
        except TimeoutError as error:
            raise AssertionError(f"{server.directory.name}: no answer") from error
        if exchanges[0].status:
            return exchanges
        # The master has listened, and no worker has come; or this one has failed.
        try:
            return server.process.wait(SETTLING_S)
        except subprocess.TimeoutExpired:
            return exchanges
    raise AssertionError(f"{server.directory.name}: it neither listens nor ends")


def _comparable(exchange: Exchange, directory: Path) -> object:
    """Return what came of a shot without the time, and the server's directory in a traceback."""
    headers = {k: v for k, v in getattr(exchange, "headers", {}).items() if k != "date"}
    # Both directories are as long as each other, and so are the answers.
    raw = DATE.sub(b"", exchange.raw).replace(str(directory).encode(), b"")
    return exchange.status, exchange.is_whole, headers, raw


def _assert_metrics(server: Server, count: int | None, may_fail: bool) -> None:
    if count is not None:
        server.wait_for_metrics(
            lambda m: m.total("gunicorn_http_requests_total") >= count,
            f"{count} requests",
            SETTLING_S,
        )
    metrics: Metrics = server.scrape()
    if count is not None:
        assert metrics.total("gunicorn_http_requests_total") == count
    failed = [found for found in metrics.all("gunicorn_prom_errors_total") if found[1]]
    assert may_fail or failed == []


def _end(server: Server) -> int:
    assert server.process is not None
    os.kill(server.pid, signal.SIGTERM)
    return server.process.wait(SETTLING_S)


def module(name: str, source: str, **kwargs: Any) -> Case:
    """Return a case of which the application is that module."""
    return Case(name, ("own:app", *kwargs.pop("arguments", ())), {"own.py": source}, **kwargs)


def configured(name: str, source: str, *arguments: str, **kwargs: Any) -> Case:
    """Return a case with that configuration file."""
    files = {"gunicorn.conf.py": source, **kwargs.pop("files", {})}
    return Case(name, (*arguments, kwargs.pop("app", "simple:app")), files, **kwargs)


def worker(name: str, base: str, source: str, *arguments: str, **kwargs: Any) -> Case:
    """Return a case with a worker class of the user's own.

    Args:
        base: Gunicorn's class, dotted; `Base` in the source.
        source: of the class, `Own`.
    """
    module_name, _, class_name = base.rpartition(".")
    files = {"own_worker.py": f"from {module_name} import {class_name} as Base\n{source}"}
    files |= kwargs.pop("files", {})
    app = kwargs.pop("app", "simple:app")
    return Case(name, ("-k", "own_worker.Own", *arguments, app), files, **kwargs)

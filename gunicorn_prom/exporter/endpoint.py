"""What the metrics server answers under which path."""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import PlatformCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from gunicorn_prom.exporter.collector import LabelledCollector, Reads, ServerCollector
from gunicorn_prom.exporter.health import liveness_problem, readiness_problem
from gunicorn_prom.exporter.message import Answer, Request, refusal
from gunicorn_prom.exporter.status import Status
from gunicorn_prom.metrics import WEBSOCKETS, WEBSOCKETS_TOTAL
from gunicorn_prom.reader import ServerReading

__all__ = ["Endpoint"]

# Level 9 takes five times as long and saves a tenth of the bytes.
GZIP_LEVEL = 1
GZIP_FORMAT = 16 + zlib.MAX_WBITS

UNCACHED_JSON = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class Endpoint:
    """Answer requests about a server, or about several.

    Args:
        readers: of each server, by the value of the label `server` that tells it apart;
            "" for the only one.
        path: where the metrics are.
    """

    def __init__(self, readers: Mapping[str, Reads], path: str, log: Any) -> None:
        self._readers = readers
        self._path = path
        servers = {name: ServerCollector(reader, log) for name, reader in readers.items()}
        self._servers = servers
        self._statuses = {
            name: Status(name, reader, servers[name], tuple(readers))
            for name, reader in readers.items()
        }
        collector = servers.get("") or LabelledCollector(servers)
        self._collectors = (collector, PlatformCollector(registry=None))

    def count_error(self, place: str) -> None:
        """Count a failure of the metrics server in one of scoreboard.ERROR_PLACES."""
        for server in self._servers.values():
            server.count_error(place)

    def watch(self) -> float:
        """Look after what may come and go between two scrapes.

        Returns after how many seconds it wants to be called again.
        """
        for status in self._statuses.values():
            status.watch()
        return min(server.watch() for server in self._servers.values())

    def dump_history(self) -> bytes:
        """Return the last minutes of the only server, for the `load_history` of another one."""
        return self._statuses[""].history.dump()

    def load_history(self, dumped: bytes) -> None:
        """Go on from the last minutes as another metrics server has seen them.

        Raises:
            ValueError, TypeError, EOFError: it is not what `dump_history` returns.
        """
        self._statuses[""].history.load(dumped)

    def respond(self, request: Request) -> Answer:
        """Answer a GET or HEAD request."""
        if request.path == self._path:
            if not self._is_anything_there():
                return Answer(503, b"no server to show, the log says why\n")
            return self._metrics(parse_qs(request.query).get("name[]", []), request.headers)
        if request.path in ("/", "/status.json"):
            return self._status(request)
        if request.path == "/-/healthy":
            return self._health(liveness_problem, "healthy")
        if request.path == "/-/ready":
            return self._health(readiness_problem, "ready")
        return refusal(404)

    def _status(self, request: Request) -> Answer:
        """Answer with the state of the server that is asked for, by default the first."""
        query = parse_qs(request.query)
        name = query.get("server", list(self._statuses))[0]
        if name not in self._statuses:
            return Answer(404, b"no server of that name\n")
        try:
            return self._show(self._statuses[name], request, is_fragment="fragment" in query)
        except Exception as error:
            # A page that is open asks every two seconds; the log has the first failure only.
            self._servers[name].report("collector", error)
            return refusal(500)

    def _show(self, status: Status, request: Request, *, is_fragment: bool) -> Answer:
        document = status.document(self._problems(_problem))
        if request.path == "/status.json":
            return Answer(200, f"{json.dumps(document)}\n".encode(), UNCACHED_JSON)
        # Most masters are never looked at by a person.
        from gunicorn_prom.exporter.page import answer

        host = request.headers.get("HOST", "")
        page = answer.show(document, self._path, host, is_fragment=is_fragment)
        return _compress(page, request.headers)

    def _is_anything_there(self) -> bool:
        # A server that is looked at by its own metrics server is. Of several that are
        # looked at from beside, each has its gauge instead.
        only = self._readers.get("")
        return only is None or bool(only.own) or bool(only.read().masters)

    def _problems(self, find_problem: Callable[[ServerReading], str]) -> dict[str, str]:
        """Return what is wrong, by the name of each server where something is."""
        found = {name: find_problem(reader.read()) for name, reader in self._readers.items()}
        return {name: problem for name, problem in found.items() if problem}

    def _health(self, find_problem: Callable[[ServerReading], str], good: str) -> Answer:
        problems = [
            f"{name}: {problem}" if name else problem
            for name, problem in self._problems(find_problem).items()
        ]
        if problems:
            return Answer(503, f"{'; '.join(problems)}\n".encode())
        return Answer(200, f"{good}\n".encode())

    def _metrics(self, names: list[str], headers: dict[str, str]) -> Answer:
        encode, content_type = _negotiate(headers.get("ACCEPT", ""))
        # All that an encoder asks of a registry is its families.
        families = _Families(self._collectors, frozenset(names))
        is_openmetrics = content_type.startswith("application/openmetrics-text")
        body = encode(_WithoutClash(families) if is_openmetrics else families)
        answer_headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        return _compress(Answer(200, body, answer_headers), headers)


def _negotiate(accept: str) -> tuple[Callable[..., bytes], str]:
    """Return the encoder, and the type of what it makes, of an Accept header.

    Text 0.0.4 where nothing in it is understood: prometheus_client raises on a version or a
    weight that is no number.
    """
    try:
        return choose_encoder(accept)
    except Exception:
        return choose_encoder(",".join(filter(_is_understood, accept.split(","))))


def _is_understood(item: str) -> bool:
    try:
        choose_encoder(item)
    except Exception:
        return False
    return True


def _problem(server: ServerReading) -> str:
    """Say why a server does not live or is not ready, "" when neither is so."""
    return liveness_problem(server) or readiness_problem(server)


def _compress(answer: Answer, headers: dict[str, str]) -> Answer:
    """Return the answer compressed when the request asks for that."""
    if not accepts_gzip(headers.get("ACCEPT-ENCODING", "")):
        return answer
    body = zlib.compress(answer.body, GZIP_LEVEL, wbits=GZIP_FORMAT)
    return Answer(answer.status, body, {**answer.headers, "Content-Encoding": "gzip"})


class _Families:
    """The families of all collectors, or only the samples of the names that are wanted."""

    def __init__(self, collectors: Iterable[Any], names: frozenset[str]) -> None:
        self._collectors = collectors
        self._names = names

    def collect(self) -> Iterator[Metric]:
        for collector in self._collectors:
            for metric in collector.collect():
                if self._names:
                    metric = copy(metric)  # noqa: PLW2901  # some collectors keep theirs
                    metric.samples = [s for s in metric.samples if s.name in self._names]
                if metric.samples or not self._names:
                    yield metric


class _WithoutClash:
    """The families as OpenMetrics can have them.

    There a counter is called without its `_total`, and so would be the gauge of the same
    connections. The counter keeps the name of its sample, and is said to be of no type.
    """

    def __init__(self, families: _Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for metric in self._families.collect():
            if metric.type == "counter" and metric.name == WEBSOCKETS.name:
                untyped = Metric(WEBSOCKETS_TOTAL.name, metric.documentation, "unknown")
                untyped.samples = metric.samples
                yield untyped
            else:
                yield metric


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether gzip is asked for and not refused by `q=0`.

    Source: RFC 9110, section 12.5.3.
    """
    weights = {}
    for item in accept_encoding.lower().split(","):
        coding, _, parameters = item.partition(";")
        match = re.fullmatch(r"\s*q=([0-9.]+)\s*", parameters)
        try:
            weights[coding.strip()] = float(match[1]) if match else 1.0
        except ValueError:
            weights[coding.strip()] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0

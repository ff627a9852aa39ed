"""What the metrics server answers under which path."""

import re
import zlib
from typing import Any
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from gunicorn_prom.exporter.collector import ScoreboardCollector
from gunicorn_prom.exporter.health import liveness_problem, readiness_problem
from gunicorn_prom.exporter.message import Answer, Request, refusal
from gunicorn_prom.scoreboard import Board

__all__ = ["Endpoint"]

# Level 9 takes five times as long and saves a tenth of the bytes.
GZIP_LEVEL = 1
GZIP_FORMAT = 16 + zlib.MAX_WBITS


class Endpoint:
    """Answer requests out of one scoreboard.

    Args:
        path: where the metrics are.
    """

    def __init__(self, board: Board, path: str, log: Any) -> None:
        self._board = board
        self._path = path
        self._registry = CollectorRegistry(support_collectors_without_names=True)
        self._registry.register(ScoreboardCollector(board, log))
        ProcessCollector(pid=lambda: board.meta["pid"], registry=self._registry)
        PlatformCollector(registry=self._registry)

    def respond(self, request: Request) -> Answer:
        """Answer a GET or HEAD request."""
        if request.path == self._path:
            return self._metrics(parse_qs(request.query).get("name[]", []), request.headers)
        if request.path == "/-/healthy":
            return _health(liveness_problem(self._board.read()), "healthy")
        if request.path == "/-/ready":
            return _health(readiness_problem(self._board.read()), "ready")
        return refusal(404)

    def _metrics(self, names: list[str], headers: dict[str, str]) -> Answer:
        encode, content_type = choose_encoder(headers.get("ACCEPT", ""))
        registry: Any = self._registry
        if names:
            registry = registry.restricted_registry(names)
        body = encode(registry)
        answer_headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if accepts_gzip(headers.get("ACCEPT-ENCODING", "")):
            body = zlib.compress(body, GZIP_LEVEL, wbits=GZIP_FORMAT)
            answer_headers["Content-Encoding"] = "gzip"
        return Answer(200, body, answer_headers)


def _health(problem: str, good: str) -> Answer:
    if problem:
        return Answer(503, f"{problem}\n".encode())
    return Answer(200, f"{good}\n".encode())


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

"""The application under every contender: a small fixed body, and the worker's pid."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

_BODY = b"Hello, world!\n"
_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(_BODY)))]


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer `/pid` with the pid of the worker, everything else with a greeting."""
    if environ["PATH_INFO"] == "/pid":
        body = str(os.getpid()).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    start_response("200 OK", _HEADERS)
    return [_BODY]

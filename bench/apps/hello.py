"""The application under every contender: a small fixed body, and the worker's pid."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

_BODY = b"Hello, world!\n"
_TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(_BODY)))]


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer `/pid` with the pid of the worker, everything else with a greeting."""
    if environ["PATH_INFO"] == "/pid":
        body = str(os.getpid()).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    start_response("200 OK", _HEADERS)
    return [_BODY]


def told_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer as `app` does, with all told that a request can tell of itself."""
    environ["gunicorn_prom.route"] = "/"
    environ["HTTP_TRACEPARENT"] = _TRACEPARENT
    return app(environ, start_response)


async def asgi_app(scope: dict[str, Any], receive: Callable[..., Any], send: Any) -> None:
    """Answer as `app` does."""
    if scope["type"] != "http":
        raise RuntimeError("there is no lifespan and no WebSocket here")
    body = str(os.getpid()).encode() if scope["path"] == "/pid" else _BODY
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def asgi_told_app(scope: dict[str, Any], receive: Callable[..., Any], send: Any) -> None:
    """Answer as `told_app` does."""
    if scope["type"] == "http":
        scope["gunicorn_prom.route"] = "/"
        told = [(b"traceparent", _TRACEPARENT.encode())]
        scope["headers"] = [*scope["headers"], *told]
    await asgi_app(scope, receive, send)

"""The application of `fast` with prometheus-fastapi-instrumentator, as its documentation has it."""

from __future__ import annotations

from fast import app
from prometheus_fastapi_instrumentator import Instrumentator

__all__ = ["app"]

Instrumentator().instrument(app).expose(app)

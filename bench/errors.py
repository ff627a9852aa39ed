"""The one exception the command line turns into an error message."""

from __future__ import annotations

__all__ = ["BenchError"]


class BenchError(Exception):
    """A comparison cannot be made: a server or a tool does not do its part."""

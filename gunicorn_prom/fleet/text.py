"""Parts of texts that several kinds have in common."""

import json
import textwrap
from collections.abc import Iterable

__all__ = ["commented", "exact", "head", "indented", "items", "quoted"]


def head(kind: str, *sentences: str) -> str:
    """Return the comment with which a file begins."""
    return commented("\n".join([f"Made by `gunicorn-prom emit {kind}`.", *sentences])) + "\n"


def commented(text: str) -> str:
    """Return lines as comments, with what they are indented by before the sign."""
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())


def indented(text: str, spaces: int) -> str:
    """Return lines further to the right."""
    return textwrap.indent(text, " " * spaces)


def quoted(text: str) -> str:
    """Return a string as YAML and JSON both read it."""
    return json.dumps(text, ensure_ascii=False)


def items(texts: Iterable[str]) -> str:
    """Return a list of strings in YAML, one a line."""
    return "".join(f"- {quoted(text)}\n" for text in texts)


def exact(number: float) -> str:
    """Return a number with as many digits as it was given: of 99.99999 each counts."""
    return f"{number:.15g}"

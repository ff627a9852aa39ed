"""Parts of texts that several kinds have in common."""

import json
import re
import textwrap
from collections.abc import Iterable

from gunicorn_prom.errors import UsageError

__all__ = ["commented", "exact", "head", "indented", "items", "one_line", "quoted"]

# All of ASCII but the tab.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What JSON leaves as it is, and YAML takes for none of its characters, or for the end of a line.
NOT_IN_YAML = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff]")


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
    text = json.dumps(text, ensure_ascii=False)
    return NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """Return a text that can stand in a line as it is.

    Raises:
        UsageError: it cannot.
    """
    if CONTROL_CHARACTERS.search(text):
        raise UsageError(
            f"{text!r} cannot be written into the file, for it has a control character",
            "leave that out, or say it in the configuration file",
        )
    return text


def items(texts: Iterable[str]) -> str:
    """Return a list of strings in YAML, one a line."""
    return "".join(f"- {quoted(text)}\n" for text in texts)


def exact(number: float) -> str:
    """Return a number with as many digits as it was given: of 99.99999 each counts."""
    return f"{number:.15g}"

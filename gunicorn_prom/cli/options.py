"""The options of the commands that take those of `run` besides their own."""

import argparse
from collections.abc import Iterable
from typing import Any, NoReturn

from gunicorn_prom.errors import UsageError

__all__ = ["Declared", "names_of", "split"]

# The names of an option and what argparse's `add_argument` takes for it.
Declared = tuple[tuple[str, ...], dict[str, Any]]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see `{self.prog} --help`")


def split(
    command: str, options: Iterable[Declared], arguments: list[str]
) -> tuple[argparse.Namespace, list[str]]:
    """Return the values of a command's own options, `help` among them, and all other arguments.

    Raises:
        UsageError: one has a value that it cannot have.
    """
    parser = _Parser(prog=f"gunicorn-prom {command}", allow_abbrev=False, add_help=False)
    parser.add_argument("-h", "--help", action="store_true")
    for names, declared in options:
        parser.add_argument(*names, **declared)
    return parser.parse_known_args(arguments)


def names_of(options: Iterable[Declared]) -> list[str]:
    """Return all names of the options."""
    return [name for names, _ in options for name in names]

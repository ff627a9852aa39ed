"""What can go wrong on the user's side, and the one place that says so."""

import sys
from typing import NoReturn

__all__ = [
    "BindError",
    "GunicornPromError",
    "InvalidSettingError",
    "StateError",
    "UsageError",
    "fail",
]


class GunicornPromError(RuntimeError):
    """Tell the user what is wrong in one sentence, and what to do about it.

    A `RuntimeError`, because that is what plain Gunicorn prints as one line
    instead of a traceback when a hook raises it at start.

    Attributes:
        exit_code: what the process ends with, see the contract in the README.
        hint: the remedy, or "".
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(GunicornPromError):
    """The command line asks for something that cannot be had."""

    exit_code = 2


class InvalidSettingError(UsageError):
    """A setting has a value it cannot have, wherever it was given."""


class BindError(GunicornPromError):
    """The metrics server cannot have its address."""


class StateError(GunicornPromError):
    """The state directory cannot be used."""


def fail(error: GunicornPromError) -> NoReturn:
    """Print `error` on stderr and end the process with its exit code.

    Raises:
        SystemExit: always.
    """
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    raise SystemExit(error.exit_code)

"""What can go wrong on the user's side, and the one place that says so."""

import os
import sys
import traceback
from typing import NoReturn

from gunicorn_prom.masking import hide_credentials

__all__ = [
    "AppLoadError",
    "BindError",
    "GunicornPromError",
    "InvalidSettingError",
    "StartError",
    "StateError",
    "UsageError",
    "fail",
    "is_users",
    "place",
    "users_traceback",
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


class AppLoadError(GunicornPromError):
    """The application that the master is to load does not load."""

    exit_code = 4


class BindError(GunicornPromError):
    """The metrics server cannot have its address."""


class StartError(GunicornPromError):
    """Gunicorn does not start."""

    @classmethod
    def of(cls, error: Exception, hint: str) -> "StartError":
        """Return what to say of `error`; what of it is the user's code goes to stderr."""
        frames = traceback.extract_tb(error.__traceback__)
        if any(is_users(frame.filename) for frame in frames):
            print(users_traceback(error), file=sys.stderr)
        said = " ".join("".join(traceback.format_exception_only(error)).split())
        return cls(f"Gunicorn does not start: {hide_credentials(said)}", hint)


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


def place(error: BaseException) -> str:
    """Return where and how the user's code has failed: `FILE:LINE: CLASS: MESSAGE`.

    The place is the innermost that lies in no library.
    """
    said = hide_credentials(traceback.format_exception_only(error)[-1].strip())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {said}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if is_users(frame.filename)]
    return f"{users[-1].filename}:{users[-1].lineno}: {said}" if users else said


def users_traceback(error: BaseException) -> str:
    """Return the traceback of an error, and of those that led to it, from the user's code on."""
    shown = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = shown
    while link is not None:
        users = [number for number, frame in enumerate(link.stack) if is_users(frame.filename)]
        link.stack[:] = link.stack[users[0] :] if users else []
        link = link.__cause__ or link.__context__
    return hide_credentials("".join(shown.format()).rstrip())


def is_users(filename: str) -> bool:
    """Tell whether code in this file is the user's, and not a library's."""
    libraries = ("/site-packages/", "/dist-packages/", "/lib/python3.", "<frozen ")
    is_ours = filename.startswith(os.path.dirname(__file__))
    return not is_ours and not any(part in filename for part in libraries)

"""What goes to stdout, whoever reads it: a terminal, a file, or nobody any more."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from gunicorn_prom.errors import GunicornPromError, fail

__all__ = ["end", "is_unicode_shown", "print_and_end", "written"]


def end(code: int) -> NoReturn:
    """End the process, also where the configuration file has left a thread that goes on.

    Raises:
        SystemExit: else.
    """
    if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
        sys.exit(code)
    atexit._run_exitfuncs()
    os._exit(code)


def print_and_end(command: Callable[[list[str]], None], arguments: list[str]) -> NoReturn:
    """Run a command that prints something, and end the process.

    Raises:
        SystemExit: always, with the exit code of the contract.
    """
    try:
        with written():
            command(arguments)
    except GunicornPromError as error:
        fail(error)
    end(0)


def is_unicode_shown() -> bool:
    """Tell whether what reads stdout knows more characters than those of ASCII."""
    # In the C locale Python writes UTF-8 all the same, and sets LC_CTYPE to say so.
    locale = os.environ.get("LC_ALL") or os.environ.get("LANG") or ""
    return "utf" in locale.lower() and "utf" in sys.stdout.encoding.lower()


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Write out what the block prints.

    A reader that has gone, as `head` does, ends the block and is no error.

    Raises:
        GunicornPromError: it cannot be written, for the disk is full or the like.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _forget()
    except OSError as error:
        _forget()
        raise GunicornPromError(f"cannot write to stdout: {error.strerror}") from error


def _forget() -> None:
    # What is left in the buffer would fail again when the interpreter ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

"""Reading a configuration without serving it."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from gunicorn_prom.app_directory import announce, withdraw
from gunicorn_prom.configuration import Configuration

__all__ = ["ReadConfiguration"]


class ReadConfiguration(Configuration):
    """A configuration that is only looked at.

    Its file finds in the environment what `run` sets, and what it prints goes to stderr: it
    is none of our data.
    """

    def load_config(self) -> None:
        """Gather the settings.

        Raises:
            GunicornPromError: something in them is invalid.
        """
        announce()
        try:
            super().load_config()
        finally:
            withdraw()

    def load_config_from_file(self, filename: str) -> Any:
        """Read the configuration file."""
        with _stdout_aside():
            return super().load_config_from_file(filename)


@contextlib.contextmanager
def _stdout_aside() -> Iterator[None]:
    """Have stdout be stderr in the block, also for what writes to the descriptor."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            stdout = os.dup(1)
        except OSError:  # it is closed
            yield
            return
        os.dup2(2, 1)
        try:
            yield
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)

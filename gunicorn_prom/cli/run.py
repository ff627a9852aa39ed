"""`gunicorn-prom run`, as far as it is not the launcher's: its help."""

import os
import sys
from typing import NoReturn

from gunicorn_prom.cli.help import of_settings, print_help

__all__ = ["run"]

ABOUT = """\
Start Gunicorn with metrics: gunicorn-prom run app:app --worker-type gevent

Takes every option of Gunicorn, in any order, exactly as `gunicorn` does, and its own, which
come first below. All of them may stand in the configuration file too.
"""


def run() -> NoReturn:
    """Start Gunicorn with metrics."""
    if not {"-h", "--help"}.isdisjoint(sys.argv):
        print_help("gunicorn-prom run [OPTIONS] [APP_MODULE]", ABOUT, of_settings())
        sys.exit(0)
    # The master must not have Typer in it, see gunicorn_prom.__main__.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn_prom", *sys.argv[1:]])

"""What command lines make of Gunicorn's configuration, with us and without.

`python -m tests.configurations plain|ours` reads a list of cases as JSON, gathers the
configuration of each in this one process, and writes what has come of them.
"""

import contextlib
import io
import json
import os
import sys
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication

# The file that was run last.
CONFIG = "__config__"


def plain(arguments: list[str]) -> WSGIApplication:
    """Return the application that `gunicorn ARGUMENTS` would make."""
    sys.argv = ["gunicorn", *arguments]
    application = WSGIApplication("%(prog)s [OPTIONS] [APP_MODULE]", prog="gunicorn")
    assert "gunicorn_prom" not in sys.modules
    return application


def ours(arguments: list[str]) -> WSGIApplication:
    """Return the application that `gunicorn-prom run ARGUMENTS` would make."""
    from gunicorn_prom.configuration import Configuration

    return Configuration(arguments)


def outcome(make: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Return the application's name and the settings, or that it is refused and how."""
    directory, path, environ = os.getcwd(), list(sys.path), dict(os.environ)
    said = io.StringIO()
    os.environ.update(case.get("environ", {}))
    try:
        with contextlib.redirect_stderr(said):
            application = make(case["arguments"])
            settings = application.cfg.settings.items()
            return {
                "app": application.app_uri,
                "directory": os.getcwd(),
                "settings": {name: text_of(setting.get()) for name, setting in settings},
            }
    except (Exception, SystemExit) as error:
        return {"refused": f"{said.getvalue()} {error!r}"}
    finally:
        os.chdir(directory)
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:] = path
        sys.modules.pop(CONFIG, None)


def text_of(value: Any) -> str:
    """Return a value as text that is the same in every process."""
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


if __name__ == "__main__":
    make = {"plain": plain, "ours": ours}[sys.argv[1]]
    print(json.dumps([outcome(make, case) for case in json.load(sys.stdin)]))

"""Our settings under plain Gunicorn, which knows of them when a configuration imports us.

By then it has its configuration object, and it passes over whatever that does not know.
"""

import os
import sys
from contextlib import chdir
from types import FrameType
from typing import Any

from gunicorn.app.base import Application
from gunicorn.config import Config

from gunicorn_prom.errors import InvalidSettingError, place
from gunicorn_prom.settings import OWN_NAMES, add_own_settings, environment, switches_of

__all__ = ["join_configuration", "read_own_settings"]

# What runs a configuration file or module, and then takes the settings that stand in it.
TAKE_SETTINGS = Application.load_config_from_module_name_or_filename.__code__


def join_configuration() -> None:
    """Give Gunicorn our settings in time, if it is just running the file that imports us.

    It then takes ours as it does its own, and also tells what is wrong with them where it tells
    that of its own: before it becomes a daemon, and on `--check-config`.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        # As soon as it has that variable it is taking them already.
        if frame.f_code is TAKE_SETTINGS and "cfg" not in frame.f_locals:
            app = frame.f_locals["self"]
            # One of the user's may have passed over some before it came to the file.
            if type(app).load_config.__module__.startswith("gunicorn."):
                add_own_settings(app.cfg)
            return
        frame = frame.f_back


def read_own_settings(app: Any) -> None:
    """Give the configuration of plain Gunicorn's application what was said of our settings.

    Where it knew them in time, Gunicorn itself has taken them from wherever they stand, and
    else it is gathered once more. The environment Gunicorn passes over always.

    Raises:
        InvalidSettingError: one has a value it cannot have, or they cannot be had.
        SystemExit: the same; it has been said on stderr.
    """
    settings = app.cfg.settings
    if not settings.keys() >= set(OWN_NAMES):
        gathered = _gather_again(app).settings
        settings.update({name: gathered[name] for name in OWN_NAMES})
    for name in OWN_NAMES:
        value = os.environ.get(environment(name))
        if value is not None and not switches_of(name):
            try:
                app.cfg.set(name, value)
            except (TypeError, ValueError) as error:
                raise InvalidSettingError(f"invalid {environment(name)}: {error}") from error


def _gather_again(app: Any) -> Config:
    """Return the configuration as the application gathers it now that our settings are known.

    Only Gunicorn, or the application itself, knows all the places they may stand in, and which of
    them prevails. Nothing else of the application changes.
    """
    before, run = dict(vars(app)), getattr(app, "get_config_from_filename", None)

    def run_once(filename: str) -> dict[str, Any]:
        # A file need not bear to be run twice: it may declare metrics.
        last = sys.modules.get("__config__")
        if last is not None and last.__file__ == os.path.abspath(filename):
            return vars(last)
        assert run is not None  # who calls it has one
        found: dict[str, Any] = run(filename)
        return found

    try:
        with chdir("."):  # it may go elsewhere
            app.get_config_from_filename = run_once
            app.load_default_config()
            app.load_config()
        gathered: Config = app.cfg
    except (TypeError, ValueError) as error:
        raise InvalidSettingError(f"invalid setting of gunicorn-prom: {error}") from error
    except Exception as error:
        raise InvalidSettingError(
            f"the settings of gunicorn-prom cannot be had: {place(error)}",
            "import gunicorn_prom.hooks before the application is made",
        ) from error
    finally:
        vars(app).clear()
        vars(app).update(before)
    return gathered

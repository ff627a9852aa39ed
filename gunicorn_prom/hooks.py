"""What plain Gunicorn needs for the same metrics as under `gunicorn-prom run`.

    # gunicorn.conf.py
    from gunicorn_prom.hooks import *
    metrics_bind = "127.0.0.1:9464"   # our settings stand here as well

Only `on_starting` is taken; a configuration that has one of its own calls
`gunicorn_prom.hooks.on_starting(server)` in it. Every other hook stays the user's.
"""

import os
import sys
from typing import Any

from gunicorn_prom.app_directory import announce
from gunicorn_prom.arbiter import adopt
from gunicorn_prom.settings import OWN_SETTINGS, add_own_settings, environment, name_of

__all__ = ["on_starting"]

# Here, for the configuration file may go on to import prometheus_client.
announce()


def on_starting(server: Any) -> None:
    """Give the arbiter that is about to start its scoreboard and metrics server.

    Raises:
        GunicornPromError: the state directory or the address cannot be had, or one
            of our settings has a value it cannot have.
    """
    _apply_settings(server.cfg)
    adopt(server)


def _apply_settings(cfg: Any) -> None:
    # Gunicorn read the file before it knew our settings, and passed over them.
    add_own_settings(cfg)
    file = sys.modules.get("__config__")
    for name in map(name_of, OWN_SETTINGS):
        for value in (getattr(file, name, None), os.environ.get(environment(name))):
            if value is not None:
                cfg.set(name, value)

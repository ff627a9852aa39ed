"""What plain Gunicorn needs for the same metrics as under `gunicorn-prom run`.

    # gunicorn.conf.py
    from gunicorn_prom.hooks import *
    metrics_bind = "127.0.0.1:9464"   # our settings stand here as well

Only `on_starting` is taken; a configuration that has one of its own calls
`gunicorn_prom.hooks.on_starting(server)` in it. Every other hook stays the user's.
"""

import os
from typing import Any

from gunicorn_prom.own_imports import apart_from

# Gunicorn has gone to the application's directory by now.
with apart_from([os.getcwd()]):
    from gunicorn_prom.app_directory import announce
    from gunicorn_prom.arbiter import adopt
    from gunicorn_prom.errors import GunicornPromError
    from gunicorn_prom.own_settings import join_configuration

__all__ = ["on_starting"]

# Here, for the configuration file may go on to import prometheus_client.
announce()
join_configuration()


def on_starting(server: Any) -> None:
    """Give the arbiter that is about to start its scoreboard and metrics server.

    Raises:
        GunicornPromError: the state directory or the address cannot be had, or one
            of our settings has a value it cannot have.
    """
    try:
        adopt(server)
    except GunicornPromError as error:
        if server.cfg.daemon:  # nobody reads what it prints
            server.log.error("gunicorn-prom: %s", error)
        # Gunicorn prints the message alone.
        hint = error.hint and f"\nhint: {error.hint}"
        raise GunicornPromError(f"{error}{hint}") from error

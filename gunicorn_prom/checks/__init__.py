"""What can be wrong with a set-up, and how to find it before users do."""

from gunicorn_prom.checks import app, config, host, live, metrics, security
from gunicorn_prom.checks.declare import Check

__all__ = ["CHECKS"]

_MODULES = (app, config, host, metrics, security, live)

# By id.
CHECKS = {
    found.id: found
    for found in sorted(
        (value for module in _MODULES for value in vars(module).values() if type(value) is Check),
        key=lambda found: found.id,
    )
}

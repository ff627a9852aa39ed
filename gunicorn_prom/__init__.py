"""Gunicorn with Prometheus metrics built in.

The public names are loaded on first use, so that `import gunicorn_prom` costs
nothing in a process that only wants the version.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "PrometheusEventletWorker",
    "PrometheusGeventWorker",
    "PrometheusMixin",
    "PrometheusThreadWorker",
    "PrometheusWorker",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("gunicorn_prom.plugin"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What a process has imported that is nothing but Gunicorn; to be imported before all else."""

import sys

import gunicorn.app.wsgiapp  # noqa: F401  # it is what counts

__all__ = ["MODULES"]

MODULES = frozenset(sys.modules)

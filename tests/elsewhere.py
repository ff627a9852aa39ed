"""A place for tests that read a configuration in their own process."""

import os
import sys
from pathlib import Path

import pytest
from gunicorn import config

from gunicorn_prom.configuration import GUNICORNS_ENVIRONMENT


def be_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a directory, with no variable that sets anything, and forget its files afterwards."""
    for name in [name for name in os.environ if name.startswith("GUNICORN_")]:
        monkeypatch.delenv(name)
    for name in ("XDG_RUNTIME_DIR", *GUNICORNS_ENVIRONMENT.values()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(directory)
    # That is where Gunicorn was imported.
    monkeypatch.setattr(config.Chdir, "default", str(directory))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "__config__", raising=False)

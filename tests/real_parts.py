"""Programs that a machine may lack: without them a test is skipped, in CI it fails."""

import os
import shutil
from typing import NoReturn

import pytest

ARE_REQUIRED = os.environ.get("GUNICORN_PROM_REQUIRE_REAL_PARTS") == "1"


def unavailable(reason: str) -> NoReturn:
    """End the test that needs what is not there."""
    if ARE_REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


def find_program(name: str, package: str) -> str:
    """Return the path of a program, which `package` of Debian brings."""
    path = shutil.which(name)
    if path is None:
        unavailable(f"{name} is not installed (Debian: {package})")
    return path

"""What `gunicorn-prom check` finds in a set-up, asked of the command itself."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import run_to_end

__all__ = ["Found", "assert_finds", "assert_passes", "checked"]

EXIT_CODES = {"ok": 0, "warning": 0, "error": 1, "skipped": 0}


class Found(NamedTuple):
    """What a check says: the words that stand in its detail and in its hint."""

    status: str
    detail: str
    hint: str = ""


def checked(directory: Path, check: str, *arguments: str, **how: Any) -> list[Found]:
    """Return what `gunicorn-prom check ARGUMENTS` says of one check.

    Args:
        how: see `run_to_end`.
    """
    options = ("--format=json", f"--only={check}", *arguments)
    ended = run_to_end(directory, *options, command=("check",), **how)
    assert ended.stdout, ended.stderr
    entries = json.loads(ended.stdout)["checks"]
    assert {entry["id"] for entry in entries} == {check}
    assert ended.returncode == max(EXIT_CODES[entry["status"]] for entry in entries)
    return [Found(entry["status"], entry["detail"], entry["hint"]) for entry in entries]


def assert_finds(directory: Path, check: str, *arguments: str, expected: Found, **how: Any) -> None:
    """Fail unless the check finds the one thing that is expected."""
    (found,) = checked(directory, check, *arguments, **how)
    assert found.status == expected.status, found
    assert expected.detail in found.detail
    assert expected.hint in found.hint


def assert_passes(directory: Path, check: str, *arguments: str, **how: Any) -> None:
    """Fail unless the check finds nothing, and was not skipped either."""
    assert checked(directory, check, *arguments, **how) == [Found("ok", "")]

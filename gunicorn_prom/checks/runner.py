"""Run the checks: each by itself, in limited time, whatever becomes of the others."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from gunicorn_prom.checks.declare import Check, Skip
from gunicorn_prom.checks.setup import Setup

__all__ = ["STATUSES", "Result", "run"]

STATUSES = ("ok", "warning", "error", "skipped")
PROBLEMS = ("warning", "error")
LIMIT_S = 5.0


class Result(NamedTuple):
    """What became of a check; one that has found several things has several.

    Attributes:
        check: which.
        status: one of STATUSES.
        detail: what was found or why it was skipped, "" for ok.
        hint: the remedy, "" where there is nothing to mend.
        duration_s: the seconds the whole check took.
    """

    check: Check
    status: str
    detail: str
    hint: str
    duration_s: float


def run(checks: Iterable[Check], setup: Setup) -> Iterator[Result]:
    """Yield what becomes of each check, in their order."""
    for check in checks:
        yield from _run_one(check, setup)


def _run_one(check: Check, setup: Setup) -> list[Result]:
    findings: list[tuple[str, str, str]] = []
    began = time.monotonic()
    if check.needs_app:
        # Once, in time of its own, and where an interrupt reaches it. What is wrong with
        # it the check comes across again.
        with suppress(Exception):
            setup.app  # noqa: B018
    # A thread that hangs cannot be ended, and does not keep the process from ending.
    thread = threading.Thread(
        target=_find, args=(check, setup, findings), name=check.id, daemon=True
    )
    thread.start()
    thread.join(LIMIT_S)
    if thread.is_alive():
        late = f"the check did not end within {LIMIT_S:g} s"
        found = [finding for finding in findings if finding[0] in PROBLEMS]
        findings = [*found, ("warning", late, f"leave it out with --ignore {check.id}")]
    duration_s = time.monotonic() - began
    return [Result(check, *finding, duration_s) for finding in findings]


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def _find(check: Check, setup: Setup, findings: list[tuple[str, str, str]]) -> None:
    try:
        for problem in check.function(setup):
            is_error = check.severity == "error" and problem.is_certain
            status = "error" if is_error else "warning"
            # What comes from a server or a file may hold anything.
            detail, hint = map(_printable, (problem.detail, problem.hint or check.hint))
            findings.append((status, detail, hint))
    except Skip as reason:
        findings.append(("skipped", str(reason), ""))
    # SystemExit too: it would end the thread without a word.
    except BaseException as error:
        findings.append(("warning", f"the check itself broke: {error!r}", "please report it"))
    if not findings:
        findings.append(("ok", "", ""))

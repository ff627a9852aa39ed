"""Every check has its own result, whatever becomes of the others."""

import sys
import threading
from collections.abc import Iterator

import pytest

from gunicorn_prom.checks import runner
from gunicorn_prom.checks.declare import Check, Problem, Skip, check
from gunicorn_prom.checks.runner import Result, run
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.configuration import Configuration

never = threading.Event()


@check("GP901", "config", "error", title="all is well", hint="none")
def well(setup: Setup) -> Iterator[Problem]:
    """Find nothing.

    Nothing comes of it.

    Nothing is to be mended.
    """
    yield from ()


@check("GP902", "config", "error", title="two things are right", hint="mend it")
def twice(setup: Setup) -> Iterator[Problem]:
    """Find two things.

    Both are wrong.

    Mend both.
    """
    yield Problem("the first")
    yield Problem("the second", "mend this one")


@check("GP903", "config", "info", title="it applies", hint="none")
def elsewhere(setup: Setup) -> Iterator[Problem]:
    """Find nothing here.

    Nothing comes of it.

    Nothing is to be mended.
    """
    raise Skip("not here")
    yield


@check("GP904", "config", "error", title="it does not break", hint="none")
def broken(setup: Setup) -> Iterator[Problem]:
    """Find one thing and break.

    The rest is not found.

    Mend the check.
    """
    yield Problem("before it broke")
    raise ZeroDivisionError("oh")


@check("GP905", "config", "error", title="it does not exit", hint="none")
def exits(setup: Setup) -> Iterator[Problem]:
    """End the process.

    No other check would be made.

    Mend the check.
    """
    sys.exit("oh")
    yield


@check("GP906", "config", "error", title="it ends", hint="none")
def hangs(setup: Setup) -> Iterator[Problem]:
    """Find one thing and never end.

    No other check would be made.

    Mend the check.
    """
    yield Problem("before it hung")
    never.wait()


@check("GP907", "config", "info", title="it is as it could be", hint="think about it")
def remark(setup: Setup) -> Iterator[Problem]:
    """Find something small.

    Little comes of it.

    Mend it or leave it.
    """
    yield Problem("something small")


@pytest.fixture(scope="module")
def setup() -> Setup:
    """Return a set-up of which nothing is asked."""
    return Setup(Configuration([], "check", needs_application=False))


def made(setup: Setup, *checks: Check) -> list[tuple[str, str, str, str]]:
    """Return of each result what is told: id, status, detail, hint."""
    results: list[Result] = list(run(checks, setup))
    assert all(result.duration_s >= 0 for result in results)
    return [(r.check.id, r.status, r.detail, r.hint) for r in results]


def test_what_a_check_finds(setup: Setup) -> None:
    """Each problem is a result, with its own hint or the one of the check; none is ok."""
    assert made(setup, well, twice, elsewhere, remark) == [
        ("GP901", "ok", "", ""),
        ("GP902", "error", "the first", "mend it"),
        ("GP902", "error", "the second", "mend this one"),
        ("GP903", "skipped", "not here", ""),
        ("GP907", "warning", "something small", "think about it"),
    ]


def test_a_check_that_breaks(setup: Setup) -> None:
    """It says so, keeps what it had found, and the others go on."""
    assert made(setup, broken, exits, well) == [
        ("GP904", "error", "before it broke", "none"),
        ("GP904", "warning", "the check itself broke: ZeroDivisionError('oh')", "please report it"),
        ("GP905", "warning", "the check itself broke: SystemExit('oh')", "please report it"),
        ("GP901", "ok", "", ""),
    ]


def test_a_check_that_hangs(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left behind when its time is over, keeps what it had found, and the others go on."""
    monkeypatch.setattr(runner, "LIMIT_S", 0.2)
    never.clear()
    try:
        assert made(setup, hangs) == [
            ("GP906", "error", "before it hung", "none"),
            (
                "GP906",
                "warning",
                "the check did not end within 0.2 s",
                "leave it out with --ignore GP906",
            ),
        ]
    finally:
        never.set()
    assert made(setup, well) == [("GP901", "ok", "", "")]


def test_results_come_as_they_are_made(setup: Setup) -> None:
    """Nobody waits for the last check to read the first result."""
    results = run([well, hangs], setup)
    assert next(results).check is well
    results.close()

"""How a check is declared: once, with all that help, reports and documentation say of it."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gunicorn_prom.checks.setup import Setup

__all__ = ["DOCUMENTATION", "GROUPS", "SEVERITIES", "Check", "Problem", "Skip", "check"]

# In the order in which they are shown.
GROUPS = ("app", "config", "host", "metrics", "security", "live")
SEVERITIES = ("error", "warning", "info")
DOCUMENTATION = "docs/checks.md"


class Problem(NamedTuple):
    """What a check has found.

    Attributes:
        detail: what is wrong here, in one line with its figures and names.
        hint: the remedy in one line, "" for the one that the check declares.
        is_certain: False makes it a warning whatever the check declares: what it rests on is
            an assumption.
    """

    detail: str
    hint: str = ""
    is_certain: bool = True


class Skip(Exception):
    """Raised by a check that does not apply here, with the reason in a few words."""


Function = Callable[[Setup], Iterator[Problem]]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that can be wrong with a set-up.

    Attributes:
        id: GP and three digits, which never mean anything else again.
        group: one of GROUPS.
        severity: one of SEVERITIES.
        title: what is right where nothing is found, in a few words.
        what: what it catches, a sentence or two.
        why: what comes of it.
        fix: how to mend it.
        hint: the remedy in one line.
        function: yields what it finds and raises `Skip` where it does not apply. It
            changes nothing and leaves nothing bound.
        needs_app: whether it looks at the imported application.
    """

    id: str
    group: str
    severity: str
    title: str
    what: str
    why: str
    fix: str
    hint: str
    function: Function
    needs_app: bool = False

    @property
    def url(self) -> str:
        """The page that explains it."""
        return f"{DOCUMENTATION}#{self.id.lower()}"


def check(  # noqa: PLR0913  # all that there is to say of one
    id: str, group: str, severity: str, *, title: str, hint: str, needs_app: bool = False
) -> Callable[[Function], Check]:
    """Declare the check that the decorated function makes.

    Its docstring has three paragraphs: what it finds, what comes of that, how to mend it.
    Under `python -OO` there is none, and so nothing to explain.
    """

    def declare(function: Function) -> Check:
        paragraphs = inspect.cleandoc(function.__doc__ or "\n\n\n\n").split("\n\n")
        what, why, fix = (" ".join(paragraph.split()) for paragraph in paragraphs)
        return Check(id, group, severity, title, what, why, fix, hint, function, needs_app)

    return declare

"""How what the checks have found is said: to a person, to a program, to GitHub."""

import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from gunicorn_prom.checks.declare import Check
from gunicorn_prom.checks.runner import PROBLEMS, STATUSES, Result
from gunicorn_prom.cli.output import is_unicode_shown, written

__all__ = ["FORMATS", "explain", "listing", "report"]

VERSION = 1
WIDTH = 80
# Below, what was found begins on a line of its own.
WIDE = 60
NARROW_INDENT = 4
# A mark, so that colour is never alone to say it; ASCII where the terminal has no more.
MARKS = {
    "ok": ("✓", "+", "green"),
    "warning": ("!", "!", "yellow"),
    "error": ("✗", "x", "red"),
    "skipped": ("-", "-", "dim"),
}
# In a summary, with their plural.
WORST_FIRST = {"error": "errors", "warning": "warnings", "ok": "ok", "skipped": "skipped"}
TITLES = {
    "app": "Application",
    "config": "Configuration",
    "host": "Host",
    "metrics": "Metrics server",
    "security": "Security",
    "live": "Running server",
}


def report(results: Iterable[Result], form: str, *, verbose: bool) -> list[Result]:
    """Print the results on stdout as they come, and return them.

    Args:
        results: grouped.
        form: one of FORMATS.
        verbose: show those that are ok or skipped, too.
    """
    said: list[Result] = []
    coming = _noted(results, said)
    with written():
        _REPORTERS[form](coming, verbose)
    # Where nobody reads on, the exit code still tells of all of them.
    said += results
    return said


def _noted(results: Iterable[Result], said: list[Result]) -> Iterator[Result]:
    for result in results:
        said.append(result)
        yield result


def _report_text(results: Iterable[Result], verbose: bool) -> None:
    # Rich takes a dumb terminal for one of 80 columns.
    width, height = shutil.get_terminal_size()
    console = Console(highlight=False, width=width, height=height)
    said: list[Result] = []
    is_first = True
    for group, members in groupby(results, key=lambda result: result.check.group):
        is_titled = False
        for result in members:
            said.append(result)
            if result.status not in PROBLEMS and not verbose:
                continue
            if not is_titled:
                _print(console, Text("" if is_first else "\n").append(TITLES[group], "bold"))
                is_titled, is_first = True, False
            _print(console, _described(console, result))
    _print(console, Text(("" if is_first else "\n") + _summary(said)))
    worst = min((r for r in said if r.status in PROBLEMS), key=_rank, default=None)
    if worst is not None:
        _print(console, Text(f"see gunicorn-prom check --explain {worst.check.id}", "dim"))


def _rank(result: Result) -> int:
    return list(WORST_FIRST).index(result.status)


def _print(console: Console, text: Text) -> None:
    # Rich by itself would end the process when nobody reads what it prints.
    with console.capture() as captured:
        console.print(text, soft_wrap=True, end="")
    print(captured.get())


def _described(console: Console, result: Result) -> Text:
    unicode_mark, ascii_mark, style = MARKS[result.status]
    mark = unicode_mark if is_unicode_shown() else ascii_mark
    head = Text("  ").append(f"{mark} {result.status:<8}", style).append(f" {result.check.id}")
    body = [Text(result.detail or result.check.title)]
    if result.hint:
        body.append(Text.assemble(("hint: ", "cyan"), result.hint))
    if not console.is_terminal:
        lines, is_wide = body, True
    else:
        is_wide = console.width >= WIDE
        indent = len(head) + 2 if is_wide else NARROW_INDENT
        lines = [line for part in body for line in part.wrap(console, console.width - indent)]
        for line in lines:
            line.rstrip()
    if is_wide:
        return head.append("  ").append(Text(f"\n{'':>{len(head)}}").join(lines))
    return Text(f"\n{'':>{NARROW_INDENT}}").join([head, *lines])


def _summary(results: list[Result]) -> str:
    count = Counter(result.status for result in results)
    shown = [
        f"{count[status]} {status if count[status] == 1 else plural}"
        for status, plural in WORST_FIRST.items()
        if count[status]
    ]
    return ", ".join(shown) or "no checks"


def _report_json(results: Iterable[Result], _verbose: bool) -> None:
    said = list(results)
    count = Counter(result.status for result in said)
    document = {
        "version": VERSION,
        "summary": {status: count[status] for status in STATUSES},
        "checks": [_entry(result) for result in said],
    }
    print(json.dumps(document, indent=2))


def _entry(result: Result) -> dict[str, Any]:
    return {
        "id": result.check.id,
        "group": result.check.group,
        "title": result.check.title,
        "status": result.status,
        "detail": result.detail,
        "hint": result.hint,
        "url": result.check.url,
        "duration_ms": round(result.duration_s * 1000, 3),
    }


def _report_github(results: Iterable[Result], _verbose: bool) -> None:
    """Print workflow commands.

    Source: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    said = list(results)
    for result in said:
        if result.status in PROBLEMS:
            hint = f" (hint: {result.hint})" if result.hint else ""
            title, message = map(_escape, (result.check.id, f"{result.detail}{hint}"))
            print(f"::{result.status} title=gunicorn-prom {title}::{message}")
    print(_summary(said))


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


_REPORTERS: dict[str, Callable[[Iterable[Result], bool], None]] = {
    "text": _report_text,
    "json": _report_json,
    "github": _report_github,
}
FORMATS = tuple(_REPORTERS)


def listing(checks: Iterable[Check]) -> str:
    """Return a line for each check: id, group, severity, what is right where it finds nothing."""
    lines = [
        f"{check.id}  {check.group:<8}  {check.severity:<7}  {check.title}" for check in checks
    ]
    if not sys.stdout.isatty():
        return "\n".join(lines)
    return "\n".join(_filled(line, indent=NARROW_INDENT) for line in lines)


def explain(check: Check) -> str:
    """Return what there is to say about a check."""
    parts = (
        f"{check.id}: {check.title} ({check.group}, {check.severity})",
        *(check.what, check.why, check.fix),
        f"hint: {check.hint}",
        f"to silence it: gunicorn-prom check --ignore {check.id}",
        check.url,
    )
    return "\n\n".join(map(_filled, parts))


def _filled(text: str, indent: int = 0) -> str:
    """Return the text in lines that fit a page; no option is broken at its hyphens."""
    width = min(WIDTH, shutil.get_terminal_size().columns)
    return textwrap.fill(
        text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )

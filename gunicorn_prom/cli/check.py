"""`gunicorn-prom check`: what is wrong, before users find out."""

import argparse
import signal
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

from gunicorn_prom.checks import CHECKS
from gunicorn_prom.checks.declare import GROUPS, Check
from gunicorn_prom.checks.endpoint import normalized
from gunicorn_prom.checks.runner import Result, run
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.cli.help import of_options, print_help
from gunicorn_prom.cli.options import Declared, names_of, split
from gunicorn_prom.cli.output import end, written
from gunicorn_prom.cli.reading import ReadConfiguration
from gunicorn_prom.cli.report import FORMATS, explain, listing, report
from gunicorn_prom.errors import GunicornPromError, UsageError, fail

__all__ = ["OPTIONS", "check", "main"]

USAGE = "gunicorn-prom check [OPTIONS] [APP_MODULE]"
ABOUT = """\
Find out what is wrong before users do: gunicorn-prom check app:app --worker-type gevent

Takes every option of `gunicorn-prom run` besides its own, imports the application in a
process of its own, and serves nothing. Exits with 0 when all is well, 1 after an error,
2 when the command line or a setting is wrong.
"""
FAIL_LEVELS = ("error", "warning", "none")
FAILED, ONLY_WARNINGS = 1, 3
LIVE = "live"

# As argparse takes them; the help page and the completions are made of the same.
OPTIONS: tuple[Declared, ...] = (
    (
        ("--live",),
        {"metavar": "URL", "help": "Examine the running server with this metrics URL too."},
    ),
    (
        ("--format",),
        {"choices": FORMATS, "default": "text", "help": "How to report: text, json or github."},
    ),
    (("-v", "--verbose"), {"action": "store_true", "help": "Show what is right, too."}),
    (
        ("--only",),
        {
            "metavar": "ID",
            "action": "append",
            "help": "Make only these checks: ids or groups, separated by commas.",
        },
    ),
    (
        ("--ignore",),
        {
            "metavar": "ID",
            "action": "append",
            "help": "Leave these checks out: ids or groups, separated by commas.",
        },
    ),
    (("--list",), {"action": "store_true", "help": "List the checks and exit."}),
    (
        ("--explain",),
        {"metavar": "ID", "help": "Say what a check finds, why, and how to mend it; exit."},
    ),
    (
        ("--fail-level",),
        {
            "choices": FAIL_LEVELS,
            "default": "error",
            "help": "From which level on to exit with 1: error, warning or none.",
        },
    ),
    (("--strict",), {"action": "store_true", "help": "Exit with 3 when there are only warnings."}),
)


def check() -> NoReturn:
    """Find out what is wrong before users do."""
    main(sys.argv[2:])


def main(arguments: list[str]) -> NoReturn:
    """Make the checks that `gunicorn-prom check ARGUMENTS` asks for.

    Raises:
        SystemExit: always, with the exit code of the contract.
    """
    for told in (signal.SIGTERM, signal.SIGHUP):
        # So that what is removed at the end is removed then too.
        signal.signal(told, lambda number, frame: sys.exit(128 + number))
    try:
        code = _main(arguments)
    except GunicornPromError as error:
        fail(error)
    end(code)


def _main(arguments: list[str]) -> int:
    options, others = split("check", OPTIONS, arguments)
    if options.help:
        print_help(USAGE, ABOUT, [of_options("Options", OPTIONS)])
        return 0
    if options.explain is not None:
        return _print(explain(_find(options.explain, CHECKS)))
    checks = _chosen(options)
    if options.list:
        return _print(listing(checks))
    live_url = None if options.live is None else normalized(options.live)
    sys.dont_write_bytecode = True  # of the configuration file: nothing is written
    configuration = ReadConfiguration(
        others, "check", names_of(OPTIONS), needs_application=False, needs_worker=False
    )
    checks = _applicable(checks, options, names_app=configuration.app_uri is not None)
    setup = Setup(configuration, live_url)
    results = report(run(checks, setup), options.format, verbose=options.verbose)
    return _exit_code(results, options)


def _print(text: str) -> int:
    with written():
        print(text)
    return 0


def _chosen(options: argparse.Namespace) -> list[Check]:
    only, ignored = _ids(options.only), _ids(options.ignore)
    chosen = [
        check
        for check in sorted(CHECKS.values(), key=lambda check: GROUPS.index(check.group))
        if (options.only is None or check.id in only) and check.id not in ignored
    ]
    if not chosen:
        raise UsageError("no check is left by --only and --ignore", "name at least one")
    return chosen


def _applicable(
    checks: list[Check], options: argparse.Namespace, *, names_app: bool
) -> list[Check]:
    """Return the checks that can be made: of a set-up, of a running server, or of both."""
    of_server = [check for check in checks if check.group == LIVE]
    if not options.live:
        if options.only and of_server == checks != []:
            ids = ", ".join(check.id for check in checks)
            raise UsageError(f"no running server to examine for {ids}", "--live http://HOST:PORT")
        return [check for check in checks if check.group != LIVE]
    return checks if names_app or options.only else of_server


def _ids(given: Iterable[str] | None) -> set[str]:
    names = [name.strip() for part in given or () for name in part.split(",") if name.strip()]
    ids = {_find(name, (*CHECKS, *GROUPS)).id for name in names if name not in GROUPS}
    return ids | {check.id for check in CHECKS.values() if check.group in names}


def _find(name: str, known: Iterable[str]) -> Check:
    check = CHECKS.get(name.upper())
    if check is None:
        close = [*get_close_matches(name.upper(), known, 1), *get_close_matches(name, known, 1)]
        hint = f"did you mean {close[0]}?" if close else "see `gunicorn-prom check --list`"
        raise UsageError(f"there is no check {name}", hint)
    return check


def _exit_code(results: list[Result], options: argparse.Namespace) -> int:
    statuses = {result.status for result in results}
    if "error" in statuses and options.fail_level != "none":
        return FAILED
    if "warning" in statuses and options.fail_level == "warning":
        return FAILED
    has_only_warnings = "warning" in statuses and "error" not in statuses
    return ONLY_WARNINGS if has_only_warnings and options.strict else 0

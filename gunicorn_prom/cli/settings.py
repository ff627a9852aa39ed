"""`gunicorn-prom settings`: every setting that holds, and where it is from."""

import difflib
import os
import sys
from typing import Any, NoReturn

from gunicorn import config

from gunicorn_prom.cli.help import of_options, print_help
from gunicorn_prom.cli.options import Declared, names_of, split
from gunicorn_prom.cli.output import print_and_end
from gunicorn_prom.cli.reading import ReadConfiguration
from gunicorn_prom.cli.settings_report import FORMATS, describe, report
from gunicorn_prom.effective import effective
from gunicorn_prom.errors import UsageError

__all__ = ["OPTIONS", "main", "settings"]

USAGE = "gunicorn-prom settings [OPTIONS] [APP_MODULE] [SETTING]..."
ABOUT = """\
Show every setting, its value and where it is from: gunicorn-prom settings -c conf.py

Takes every option of `gunicorn-prom run` besides its own; the application may be left out.
Secrets are masked. Names of settings, or of their options without dashes, describe these:
gunicorn-prom settings timeout
"""

# As argparse takes them; the help page and the completions are made of the same.
OPTIONS: tuple[Declared, ...] = (
    (
        ("--changed",),
        {"action": "store_true", "help": "Show only what is set, not what is left at its default."},
    ),
    (
        ("--format",),
        {"choices": FORMATS, "default": "text", "help": "How to write it: text or json."},
    ),
)


class _Asked(ReadConfiguration):
    """A configuration of which settings may be named where the application is.

    Attributes:
        names: of the settings that are.
    """

    takes_several = True

    def init(self, parser: Any, opts: Any, args: Any) -> Any:
        """Take what is no name of a setting for the application."""
        known = _names()
        self.names = [known[word] for word in args if word in known]
        others = [word for word in args if word not in known]
        for word in others:
            close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.75)
            if close and not _may_be_application(word):
                raise UsageError(f"there is no setting {word}", f"did you mean {close[0]}?")
        return super().init(parser, opts, others)


def _may_be_application(name: str) -> bool:
    """Tell whether what is named may be an application: it has a colon, or there is its module."""
    return ":" in name or any(map(os.path.exists, (name, f"{name.replace('.', '/')}.py")))


def _names() -> dict[str, str]:
    """Return the name of each setting by itself and by its options without dashes."""
    known = [(str(setting.name), setting.cli or ()) for setting in config.KNOWN_SETTINGS]
    by_option = {
        option.removeprefix("--"): name
        for name, options in known
        for option in options
        if option.startswith("--")
    }
    return by_option | {name: name for name, _ in known}


def settings() -> NoReturn:
    """Show every setting, its value and where it is from."""
    main(sys.argv[2:])


def main(arguments: list[str]) -> NoReturn:
    """Show what `gunicorn-prom settings ARGUMENTS` asks for.

    Raises:
        SystemExit: always, with the exit code of the contract.
    """
    print_and_end(_main, arguments)


def _main(arguments: list[str]) -> None:
    options, others = split("settings", OPTIONS, arguments)
    if options.help:
        print_help(USAGE, ABOUT, [of_options("Options", OPTIONS)])
        return
    asked = _Asked(
        others, "settings", names_of(OPTIONS), needs_application=False, needs_worker=False
    )
    shown = effective(asked)
    if asked.names:
        by_name = {entry.name: entry for entry in shown}
        describe([by_name[name] for name in asked.names], options.format)
        return
    if options.changed:
        shown = [entry for entry in shown if entry.origin.source != "default"]
    report(shown, options.format)

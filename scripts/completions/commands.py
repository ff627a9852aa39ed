"""What the completions know: every command with its options and what each of them takes."""

import importlib
from enum import Enum
from typing import Any, NamedTuple

from gunicorn import config
from typer.main import get_command

from gunicorn_prom.cli.app import app
from gunicorn_prom.cli.values import (
    FREE,
    Option,
    Values,
    of_declared,
    of_gunicorn,
    of_kinds,
    values_of,
)

__all__ = ["ORIGIN", "Command", "commands", "program", "shared"]

ORIGIN = "Made by `python -m scripts.generate` from the declarations of the options."

HELP = Option(("-h", "--help"), "Show the help and exit.")
MODULES = Values("modules")
SETTINGS = Values("words", {setting.name: "" for setting in config.KNOWN_SETTINGS})

# What stands without an option. The commands that take Gunicorn's options are those which have
# another parser than Typer's.
ARGUMENTS = {
    "run": MODULES,
    "check": MODULES,
    "settings": SETTINGS,
    "emit": of_kinds(),
    "metrics": FREE,
    "export": Values("directories"),
    "top": FREE,
}
WITH_GUNICORNS = ("run", "check", "settings", "emit")


class Command(NamedTuple):
    """A command, or the program itself under the name "".

    Attributes:
        options: its own.
        takes_gunicorns: whether it takes Gunicorn's and ours besides, see `shared`.
        arguments: what stands without an option.
    """

    name: str
    help: str
    options: list[Option]
    takes_gunicorns: bool
    arguments: Values


def shared() -> list[Option]:
    """Return the options that all commands take which are in WITH_GUNICORNS."""
    return _known(of_gunicorn())


def program() -> Command:
    """Return the program itself, whose arguments are the commands."""
    names = {command.name: command.help for command in commands()}
    return Command("", "", _of_typer(get_command(app)), False, Values("words", names))


def commands() -> list[Command]:
    """Return the commands, in the order in which help has them."""
    return [_command(command) for command in get_command(app).commands.values()]


def _command(command: Any) -> Command:
    takes_gunicorns = command.name in WITH_GUNICORNS
    if takes_gunicorns:
        module = importlib.import_module(f"gunicorn_prom.cli.{command.name}")
        options = _known([*of_declared(getattr(module, "OPTIONS", ())), HELP])
    else:
        options = _of_typer(command)
    summary = command.help.strip().partition("\n")[0]
    return Command(command.name, summary, options, takes_gunicorns, ARGUMENTS[command.name])


def _of_typer(command: Any) -> list[Option]:
    parameters = [p for p in command.params if p.param_type_name == "option"]
    return _known([*map(_of_parameter, parameters), HELP])


def _of_parameter(parameter: Any) -> Option:
    names = tuple(parameter.opts)
    if parameter.is_flag:
        return Option(names, parameter.help)
    is_choice = isinstance(parameter.default, Enum)
    choices = [member.value for member in type(parameter.default)] if is_choice else ()
    values = values_of(parameter.name, parameter.metavar, choices)
    return Option(names, parameter.help, values, parameter.metavar or parameter.name.upper())


def _known(options: list[Option]) -> list[Option]:
    for option in options:
        if option.values is not None and option.values.kind == "unknown":
            message = f"say in gunicorn_prom/cli/values.py what {option.names[-1]} takes"
            raise LookupError(message)
    return options

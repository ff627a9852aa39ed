"""The completion for fish."""

from collections.abc import Iterable

from gunicorn_prom.cli.values import Option, Values
from scripts.completions.commands import ORIGIN, Command, commands, program, shared

__all__ = ["fish"]

HEAD = f"""\
# Completion of gunicorn-prom for fish.
# {ORIGIN}

# Tells whether the command is one of the arguments.
function __gunicorn_prom_command_is
    set -l words (commandline -opc)
    set -q words[2]; and contains -- $words[2] $argv
end

function __gunicorn_prom_has_no_command
    test (count (commandline -opc)) -eq 1
end

# Prints the modules of this directory and of those in it, as `package.module:`.
function __gunicorn_prom_modules
    for path in *.py */*.py
        string match --quiet '*__*' $path; and continue
        string match --quiet --regex '^[A-Za-z0-9_/]+\\.py$' $path; or continue
        echo (string replace --all / . (string replace --regex '\\.py$' '' $path)):
    end
end
"""

PROPOSALS = {
    "free": "-x",
    "files": "-r -F",
    # Of `--chdir=a` fish would take all for the name of a directory.
    "directories": "-x -a '(__fish_complete_directories "
    '(commandline --current-token | string replace --regex "^--[^=]*=" ""))'
    "'",
    "users": "-x -a '(__fish_complete_users)'",
    "groups": "-x -a '(__fish_complete_groups)'",
    "modules": "-x -a '(__gunicorn_prom_modules)'",
}


def fish() -> str:
    """Return completions/gunicorn-prom.fish."""
    found, settings = commands(), shared()
    takers = " ".join(command.name for command in found if command.takes_gunicorns)
    options = [option for command in found for option in command.options] + settings
    parts = [
        HEAD,
        *_functions(option.values for option in options if option.values),
        "complete -c gunicorn-prom -f\n",
        _lines(program().options, "__gunicorn_prom_has_no_command"),
        _subcommands(found),
        *map(_command, found),
        _lines(settings, f"__gunicorn_prom_command_is {takers}"),
    ]
    return "\n".join(parts)


def _subcommands(found: Iterable[Command]) -> str:
    condition = "__gunicorn_prom_has_no_command"
    return "".join(
        f"complete -c gunicorn-prom -n {condition} -a {command.name} -d {_quote(command.help)}\n"
        for command in found
    )


def _command(command: Command) -> str:
    condition = f"__gunicorn_prom_command_is {command.name}"
    text = _lines(command.options, condition)
    if command.arguments.kind == "free":
        return text
    # What -x says of an option's value is said of all arguments at the top.
    proposals = _proposals(command.arguments).removeprefix("-x ")
    return f"{text}complete -c gunicorn-prom -n {_quote(condition)} {proposals}\n"


def _lines(options: Iterable[Option], condition: str) -> str:
    return "".join(_option(option, condition) for option in options)


def _option(option: Option, condition: str) -> str:
    flags = " ".join(
        f"-l {name.removeprefix('--')}" if name.startswith("--") else f"-s {name[1:]}"
        for name in option.names
    )
    words = ["complete -c gunicorn-prom -n", _quote(condition), flags]
    if option.values is not None:
        words.append(_arguments(option))
    return f"{' '.join([*words, '-d', _quote(option.help)])}\n"


def _arguments(option: Option) -> str:
    assert option.values is not None
    proposals = _proposals(option.values)
    return proposals if option.needs_value else proposals.removeprefix("-x ")


def _proposals(values: Values) -> str:
    if values.kind != "words":
        return PROPOSALS[values.kind]
    if not _has_function(values):
        return f"-x -a {_quote(' '.join(values.words))}"
    name = _function_name(values)
    return f"-x -a '({f'__fish_complete_list , {name}' if values.is_list else name})'"


def _has_function(values: Values) -> bool:
    return values.is_list or values.is_described


def _function_name(values: Values) -> str:
    """Return a name that says what is in it: its first and last word."""
    words = list(values.words)
    return f"__gunicorn_prom_{words[0]}_to_{words[-1]}"


def _functions(found: Iterable[Values]) -> list[str]:
    """Return a function for each set of words that have meanings or may be a list."""
    by_name = {_function_name(values): values for values in found if _has_function(values)}
    return [_function(name, values) for name, values in by_name.items()]


def _function(name: str, values: Values) -> str:
    lines = [f"{_quote(word)} {_quote(meaning)}" for word, meaning in values.words.items()]
    printed = " \\\n        ".join([r"printf '%s\t%s\n'", *lines])
    return f"function {name}\n    {printed}\nend\n"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

"""The completion for zsh, which works autoloaded from fpath and sourced."""

from collections.abc import Iterable

from gunicorn_prom.cli.values import Option, Values
from scripts.completions.commands import ORIGIN, Command, commands, program, shared

__all__ = ["zsh"]

HEAD = f"""\
#compdef gunicorn-prom
# Completion of gunicorn-prom for zsh.
# {ORIGIN}
"""

MODULES = """\
# Proposes the modules of this directory and of those in it, as `package.module:`.
_gunicorn-prom_modules() {
    local expl
    local -a modules=(*.py(N:r) */*.py(N:r))
    modules=(${${(M)modules:#[A-Za-z0-9_/]##}:#*__*})
    modules=(${modules//\\//.})
    _wanted modules expl 'module' compadd -S : -q -a modules
}

# Proposes directories, also after NAME=.
_gunicorn-prom_directories() {
    compset -P '*='
    _directories "$@"
}
"""

# Sourced, it has to register itself; autoloaded, it is called at once.
TAIL = """\
if [[ $funcstack[1] == _gunicorn-prom ]]; then
    _gunicorn-prom "$@"
else
    compdef _gunicorn-prom gunicorn-prom
fi
"""

ACTIONS = {
    "free": "",
    "files": "_files",
    "directories": "_gunicorn-prom_directories",
    "users": "_users",
    "groups": "_groups",
    "modules": "_gunicorn-prom_modules",
}


def zsh() -> str:
    """Return completions/_gunicorn-prom."""
    found, settings = commands(), shared()
    options = [option for command in found for option in command.options] + settings
    values = [o.values for o in options if o.values] + [c.arguments for c in found]
    cases = "".join(map(_case, found))
    names = "".join(f"        {_quote(f'{_escape(c.name)}:{c.help}')}\n" for c in found)
    return (
        f"{HEAD}\n{MODULES}\n{_functions(values)}"
        f"_gunicorn-prom_commands() {{\n    local -a commands=(\n{names}    )\n"
        "    _describe -t commands command commands\n}\n\n"
        "_gunicorn-prom() {\n"
        '    local curcontext="$curcontext" context state state_descr line ret=1\n'
        "    local -A opt_args\n"
        "    _arguments -C -S \\\n"
        f"{_lines(program().options, 8, f' {chr(92)}')}"
        "        '(-): :_gunicorn-prom_commands' \\\n"
        "        '(-)*:: :->arguments' && ret=0\n"
        "    [[ $state == arguments ]] || return ret\n\n"
        '    curcontext="${curcontext%:*:*}:gunicorn-prom-$words[1]:"\n'
        f"    local -a settings=(\n{_lines(settings, 8)}    )\n"
        f"    case $words[1] in\n{cases}    esac\n    return ret\n}}\n\n{TAIL}"
    )


def _case(command: Command) -> str:
    rest = "$settings " if command.takes_gunicorns else ""
    action = _action(command.arguments)
    arguments = f"'*:argument:{action}' " if action else ""
    options = _lines(command.options, 16, " \\")
    return (
        f"        {command.name})\n            _arguments -s -S {rest}\\\n{options}"
        f"                {arguments}&& ret=0\n            ;;\n"
    )


def _lines(options: Iterable[Option], indent: int, end: str = "") -> str:
    return "".join(
        f"{' ' * indent}{_quote(_specification(option, name))}{end}\n"
        for option in options
        for name in option.names
    )


def _specification(option: Option, name: str) -> str:
    """Return what `_arguments` is told of one name of an option."""
    excluded = [*option.names, *option.opposite]
    first = "*" if option.repeats else ""
    if not option.repeats and len(excluded) > 1:
        first = f"({' '.join(excluded)})"
    if "--help" in option.names or "--version" in option.names:
        first = "(- *)"
    text = f"{first}{name}"
    if option.values is None:
        return f"{text}[{_escape(option.help)}]"
    attached = "=" if name.startswith("--") else "+"
    colons = ":" if option.needs_value else "::"
    action = _action(option.values)
    return f"{text}{attached}[{_escape(option.help)}]{colons}{_escape(option.metavar)}:{action}"


def _action(values: Values) -> str:
    if values.kind != "words":
        return ACTIONS[values.kind]
    return _function_name(values) if _has_function(values) else f"({' '.join(values.words)})"


def _has_function(values: Values) -> bool:
    return values.is_list or values.is_described


def _function_name(values: Values) -> str:
    """Return a name that says what is in it: its first and last word, and whether a list."""
    words = list(values.words)
    return f"_gunicorn-prom_{words[0]}_to_{words[-1]}{'_list' if values.is_list else ''}"


def _functions(found: Iterable[Values]) -> str:
    """Return a function for each set of words that have meanings or may be a list."""
    by_name = {_function_name(values): values for values in found if _has_function(values)}
    return "".join(_function(name, values) for name, values in by_name.items())


def _function(name: str, values: Values) -> str:
    words = (
        f"{_escape(word)}[{_escape(meaning)}]" if meaning else _escape(word)
        for word, meaning in values.words.items()
    )
    separator = "-s , " if values.is_list else ""
    called = " \\\n        ".join([f"_values {separator}value", *map(_quote, words)])
    return f"{name}() {{\n    {called}\n}}\n\n"


def _escape(text: str) -> str:
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"

"""The completion for bash, which needs nothing but bash 4.4."""

import textwrap
from collections.abc import Iterable

from gunicorn_prom.cli.values import Option, Values
from scripts.completions.commands import ORIGIN, Command, commands, program, shared

__all__ = ["bash"]

WIDTH = 72

HEAD = f"""\
# Completion of gunicorn-prom for bash.
# {ORIGIN}
"""

TAIL = r"""
# Proposes the modules of this directory and of those in it, as `package.module:`.
_gunicorn_prom_modules() {
    local path
    local -a found=()
    for path in *.py */*.py; do
        path=${path%.py}
        [[ $path == *__* || $path == *[!A-Za-z0-9_/]* ]] || found+=("${path//\//.}:")
    done
    compopt -o nospace
    mapfile -t COMPREPLY < <(compgen -W "${found[*]}" -- "$value")
}

# Leaves file names to readline, which knows how to quote them, unless they have a prefix that
# readline takes for a part of the name.
_gunicorn_prom_names() {
    if [[ $prefix && $current == "$word" ]]; then
        compopt -o nospace
        mapfile -t COMPREPLY < <(compgen "$2" -P "$prefix" -- "$value")
    else
        compopt -o "$1"
    fi
}

_gunicorn_prom() {
    # Gives the words as they were typed: bash takes them apart at = and : (COMP_WORDBREAKS).
    local line=${COMP_LINE:0:COMP_POINT} part index word=$2
    local -a words=()
    for ((index = 0; index < COMP_CWORD; index++)); do
        part=${COMP_WORDS[index]}
        if [[ $index -eq 0 || $line == [[:space:]]* ]]; then
            words+=("$part")
        else
            words[${#words[@]} - 1]+=$part
        fi
        line=${line#"${line%%[![:space:]]*}"}
        line=${line#"$part"}
    done
    local current=${line#"${line%%[![:space:]]*}"}
    if [[ $line && $line != [[:space:]]* ]]; then
        current=${words[${#words[@]} - 1]}$line
        unset "words[${#words[@]} - 1]"
    fi

    local option=${words[${#words[@]} - 1]} value=$current prefix=""
    if [[ $current == --*=* ]]; then
        option=${current%%=*} value=${current#*=} prefix=${current%%=*}=
    fi

    local IFS=$' \t\n' kind="" proposals="" options="" arguments="" words_of_arguments=""
    _gunicorn_prom_command "${words[1]-}"
    if [[ ! $kind || ( ! $prefix && $current == -* ) ]]; then
        kind=$arguments proposals=$words_of_arguments value=$current prefix=""
        [[ $current != -* ]] || kind=words proposals=$options
    fi
    if [[ $kind == list && $value == *,* ]]; then
        prefix+=${value%,*}, value=${value##*,}
    fi

    COMPREPLY=()
    case $kind in
        words | list) mapfile -t COMPREPLY < <(compgen -W "$proposals" -P "$prefix" -- "$value") ;;
        users) mapfile -t COMPREPLY < <(compgen -u -P "$prefix" -- "$value") ;;
        groups) mapfile -t COMPREPLY < <(compgen -g -P "$prefix" -- "$value") ;;
        files) _gunicorn_prom_names default -f ;;
        directories) _gunicorn_prom_names dirnames -d ;;
        modules) _gunicorn_prom_modules ;;
    esac
    # Bash replaces only what it takes for the word.
    local before=${current%"$word"}
    [[ ${#COMPREPLY[@]} -eq 0 ]] || COMPREPLY=("${COMPREPLY[@]#"$before"}")
}

complete -F _gunicorn_prom gunicorn-prom
"""


def bash() -> str:
    """Return completions/gunicorn-prom.bash."""
    commands_text = "".join(map(_command, [program(), *commands()]))
    return (
        f"{HEAD}\n"
        "# Sets what may stand after $option where that is a setting.\n"
        f"_gunicorn_prom_setting() {{\n{_indent(_values(shared()))}}}\n\n"
        "# Sets what may stand after $option of the command $1, and what without an option.\n"
        f"_gunicorn_prom_command() {{\n    local {_assign('settings', _names(shared()))}\n"
        f"    case $1 in\n{_indent(commands_text, 2)}    esac\n}}\n{TAIL}"
    )


def _command(command: Command) -> str:
    rest = " $settings" if command.takes_gunicorns else ""
    lines = [_assign("options", _names(command.options), rest)]
    lines.append(f"arguments={command.arguments.kind}")
    if command.arguments.words:
        lines.append(_assign("words_of_arguments", command.arguments.words))
    if command.takes_gunicorns:
        lines.append("_gunicorn_prom_setting")
    body = "\n".join(lines) + "\n" + _values(command.options)
    return _case(command.name or "''", body)


def _names(options: Iterable[Option]) -> list[str]:
    return [name for option in options for name in option.names]


def _values(options: Iterable[Option]) -> str:
    """Return what to do for each option that takes a value, "" for none."""
    by_values: dict[str, list[str]] = {}
    for option in options:
        if option.values is not None:
            by_values.setdefault(_proposals(option.values), []).extend(option.names)
    cases = "".join(_case(_pattern(names), body) for body, names in by_values.items())
    return f"case $option in\n{_indent(cases)}esac\n" if cases else ""


def _proposals(values: Values) -> str:
    if values.kind != "words":
        return f"kind={values.kind}\n"
    return f"kind={'list' if values.is_list else 'words'}\n{_assign('proposals', values.words)}\n"


def _case(pattern: str, body: str) -> str:
    return f"{pattern})\n{_indent(body)}    ;;\n"


def _pattern(names: list[str]) -> str:
    # The bar stays with the name before it.
    text = " ".join(f"{name}\N{NO-BREAK SPACE}|" for name in names).removesuffix("|").strip()
    return " \\\n    ".join(_wrap(text)).replace("\N{NO-BREAK SPACE}", " ")


def _assign(variable: str, words: Iterable[str], rest: str = "") -> str:
    value = "\n    ".join(_wrap(" ".join(words)))
    return f'{variable}="{value}{rest}"'


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _indent(text: str, levels: int = 1) -> str:
    return textwrap.indent(text, " " * 4 * levels)

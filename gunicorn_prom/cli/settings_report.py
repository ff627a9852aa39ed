"""How settings are written: as a table, as lines for other programs, as JSON."""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import groupby
from typing import Any

from gunicorn import config
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gunicorn_prom.cli.help import FILE_MODES
from gunicorn_prom.configuration import CONFIG
from gunicorn_prom.effective import Effective
from gunicorn_prom.masking import masked

__all__ = ["FORMATS", "describe", "option_of", "plain", "report", "written"]

VERSION = 1
# Below it a table has no room for its columns.
MIN_TABLE_WIDTH = 78
# Room for `gunicorn.conf.py:10`.
MIN_ORIGIN_WIDTH = 19
INDENT = 2
# As in :ref:`the file<file>`.
ROLE = re.compile(r":\w+:`([^`<]+?)(?:\s*<[^`>]*>)?`")


def report(shown: Sequence[Effective], form: str) -> None:
    """Print the settings on stdout.

    Args:
        form: one of FORMATS.
    """
    _REPORTERS[form](shown)


def describe(shown: Sequence[Effective], form: str) -> None:
    """Print all that there is to say about some settings on stdout.

    Args:
        form: one of FORMATS.
    """
    if form == "json":
        entries = [_entry(one) | {"description": _description(one)} for one in shown]
        _print_json(entries)
        return
    print("\n\n".join(map(_page, shown)))


def plain(value: Any) -> Any:
    """Return the value of a setting in JSON's kinds."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        is_address = list(map(type, value)) == [str, int]
        return ":".join(map(str, value)) if is_address else [plain(part) for part in value]
    return _name(value)


def _name(value: Any) -> str:
    """Return the name of a class or a function, with the module unless that is the file."""
    name = getattr(value, "__qualname__", type(value).__qualname__)  # its repr may show anything
    module = getattr(value, "__module__", CONFIG)
    return str(name or value) if module == CONFIG else f"{module}.{name}"


def written(setting: config.Setting, value: Any) -> str:
    """Return a value of JSON's kinds in one line, as one would type it; `none` for no value."""
    match value:
        case bool():
            text = str(value).lower()
        case int() if setting.name in FILE_MODES:
            text = f"{value:#o}"
        case float():
            text = f"{value:g}"
        case str():
            text = value.encode("unicode_escape").decode("ascii") if _breaks(value) else value
            text = text or "''"
        case list() if not any(isinstance(part, (list, dict)) for part in value):
            text = ",".join(written(setting, part) for part in value) or "none"
        case None | list() | dict():
            text = json.dumps(value) if value else "none"
        case _:
            text = str(value)
    return text


def _breaks(text: str) -> bool:
    """Tell whether a text would not stay in its column."""
    return not text.isprintable()


def option_of(setting: config.Setting) -> str:
    """Return the long option of a setting, "" for none."""
    return next((name for name in setting.cli or () if name.startswith("--")), "")


def _shown(entry: Effective) -> str:
    return written(entry.setting, masked(plain(entry.value)))


def _origin(entry: Effective) -> str:
    """Return where a value is from, with the path of a file below the directory that we are in."""
    here = f"{os.getcwd()}{os.sep}"
    return str(entry.origin._replace(name=entry.origin.name.removeprefix(here)))


def _report_text(shown: Sequence[Effective]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        for entry in shown:
            print(entry.name, _shown(entry), _origin(entry), sep="\t")
        return
    say = _say_table if console.width >= MIN_TABLE_WIDTH else _say_stacked
    width = max((len(entry.name) for entry in shown), default=0)
    for section, members in groupby(shown, key=lambda entry: entry.setting.section):
        console.print(Text(section or "", "bold"))
        say(console, members, width)
    if not shown:
        console.print("Every setting has its default.")


def _say_table(console: Console, entries: Iterable[Effective], width: int) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True, min_width=width)
    table.add_column(overflow="fold", ratio=1)
    table.add_column(overflow="fold", width=max(MIN_ORIGIN_WIDTH, console.width // 4))
    for entry in entries:
        table.add_row(entry.name, _value(entry), Text(_origin(entry)), style=_style(entry))
    console.print(Padding(table, (0, 0, 0, INDENT)))


def _say_stacked(console: Console, entries: Iterable[Effective], width: int) -> None:
    for entry in entries:
        for depth, text in (
            (1, Text(entry.name)),
            (2, _value(entry)),
            (2, Text(f"({_origin(entry)})", overflow="fold")),
        ):
            console.print(Padding(text, (0, 0, 0, INDENT * depth)), style=_style(entry))


def _value(entry: Effective) -> Text:
    """Return a value for the terminal: of several texts each begins a line."""
    value = masked(plain(entry.value))
    parts = value if isinstance(value, list) and all(isinstance(v, str) for v in value) else []
    lines = [written(entry.setting, part) for part in parts or [value]]
    return Text("\n".join(lines), overflow="fold")


def _style(entry: Effective) -> str:
    return "dim" if entry.origin.source == "default" else ""


def _report_json(shown: Sequence[Effective]) -> None:
    _print_json([_entry(entry) for entry in shown])


def _print_json(entries: list[dict[str, Any]]) -> None:
    print(json.dumps({"version": VERSION, "settings": entries}, indent=2))


def _entry(entry: Effective) -> dict[str, Any]:
    return {
        "name": entry.name,
        "section": entry.setting.section,
        "value": masked(plain(entry.value)),
        "default": plain(entry.default),
        "origin": {
            "source": entry.origin.source,
            "name": entry.origin.name or None,
            "line": entry.origin.line,
        },
        "option": option_of(entry.setting) or None,
        "environment": entry.environment or None,
    }


def _page(entry: Effective) -> str:
    facts = {
        "value": _shown(entry),
        "from": _origin(entry),
        "default": written(entry.setting, plain(entry.default)),
        "option": ", ".join(entry.setting.cli or ()) or "none, only in a configuration file",
        "environment": entry.environment or "none",
        "section": entry.setting.section,
    }
    lines = [f"  {name:<13}{value}" for name, value in facts.items()]
    return "\n".join([entry.name, *lines, "", _description(entry)])


def _description(entry: Effective) -> str:
    """Return what Gunicorn says of a setting, without the roles of its markup."""
    return ROLE.sub(r"\1", entry.setting.desc or "").strip()


_REPORTERS: dict[str, Callable[[Sequence[Effective]], None]] = {
    "text": _report_text,
    "json": _report_json,
}
FORMATS = tuple(_REPORTERS)

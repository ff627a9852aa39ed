"""The help of the commands that take Gunicorn's options, which Typer does not parse."""

import argparse
import os
import re
import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

from gunicorn import config
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gunicorn_prom.cli.options import Declared
from gunicorn_prom.cli.output import written
from gunicorn_prom.settings import OWN_SETTINGS, SECTION, environment

__all__ = ["Section", "of_options", "of_settings", "print_help"]

OWN_NAMES = frozenset(setting.name for setting in OWN_SETTINGS)
# As in :ref:`the file<file>`.
ROLE = re.compile(r":\w+:`([^`<]+?)(?:\s*<[^`>]*>)?`")
SENTENCE = re.compile(r"(.+?\.)(?: |$)")
FILE_MODES = ("umask", "control_socket_mode")
NAMES_WIDTH = 38
# Below, what stands beside the names would be a column of syllables.
PANEL_WIDTH = 60


class Section(NamedTuple):
    """A part of a help page.

    Attributes:
        title: of it.
        rows: of each option its names with what it takes, what it does, and the rest of
            what there is to know: its environment variable, its default.
    """

    title: str
    rows: list[tuple[str, str, str]]


def print_help(usage: str, about: str, sections: Iterable[Section]) -> None:
    """Print a help page on stdout: in panels on a terminal, else as plain lines.

    Raises:
        GunicornPromError: it cannot be written.
    """
    with written():
        _print(Console(highlight=False), usage, about, sections)


def _print(console: Console, usage: str, about: str, sections: Iterable[Section]) -> None:
    console.print(Text.assemble(("Usage: ", "bold"), usage), soft_wrap=not console.is_terminal)
    for paragraph in about.strip().split("\n\n"):
        console.print()
        console.print(Text(" ".join(paragraph.split())), soft_wrap=not console.is_terminal)
    for section in sections:
        console.print()
        if console.is_terminal and console.width >= PANEL_WIDTH:
            console.print(_panel(section))
        else:
            _print_plain(section, console.width if console.is_terminal else None)


def _panel(section: Section) -> Panel:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(max_width=NAMES_WIDTH, overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    for names, text, rest in section.rows:
        what = Text(text)
        if rest:
            what.append(f" {rest}", "dim")
        table.add_row(Text(names, "bold"), what)
    return Panel(table, title=section.title, title_align="left", border_style="dim")


def _print_plain(section: Section, width: int | None) -> None:
    """Print a section as lines, None for any width."""
    print(f"{section.title}:")
    for names, text, rest in section.rows:
        for line, indent in ((names, "  "), (f"{text} {rest}".rstrip(), "      ")):
            wrapped = textwrap.wrap(line, width - len(indent)) if width else [line]
            print(textwrap.indent("\n".join(wrapped), indent))


def of_options(title: str, options: Iterable[Declared]) -> Section:
    """Return the section of a command's own options, as argparse has them."""
    rows = []
    for names, declared in options:
        is_flag = declared.get("action") == "store_true"
        choices = "|".join(declared.get("choices", ()))
        meta = "" if is_flag else declared.get("metavar", choices)
        rest = _rest({"default": declared.get("default", "")})
        rows.append((f"{', '.join(names)} {meta}".rstrip(), declared["help"], rest))
    return Section(title, rows)


def of_settings() -> list[Section]:
    """Return a section for each of the installed Gunicorn's, ours first."""
    sections: dict[str, list[tuple[str, str, str]]] = {SECTION: []}
    for setting in config.KNOWN_SETTINGS:
        if setting.cli:
            sections.setdefault(setting.section or "", []).append(_of_setting(setting))
    return [Section(title, rows) for title, rows in sections.items()]


def _of_setting(setting: Any) -> tuple[str, str, str]:
    is_switch = setting.action is argparse.BooleanOptionalAction
    is_flag = is_switch or setting.action not in (None, "store", "append")
    names = [*setting.cli, *([f"--no{setting.cli[0][1:]}"] if is_switch else [])]
    meta = "" if is_flag else setting.meta or "VALUE"
    variable = environment(setting.name) if setting.name in OWN_NAMES else ""
    default = ("on" if setting.default else "off") if is_switch else _shown(setting.default)
    if setting.name in FILE_MODES:
        default = f"{setting.default:#o}"
    rest = _rest({"env": variable, "default": default})
    return f"{', '.join(names)} {meta}".rstrip(), _first_sentence(setting.desc), rest


def _rest(parts: dict[str, str]) -> str:
    return " ".join(f"[{name}: {value}]" for name, value in parts.items() if value)


def _shown(default: Any) -> str:
    """Return a default as it would be typed, "" where there is none or it says nothing."""
    if isinstance(default, (tuple, list)):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in default)
    if default is False or default in (None, "", {}):
        return ""
    if default == os.getcwd():
        return "."
    home = os.path.expanduser("~/")
    return f"~/{default[len(home) :]}" if str(default).startswith(home) else str(default)


def _first_sentence(description: str) -> str:
    """Return how Gunicorn's description of a setting begins, without marks of its markup."""
    paragraph = " ".join(description.strip().split("\n\n")[0].split())
    plain = ROLE.sub(r"\1", paragraph).replace("``", "`")
    match = SENTENCE.match(plain)
    return (match[1] if match else plain).rstrip(":.") + "."

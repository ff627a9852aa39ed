"""`gunicorn-prom metrics`: the reference of every family, made from their declarations."""

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from gunicorn_prom.cli.output import written
from gunicorn_prom.errors import GunicornPromError, fail
from gunicorn_prom.metrics import FAMILIES, Family

__all__ = ["Form", "markdown", "metrics"]

VERSION = 1
UNITS = ("seconds", "bytes", "percent")
SCOPES = {"server": "Of the server", "worker": "Of each worker that lives"}
# What is at the same place without being declared here.
OTHERS = (
    ("process_*", "The master's own process, from prometheus_client."),
    ("python_info", "The master's Python, from prometheus_client."),
    (
        "the application's",
        "What the application counts with prometheus_client, unless --no-app-metrics.",
    ),
)
INDENT = 4


class Form(StrEnum):
    """How the reference is written."""

    text = "text"
    json = "json"
    markdown = "markdown"


def metrics(
    form: Annotated[
        Form, typer.Option("--format", help="How to write it: text, json or markdown.")
    ] = Form.text,
) -> None:
    """List every metric: name, labels, type, unit and meaning."""
    forms = {Form.text: _text, Form.json: _json, Form.markdown: markdown}
    try:
        with written():
            print(forms[form]())
    except GunicornPromError as error:
        fail(error)


def _scope(family: Family) -> str:
    return "worker" if "worker_id" in family.labels else "server"


def _unit(family: Family) -> str:
    """Return the base unit that stands in the name, "" for a number of things."""
    unit = family.name.removesuffix("_total").rpartition("_")[2]
    return unit if unit in UNITS else ""


def _of(scope: str) -> Iterable[Family]:
    return (family for family in FAMILIES.values() if _scope(family) == scope)


def _json() -> str:
    document = {
        "version": VERSION,
        "families": [_entry(family) for family in FAMILIES.values()],
        "others": [{"name": name, "meaning": meaning} for name, meaning in OTHERS],
    }
    return json.dumps(document, indent=2)


def _entry(family: Family) -> dict[str, Any]:
    return {
        "name": family.name,
        "type": family.kind,
        "labels": list(family.labels),
        "unit": _unit(family),
        "scope": _scope(family),
        "meaning": family.help,
    }


def markdown() -> str:
    """Return the tables of docs/metrics.md."""
    return "\n\n".join(f"## {title}\n\n{_table(_of(scope))}" for scope, title in SCOPES.items())


def _table(families: Iterable[Family]) -> str:
    rows = ["| family | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for family in families:
        labels = ", ".join(f"`{label}`" for label in family.labels) or "-"
        unit = _unit(family) or "-"
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {unit} | {family.help} |")
    return "\n".join(rows)


def _text() -> str:
    # When piped, an entry is two lines, however long.
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    with console.capture() as capture:
        for scope, title in SCOPES.items():
            console.print(Text(f"{title}\n", "bold underline"))
            for family in _of(scope):
                _add(console, _signature(family), family.help)
            console.print()
        console.print(Text("Beside them\n", "bold underline"))
        for name, meaning in OTHERS:
            _add(console, Text(name, "bold"), meaning)
    return capture.get().rstrip("\n")


def _signature(family: Family) -> Text:
    labels = f"{{{', '.join(family.labels)}}}" if family.labels else ""
    kind = ", ".join(filter(None, (family.kind, _unit(family))))
    return Text.assemble((family.name, "bold"), (labels, "cyan"), f"  {kind}")


def _add(console: Console, name: Text, meaning: str) -> None:
    console.print(name)
    if console.soft_wrap:
        console.print(Text(" " * INDENT + meaning))
    else:
        console.print(Padding(meaning, (0, 0, 0, INDENT)))

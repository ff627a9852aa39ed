"""What Typer's own completion (`--install-completion`) is shown of commands it does not parse.

The files in completions/ know the same and are faster: they start no Python.
"""

import inspect
import os
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from gunicorn_prom.cli.options import Declared
from gunicorn_prom.cli.values import Option, of_declared, of_gunicorn

__all__ = ["IS_ASKED", "add_options"]

# A shell asks by this variable, and nothing is run then.
IS_ASKED = "_GUNICORN_PROM_COMPLETE" in os.environ


def add_options(command: Callable[..., Any], options: Iterable[Declared]) -> None:
    """Give `command` the signature by which Typer knows its own options and Gunicorn's."""
    parameters = [_parameter(option) for option in [*of_declared(options), *of_gunicorn()]]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]


def _parameter(option: Option) -> inspect.Parameter:
    is_flag = option.values is None
    declared = typer.Option(*option.names, help=option.help, autocompletion=_proposer(option))
    return inspect.Parameter(
        option.names[-1].strip("-").replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=False if is_flag else None,
        annotation=Annotated[bool if is_flag else str, declared],
    )


def _proposer(option: Option) -> Callable[[str], list[tuple[str, str]]]:
    """Return what proposes the words for an option; file names the shell itself has."""

    def propose(incomplete: str) -> list[tuple[str, str]]:
        words = option.values.words if option.values else {}
        before = ""
        if option.values and option.values.is_list and "," in incomplete:
            before = incomplete.rpartition(",")[0] + ","
        return [(before + word, meaning) for word, meaning in words.items()]

    return propose

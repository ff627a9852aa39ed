"""`gunicorn-prom run`, as far as it is not the launcher's: its help."""

import inspect
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from gunicorn import config

from gunicorn_prom.settings import OWN_SETTINGS, SECTION, environment

__all__ = ["run"]

OWN_NAMES = frozenset(setting.name for setting in OWN_SETTINGS)


def run(context: typer.Context, **_shown: Any) -> NoReturn:
    """Start Gunicorn with metrics: `gunicorn-prom run app:app --worker-type gevent`.

    Takes every option of Gunicorn, in any order, exactly as `gunicorn` does, and
    the options of its own that come first below.
    """
    # The master must not have Typer in it, see gunicorn_prom.__main__.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn_prom", *sys.argv[1:]])


def _parameter(setting: Any) -> inspect.Parameter:
    """Return the parameter through which Typer shows `setting` on the help page."""
    is_ours = setting.name in OWN_NAMES
    is_flag = setting.action not in (None, "store", "append")
    option = typer.Option(
        *setting.cli,
        help=setting.short,
        metavar=None if is_flag else setting.meta,
        envvar=environment(setting.name) if is_ours else None,
        show_default=_shown_default(setting.default),
        rich_help_panel=setting.section,
    )
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if is_flag else None,
        annotation=Annotated[bool if is_flag else str, option],
    )


def _shown_default(default: Any) -> str | bool:
    if isinstance(default, tuple):
        return ",".join(f"{value:g}" for value in default)
    return str(default) if default not in (None, "", [], {}, False) else False


def _signature() -> inspect.Signature:
    """Return the context and every setting of the installed Gunicorn, ours first."""
    context = next(iter(inspect.signature(run).parameters.values()))
    with_flags = [setting for setting in config.KNOWN_SETTINGS if setting.cli]
    ours_first = sorted(with_flags, key=lambda setting: setting.section != SECTION)
    return inspect.Signature([context, *map(_parameter, ours_first)])


# Typer makes the help page of the signature; the values never reach it, for the
# launcher parses the command line itself.
run.__signature__ = _signature()  # type: ignore[attr-defined]

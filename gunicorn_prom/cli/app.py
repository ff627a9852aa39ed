"""The commands, put together."""

import sys
from typing import Annotated

import typer

from gunicorn_prom.cli.export import export
from gunicorn_prom.cli.run import run

__all__ = ["app"]

app = typer.Typer(
    name="gunicorn-prom",
    help="Gunicorn with Prometheus metrics built in.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    # When piped, Typer would still draw boxes and wrap at 80 columns.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)
app.command("export")(export)
app.command("run", options_metavar="[OPTIONS] [APP_MODULE]")(run)


def _show_version(wanted: bool) -> None:
    if wanted:
        from gunicorn_prom.launcher import versions

        typer.echo(versions())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the versions."),
    ] = False,
) -> None:
    """Gunicorn with Prometheus metrics built in."""

"""The commands, put together."""

import contextlib
import difflib
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from gunicorn_prom.cli import completion
from gunicorn_prom.cli.check import OPTIONS as CHECK_OPTIONS
from gunicorn_prom.cli.check import check
from gunicorn_prom.cli.emit import OPTIONS as EMIT_OPTIONS
from gunicorn_prom.cli.emit import emit
from gunicorn_prom.cli.export import export
from gunicorn_prom.cli.metrics import metrics
from gunicorn_prom.cli.output import written
from gunicorn_prom.cli.run import run
from gunicorn_prom.cli.settings import OPTIONS as SETTINGS_OPTIONS
from gunicorn_prom.cli.settings import settings
from gunicorn_prom.cli.top import top
from gunicorn_prom.errors import GunicornPromError, UsageError, fail

__all__ = ["app", "main"]

USAGE, INTERRUPTED = 2, 130
# What Typer prints, by what asks for it.
ANSWERED = frozenset(("-h", "--help", "--version", "--show-completion"))
AS_IT_IS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
# Click's, which Typer brings along under a name that is not the same in all its versions.
_ClickUsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="gunicorn-prom",
    help="Gunicorn with Prometheus metrics built in.",
    invoke_without_command=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    # When piped, Typer would still draw boxes and wrap at 80 columns.
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)
# These take Gunicorn's options and read the command line themselves.
for command, own_options in (
    (run, ()),
    (check, CHECK_OPTIONS),
    (settings, SETTINGS_OPTIONS),
    (emit, EMIT_OPTIONS),
):
    if completion.IS_ASKED:
        completion.add_options(command, own_options)
    app.command(add_help_option=False, context_settings=AS_IT_IS)(command)
app.command("metrics")(metrics)
app.command("export")(export)
app.command("top")(top)


def _show_version(wanted: bool) -> None:
    if wanted:
        from gunicorn_prom.configuration import versions

        typer.echo(versions())
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the versions."),
    ] = False,
) -> None:
    """Gunicorn with Prometheus metrics built in."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


def main() -> NoReturn:
    """Run the command that the command line names.

    Raises:
        SystemExit: always.
    """
    is_answered = len(sys.argv) == 1 or not ANSWERED.isdisjoint(sys.argv)
    try:
        # A command knows itself which of its errors are those of stdout.
        with written() if is_answered else contextlib.nullcontext():
            code = get_command(app).main(prog_name="gunicorn-prom", standalone_mode=False)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except GunicornPromError as error:
        fail(error)
    except _ClickUsageError as error:
        fail(_worded(error))
    sys.exit(code or 0)


def _worded(error: Any) -> UsageError:
    """Return an error of Typer's in our words."""
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path if context else 'gunicorn-prom'} --help`"
    option = getattr(error, "option_name", None)
    if option and getattr(error, "possibilities", None) is not None:
        close = difflib.get_close_matches(option, error.possibilities, n=1)
        return UsageError(
            f"no such option: {option}", f"did you mean {close[0]}?" if close else hint
        )
    message, _, meant = error.format_message().partition(" Did you mean ")
    message = message[:1].lower() + message[1:].rstrip(".")
    if isinstance(error, typer.BadParameter) and error.param is not None and error.message:
        # What stands before the reason is that of the validator which newer Typer has.
        reason = error.message.removeprefix("Value error, ").rstrip(".")
        message = f"invalid {error.param.opts[-1]}: {reason}"
    return UsageError(message, f"did you mean {meant}" if meant else hint)

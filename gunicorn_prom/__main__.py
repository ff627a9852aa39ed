"""The command `gunicorn-prom`, and `python -m gunicorn_prom`.

`run` goes straight to the launcher: Typer would double the time to the first
answer and stay in the memory of the master and of every worker. `check`, `settings`
and `emit` take the same options and go straight to their own code. Everything else
is Typer's.
"""

import io
import os
import sys

__all__ = ["main"]

HELP_OPTIONS = frozenset(("-h", "--help"))
INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process.

    Raises:
        SystemExit: always.
    """
    arguments = sys.argv[1:]
    try:
        _check_surroundings()
        if arguments[:1] == ["run"] and HELP_OPTIONS.isdisjoint(arguments):
            import gunicorn_prom.bare  # noqa: F401  # first, see there
            from gunicorn_prom.launcher import run

            run(arguments[1:])
        if sys.stdout is None:  # closed by whoever has started us
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
        # What the terminal's encoding does not have is escaped.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        if arguments[:1] == ["check"]:
            from gunicorn_prom.cli.check import main as check

            check(arguments[1:])
        if arguments[:1] == ["settings"]:
            from gunicorn_prom.cli.settings import main as settings

            settings(arguments[1:])
        if arguments[:1] == ["emit"]:
            from gunicorn_prom.cli.emit import main as emit

            emit(arguments[1:])
        from gunicorn_prom.cli.app import main as others

        others()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _check_surroundings() -> None:
    # Gunicorn asks for both as soon as it is imported.
    message = hint = ""
    try:
        os.getcwd()
    except FileNotFoundError:
        message, hint = "the working directory is there no more", "change to one that is"
    value = os.environ.get("WEB_CONCURRENCY", "1")
    try:
        is_number = int(value) >= 0
    except ValueError:
        is_number = False
    if not is_number:
        message, hint = f"WEB_CONCURRENCY is {value!r}, no number of workers", "unset it"
    if message:
        from gunicorn_prom.errors import UsageError, fail

        fail(UsageError(message, hint))


if __name__ == "__main__":
    main()

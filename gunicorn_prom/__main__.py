"""The command `gunicorn-prom`, and `python -m gunicorn_prom`.

`run` goes straight to the launcher: Typer would double the time to the first
answer and stay in the memory of the master and of every worker. Everything else,
`run --help` too, is Typer's.
"""

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
        if arguments[:1] == ["run"] and HELP_OPTIONS.isdisjoint(arguments):
            from gunicorn_prom.launcher import run

            run(arguments[1:])
        from gunicorn_prom.cli import app

        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()

"""The command line: the only part that imports Typer and Rich."""

from gunicorn_prom.cli.app import app

__all__ = ["app"]

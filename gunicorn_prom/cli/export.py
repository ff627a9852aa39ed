"""`gunicorn-prom export`: the sidecar."""

import re
from pathlib import Path
from typing import Annotated

import typer
from gunicorn import config

from gunicorn_prom.errors import GunicornPromError, InvalidSettingError, UsageError, fail
from gunicorn_prom.settings import MetricsBind, MetricsPath, environment, name_of
from gunicorn_prom.state import default_root

__all__ = ["export"]

NAME = re.compile(r"[A-Za-z0-9_.:-]+")
HINT = "see `gunicorn-prom export --help`"


def export(
    directories: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[NAME=]DIR]...",
            help="State directories of servers. With a NAME, or with several, each server's "
            "metrics get the label server=NAME.",
        ),
    ] = None,
    metrics_state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar=environment("metrics_state_dir"),
            metavar="DIR",
            help="The state directory when no DIR is given. Without it that of this user.",
        ),
    ] = None,
    metrics_bind: Annotated[
        str,
        typer.Option(
            envvar=environment("metrics_bind"), metavar="ADDRESS", help="Where to serve, HOST:PORT."
        ),
    ] = MetricsBind.default,
    metrics_path: Annotated[
        str,
        typer.Option(
            envvar=environment("metrics_path"),
            metavar="PATH",
            help="The path under which the metrics are served.",
        ),
    ] = MetricsPath.default,
    metrics_web_config: Annotated[
        str | None,
        typer.Option(
            envvar=environment("metrics_web_config"),
            metavar="FILE",
            help="TLS and passwords, as a web configuration file of Prometheus's exporters.",
        ),
    ] = None,
) -> None:
    """Serve the metrics of a running server from beside it.

    The server is started with `--metrics-server none` and a `--metrics-state-dir` that both can
    see, in Kubernetes an emptyDir on memory. The sidecar waits for it, follows its upgrades and
    restarts, and needs no more than to read the directory.
    """
    try:
        # After the options: prometheus_client takes longer to import than they to check.
        roots = _roots(directories or [], metrics_state_dir)
        for root in roots.values():
            if root.exists() and not root.is_dir():
                raise UsageError(f"{root} is no directory", HINT)
        bind = _checked(MetricsBind(), metrics_bind)
        path = _checked(MetricsPath(), metrics_path)
        from gunicorn_prom.exporter.sidecar import serve

        serve(roots, bind, path, metrics_web_config)
    except GunicornPromError as error:
        fail(error)


def _roots(directories: list[str], state_dir: Path | None) -> dict[str, Path]:
    """Return the directories by the name of their server, "" for the only one."""
    if not directories:
        return {"": state_dir or default_root()}
    roots: dict[str, Path] = {}
    for given in directories:
        name, equals, directory = given.rpartition("=")
        if len(directories) > 1 and not equals:
            raise UsageError(f"{given!r} has no name among several", f"write it as NAME={given}")
        if equals and not NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a server", "use letters, digits, . _ : -")
        if not directory:
            raise UsageError(f"{given!r} names no directory", HINT)
        if name in roots:
            raise UsageError(f"two servers are called {name!r}", "give each a name of its own")
        roots[name] = Path(directory)
    return roots


def _checked(setting: config.Setting, value: str) -> str:
    try:
        setting.set(value)
    except (TypeError, ValueError) as error:
        option = f"--{name_of(type(setting)).replace('_', '-')}"
        raise InvalidSettingError(f"invalid {option}: {error}", HINT) from error
    return str(setting.get())

"""The Gunicorn application behind `gunicorn-prom run`: configuration, then the master.

Nothing of the command line's libraries is imported here: the process becomes the
master, and what it holds every worker inherits.
"""

import argparse
import os
import platform
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import gunicorn
from gunicorn.app.base import BaseApplication
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import Config
from gunicorn.errors import ConfigError

from gunicorn_prom import __version__, workers
from gunicorn_prom.app_directory import announce
from gunicorn_prom.arbiter import PrometheusArbiter
from gunicorn_prom.errors import GunicornPromError, InvalidSettingError, UsageError, fail
from gunicorn_prom.exporter.listener import listen
from gunicorn_prom.settings import MAX_PORT, OWN_SETTINGS, environment, name_of, parse_bind
from gunicorn_prom.state import make_root

__all__ = ["Launcher", "run", "versions"]

EVERY_HOST = frozenset(("0.0.0.0", "::", ""))
HELP_HINT = "see `gunicorn-prom run --help`"
PROGRAM = "gunicorn-prom run"
USAGE = "%(prog)s [OPTIONS] [APP_MODULE]"


def versions() -> str:
    """Return the versions that matter in a report of a fault."""
    return (
        f"gunicorn-prom {__version__} "
        f"(Gunicorn {gunicorn.__version__}, Python {platform.python_version()})"
    )


def run(arguments: list[str]) -> NoReturn:
    """Become the master that `gunicorn-prom run ARGUMENTS` asks for.

    Raises:
        SystemExit: with the exit code of the contract.
    """
    try:
        Launcher(arguments).run()
    except GunicornPromError as error:
        fail(error)
    sys.exit(0)


def _names_given(parsed: argparse.Namespace) -> set[str]:
    return {name for name, value in vars(parsed).items() if value is not None}


class _Parser(argparse.ArgumentParser):
    """Gunicorn's command line, with our arguments and with errors worded as ours."""

    def __init__(self, cfg: "_Config", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cfg = cfg

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse `args`, by default those that `gunicorn-prom run` was given.

        Gunicorn gives those of GUNICORN_CMD_ARGS; what stands there is remembered.
        """
        if args is None:
            return super().parse_args(self._cfg.arguments, namespace)
        parsed = super().parse_args(args, namespace)
        self._cfg.from_cmd_args_variable = _names_given(parsed)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line.

        Raises:
            UsageError: always; the hint is the option that was meant, if one is near.
        """
        import difflib  # rarely wanted, and the process becomes the master

        label, _, words = message.partition("unrecognized arguments: ")
        for word in words.split() if not label else ():
            option = word.partition("=")[0]
            close = difflib.get_close_matches(option, self._option_string_actions, n=1, cutoff=0.75)
            if close:
                raise UsageError(message, f"did you mean {close[0]}?")
        raise UsageError(message, HELP_HINT)


class _Config(Config):
    """Gunicorn's configuration, with our parser and a name in every error."""

    def __init__(self, usage: str, prog: str, arguments: list[str]) -> None:
        super().__init__(usage, prog=prog)
        self.arguments = arguments
        self.from_cmd_args_variable: set[str] = set()

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of all settings."""
        parser = _Parser(self, prog=self.prog, usage=self.usage)
        parser.add_argument("-v", "--version", action="version", version=versions())
        parser.add_argument("args", nargs="*", help=argparse.SUPPRESS)
        for name in sorted(self.settings, key=self.settings.__getitem__):
            self.settings[name].add_option(parser)
        return parser

    def set(self, name: str, value: Any) -> None:
        """Set one setting.

        Raises:
            InvalidSettingError: it cannot have that value.
        """
        try:
            super().set(name, value)
        except (TypeError, ValueError) as error:
            option = (self.settings[name].cli or [name])[-1]
            raise InvalidSettingError(f"invalid {option}: {error}", HELP_HINT) from error


class _Serving(BaseApplication):
    """The last step of `run`: our arbiter in the place of Gunicorn's.

    Among the bases of `Launcher` it comes after Gunicorn's own classes, which in
    their `run` have printed or checked the configuration, become a daemon and set
    the import path before they hand on to it.
    """

    def run(self) -> None:
        """Be the master until it ends.

        Raises:
            UsageError: the worker class cannot be loaded.
            SystemExit: at the end.
        """
        try:
            self.cfg.worker_class  # noqa: B018  # loads it
        except RuntimeError as error:
            # Its last line, before a bracket, is that of a traceback.
            reason = str(error).strip().removesuffix("]").strip().splitlines()[-1]
            raise UsageError(
                f"cannot load the worker class {self.cfg.worker_class_str}: {reason}",
                f"worker types are {', '.join(workers.WORKER_TYPES)}; "
                "a class of your own is given as -k module.Class",
            ) from error
        arbiter = PrometheusArbiter(self)
        # Gunicorn takes sys.argv, which does not tell how `python -m` was started.
        arbiter.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        arbiter.run()


class Launcher(WSGIApplication, _Serving):
    """Gunicorn's application for a WSGI module, with our settings and our arbiter.

    Args:
        arguments: the command line after `gunicorn-prom run`.

    Attributes:
        metrics_listener: the socket of the metrics server, None for no server.

    Raises:
        SystemExit: the configuration is invalid; it has been said on stderr.
    """

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._given: set[str] = set()
        self._from_file: dict[str, Any] = {}
        self.metrics_listener: socket.socket | None = None
        announce()
        super().__init__(USAGE, prog=PROGRAM)

    def load_default_config(self) -> None:
        """Begin with the defaults."""
        self.cfg = _Config(USAGE, PROGRAM, self._arguments)

    def init(self, parser: Any, opts: Any, args: Any) -> Any:
        """Take the application's name from the command line, and remember the options."""
        self._given = _names_given(opts)
        return super().init(parser, opts, args)

    def load_config_from_file(self, filename: str) -> Any:
        """Read the configuration file, and remember what stands in it."""
        self._from_file = super().load_config_from_file(filename)
        return self._from_file

    def load_config(self) -> None:
        """Gather the settings from everywhere, at start and at every reload.

        Raises:
            SystemExit: something in it is invalid; it has been said on stderr.
        """
        self._from_file = {}
        try:
            super().load_config()
            self._apply_environment()
            self._choose_worker_class()
            self._check_ports()
        except GunicornPromError as error:
            fail(error)
        except ConfigError as error:
            fail(UsageError(_sentence(error), "name the application: gunicorn-prom run module:app"))
        except Exception as error:
            fail(UsageError(_sentence(error), HELP_HINT))

    def run(self) -> None:
        """Bind the metrics server, so that a busy port is told at once, then serve.

        Raises:
            GunicornPromError: something is not to be had.
            SystemExit: at the end.
        """
        if self.cfg.metrics_web_config:
            # Imported for it alone: TLS and passwords are a lot of memory.
            from gunicorn_prom.exporter.door import validate

            validate(Path(self.cfg.metrics_web_config))
        if not self.cfg.check_config and not self.cfg.print_config:
            if self.cfg.daemon:  # which could not tell any more
                make_root(self.cfg.metrics_state_dir and Path(self.cfg.metrics_state_dir))
            if self.cfg.metrics_server != "none":
                self.metrics_listener = listen(self.cfg.metrics_bind)
        super().run()

    def _apply_environment(self) -> None:
        for name in map(name_of, OWN_SETTINGS):
            value = os.environ.get(environment(name))
            if value is not None and name not in self._given:
                self.cfg.set(name, value)

    def _choose_worker_class(self) -> None:
        given_class = self.cfg.settings["worker_class"].get()
        by_class, by_type = workers.type_of(given_class), self.cfg.worker_type
        class_rank, type_rank = self._rank("worker_class"), self._rank("worker_type")
        if by_type and class_rank and class_rank == type_rank and by_class != by_type:
            raise UsageError(
                f"--worker-type {by_type} and --worker-class {given_class} contradict each other",
                "give one of them",
            )
        if by_type and type_rank >= class_rank:
            by_class = by_type
            self.cfg.set("worker_class", by_type)
        problem = workers.unavailable(by_class) if by_class else None
        if problem:
            raise problem

    def _check_ports(self) -> None:
        metrics_host, metrics_port = parse_bind(self.cfg.metrics_bind)
        for address in self.cfg.address:
            if not isinstance(address, tuple):
                continue
            host, port = address[:2]
            if port > MAX_PORT:
                message = f"invalid --bind: port {port} is not in 0 to {MAX_PORT}"
                raise InvalidSettingError(message, HELP_HINT)
            is_same_host = host == metrics_host or not EVERY_HOST.isdisjoint((host, metrics_host))
            if port == metrics_port != 0 and is_same_host and self.cfg.metrics_server != "none":
                raise UsageError(
                    f"--bind and --metrics-bind both ask for port {port}",
                    "choose another with --metrics-bind",
                )

    def _rank(self, name: str) -> int:
        """Return how far a setting's source prevails over others, 0 for the default."""
        sources = (
            name in self._from_file,
            name in self.cfg.from_cmd_args_variable,
            environment(name) in os.environ,
            name in self._given,
        )
        return max((rank for rank, present in enumerate(sources, 1) if present), default=0)


def _sentence(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__

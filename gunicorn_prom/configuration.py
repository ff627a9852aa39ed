"""The configuration of `gunicorn-prom run`: gathered, checked, and where each value is from.

Gunicorn's own application gathers it, with our parser and with errors that name the setting.
"""

import argparse
import os
import platform
import stat
import sys
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import gunicorn
from gunicorn import systemd
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.config import Config
from gunicorn.errors import ConfigError

from gunicorn_prom import __version__, workers
from gunicorn_prom.errors import GunicornPromError, InvalidSettingError, UsageError, place
from gunicorn_prom.masking import hide_credentials
from gunicorn_prom.settings import MAX_PORT, OWN_NAMES, environment, parse_bind

__all__ = ["Configuration", "Origin", "versions"]

# As what Gunicorn runs a configuration file.
CONFIG = "__config__"

EVERY_IPV4, EVERY_HOST = "0.0.0.0", "::"
CMD_ARGS = "GUNICORN_CMD_ARGS"
CONFIG_FILE = "config file"
# Each prevails over those before it. What is derived comes of another setting.
SOURCES = ("default", CONFIG_FILE, CMD_ARGS, "environment", "command line", "derived")
# What Gunicorn itself reads where a setting has no other value.
GUNICORNS_ENVIRONMENT = {
    "workers": "WEB_CONCURRENCY",
    "bind": "PORT",
    "forwarded_allow_ips": "FORWARDED_ALLOW_IPS",
    "sendfile": "SENDFILE",
}
USAGE = "%(prog)s [OPTIONS] [APP_MODULE]"


def versions() -> str:
    """Return the versions that matter in a report of a fault."""
    return (
        f"gunicorn-prom {__version__} "
        f"(Gunicorn {gunicorn.__version__}, Python {platform.python_version()})"
    )


class Origin(NamedTuple):
    """Where the value of a setting is from.

    Attributes:
        source: one of SOURCES.
        name: the file, the environment variable, or the setting of which it is derived; "" for
            the others.
        line: in the file, None where it is not known.
    """

    source: str
    name: str = ""
    line: int | None = None

    @property
    def rank(self) -> int:
        """How far it prevails over others, 0 for the default and what Gunicorn takes for it."""
        is_default = self.source == "environment" and self.name in GUNICORNS_ENVIRONMENT.values()
        return 0 if is_default else SOURCES.index(self.source)

    def __str__(self) -> str:
        """Say it in a few words, a line of a file as FILE:LINE."""
        match self.source:
            case "config file":
                return f"{self.name}:{self.line}" if self.line else self.name
            case "environment":
                return f"environment {self.name}"
            case "derived":
                return f"from {self.name}"
            case "default" if self.name:
                return f"default by {self.name}"
        return self.source


def _names_given(parsed: argparse.Namespace) -> set[str]:
    return {name for name, value in vars(parsed).items() if value is not None}


class _Parser(argparse.ArgumentParser):
    """Gunicorn's command line, with our arguments and with errors worded as ours."""

    def __init__(self, cfg: "_Config", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._cfg = cfg

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse `args`, by default those that the command was given.

        Gunicorn gives those of GUNICORN_CMD_ARGS; what stands there is remembered.
        """
        if args is None:
            if self._cfg.takes_several:  # argparse takes those in one row otherwise
                return self.parse_intermixed_args(self._cfg.arguments, namespace)
            return super().parse_args(self._cfg.arguments, namespace)
        try:
            parsed = super().parse_args(args, namespace)
        except UsageError as error:
            raise UsageError(f"{CMD_ARGS}: {error}", error.hint) from error
        self._cfg.from_cmd_args_variable = _names_given(parsed)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line.

        Raises:
            UsageError: always; the hint is the option that was meant, if one is near.
        """
        import difflib  # rarely wanted, and the process becomes the master

        label, _, words = message.partition("unrecognized arguments: ")
        options = [*self._option_string_actions, *self._cfg.further_options]
        for word in words.split() if not label else ():
            option = word.partition("=")[0]
            close = difflib.get_close_matches(option, options, n=1, cutoff=0.75)
            if close:
                raise UsageError(message, f"did you mean {close[0]}?")
        raise UsageError(message, self._cfg.hint)


class _Config(Config):
    """Gunicorn's configuration, with our parser and a name in every error."""

    takes_several = False

    def __init__(
        self, prog: str, arguments: list[str], further_options: Iterable[str] = ()
    ) -> None:
        super().__init__(USAGE, prog=prog)
        self.arguments = arguments
        self.further_options = further_options
        self.hint = f"see `{prog} --help`"
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
            message = f"invalid {option}: {hide_credentials(str(error))}"
            raise InvalidSettingError(message, self.hint) from error


class Configuration(WSGIApplication):
    """Every setting that `gunicorn-prom run ARGUMENTS` would use.

    Reading it runs the user's configuration file, in this process.

    Args:
        arguments: the command line after the command.
        command: of gunicorn-prom, for messages.
        further_options: of the command itself, of which none is in `arguments`; they are
            only proposed for what is misspelt.
        needs_application: whether it is an error that none is named.
        needs_worker: whether it is an error that workers of its type cannot run here.

    Attributes:
        app_uri: the application, None: none is named.
        config_file: the configuration file that was read, or `python:MODULE`; None for none.
        file_variables: what stands in it, by name.
        takes_several: whether more may be named than the application, options between them.

    Raises:
        GunicornPromError: the configuration is invalid.
        SystemExit: after `--version`.
    """

    takes_several = False

    def __init__(
        self,
        arguments: list[str],
        command: str = "run",
        further_options: Iterable[str] = (),
        *,
        needs_application: bool = True,
        needs_worker: bool = True,
    ) -> None:
        self._arguments = arguments
        self._needs_application = needs_application
        self._needs_worker = needs_worker
        self._further_options = further_options
        self._given: set[str] = set()
        # Of the configuration before a reload.
        self._last_addresses: list[Any] | None = None
        self.config_file: str | None = None
        self.file_variables: dict[str, Any] = {}
        self._program = f"gunicorn-prom {command}"
        super().__init__(USAGE, prog=self._program)

    def do_load_config(self) -> None:
        """Load, without Gunicorn's own words for what is wrong."""
        if self.cfg is not None:
            self._last_addresses = self.cfg.address
        self.load_default_config()
        self.load_config()
        # Gunicorn 25 does not have it yet.
        validate = getattr(self.cfg, "validate", None)
        try:
            if validate is not None:
                validate()
        except ConfigError as error:
            raise UsageError(_sentence(error), self.cfg.hint) from error

    def load_default_config(self) -> None:
        """Begin with the defaults."""
        self.cfg = _Config(self._program, self._arguments, self._further_options)
        self.cfg.takes_several = self.takes_several

    def init(self, parser: Any, opts: Any, args: Any) -> Any:
        """Take the application's name from the command line, and remember the options."""
        self._given = _names_given(opts)
        return super().init(parser, opts, args)

    def load_config_from_file(self, filename: str) -> Any:
        """Read the configuration file, and remember what stands in it.

        Raises:
            UsageError: it cannot be read or run; the error says where in it.
            InvalidSettingError: a setting in it cannot have its value.
        """
        self.config_file = filename
        kind, colon, module = filename.partition(":")
        if kind == "python" and colon:
            self.file_variables = self.get_config_from_module_name(module)
        else:
            self.file_variables = self.get_config_from_filename(filename.removeprefix("file:"))
        for name, value in self.file_variables.items():
            if name in self.cfg.settings:
                try:
                    self.cfg.set(name, value)
                except InvalidSettingError as error:
                    where = self._place_in_file(name)
                    raise InvalidSettingError(f"{error} ({where})", error.hint) from error
        return self.file_variables

    def get_config_from_module_name(self, module_name: str) -> dict[str, Any]:
        """Import a module of configuration and return its variables.

        Raises:
            UsageError: it cannot be imported; the error says where it fails.
        """
        try:
            return super().get_config_from_module_name(module_name)
        except Exception as error:
            message = f"the configuration module {module_name} fails: {place(error)}"
            raise UsageError(message, self.cfg.hint) from error

    def load_config(self) -> None:
        """Gather the settings from everywhere, at start and at every reload.

        Raises:
            GunicornPromError: something in it is invalid.
        """
        self.config_file, self.file_variables = None, {}
        try:
            self._gather()
            self._apply_environment()
            self._choose_worker_class()
            self._check_ports()
        except GunicornPromError:
            raise
        except Exception as error:
            raise UsageError(_sentence(error), self.cfg.hint) from error

    def _gather(self) -> None:
        try:
            super().load_config()
        except ConfigError as error:
            is_nameless = self.app_uri is None and not self.cfg.paste and "paste" not in self._given
            if not is_nameless:
                raise
            if self._needs_application:
                hint = f"name the application: {self._program} module:app"
                raise UsageError(_sentence(error), hint) from error

    def origin(self, name: str) -> Origin:
        """Tell where setting `name` was given, in the configuration file also the line."""
        origin = self._origin(name)
        if origin.source != CONFIG_FILE:
            return origin
        return self._place_in_file(name)

    def _place_in_file(self, name: str) -> Origin:
        from gunicorn_prom.config_file import line_of  # the master does not ask

        file = (self.config_file or "").removeprefix("file:")
        line = line_of(self.file_variables.get("__file__"), name)
        return Origin(CONFIG_FILE, file, line)

    def _origin(self, name: str) -> Origin:
        file = (self.config_file or "").removeprefix("file:")
        variable = environment(name) if name in OWN_NAMES else GUNICORNS_ENVIRONMENT.get(name, "")
        found = (
            (name in self._given, Origin("command line")),
            (name in OWN_NAMES and variable in os.environ, Origin("environment", variable)),
            (name in self.cfg.from_cmd_args_variable, Origin(CMD_ARGS)),
            (name in self.file_variables, Origin(CONFIG_FILE, file)),
            # What Gunicorn takes for its default.
            (variable in self.cfg.env_orig, Origin("environment", variable)),
        )
        return next((origin for is_it, origin in found if is_it), Origin("default"))

    def get_config_from_filename(self, filename: str) -> dict[str, Any]:
        """Run a configuration file and return its variables.

        Raises:
            UsageError: it cannot be read or run; the error says where in it.
        """
        path = Path(filename)
        try:
            # Not `exists`, which does not tell what must not be looked at.
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):  # a pipe can be read only once
                path.open("rb").close()
        except FileNotFoundError:
            raise UsageError(
                f"there is no configuration file {path}", "it is what -c names"
            ) from None
        except OSError as error:
            raise UsageError(
                f"cannot read the configuration file {path}: {error.strerror}",
                f"it must be readable for user {os.geteuid()}",
            ) from error
        if stat.S_ISDIR(mode):
            raise UsageError(f"the configuration file {path} is a directory", "name the file in it")
        loader = None if path.suffix in (".py", ".pyc") else SourceFileLoader(CONFIG, filename)
        spec = spec_from_file_location(CONFIG, filename, loader=loader)
        assert spec is not None and spec.loader is not None  # noqa: PT018  # of a file there is one
        module = module_from_spec(spec)
        sys.modules[CONFIG] = module
        try:
            spec.loader.exec_module(module)
        except SystemExit as error:
            message = f"the configuration file {filename} ends the process with {error.code!r}"
            raise UsageError(message, "leave sys.exit() out of it") from error
        except Exception as error:
            where = place(error)
            if filename not in where:
                where = f"{filename}: {where}"
            raise UsageError(f"the configuration file fails: {where}", "mend that line") from error
        return vars(module)

    def _apply_environment(self) -> None:
        for name in OWN_NAMES:
            value = os.environ.get(environment(name))
            if value is not None and name not in self._given:
                self._set_from_environment(name, value)

    def _set_from_environment(self, name: str, value: str) -> None:
        try:
            self.cfg.set(name, value)
        except InvalidSettingError as error:
            _, _, reason = str(error).partition(": ")
            if isinstance(self.cfg.settings[name].default, bool):
                reason = f"{value!r} is neither true nor false"
            raise InvalidSettingError(
                f"invalid {environment(name)}: {reason}", error.hint
            ) from error

    def _choose_worker_class(self) -> None:
        given_class = self.cfg.settings["worker_class"].get()
        by_class, by_type = workers.type_of(given_class), self.cfg.worker_type
        class_rank, type_rank = self._origin("worker_class").rank, self._origin("worker_type").rank
        if by_type and class_rank and class_rank == type_rank and by_class != by_type:
            raise UsageError(
                f"--worker-type {by_type} and --worker-class {given_class} contradict each other",
                "give one of them",
            )
        if by_type and type_rank >= class_rank:
            given_class = by_class = by_type
        if given_class in workers.REGISTRY:
            self.cfg.set("worker_class", workers.REGISTRY[given_class].setting)
        if by_class and self._needs_worker:
            problem = workers.unavailable(by_class, self.cfg.pythonpath)
            if problem:
                raise problem

    def _check_ports(self) -> None:
        metrics_host, metrics_port = parse_bind(self.cfg.metrics_bind)
        for address in self.addresses_to_bind():
            if not isinstance(address, tuple):
                continue
            host, port = address[:2]
            if not 0 <= port <= MAX_PORT:
                message = f"invalid --bind: port {port} is not in 0 to {MAX_PORT}"
                raise InvalidSettingError(message, self.cfg.hint)
            is_same_port = port == metrics_port != 0 and self.cfg.metrics_server != "none"
            if is_same_port and _do_overlap(host or EVERY_IPV4, metrics_host):
                raise UsageError(
                    f"--bind and --metrics-bind both ask for port {port}",
                    "choose another with --metrics-bind",
                )

    def addresses_to_bind(self) -> list[Any]:
        """Return the addresses that Gunicorn is about to bind.

        None where its sockets have been passed on to it, or where a reload leaves them alone.

        Raises:
            InvalidSettingError: an address is none, used or not.
        """
        addresses = self._addresses()
        if self._last_addresses is None:
            is_handed = "GUNICORN_PID" in os.environ or systemd.listen_fds(unset_environment=False)
        else:
            is_handed = addresses == self._last_addresses
        is_inherited = is_handed or any(isinstance(address, int) for address in addresses)
        return [] if is_inherited else addresses

    def _addresses(self) -> list[Any]:
        try:
            addresses: list[Any] = self.cfg.address
        except RuntimeError as error:
            origin = self._origin("bind")
            where = origin.name if origin.source == "environment" else "--bind"
            raise InvalidSettingError(
                f"invalid {where}: {_sentence(error)}", self.cfg.hint
            ) from error
        return addresses


def _do_overlap(host: str, other: str) -> bool:
    """Tell whether two hosts cannot have the same port: [::] is every address of IPv4, too."""
    pair = (host, other)
    is_ipv6 = any(":" in each for each in pair)
    return host == other or EVERY_HOST in pair or (EVERY_IPV4 in pair and not is_ipv6)


def _sentence(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__

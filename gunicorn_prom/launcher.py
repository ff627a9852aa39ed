"""The Gunicorn application behind `gunicorn-prom run`: configuration, then the master.

Nothing of the command line's libraries is imported here: the process becomes the
master, and what it holds every worker inherits.
"""

import errno
import os
import sys
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

from gunicorn.app.base import BaseApplication
from gunicorn.errors import AppImportError

from gunicorn_prom import bare, workers
from gunicorn_prom.app_directory import announce
from gunicorn_prom.arbiter import PrometheusArbiter
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.errors import (
    AppLoadError,
    GunicornPromError,
    StartError,
    UsageError,
    fail,
    users_traceback,
)
from gunicorn_prom.exporter.listener import HANDED_OVER, MetricsSocket, trial_of, try_bind
from gunicorn_prom.own_imports import make_way
from gunicorn_prom.paths import BEFORE_SOCKETS, obstacles, runs_users_code
from gunicorn_prom.settings import parse_bind
from gunicorn_prom.state import make_root

__all__ = ["Launcher", "run"]

CHECK_HINT = "`gunicorn-prom check` with the same options says more"


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
            AppLoadError: the application was to be loaded before the workers, and fails.
            SystemExit: at the end.
        """
        self._load_worker_class()
        try:
            arbiter = PrometheusArbiter(self)
        except GunicornPromError:
            raise
        except AppImportError as error:
            raise AppLoadError(str(error).rstrip("."), CHECK_HINT) from error
        except Exception as error:
            if not self.cfg.preload_app or self.callable is not None:
                raise StartError.of(error, CHECK_HINT) from error
            print(users_traceback(error), file=sys.stderr)
            raise AppLoadError("the application does not load", CHECK_HINT) from error
        # Gunicorn takes sys.argv, which does not tell how `python -m` was started.
        arbiter.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        try:
            arbiter.run()
        except GunicornPromError:
            raise
        except Exception as error:
            # It has none while it opens what is ours.
            if os.getpid() != getattr(arbiter, "pid", os.getpid()):
                raise  # it is a worker's
            raise StartError.of(error, CHECK_HINT) from error

    def _load_worker_class(self) -> None:
        try:
            worker_class: Any = self.cfg.worker_class
            reason = "" if callable(worker_class) else "it is no class"
        except RuntimeError as error:
            # Its last line, before a bracket, is that of a traceback.
            reason = str(error).strip().removesuffix("]").strip().splitlines()[-1]
        except AttributeError as error:  # what is no class has no `setup`
            reason = str(error)
        if reason:
            raise UsageError(
                f"cannot load the worker class {self.cfg.worker_class_str}: {reason}",
                f"worker types are {', '.join(workers.WORKER_TYPES)}; "
                "a class of your own is given as -k module.Class",
            )


class Launcher(Configuration, _Serving):
    """Gunicorn's application for a WSGI module, with our settings and our arbiter.

    Args:
        arguments: the command line after `gunicorn-prom run`.

    Attributes:
        metrics_listener: the socket of the metrics server, None for no server.

    Raises:
        SystemExit: the configuration is invalid; it has been said on stderr.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.metrics_listener: MetricsSocket | None = None
        announce()
        super().__init__(arguments)

    def chdir(self) -> None:
        """Change to the application's directory, and leave it the names of its modules."""
        super().chdir()
        make_way([self.cfg.chdir], sys.modules.keys() - bare.MODULES)

    def do_load_config(self) -> None:
        """Gather the settings, at start and at every reload.

        Raises:
            SystemExit: something in them is invalid; it has been said on stderr.
        """
        try:
            super().do_load_config()
        except GunicornPromError as error:
            fail(error)

    def run(self) -> None:
        """Bind the metrics server, so that a busy port is told at once, then serve.

        Of the application's addresses it is only told whether they can be had.

        Raises:
            GunicornPromError: something is not to be had.
            SystemExit: at the end.
        """
        if self.cfg.metrics_web_config and self.cfg.metrics_server != "none":
            # Imported for it alone: TLS and passwords are a lot of memory.
            from gunicorn_prom.exporter.door import validate

            validate(Path(self.cfg.metrics_web_config))
        if not self.cfg.check_config and not self.cfg.print_config:
            if self.cfg.daemon:  # which could not tell any more
                make_root(self.cfg.metrics_state_dir and Path(self.cfg.metrics_state_dir))
            if self.cfg.preflight:
                self._look_at_files()
                self._await_addresses()
            if self.cfg.metrics_server != "none":
                self.metrics_listener = MetricsSocket.open(self.cfg.metrics_bind)
        super().run()

    def _look_at_files(self) -> None:
        found = next((found for found in obstacles(self.cfg) if found.is_certain), None)
        if found:
            raise UsageError(found.message, found.hint)

    def _await_addresses(self) -> None:
        if self.cfg.metrics_server != "none" and HANDED_OVER not in os.environ:
            # What else may be wrong with it, `listen` tells.
            _await(parse_bind(self.cfg.metrics_bind), "--metrics-bind", {errno.EADDRINUSE})
        if not self.cfg.reuse_port:
            addresses = self.addresses_to_bind()
            is_kept = len(addresses) > 1  # two of them may be in each other's way
            # All else the user's code may still put right.
            is_late = runs_users_code(self.cfg, BEFORE_SOCKETS)
            with ExitStack() as kept:
                for address in addresses:
                    _await(address, "--bind", {errno.EADDRINUSE} if is_late else ())
                    with suppress(OSError):  # it was taken just now, which Gunicorn tells
                        kept.enter_context(trial_of(address, is_kept=is_kept))


def _await(address: Any, option: str, obstacles: Collection[int] = ()) -> None:
    """Wait for an address that cannot be had, where that helps.

    Args:
        obstacles: the errors that matter, none: all.

    Raises:
        BindError: it cannot be had.
    """
    try:
        try_bind(address)
    except OSError as error:
        if obstacles and error.errno not in obstacles:
            return
        from gunicorn_prom import ports  # rarely wanted, and the process becomes the master

        ports.wait_for(address, error, option)

"""How the master runs the metrics server: as a thread, or as a process of its own.

A thread costs next to nothing, but starves in a master that gevent or eventlet
has patched. There the server is a process that the master starts, restarts when
it dies, and ends; it ends by itself when the master is gone.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import gunicorn_prom
from gunicorn_prom.exporter.listener import HANDED_OVER, listen, url_of
from gunicorn_prom.exporter.server import Server
from gunicorn_prom.scoreboard import Board

__all__ = ["ExporterHost", "is_patched"]

# A scrape takes milliseconds. A fork does not wait for one that hangs.
FORK_WAIT_S = 1.0
RESTART_PAUSE_S = 1.0


def is_patched() -> bool:
    """Tell whether gevent or eventlet has replaced the threads of this process."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return True
    eventlet = sys.modules.get("eventlet.patcher")
    return eventlet is not None and eventlet.is_monkey_patched("thread")


class ExporterHost:
    """The metrics server as the master sees it; this one does not run any."""

    @staticmethod
    def start(
        cfg: Any, board: Board, listener: socket.socket | None, log: Any
    ) -> "ExporterHost | None":
        """Start the metrics server that `cfg` asks for, None for none.

        Args:
            listener: its socket when that is bound already.

        Raises:
            BindError: the address cannot be had.
        """
        where = cfg.metrics_server
        if where == "none":
            return None
        if where == "auto":
            where = "process" if is_patched() else "thread"
        listener = listener or listen(cfg.metrics_bind)
        host_class = ProcessHost if where == "process" else ThreadHost
        host = host_class(listener, board, cfg.metrics_path, log)
        log.info("Metrics at %s (%s)", url_of(listener, cfg.metrics_path), where)
        return host

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._handing_over = False
        os.register_at_fork(after_in_child=self._close_in_child)

    def revive(self) -> None:
        """Start the server again if it has died; called once a second."""

    def reap(self) -> None:
        """Take the exit status of the server's process, before Gunicorn mistakes it."""

    def stop(self) -> None:
        """End the server with the master."""
        self._listener.close()

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Fork a child in which the socket stays open, for the next generation."""
        self._handing_over = True
        try:
            yield
        finally:
            self._handing_over = False

    def pass_on(self, environ: dict[str, str]) -> None:
        """Tell the next generation, about to be executed in this child, of the socket."""
        self._listener.set_inheritable(True)
        environ[HANDED_OVER] = str(self._listener.fileno())

    def _close_in_child(self) -> None:
        # A worker that kept it open would hold the port after the death of the
        # master, with nobody behind it.
        if not self._handing_over:
            self._listener.close()


class ThreadHost(ExporterHost):
    """The metrics server as a thread of the master."""

    def __init__(self, listener: socket.socket, board: Board, path: str, log: Any) -> None:
        endpoint = _import_endpoint().Endpoint(board, path, log)
        self._server = Server(listener, endpoint.respond, log)
        self._board = board
        self._holds_lock = False
        self._stopping = False
        self._failed = False
        self._log = log
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork)
        super().__init__(listener)
        self._run()

    def _run(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="gunicorn-prom", daemon=True)
        self._thread.start()

    def revive(self) -> None:
        """Start the thread again if it has died."""
        if not self._thread.is_alive() and not self._stopping:
            self._run()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._thread.join(FORK_WAIT_S)
        self._server.close()

    def _serve(self) -> None:
        try:
            while not self._stopping:
                self._server.turn()
        except Exception:
            # `revive` starts another one within a second.
            if not self._failed:
                self._log.exception("gunicorn-prom: the metrics server failed")
            self._failed = True
            self._board.count_master_error("server")

    def _before_fork(self) -> None:
        # Between two requests the thread holds no lock that a worker could find
        # locked for ever.
        self._holds_lock = self._server.lock.acquire(timeout=FORK_WAIT_S)

    def _after_fork(self) -> None:
        if self._holds_lock:
            self._holds_lock = False
            self._server.lock.release()

    def _close_in_child(self) -> None:
        self._after_fork()
        self._server.close(keep_listener=self._handing_over)


class ProcessHost(ExporterHost):
    """The metrics server as a process of its own, started from the master."""

    def __init__(self, listener: socket.socket, board: Board, path: str, log: Any) -> None:
        super().__init__(listener)
        self._board = board
        self._path = path
        self._log = log
        self._pid = 0
        self._started = 0.0
        self._spawn()

    def revive(self) -> None:
        """Start the process again if it has died, not more than once a second."""
        self.reap()
        if not self._pid and time.monotonic() - self._started > RESTART_PAUSE_S:
            self._log.warning("gunicorn-prom: the metrics server died and is started again")
            self._spawn()

    def reap(self) -> None:
        """Take the exit status of the process if it has ended."""
        if self._pid:
            try:
                pid, _ = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                pid = self._pid  # Gunicorn has reaped it
            if pid:
                self._pid = 0

    def stop(self) -> None:
        """End the process."""
        super().stop()
        self.reap()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _spawn(self) -> None:
        options = {"path": self._path, "master_pid": os.getpid()}
        # Descriptors reach the process as copies under fixed numbers: the originals
        # are closed by exec, and nobody needs the state directory's path.
        descriptors = (self._listener.fileno(), self._board.board_fd, self._board.keys_fd)
        first = max(descriptors) + 1
        copies = [(os.POSIX_SPAWN_DUP2, fd, first + i) for i, fd in enumerate(descriptors)]
        options["descriptors"] = [copy for _, _, copy in copies]
        self._started = time.monotonic()
        # -P, for the application's directory may hold modules of any name.
        self._pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "gunicorn_prom.exporter", json.dumps(options)],
            {**os.environ, "PYTHONPATH": _import_path()},
            file_actions=copies,
        )


def _import_endpoint() -> Any:
    """Import the endpoint, and leave prometheus_client out of `sys.modules`.

    The application must come to import its own: what prometheus_client does is
    decided by PROMETHEUS_MULTIPROC_DIR at that moment, and the registry is global.
    """
    before = set(sys.modules)
    endpoint = import_module("gunicorn_prom.exporter.endpoint")
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "prometheus_client":
            del sys.modules[name]
    return endpoint


def _import_path() -> str:
    package_parent = str(Path(gunicorn_prom.__file__).parent.parent)
    return os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH", ""))))

"""How the master runs the metrics server: as a thread, or as a process of its own.

A thread costs next to nothing, but starves, or takes the master along, where gevent
or eventlet has patched anything. There the server is a process that the master starts,
restarts when it dies, and ends; it ends by itself when the master is gone. A hook may
patch at any time: then the thread leaves, and a process goes on at the same socket.
"""

import json
import os
import posix
import signal
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import gunicorn_prom
from gunicorn_prom.app_metrics import VARIABLE
from gunicorn_prom.descriptors import Descriptor
from gunicorn_prom.exporter.listener import HANDED_OVER, MetricsSocket, drop_inherited, url_of
from gunicorn_prom.own_imports import apart_from, places_of
from gunicorn_prom.reader import ServerReader
from gunicorn_prom.state import State

if TYPE_CHECKING:
    from gunicorn_prom.exporter.door import Door
    from gunicorn_prom.exporter.endpoint import Endpoint
    from gunicorn_prom.exporter.server import Server

__all__ = ["ExporterHost", "Service", "is_patched", "open_door"]

# A scrape takes milliseconds. A fork does not wait for one that hangs.
FORK_WAIT_S = 1.0
RESTART_PAUSE_S = 1.0
# prometheus_client pushes and serves with these, which we never let it do. They are
# more than itself, and what the master imports after a fork it no longer shares.
UNUSED_BY_US = ("http.server", "urllib.request", "wsgiref.simple_server")
# The server takes two seconds at the most to finish what it has begun, and on a busy machine
# gets them late.
STOP_WAIT_S = 5.0
POLL_S = 0.01
# The descriptor of a file with the last minutes, from a master to the one that replaces it.
HISTORY = "GUNICORN_PROM_HISTORY_FD"


def is_patched() -> bool:
    """Tell whether gevent or eventlet has replaced anything in this process.

    A thread needs sockets, selectors and locks; a child needs signals, `os` and `time`.
    So no part is left to be told from the others. True from the first one on, while the
    rest is still to come.
    """
    # Both may be half imported, if a thread asks.
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    return bool(getattr(gevent, "saved", None) or getattr(eventlet, "already_patched", None))


def open_door(web_config: str, log: Any, count_error: Callable[[], None]) -> "Door":
    """Read the web configuration file; TLS and passwords are imported only for it.

    Raises:
        UsageError: it cannot be used.
    """
    from gunicorn_prom.exporter.door import Door

    return Door.open(Path(web_config), log, count_error)


class Service(NamedTuple):
    """What the metrics server serves, and where.

    Attributes:
        directory: of the server, see `State`.
        bind: the address, as the user gave it.
        where: "thread" or "process".
        web_config: the web configuration file, None for plain HTTP to everybody.
    """

    directory: Path
    bind: str
    path: str
    where: str
    web_config: str | None

    @classmethod
    def wanted(cls, cfg: Any, directory: Path) -> "Service | None":
        """Return what `cfg` asks for; None when it asks for no metrics server."""
        where = cfg.metrics_server
        if where == "none":
            return None
        if where != "process":
            where = "process" if is_patched() else "thread"
        return cls(directory, cfg.metrics_bind, cfg.metrics_path, where, cfg.metrics_web_config)


class ExporterHost:
    """The metrics server as the master sees it; this one does not run any.

    Attributes:
        url: of the metrics, once it is bound.
        history: of the server that was there before, see `History.dump`; it goes on from there.
    """

    url = ""
    history = b""

    @staticmethod
    def prepare(
        cfg: Any, state: State, listener: MetricsSocket | None, log: Any
    ) -> "ExporterHost | None":
        """Bind the metrics server that `cfg` asks for; None when it asks for none.

        Args:
            listener: its socket when that is bound already.

        Raises:
            BindError: the address cannot be had.
            UsageError: the web configuration file cannot be used.
        """
        history = _inherited_history()
        service = Service.wanted(cfg, state.path)
        if service is None:
            drop_inherited()
            return None
        door = None
        with apart_from(places_of(cfg)):
            if service.web_config is not None:
                door = open_door(
                    service.web_config, log, lambda: state.board.count_server_error("web_config")
                )
            listener = listener or MetricsSocket.open(service.bind)
            with suppress(OSError):  # else it is tried again when it begins
                listener.restore()
            host = (
                ProcessHost(listener, service, state, log)
                if service.where == "process"
                else ThreadHost(listener, service, state, log, door)
            )
        host.url = url_of(listener.address, service.path, "http" if door is None else door.scheme)
        host.history = history
        host.announce(cfg)
        return host

    @staticmethod
    def follow(
        running: "ExporterHost | None", cfg: Any, state: State, log: Any
    ) -> "ExporterHost | None":
        """Return the metrics server that a reloaded `cfg` asks for, the running one if possible.

        The socket stays when the address does. A new one that cannot be bound leaves
        everything as it was.

        Raises:
            BindError: the address cannot be had.
        """
        wanted = Service.wanted(cfg, state.path)
        if running is None:
            return ExporterHost.prepare(cfg, state, None, log)
        if wanted == running.service:
            return running
        listener = None
        if wanted is not None and wanted.bind == running.service.bind:
            listener = running.share_listener()
        successor = ExporterHost.prepare(cfg, state, listener, log)
        running.stop()
        if successor is not None:
            successor.history = running.dump_history()
        return successor

    def __init__(self, listener: MetricsSocket, service: Service, state: State, log: Any) -> None:
        self.service = service
        self._listener = listener
        self._state = state
        self._log = log
        self._lifeline: Descriptor | None = None
        self._handing_over = False
        os.register_at_fork(after_in_child=self._close_in_child)

    def announce(self, cfg: Any) -> None:
        """Say where the metrics are, and that a thread was asked for in vain if it was."""
        self._log.info("Metrics at %s (%s)", self.url, self.service.where)
        if cfg.metrics_server == "thread" and self.service.where == "process":
            self._log.warning(
                "gunicorn-prom: the metrics server is a process, no thread: "
                "gevent or eventlet has patched the master"
            )

    def fit(self, cfg: Any) -> "ExporterHost":
        """Return who is to serve from now on: another one when this one cannot any more."""
        return self

    def share_listener(self) -> MetricsSocket:
        """Return a second descriptor of the socket, which outlives this host's."""
        return MetricsSocket.of(self._listener.restore().dup())

    def begin(self) -> None:
        """Start to serve.

        Clients that come earlier wait in the backlog. It is done when the first
        workers have been forked, so that they inherit no half-used thread.
        """

    def revive(self) -> None:
        """Start the server again if it has died; called once a second."""

    def reap(self) -> None:
        """Take the exit status of the server's process, before Gunicorn mistakes it."""

    def dump_history(self) -> bytes:
        """Return what `history` is to be for another one; nothing where this process has none."""
        return b""

    def stop(self) -> None:
        """End the server with the master; it finishes the requests that it has."""
        self._listener.close()
        self._cut_lifeline()

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Fork a child in which the socket stays open, for the next generation."""
        with suppress(OSError):  # then the next one has it when this one ends
            self._listener.restore()
        self._handing_over = True
        try:
            yield
        finally:
            self._handing_over = False

    def pass_on(self, environ: dict[str, str]) -> None:
        """Tell the next generation, about to be executed in this child, what it takes over."""
        environ[HANDED_OVER] = self._listener.pass_on()
        environ.pop(HISTORY, None)
        with suppress(OSError):  # the next one begins anew
            descriptor = os.memfd_create("gunicorn-prom")
            os.write(descriptor, self.dump_history())
            environ[HISTORY] = Descriptor(descriptor).pass_on()

    def _make_lifeline(self) -> int:
        """Return the end of a new lifeline that the server watches; ours replaces the last."""
        self._cut_lifeline()
        theirs, ours = os.pipe()
        self._lifeline = Descriptor(ours)
        return theirs

    def _cut_lifeline(self) -> None:
        if self._lifeline is not None:
            self._lifeline.close()
            self._lifeline = None

    def _close_in_child(self) -> None:
        # A worker that kept them open would hold the port after the death of the
        # master, with nobody behind it, and keep the server alive.
        self._cut_lifeline()
        if not self._handing_over:
            self._listener.close()


class ThreadHost(ExporterHost):
    """The metrics server as a thread of the master.

    By `_thread`, not by `threading`, which would have to know the thread again after a patch.
    """

    def __init__(
        self,
        listener: MetricsSocket,
        service: Service,
        state: State,
        log: Any,
        door: "Door | None",
    ) -> None:
        super().__init__(listener, service, state, log)
        self._door = door
        # Before the first fork, so that all processes share what it takes.
        self._endpoint_module = _import_endpoint()
        self._server_module = import_module("gunicorn_prom.exporter.server")
        self._endpoint: Endpoint | None = None
        self._server: Server | None = None
        # Held by the thread as long as it runs; None until there is one.
        self._life: threading.Lock | None = None
        self._holds_lock = False
        self._failure = ""
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork)

    def begin(self) -> None:
        """Start the thread."""
        reader = ServerReader(self.service.directory, self._state.boards)
        endpoint = self._endpoint_module.Endpoint({"": reader}, self.service.path, self._log)
        self._endpoint = endpoint
        self._load_history(endpoint)
        self._run(endpoint)

    def _load_history(self, endpoint: "Endpoint") -> None:
        history, self.history = self.history, b""
        try:
            if history:
                endpoint.load_history(history)
        except (ValueError, TypeError, EOFError):
            self._log.exception("gunicorn-prom: the last minutes are not known any more")
            self._state.board.count_master_error("server")

    def dump_history(self) -> bytes:
        """Return the last minutes as this server has seen them."""
        return b"" if self._endpoint is None else self._endpoint.dump_history()

    def _run(self, endpoint: "Endpoint") -> None:
        server = self._server_module.Server(
            self._listener.restore(), endpoint.respond, self._log, self._make_lifeline(), self._door
        )
        server.watch = endpoint.watch
        server.must_leave = is_patched
        life = threading.Lock()
        life.acquire()
        # First: up to Gunicorn 23 the handler of SIGCHLD may halt the master meanwhile.
        self._server, self._life = server, life
        try:
            start_new_thread(self._serve, (server, life))
        except RuntimeError:  # no thread is left
            life.release()
            raise

    def revive(self) -> None:
        """Start the thread again if it has died, unless it had to leave.

        Whatever somebody has closed it gets anew.
        """
        is_alive = self._life is not None and self._life.locked()
        if self._endpoint is None or is_alive or is_patched():
            return
        server, self._server = self._server, None
        if server is not None:
            server.close(keep_listener=True)
        self._run(self._endpoint)

    def fit(self, cfg: Any) -> ExporterHost:
        """Return a process that goes on at the same socket once the master is patched."""
        if not is_patched():
            return self
        service = self.service._replace(where="process")
        successor = ProcessHost(self.share_listener(), service, self._state, self._log)
        successor.url = self.url
        successor.announce(cfg)
        self.stop()
        return successor

    def stop(self) -> None:
        """End the thread, which finishes the requests that it has."""
        self._cut_lifeline()
        server, life = self._server, self._life
        # By the lock, for what is patched may wait for whatever else runs in the master.
        if server is not None and life is not None and life.acquire(timeout=STOP_WAIT_S):
            server.close()
        self._server = self._life = None
        self._listener.close()

    def _serve(self, server: "Server", life: threading.Lock) -> None:
        try:
            server.serve()
        except Exception as error:
            # `revive` starts another one within a second, which may fail in the same way.
            if repr(error) != self._failure:
                is_users = isinstance(error, self._server_module.ClosedError)
                self._log.error(
                    "gunicorn-prom: the metrics server failed: %s", error, exc_info=not is_users
                )
            self._failure = repr(error)
            self._state.board.count_master_error("server")
        finally:
            life.release()

    def _before_fork(self) -> None:
        # Between two requests the thread holds no lock that a worker could find
        # locked for ever.
        if self._server is not None:
            self._server.turnstile.acquire()
            self._holds_lock = self._server.lock.acquire(timeout=FORK_WAIT_S)

    def _after_fork(self) -> None:
        if self._server is None:
            return
        if self._holds_lock:
            self._holds_lock = False
            self._server.lock.release()
        self._server.turnstile.release()

    def _close_in_child(self) -> None:
        self._after_fork()
        super()._close_in_child()
        if self._server is not None:
            self._server.close(keep_listener=self._handing_over)
            # The child's own children must not close these numbers once more.
            self._server = None


class ProcessHost(ExporterHost):
    """The metrics server as a process of its own, started from the master.

    By `posix`, not by `os`: gevent's `os` learns of the end of a process from an
    event loop that the master does not run.
    """

    def __init__(self, listener: MetricsSocket, service: Service, state: State, log: Any) -> None:
        super().__init__(listener, service, state, log)
        self._pid = 0
        self._started = 0.0

    def begin(self) -> None:
        """Start the process."""
        self._spawn()

    def revive(self) -> None:
        """Start the process again if it has died, not more than once a second."""
        self.reap()
        if self._pid and not self._listener.is_open():
            self._cut_lifeline()  # or it would keep the address from us
        if self._pid or not self._started:
            return
        if time.monotonic() - self._started > RESTART_PAUSE_S:
            self._log.warning("gunicorn-prom: the metrics server died and is started again")
            self._spawn()

    def reap(self) -> None:
        """Take the exit status of the process if it has ended."""
        if self._pid:
            try:
                pid, _ = posix.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                pid = self._pid  # Gunicorn has reaped it
            if pid:
                self._pid = 0

    def stop(self) -> None:
        """End the process, by force if it takes its time."""
        super().stop()
        end = time.monotonic() + STOP_WAIT_S
        while self._is_running() and time.monotonic() < end:
            time.sleep(POLL_S)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            posix.waitpid(self._pid, 0)
            self._pid = 0

    def _is_running(self) -> bool:
        self.reap()
        return bool(self._pid)

    def _spawn(self) -> None:
        self._started = time.monotonic()
        # Descriptors reach the process as copies under fixed numbers: the originals
        # are closed by exec.
        listener_fd = self._listener.restore().fileno()
        lifeline = self._make_lifeline()
        board = self._state.board
        descriptors = (listener_fd, lifeline, board.board_fd, board.keys_fd)
        first = max(descriptors) + 1
        copies = [(os.POSIX_SPAWN_DUP2, fd, first + i) for i, fd in enumerate(descriptors)]
        options = {
            "path": self.service.path,
            "directory": str(self.service.directory),
            "web_config": self.service.web_config,
            "descriptors": [copy for _, _, copy in copies],
        }
        # -P, for the application's directory may hold modules of any name.
        self._pid = posix.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "gunicorn_prom.exporter", json.dumps(options)],
            _environment(),
            file_actions=copies,
        )
        posix.close(lifeline)


def _inherited_history() -> bytes:
    descriptor = Descriptor.take_over(os.environ.pop(HISTORY, ""))
    if descriptor is None:
        return b""
    try:
        with open(descriptor.fileno(), "rb") as file:
            file.seek(0)
            return file.read()
    except (OSError, ValueError):
        return b""


def _import_endpoint() -> Any:
    """Import the endpoint with a prometheus_client that nobody else gets to see.

    The application must come to import its own: what prometheus_client does is
    decided by PROMETHEUS_MULTIPROC_DIR at that moment, and the registry is global.
    """
    before = set(sys.modules)
    variable = os.environ.pop(VARIABLE, None)
    try:
        with _stand_ins(UNUSED_BY_US):
            return import_module("gunicorn_prom.exporter.endpoint")
    except Exception:
        # A version that does more with them at once than to derive classes.
        return import_module("gunicorn_prom.exporter.endpoint")
    finally:
        if variable is not None:
            os.environ[VARIABLE] = variable
        for name in set(sys.modules) - before:
            if name.partition(".")[0] == "prometheus_client":
                del sys.modules[name]


@contextmanager
def _stand_ins(names: tuple[str, ...]) -> Iterator[None]:
    """Keep modules from being imported for nothing: here their classes are empty."""
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        sys.modules[name] = _StandIn(name)
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _environment() -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": _import_path()}
    environment.pop(VARIABLE, None)  # the application's, see _import_endpoint
    return environment


def _import_path() -> str:
    package_parent = str(Path(gunicorn_prom.__file__).parent.parent)
    return os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH", ""))))

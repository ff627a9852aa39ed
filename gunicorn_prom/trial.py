"""Import the application on trial: in a process that is thrown away, as a worker would.

The process does what the master and a worker do up to the first request, in their order,
writes one line of JSON on a pipe and ends. `gunicorn_prom.checks.probe` starts it, limits
it and clears up behind it. This module stands apart from the checks because importing them
would give the application modules that no worker has.
"""

import atexit
import ctypes
import difflib
import faulthandler
import fcntl
import functools
import gc
import inspect
import json
import os
import posix
import resource
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

from gunicorn import util
from gunicorn.errors import AppImportError

from gunicorn_prom.app_directory import AppDirectory, announce
from gunicorn_prom.app_metrics import VARIABLE
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.descriptors import Descriptor
from gunicorn_prom.errors import is_users, place

__all__ = ["OUTCOMES", "AppReport", "Sight", "main", "writable"]

# Of importing the application. The last three come of what is left of the process.
OUTCOMES = (
    "loaded",
    "unnamed",
    "no_module",
    "no_attribute",
    "not_callable",
    "raised",
    "exited",
    "hung",
    "killed",
)

# As linux/prctl.h has it.
PR_SET_PDEATHSIG = 1
# What handlers after a fork may take; the longest known wait for a second.
FORK_LIMIT_S = 5.0
MAX_ERROR_CHARACTERS = 300

PROMETHEUS_CLIENT = "prometheus_client"


class Sight(NamedTuple):
    """Something that the application has done or left behind.

    Attributes:
        what: a thread by its target, a connection or listener by its address, and so on.
        place: FILE:LINE of the user's code that did it, "" where that is not known.
    """

    what: str
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class AppReport:
    """What happened when the application was imported.

    Attributes:
        outcome: one of OUTCOMES.
        error: what was wrong, in one line, with FILE:LINE of the user's code before it.
        place: FILE:LINE where it exited or hung, "" where that is not known.
        missing: the module or attribute that is not there.
        nearest: what may have been meant by it, "" for nothing.
        is_own: the module that is not there is the application's own.
        status: what the process ended with: exit code, or signal negated.
        import_s: seconds that the import took, or was given.
        import_bytes: memory that the import has taken and each worker has for itself.
        kind: of the application: wsgi, asgi, factory (it takes no arguments), or unknown.
        protocol: what its workers speak: wsgi, asgi, or "" where that is not known.
        worker_error: why the worker class cannot be loaded, "" when it can.
        lost_threads: that the import has started and that a fork does not bring along.
        connections: open when it was imported.
        listeners: that it has bound to a port of its choice and left open.
        metrics_servers: that it has started with prometheus_client, or tried to.
        late_directory: where it has set PROMETHEUS_MULTIPROC_DIR too late.
        late_ssl: what has taken hold of `ssl` before gevent patched it.
        patch_error: why gevent could not patch.
    """

    outcome: str = "loaded"
    error: str = ""
    place: str = ""
    missing: str = ""
    nearest: str = ""
    is_own: bool = False
    status: int = 0
    import_s: float = 0.0
    import_bytes: int = 0
    kind: str = "unknown"
    protocol: str = ""
    worker_error: str = ""
    lost_threads: tuple[Sight, ...] = ()
    connections: tuple[Sight, ...] = ()
    listeners: tuple[Sight, ...] = ()
    metrics_servers: tuple[Sight, ...] = ()
    late_directory: tuple[Sight, ...] = ()
    late_ssl: tuple[Sight, ...] = ()
    patch_error: str = ""

    @classmethod
    def parse(cls, line: bytes) -> "AppReport":
        """Make a report of the line that the process has written.

        Raises:
            ValueError: it is none.
        """
        found = json.loads(line)
        for name, value in found.items():
            if isinstance(value, list):
                found[name] = tuple(Sight(*each) for each in value)
        return cls(**found)


def main(order: dict[str, Any]) -> None:
    """Import the application and write the report; never return.

    Args:
        order: what `gunicorn_prom.checks.probe` asks for.
    """
    pipe = Descriptor(_move_away(order["pipe"]), Path(order["pipe_path"]))
    sys.argv = order["argv"]
    _be_harmless(pipe.fileno(), order["limit_s"])
    try:
        line = json.dumps(asdict(_Trial(order).report()))
        os.write(pipe.fileno(), line.encode() + b"\n")
        atexit._run_exitfuncs()  # temporary files are removed by these
    finally:
        os._exit(0)  # whatever threads there are


def _move_away(pipe: int) -> int:
    """Give the pipe a number that no other file will get when the application has closed it.

    faulthandler writes by the number, whatever that refers to by then.
    """
    number = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1024) - 1
    moved = fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, number)
    posix.close(pipe)
    return moved


def _be_harmless(pipe: int, limit_s: float) -> None:
    """Leave no core file and no process behind, and tell where it was when it does not end."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    faulthandler.enable(file=pipe, all_threads=False)
    faulthandler.dump_traceback_later(limit_s, exit=True, file=pipe)


def _die_with_parent() -> None:
    """Have the kernel end this process with the one that has started it.

    Once it is what it remains: changing the user undoes it.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Trial:
    """One import of the application."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._witness = _Witness()
        self._found: dict[str, Any] = {}

    def report(self) -> AppReport:
        """Do as the master and a worker do, and return what happened."""
        try:
            self._run()
        except BaseException as error:
            self._found |= _explain(error, self._order["uri"])
        self._found |= self._witness.sights()
        return AppReport(**self._found)

    def _run(self) -> None:
        announce()
        configuration = Configuration(
            self._order["arguments"], "check", needs_application=False, needs_worker=False
        )
        cfg: Any = configuration.cfg
        AppDirectory.announced(cfg)
        for path in (cfg.pythonpath or "").split(","):
            if path and os.path.abspath(path) not in sys.path:
                sys.path.insert(0, os.path.abspath(path))
        worker_class = self._load_worker_class(cfg)
        self._set_environment(cfg)
        if cfg.preload_app:
            self._load(configuration)
            self._found |= _sockets_open(self._witness)
            self._found |= self._after_fork(worker_class)
        else:
            self._become_worker(cfg, worker_class)
            self._load(configuration)
            self._found |= _sockets_open(self._witness) | _ssl_state()

    def _load_worker_class(self, cfg: Any) -> type | None:
        try:
            worker_class: Any = cfg.worker_class
        except AttributeError as error:  # what is no class has no `setup`
            self._found["worker_error"] = str(error)
            return None
        except RuntimeError as error:
            # Its last line, before a bracket, is that of a traceback.
            reason = str(error).strip().removesuffix("]").strip().splitlines()[-1]
            self._found["worker_error"] = reason.strip()
            return None
        if not isinstance(worker_class, type):
            # What makes workers may make any.
            if not callable(worker_class):
                self._found["worker_error"] = f"{cfg.worker_class_str} is no class"
            return None
        self._found["protocol"] = _protocol_of(worker_class)
        return worker_class

    def _set_environment(self, cfg: Any) -> None:
        # Of the command, not of this process.
        vars(sys.modules["__main__"])["__file__"] = sys.argv[0]
        os.environ.update(cfg.env)
        if writable(cfg.env.get(VARIABLE, "")) and self._order["throw_away"]:
            # It has gone when there seemed to be no use for it.
            os.makedirs(self._order["throw_away"], exist_ok=True)
            os.environ[VARIABLE] = self._order["throw_away"]

    def _become_worker(self, cfg: Any, worker_class: type | None) -> None:
        self._found |= _patch(worker_class)
        if self._order["throw_away"]:
            with suppress(OSError):
                os.chown(self._order["throw_away"], cfg.uid, cfg.gid)
        with suppress(OSError):  # who may not become another user cannot try
            util.set_owner_process(cfg.uid, cfg.gid, initgroups=cfg.initgroups)

    def _load(self, configuration: Configuration) -> None:
        _die_with_parent()
        self._witness.begin()
        began, bytes_before = time.monotonic(), _anonymous_bytes()
        try:
            app = configuration.wsgi()
        finally:
            self._witness.end()
            self._found["import_bytes"] = max(_anonymous_bytes() - bytes_before, 0)
            self._found["import_s"] = time.monotonic() - began
        gc.collect()  # and with it what is open no more
        self._found["kind"] = _kind_of(app)

    def _after_fork(self, worker_class: type | None) -> dict[str, Any]:
        """Fork a worker, and return what has become of threads and of `ssl` in it."""
        before = self._witness.threads()
        ours, theirs = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Gunicorn forks with threads as well
            pid = os.fork()
        if not pid:
            try:
                alive = [_target_of(thread) for thread in threading.enumerate()]
                told = {"alive": alive, **_patch(worker_class), **_ssl_state()}
                os.write(theirs, json.dumps(told).encode())
            finally:
                os._exit(0)
        posix.close(theirs)
        told = _read_from(ours)
        if not told:
            return {}
        alive_after = Counter(told.pop("alive"))
        told["lost_threads"] = tuple(_subtract(before, alive_after))
        return told


def _anonymous_bytes() -> int:
    """Return the memory of this process that is no file's, 0 where it cannot be told."""
    try:
        _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _read_from(pipe: int) -> dict[str, Any]:
    """Return what a forked process tells, nothing when it hangs or dies."""
    received = b""
    end = time.monotonic() + FORK_LIMIT_S
    while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(pipe, 1 << 16)
        if not part:
            break
        received += part
    with suppress(ValueError):
        told: dict[str, Any] = json.loads(received)
        return told
    return {}


def _subtract(before: list[tuple[str, Sight]], after: Counter[str]) -> Iterator[Sight]:
    """Yield the threads of which there is none in the forked process."""
    for target, sight in before:
        if after[target]:
            after[target] -= 1
        else:
            yield sight


class _Witness:
    """Notes what the application does while it is imported, and where, by Python's audit events.

    Source: https://docs.python.org/3/library/audit_events.html
    """

    def __init__(self) -> None:
        self._is_on = False
        self._inodes: set[str] = set()
        self._bound: dict[int, str] = {}
        self._connected: dict[int, str] = {}
        self._started: dict[int, str] = {}
        self._metrics_servers: list[Sight] = []
        self._late_directory: list[Sight] = []
        self._notes: dict[str, Callable[..., None]] = {
            "os.putenv": self._note_variable,
            "socket.bind": self._note_bind,
            "socket.connect": self._note_connect,
        }
        sys.addaudithook(self._hear)
        self._start_thread = threading.Thread.start

    def begin(self) -> None:
        """Look from now on."""
        self._inodes = set(sockets())
        self._is_on = True
        start_thread, started = self._start_thread, self._started

        # Python 3.11 has no event for it.
        @functools.wraps(start_thread)
        def start(thread: threading.Thread) -> None:
            started[id(thread)] = _users_place()
            start_thread(thread)

        threading.Thread.start = start  # type: ignore[assignment, method-assign]  # for a while

    def end(self) -> None:
        """Look no more."""
        self._is_on = False
        threading.Thread.start = self._start_thread  # type: ignore[method-assign]  # as it was

    def sights(self) -> dict[str, tuple[Sight, ...]]:
        """Return what is wrong whether or not the import has succeeded."""
        return {
            "metrics_servers": tuple(self._metrics_servers),
            "late_directory": tuple(self._late_directory),
        }

    def threads(self) -> list[tuple[str, Sight]]:
        """Return the threads that live, each by its target; none of a metrics server's."""
        if _has_greenlets():  # a fork brings them along
            return []
        others = [thread for thread in threading.enumerate() if thread is not _main_thread()]
        return [
            (_target_of(thread), Sight(_target_of(thread), self._started.get(id(thread), "")))
            for thread in others
            if not _is_metrics_server(thread)
        ]

    def new_sockets(self) -> Iterator[tuple[int, str, str]]:
        """Yield the sockets opened since `begin`: descriptor, and where bound and connected."""
        for inode, descriptor in sockets().items():
            if inode not in self._inodes:
                bound, connected = self._bound.get(descriptor), self._connected.get(descriptor)
                yield descriptor, bound or "", connected or ""

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        # What a hook raises would become the application's.
        if self._is_on and event in self._notes:
            with suppress(Exception):
                self._notes[event](*arguments)

    def _note_variable(self, key: bytes, value: bytes) -> None:
        if os.fsdecode(key) != VARIABLE or PROMETHEUS_CLIENT not in sys.modules:
            return
        if os.fsdecode(value) != os.environ.get(VARIABLE) and not _is_in(PROMETHEUS_CLIENT):
            self._late_directory.append(Sight(os.fsdecode(value), _users_place()))

    def _note_bind(self, bound: Any, address: Any) -> None:
        if isinstance(address, tuple) and address[1]:
            self._bound[bound.fileno()] = _users_place()
            if _is_in(PROMETHEUS_CLIENT):
                self._metrics_servers.append(Sight(_shown(address), _users_place()))

    def _note_connect(self, connected: Any, _address: Any) -> None:
        self._connected[connected.fileno()] = _users_place()


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _users_place() -> str:
    """Return FILE:LINE of the user's innermost line that runs, "" for none."""
    places = (
        f"{frame.f_code.co_filename}:{frame.f_lineno}"
        for frame in _frames()
        if is_users(frame.f_code.co_filename)
    )
    return next(places, "")


def _is_in(library: str) -> bool:
    return any(f"/{library}/" in frame.f_code.co_filename for frame in _frames())


def _main_thread() -> threading.Thread:
    return threading.main_thread()


def _is_metrics_server(thread: threading.Thread) -> bool:
    server = getattr(getattr(thread, "_target", None), "__self__", None)
    return type(server).__module__.startswith(PROMETHEUS_CLIENT)


def _target_of(thread: threading.Thread) -> str:
    """Return what a thread runs: the same for the one that replaces it after a fork."""
    target = getattr(thread, "_target", None) or type(thread)
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return f"{getattr(target, '__module__', None) or '?'}.{name}"


def sockets() -> dict[str, int]:
    """Return a descriptor of each socket of this process, by `socket:[INODE]`."""
    found = {}
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            inode = os.readlink(f"/proc/self/fd/{descriptor}")
            if inode.startswith("socket:"):
                found[inode] = int(descriptor)
    return found


def _sockets_open(witness: _Witness) -> dict[str, Any]:
    """Return the connections and listeners that the import has left open.

    Datagrams do not suffer from being sent by several, and the two ends of a pair stay
    together.
    """
    connections, listeners = [], []
    for descriptor, bound, connected in witness.new_sockets():
        with suppress(OSError), _own_copy(descriptor) as one:
            if one.type != socket.SOCK_STREAM:
                continue
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                if bound:
                    listeners.append(Sight(_shown(one.getsockname()), bound))
            elif peer := _shown(one.getpeername()):
                connections.append(Sight(peer, connected))
    return {"connections": tuple(connections), "listeners": tuple(listeners)}


def _own_copy(descriptor: int) -> socket.socket:
    return socket.socket(fileno=os.dup(descriptor))


def _shown(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return os.fsdecode(address)


def _has_greenlets() -> bool:
    """Tell whether gevent or eventlet has greenlets stand in for threads here."""
    gevent: Any = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return True
    eventlet: Any = sys.modules.get("eventlet.patcher")
    return eventlet is not None and bool(eventlet.is_monkey_patched("thread"))


def _patch(worker_class: type | None) -> dict[str, Any]:
    """Patch this process as a worker of that class does when it begins."""
    if worker_class is None or not hasattr(worker_class, "patch"):
        return {}
    worker: Any = object.__new__(worker_class)
    worker.sockets = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # _ssl_state tells what there is to it
        try:
            worker.patch()
        except Exception as error:
            return {"patch_error": _one_line(place(error))}
    return {}


def _ssl_state() -> dict[str, Any]:
    """Return what holds the `ssl` that gevent has replaced, and would fail with it.

    A context of the old class fails in each of its setters with RecursionError and in
    wrap_socket with TypeError. A module that has the class only for annotations does not.
    """
    monkey: Any = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("ssl"):
        return {}
    import ssl

    old = monkey.get_original("ssl", "SSLContext")
    found = []
    modules: dict[str, Any] = dict(sys.modules)  # where some put other objects
    for name, module in sorted(modules.items()):
        if isinstance(module, ModuleType) and not _is_of_gevent(name):
            found += [Sight(held) for held in _held_by(name, module, old, ssl.SSLContext)]
    return {"late_ssl": tuple(dict.fromkeys(found))}


def _is_of_gevent(name: str) -> bool:
    return name == "ssl" or name.partition(".")[0] == "gevent"


def _held_by(name: str, module: ModuleType, old: type, new: type) -> Iterator[str]:
    value: Any
    for key, value in list(vars(module).items()):
        if value is old:
            if any(key in code.co_names for code in _codes(module)):
                yield f"{name} has imported {key} from ssl"
        elif isinstance(value, type) and issubclass(value, old) and not issubclass(value, new):
            yield f"{name}.{key} is derived from ssl.SSLContext"
        elif isinstance(value, old) and not isinstance(value, new):
            yield f"{name}.{key} is an SSL context"


def _codes(module: ModuleType) -> Iterator[CodeType]:
    """Yield the code of every function of a module, without what runs when it is imported."""
    for value in list(vars(module).values()):
        members = list(vars(value).values()) if isinstance(value, type) else [value]
        for member in members:
            function = inspect.unwrap(getattr(member, "__func__", member))
            if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                yield from _with_inner(function.__code__)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def _protocol_of(worker_class: type) -> str:
    """Return what the application of such workers speaks: wsgi, asgi, "" for unknown."""
    modules = {base.__module__ for base in worker_class.__mro__}
    if any(name.startswith(("uvicorn", "gunicorn.workers.gasgi")) for name in modules):
        kwargs = getattr(worker_class, "CONFIG_KWARGS", {})
        return "asgi" if kwargs.get("interface", "auto") in ("auto", "asgi3") else ""
    serving = {f"gunicorn.workers.{name}" for name in ("sync", "gthread", "base_async", "gtornado")}
    load: Any = getattr(worker_class, "load_wsgi", None)
    # Who loads the application in another way may turn it into another.
    is_usual = getattr(load, "__module__", "").startswith("gunicorn")
    return "wsgi" if is_usual and serving & modules else ""


def _kind_of(app: Any) -> str:
    """Return what an application speaks, by how it can be called."""
    if not inspect.isclass(app) and (
        inspect.iscoroutinefunction(app)
        or inspect.iscoroutinefunction(getattr(app, "__call__", None))  # noqa: B004  # not whether
    ):
        return "asgi"
    try:
        signature = inspect.signature(app)
    except Exception:
        return "unknown"
    by_arguments: dict[tuple[int, ...], str] = {(0,): "factory", (2,): "wsgi", (3,): "asgi"}
    taken = tuple(count for count in range(4) if _takes(signature, count))
    # `create_app(test_config=None)` is called with one argument as well, but never as a server
    # does it.
    if inspect.isfunction(app) and taken == (0, 1):
        return "factory"
    return by_arguments.get(taken, "unknown")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _explain(error: BaseException, uri: str) -> dict[str, Any]:
    """Return what of a report an exception makes."""
    said = _one_line(place(error))
    module, _, attribute = uri.partition(":")
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        return {"outcome": "exited", "status": status, "place": _place_of(said, "SystemExit")}
    if isinstance(error, ModuleNotFoundError) and error.name:
        where = _place_of(said, "ModuleNotFoundError")
        is_own = not where and f"{module}.".startswith(f"{error.name}.")
        return {"outcome": "no_module", "missing": error.name, "is_own": is_own, "place": where}
    if isinstance(error, ImportError) and module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        nearest = f"{dotted}:{attribute or 'application'}"
        return {"outcome": "no_module", "missing": module, "is_own": True, "nearest": nearest}
    if isinstance(error, AppImportError):
        return _explain_object(error, sys.modules.get(module), attribute or "application")
    return {"outcome": "raised", "error": said}


def _explain_object(
    error: AppImportError, module: ModuleType | None, attribute: str
) -> dict[str, Any]:
    said = _one_line(str(error).rstrip("."))
    name = attribute.partition("(")[0]
    if said.startswith("Failed to find attribute"):
        candidates = [key for key, value in vars(module).items() if callable(value)]
        near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
        usual = [key for key in ("app", "application", "wsgi") if key in candidates]
        nearest = (*near, *usual, "")[0]
        return {"outcome": "no_attribute", "missing": name, "nearest": nearest}
    if "callable" in said or said.startswith("Failed to find application object"):
        held = getattr(module, name, None) if "(" not in attribute else None
        return {"outcome": "not_callable", "missing": attribute, "error": type(held).__name__}
    return {"outcome": "raised", "error": said}


def _place_of(said: str, name: str) -> str:
    """Return FILE:LINE of what `place` has said of an exception of that name, "" for none."""
    where, found, _ = said.partition(f": {name}")
    return where if found else ""


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_ERROR_CHARACTERS else f"{line[:MAX_ERROR_CHARACTERS]}..."


def writable(directory: str) -> bool:
    """Tell whether that is a directory in which this process may make files."""
    return bool(directory) and Path(directory).is_dir() and os.access(directory, os.W_OK)

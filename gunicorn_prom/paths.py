"""Files, directories and modules that the settings name, looked at before they are wanted.

Gunicorn meets each of them after the launch has begun, and ends with a traceback. What is told
is what Gunicorn would do. A setting that is not in use is not looked at, and what the user's own
code may still make is not certain. Nothing is made or imported here, and nothing is opened.
"""

import os
from collections.abc import Callable, Collection, Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any, NamedTuple

__all__ = [
    "BEFORE_SOCKETS",
    "Obstacle",
    "is_allowed",
    "is_importable",
    "obstacles",
    "runs_users_code",
]

STANDARD_STREAM = "-"
# Of which it is known what they open. The user's own may open nothing of it.
GUNICORNS_LOGGERS = frozenset(
    ("simple", "gunicorn.glogging.Logger", "gunicorn.instrument.statsd.Statsd")
)
KNOWN_WORKERS = ("gunicorn.", "gunicorn_prom.", "uvicorn.workers.", "uvicorn_worker.")
# What means another file once the process has become a daemon.
STANDARD_STREAMS = ("/dev/std", "/dev/fd/", "/dev/tty", "/proc/")

# The hooks that Gunicorn calls in the master before it comes to that.
# Source: gunicorn.arbiter.Arbiter, `setup` to `spawn_worker`, the same in all versions.
BEFORE_PIDFILE = ("nworkers_changed",)
BEFORE_SOCKETS = (*BEFORE_PIDFILE, "on_starting")
BEFORE_WORKERS = (*BEFORE_SOCKETS, "when_ready", "pre_fork")


class Obstacle(NamedTuple):
    """Why what a setting names cannot be had.

    Attributes:
        message: one line, with the option.
        hint: the remedy in one line.
        is_certain: whether no code of the user's could put it right in time.
    """

    message: str
    hint: str
    is_certain: bool = True


class _Use(NamedTuple):
    """How Gunicorn is going to use what a setting names.

    Attributes:
        reason: tells why that does not work, "" when it does.
        hooks: that Gunicorn calls before, None: it comes before all code of the user's.
    """

    setting: str
    path: str
    reason: Callable[[str], str]
    hint: str
    hooks: tuple[str, ...] | None = None


def obstacles(cfg: Any, but: Collection[str] = ()) -> Iterator[Obstacle]:
    """Yield what stands in the way of the files that the settings of `cfg` name.

    The directory must be the one that `cfg` has changed to, as after loading it.

    Args:
        but: names of settings that are left out.
    """
    for use in (*_logs(cfg), *_pidfile(cfg), *_certificates(cfg), *_heartbeats(cfg)):
        reason = "" if use.setting in but else use.reason(use.path)
        if reason:
            option = (cfg.settings[use.setting].cli or [use.setting])[-1]
            is_certain = use.hooks is None or not runs_users_code(cfg, use.hooks)
            yield Obstacle(f"{option} {use.path}: {reason}", use.hint, is_certain)
    logger = cfg.settings["logger_class"].get()
    if _is_dotted(logger) and not is_importable(logger, cfg.pythonpath):
        message = f"--logger-class {logger}: there is no module {logger.partition('.')[0]}"
        yield Obstacle(message, "install it, or name its directory with --pythonpath")
    for descriptor in (address for address in cfg.address if isinstance(address, int)):
        if not _is_open(descriptor):
            message = f"--bind fd://{descriptor}: no such file descriptor is open"
            yield Obstacle(message, "it is for a socket that the parent process hands over")


def runs_users_code(cfg: Any, hooks: Collection[str]) -> bool:
    """Tell whether code of the user's runs in the master first, which may make what is missing.

    Args:
        hooks: those that Gunicorn calls before.
    """
    worker_class = cfg.settings["worker_class"].get()
    is_users_worker = not isinstance(worker_class, str) or (
        _is_dotted(worker_class) and not worker_class.startswith(KNOWN_WORKERS)
    )
    settings = [cfg.settings[name] for name in hooks]
    return bool(
        cfg.preload_app
        or is_users_worker
        or not _has_gunicorns_logger(cfg)
        or any(setting.get() is not setting.default for setting in settings)
    )


def _logs(cfg: Any) -> Iterator[_Use]:
    """Source: gunicorn.glogging.Logger.setup."""
    if not _has_gunicorns_logger(cfg):
        return
    for name in ("errorlog", "accesslog"):
        path = getattr(cfg, name)
        is_elsewhere = cfg.daemon and path and path.startswith(STANDARD_STREAMS)
        if path and path != STANDARD_STREAM and not is_elsewhere:
            yield _Use(name, path, _appended, "make the directory, or name another")
    hint = "name a file that can be read"
    if cfg.logconfig_dict:
        return
    if cfg.logconfig_json:
        if os.path.exists(cfg.logconfig_json):  # otherwise Gunicorn goes on without it
            yield _Use("logconfig_json", cfg.logconfig_json, _read, hint)
    elif cfg.logconfig:
        yield _Use("logconfig", cfg.logconfig, _read, hint)


def _pidfile(cfg: Any) -> Iterator[_Use]:
    if cfg.pidfile:
        path = cfg.pidfile + (".2" if "GUNICORN_PID" in os.environ else "")
        hint = "make the directory, or name another"
        yield _Use("pidfile", path, _replaced, hint, BEFORE_PIDFILE)


def _certificates(cfg: Any) -> Iterator[_Use]:
    """Source: gunicorn.sock, `create_sockets` and `ssl_context`."""
    hook = cfg.settings["ssl_context"]
    # The user's own may read others, but that they are there Gunicorn wants to see.
    reason = _read if hook.get() is hook.default else _present
    names = ("certfile", "keyfile", "ca_certs") if reason is _read else ("certfile", "keyfile")
    for name in names if cfg.is_ssl else ():
        path = getattr(cfg, name)
        if path:
            yield _Use(name, path, reason, "name a file that can be read", BEFORE_SOCKETS)


def _heartbeats(cfg: Any) -> Iterator[_Use]:
    path = cfg.worker_tmp_dir
    if path:
        yield _Use("worker_tmp_dir", path, _filled, "name one like /dev/shm", BEFORE_WORKERS)


def _appended(path: str) -> str:
    """Say why a log cannot be appended to."""
    if os.path.isdir(path):
        return "it is a directory"
    if os.path.exists(path):
        return "" if is_allowed(path, os.W_OK) else "it cannot be written"
    # A link may lead to where the file is going to be.
    directory = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(directory):
        return f"there is no directory {directory}"
    return "" if is_allowed(directory, os.W_OK | os.X_OK) else "it cannot be written"


def _replaced(path: str) -> str:
    """Say why a pid file cannot be replaced: it is read, and another takes its name.

    Source: gunicorn.pidfile.Pidfile.create.
    """
    directory = os.path.dirname(path) or os.curdir
    if not os.path.isdir(directory):
        return f"there is no directory {directory}"
    if os.path.exists(path):
        reason = _read(path)
        if reason:
            return reason
    return "" if is_allowed(directory, os.W_OK | os.X_OK) else "it cannot be written"


def _present(path: str) -> str:
    return "" if os.path.exists(path) else "there is no such file"


def _read(path: str) -> str:
    if os.path.isdir(path):
        return "it is a directory"
    return _present(path) or ("" if is_allowed(path, os.R_OK) else "it cannot be read")


def _filled(path: str) -> str:
    if not os.path.isdir(path):
        return "there is no such directory"
    return "" if is_allowed(path, os.W_OK | os.X_OK) else "no file can be made in it"


def is_allowed(path: str, mode: int) -> bool:
    """Tell whether this process may do that with a file, in doubt that it may.

    Asked for the real user, the kernel leaves capabilities out. Asked for the effective one it
    says no to everything in the containers of older Dockers, which do not know that call.
    """
    return os.access(path, mode) or os.access(path, mode, effective_ids=True)


def _has_gunicorns_logger(cfg: Any) -> bool:
    given = cfg.settings["logger_class"].get()
    name = f"{given.__module__}.{given.__qualname__}" if isinstance(given, type) else given
    return name in GUNICORNS_LOGGERS


def _is_dotted(given: Any) -> bool:
    """Tell whether Gunicorn imports a class from a module; others are entry points or there."""
    return isinstance(given, str) and "." in given and not given.startswith("egg:")


def is_importable(dotted: str, pythonpath: str | None = None) -> bool:
    """Tell whether the package of a dotted name can be found, in doubt that it can.

    Args:
        pythonpath: of the settings, to which Gunicorn comes only at the launch.
    """
    name = dotted.partition(".")[0]
    further = [os.path.abspath(place) for place in (pythonpath or "").split(",") if place]
    try:
        return bool(find_spec(name) or PathFinder.find_spec(name, further))
    except Exception:  # a finder of the user's, or a module that was made by hand
        return True


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True

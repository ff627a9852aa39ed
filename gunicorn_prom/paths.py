"""Files and directories that the settings name, looked at before they are wanted.

Gunicorn meets each of them after the launch has begun, and ends with a traceback.
Nothing is made here, and nothing is opened for writing.
"""

import os
from collections.abc import Callable, Collection, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from sys import path as import_path
from typing import Any, NamedTuple

__all__ = ["Obstacle", "obstacles"]

STANDARD_STREAM = "-"


class Obstacle(NamedTuple):
    """Why what a setting names cannot be had.

    Attributes:
        message: one line, with the option.
        hint: the remedy in one line.
    """

    message: str
    hint: str


def obstacles(cfg: Any, but: Collection[str] = ()) -> Iterator[Obstacle]:
    """Yield what stands in the way of the files that the settings of `cfg` name.

    Args:
        but: names of settings that are left out.
    """
    for name in ("pidfile", "errorlog", "accesslog"):
        path = getattr(cfg, name)
        if path and path != STANDARD_STREAM:
            yield from _unless(cfg, name, _can_be_written, "make the directory, or name another")
    for name in ("logconfig", "logconfig_json", "certfile", "keyfile", "ca_certs"):
        if getattr(cfg, name) and name not in but:
            yield from _unless(cfg, name, _can_be_read, "name a file that can be read")
    if cfg.worker_tmp_dir:
        yield from _unless(cfg, "worker_tmp_dir", _can_have_files, "name one like /dev/shm")
    logger = cfg.settings["logger_class"].get()
    if isinstance(logger, str) and "." in logger and not _is_importable(cfg, logger):
        message = f"--logger-class {logger}: there is no module {logger.partition('.')[0]}"
        yield Obstacle(message, "install it, or name its directory with --pythonpath")
    for descriptor in (address for address in cfg.address if isinstance(address, int)):
        if not _is_open(descriptor):
            message = f"--bind fd://{descriptor}: no such file descriptor is open"
            yield Obstacle(message, "it is for a socket that the parent process hands over")


def _unless(cfg: Any, name: str, reason: Callable[[Path], str], hint: str) -> Iterator[Obstacle]:
    given = getattr(cfg, name)
    # Gunicorn changes to `chdir` before it opens some, and after others.
    places = {Path(given), Path(cfg.chdir) / given}
    reasons = [reason(place) for place in places]
    if all(reasons):
        option = (cfg.settings[name].cli or [name])[-1]
        yield Obstacle(f"{option} {given}: {reasons[0]}", hint)


def _can_be_written(path: Path) -> str:
    if path.is_dir():
        return "it is a directory"
    if not path.parent.is_dir():
        return f"there is no directory {path.parent}"
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return "it cannot be written"
    return ""


def _can_be_read(path: Path) -> str:
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        return "it is a directory"
    return "" if os.access(path, os.R_OK) else "it cannot be read"


def _can_have_files(path: Path) -> str:
    if not path.is_dir():
        return "there is no such directory"
    return "" if os.access(path, os.W_OK | os.X_OK) else "no file can be made in it"


def _is_importable(cfg: Any, dotted: str) -> bool:
    """Tell whether the module of a class can be found, without importing anything."""
    more = (cfg.pythonpath or "").split(",")
    places = [cfg.chdir, *filter(None, more), *import_path]
    return PathFinder.find_spec(dotted.partition(".")[0], places) is not None


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True

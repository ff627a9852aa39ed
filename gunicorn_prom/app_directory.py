"""Where the application's own prometheus_client keeps its numbers.

prometheus_client decides what it is when it is imported: only with
PROMETHEUS_MULTIPROC_DIR in the environment it keeps its values in files, one set for
each process. So the variable is set before anything of the user's runs, the
configuration file included, while the directory it should name is known only
afterwards: the value is looked at anew for each metric that is made. The directory
that was announced stays in use if something has been made in it meanwhile.

A process that is killed while it reads the configuration leaves what it has announced,
and no server that would tell of it. So that directory has the pid of its maker in its name,
and is locked (flock, shared) by all generations of the server and whoever inherits the
descriptor. The next start removes what nobody holds and whose maker has gone. The lock
alone would not do: an application may close all descriptors.
"""

import atexit
import errno
import fcntl
import os
import posix
import re
import shutil
import stat
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gunicorn_prom.app_metrics import VARIABLE
from gunicorn_prom.client_files import CLIENT, claim, count_in_memory, tolerate
from gunicorn_prom.processes import has_ended
from gunicorn_prom.settings import is_switched_off

__all__ = ["AppDirectory", "announce", "make_temporary", "remove_announced", "withdraw"]

# The directory of the last generation, which the next one goes on with.
HANDED_OVER = "GUNICORN_PROM_APP"

# What readers look for in the directory of a server, and what tells those who clean up
# of a directory elsewhere.
APP = "app"
ANNOUNCED = "announced"

# For the first pages of a worker's files, of which there may be eight.
MIN_ROOM_BYTES = 1 << 20

_PREFIX = "gunicorn-prom-app-"
# Without a pid it is of an early version, which held none: nobody can tell whether it is in use.
_NAME = re.compile(rf"{_PREFIX}([1-9][0-9]{{0,8}})-.+")

_announced: Path | None = None
# The process that has announced, until it has become a server.
_announcer = 0
# The descriptors that hold directories which this process has made or was handed.
_held: dict[str, tuple[int, tuple[int, int]]] = {}


def announce() -> None:
    """Set the variable, unless the user has; call it before the configuration is read."""
    global _announced, _announcer  # noqa: PLW0603  # the environment is global as well
    handed_over = os.environ.pop(HANDED_OVER, None)
    if not handed_over:
        with suppress(OSError):
            _sweep(_parent())
    if VARIABLE in os.environ or is_switched_off("app_metrics"):
        return
    # Where there is no room, the application's metrics stay what they would be without us.
    with suppress(OSError):
        _announced = Path(handed_over or make_temporary())
        os.environ[VARIABLE] = str(_announced)
        tolerate(str(_announced))
        if handed_over:
            _hold(handed_over)
        else:
            _announcer = os.getpid()
            atexit.register(_clean_up)


def make_temporary() -> str:
    """Make a directory that nobody sweeps while this process lives.

    Raises:
        OSError: there is no place for it.
    """
    while True:
        path = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_parent())
        _hold(path)
        # In another pid namespace a start may have swept it before we held it.
        if os.path.isdir(path):
            return path
        _release(path)


def _parent() -> str:
    """Return where directories are made: on shared memory, unless the user has said where.

    Raises:
        OSError: nothing may be written anywhere.
    """
    has_shared_memory = "TMPDIR" not in os.environ and os.access("/dev/shm", os.W_OK)
    return "/dev/shm" if has_shared_memory else tempfile.gettempdir()


def _hold(path: str) -> None:
    """Lock a directory as one of several, as far as its file system can.

    One in that of a server needs no lock of its own.
    """
    if not os.path.basename(path).startswith(_PREFIX):
        return
    _release(path)
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _held[path] = descriptor, _identity(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def _release(path: str) -> None:
    descriptor, identity = _held.pop(path, (-1, None))
    with suppress(OSError):
        # It may be another file's by now, where the configuration has closed all descriptors.
        if _identity(descriptor) == identity:
            posix.close(descriptor)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _sweep(parent: str) -> None:
    """Remove what starts have left in `parent` that were killed before there was a server."""
    for name in os.listdir(parent):
        match = _NAME.fullmatch(name)
        # In a container the last start may have had our pid; then the lock tells alone.
        if match and (int(match[1]) == os.getpid() or has_ended(int(match[1]))):
            with suppress(OSError):
                _remove_unheld(os.path.join(parent, name))


def _remove_unheld(path: str) -> None:
    """Remove a directory of ours that nobody holds.

    Raises:
        OSError: somebody does, or it is none.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        posix.close(descriptor)


def withdraw() -> None:
    """Take back what was announced, unless it is in use."""
    if _announced is not None:
        with suppress(OSError):
            _announced.rmdir()
            _release(str(_announced))
            if os.environ.get(VARIABLE) == str(_announced):
                del os.environ[VARIABLE]


def _clean_up() -> None:
    """Remove what was announced where the process came to nothing: it only checked, or failed."""
    if _announced is not None and os.getpid() == _announcer:
        shutil.rmtree(_announced, ignore_errors=True)


def remove_announced(server: Path) -> None:
    """Remove the directory elsewhere that the one of a server, about to be removed, tells of."""
    with suppress(OSError):
        target = (server / ANNOUNCED).readlink()
        status = target.lstat()
        is_ours = stat.S_ISDIR(status.st_mode) and target.name.startswith(_PREFIX)
        if is_ours:
            shutil.rmtree(target, ignore_errors=True)


class AppDirectory:
    """The directory of the application's metrics, in the master.

    Attributes:
        path: None where the application is left alone.
        is_ours: made for this server; else it is what the user has set.
        is_served: False when it is there only because prometheus_client is imported
            already and would fail without.
    """

    def __init__(self, path: Path | None, *, is_ours: bool, is_served: bool = True) -> None:
        self.path = path
        self.is_ours = is_ours
        self.is_served = is_served
        self._owner: tuple[int, int] | None = None
        self._is_usable = True

    @classmethod
    def announced(cls, cfg: Any) -> "AppDirectory":
        """Return the directory that the environment names; none when `cfg` wants none."""
        users = cfg.env.get(VARIABLE)  # what `--env` sets in the workers
        found = users or os.environ.get(VARIABLE)
        is_ours = found is not None and found == str(_announced)
        if not is_ours:
            withdraw()
            return cls(Path(found) if found and cfg.app_metrics else None, is_ours=False)
        if not cfg.app_metrics and "prometheus_client" not in sys.modules:
            withdraw()
            return cls(None, is_ours=False)
        return cls(_announced, is_ours=True, is_served=cfg.app_metrics)

    def settle(self, server: Path, uid: int, gid: int) -> None:
        """Move into the directory of the server if ours is empty; else link to it from there.

        Args:
            uid: of the workers, who write there.
            gid: of the workers.

        Raises:
            OSError: it cannot be made.
        """
        global _announcer  # noqa: PLW0603  # see announce
        if self.path is None:
            _announcer = 0
            return
        self._owner = (uid, gid) if uid != os.geteuid() else None
        better = server / APP
        if self.is_ours and self.is_served and self.path != better:
            with suppress(OSError):  # it is in use, or of no use any more
                self.path.rmdir()
            if not self.path.is_dir():
                _release(str(self.path))
                self.path = better
                os.environ[VARIABLE] = str(better)
                tolerate(str(better))
        if self.path != better:
            names = [APP] * self.is_served + [ANNOUNCED] * self.is_ours
            for name in names:
                with suppress(FileExistsError):
                    (server / name).symlink_to(self.path.absolute())
        if self.is_ours:
            # Last: from here on it may be another user's, of which only the link tells.
            self._make()
        _announcer = 0  # it is a server's from now on

    def look_again(self, server: Path) -> None:
        """Take up what a preloaded application has put into the environment.

        Raises:
            OSError: the link to it cannot be made.
        """
        found = os.environ.get(VARIABLE)
        if self.is_ours and found is not None and found != str(self.path):
            with suppress(OSError):
                (server / APP).rmdir()
            self.path, self.is_ours = Path(found), False
            (server / APP).symlink_to(self.path.absolute())

    def restore(self, *, is_fork_next: bool = False) -> None:
        """Make the directory if it is missing; have new workers do without one of no use.

        Args:
            is_fork_next: a worker is about to be forked, for which the directory is tried.

        Raises:
            OSError: it was removed, or has just become of no use.
        """
        if self.path is None or not self.is_ours:
            return
        try:
            is_missing = not self.path.is_dir()
            if is_missing:
                self._make()
            if is_fork_next:
                _try(self.path)
        except OSError as error:
            self._leave(error)
            return
        if is_fork_next:
            self._come_back()
        if is_missing:
            reason = "the directory of the application's metrics was removed, they begin anew"
            raise OSError(errno.ENOENT, reason, str(self.path))

    def _leave(self, error: OSError) -> None:
        """Have new workers do without the directory.

        A client that is imported needs the variable, and counts in memory.

        Raises:
            OSError: it was of use until now.
        """
        was_usable, self._is_usable = self._is_usable, False
        count_in_memory(is_wanted=True)
        if CLIENT not in sys.modules and os.environ.get(VARIABLE) == str(self.path):
            del os.environ[VARIABLE]
        if was_usable:
            reason = f"new workers do without the application's metrics: {error.strerror}"
            raise OSError(error.errno, reason, str(self.path)) from error

    def _come_back(self) -> None:
        if not self._is_usable:
            self._is_usable = True
            count_in_memory(is_wanted=False)
            os.environ.setdefault(VARIABLE, str(self.path))

    def _make(self) -> None:
        assert self.path is not None  # asked for by who has one
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _hold(str(self.path))
        if self._owner is None:
            return
        os.chown(self.path, *self._owner)
        if self.path.name == APP:
            # The workers must come through, which is not to say that they can look around.
            for parent in self.path.parents[:2]:
                parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o011)

    def pass_on(self, environ: dict[str, str]) -> None:
        """Tell the next generation, which must not take our directory for the user's."""
        if self.is_ours:
            environ.pop(VARIABLE, None)
            environ[HANDED_OVER] = str(self.path)


def _try(directory: Path) -> None:
    """Find out whether a worker could begin its files in a directory, by beginning one.

    Raises:
        OSError: it could not.
    """
    path = directory / f"trial.{os.getpid()}.{time.time_ns()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        path.unlink()
        claim(descriptor, 0, MIN_ROOM_BYTES)
    finally:
        posix.close(descriptor)

"""The state directory: where the scoreboards of the running masters lie.

    ROOT/gunicorn-prom.PID.TIME/board    the cells
    ROOT/gunicorn-prom.PID.TIME/keys     the labels

A master holds a lock (flock) on its directory for as long as it lives. What
nobody holds is left over from a master that was killed, and the next start
removes it. A pid alone would prove nothing: it may be another process by then.
"""

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

from gunicorn_prom.errors import StateError
from gunicorn_prom.scoreboard import Board

__all__ = ["State", "default_root", "make_root"]

PREFIX = "gunicorn-prom"
NAME = re.compile(rf"{PREFIX}\.\d+\.\d+")
BOARD = "board"
KEYS = "keys"
HINT = "choose another with --metrics-state-dir, best on tmpfs (in Kubernetes: an emptyDir)"


def default_root() -> Path:
    """Return the state directory of this user when none was given, best on tmpfs."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and _is_ours(Path(runtime)):
        return Path(runtime) / "gunicorn-prom"
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    return Path(parent) / f"gunicorn-prom-{os.geteuid()}"


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


class State:
    """The directory of one master and the board in it.

    Attributes:
        path: the directory, which may vanish while everything goes on: the
            files stay open.
    """

    def __init__(self, path: Path, lock_fd: int, board: Board) -> None:
        self.path = path
        self.board = board
        self._lock_fd: int | None = lock_fd

    @classmethod
    def create(cls, root: Path | None, meta: dict[str, Any]) -> "State":
        """Sweep `root` of the stale and make a directory with a board in it.

        Runs in the master, after it has become a daemon.

        Args:
            root: a directory that may hold other things too, None: `default_root()`.
            meta: see `Board.format`.

        Raises:
            StateError: the directory is not ours, not writable, or full.
        """
        root = make_root(root)
        try:
            sweep(root)
            path, lock_fd = _make_locked(root)
            try:
                return cls(path, lock_fd, _make_board(path, meta))
            except OSError:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock_fd)
                raise
        except OSError as error:
            raise _unusable(root, error) from error

    def close_in_child(self) -> None:
        """Let go of the lock in a forked child, where it is not ours to hold."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def remove(self) -> None:
        """Delete the directory at the end of the master's life."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close_in_child()


def sweep(root: Path) -> None:
    """Remove the directories in `root` that a master made and no master holds."""
    for path in root.iterdir():
        if NAME.fullmatch(path.name) and _is_ours(path):
            _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    try:
        lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # another start has swept it
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock_fd)


def make_root(root: Path | None) -> Path:
    """Make the state directory, by default that of this user, and see that it can be used.

    Raises:
        StateError: it is another user's, or not writable.
    """
    chosen = root or default_root()
    try:
        chosen.mkdir(mode=0o700, parents=True, exist_ok=True)
        if root is None and not _is_ours(chosen):
            # In a directory that everybody writes to, somebody else may have been first.
            raise StateError(f"the state directory {chosen} is another user's", HINT)
        os.rmdir(tempfile.mkdtemp(prefix=f"{PREFIX}-probe-", dir=chosen))
        return chosen.resolve()
    except OSError as error:
        raise _unusable(chosen, error) from error


def _unusable(root: Path, error: OSError) -> StateError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StateError(f"cannot use the state directory {root}: {reason}", HINT)


def _make_locked(root: Path) -> tuple[Path, int]:
    while True:
        path = root / f"{PREFIX}.{os.getpid()}.{time.time_ns()}"
        path.mkdir(mode=0o700)
        try:
            lock_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        # Another start may have swept the directory before we had the lock.
        if path.exists():
            return path, lock_fd
        os.close(lock_fd)


def _make_board(path: Path, meta: dict[str, Any]) -> Board:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    board_fd = os.open(path / BOARD, flags, 0o600)
    keys_fd = os.open(path / KEYS, flags | os.O_APPEND, 0o600)
    Board.format(board_fd, meta)
    return Board(board_fd, keys_fd)

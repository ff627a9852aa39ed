"""The state directory: where the scoreboards of the running servers lie.

    ROOT/gunicorn-prom.PID.TIME/board.NUMBER    the cells; unfinished.NUMBER while it is made
    ROOT/gunicorn-prom.PID.TIME/keys.NUMBER     the labels of that board
    ROOT/gunicorn-prom.PID.TIME/listeners.NUMBER    where the master of that board listens
    ROOT/gunicorn-prom.PID.TIME/metrics_url.NUMBER  and where its metrics server does
    ROOT/gunicorn-prom.PID.TIME/app             the application's own metrics, or a link

A server keeps its directory through all its generations: the master that replaces
another (USR2) puts its board beside that of the old one, and whoever reads the
directory adds them up.

A board is locked (flock) by the master and by its workers, who inherit the open file; the
mapping keeps that open, whatever an application does to descriptors. So it is held until
the last process that may write to it has gone, however that came, and a pid proves nothing.
It gets its name when all that others expect is on it. A board that nobody holds is folded
into that of the generation that lives, and removed. When the last master ends, or is found
to have been killed at the next start, the directory goes.
"""

import fcntl
import os
import posix
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gunicorn_prom.app_directory import remove_announced
from gunicorn_prom.descriptors import Descriptor
from gunicorn_prom.errors import StateError
from gunicorn_prom.listeners import Listener, replace_text, write
from gunicorn_prom.scoreboard import Board, Reading
from gunicorn_prom.totals import Totals

__all__ = [
    "LISTENERS",
    "State",
    "board_files",
    "default_root",
    "has_holder",
    "is_held",
    "is_held_file",
    "load_board",
    "make_root",
    "metrics_url",
    "servers",
    "unusable",
]

PREFIX = "gunicorn-prom"
NAME = re.compile(rf"{PREFIX}\.\d+\.\d+")
BOARD = "board"
UNFINISHED = "unfinished"
KEYS = "keys"
LISTENERS = "listeners"
METRICS_URL = "metrics_url"
HINT = "choose another with --metrics-state-dir, best on tmpfs (in Kubernetes: an emptyDir)"

# The directory of the server, and a descriptor of a board in it which keeps that held
# until the next generation has its own.
HANDED_OVER = "GUNICORN_PROM_STATE"


def empty(board: Board) -> None:
    """Leave a new board empty."""


def default_root() -> Path:
    """Return the state directory of this user when none was given, best on tmpfs.

    Raises:
        StateError: neither there nor for temporary files anything may be written.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and _is_ours(Path(runtime)):
        return Path(runtime) / "gunicorn-prom"
    try:
        parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    except FileNotFoundError as error:
        raise StateError(
            "there is no directory to which we may write the scoreboard", HINT
        ) from error
    return Path(parent) / f"gunicorn-prom-{os.geteuid()}"


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


class State:
    """The directory of a server, in one of its masters.

    Attributes:
        path: the directory, which may vanish while everything goes on: the
            files stay open.
        boards: this master's. Workers get their slots on the last ones; on the
            earlier ones there may still be some.
        problem: why that of the last generation could not be used, None: it is, or there was none.
    """

    problem: StateError | None = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.boards: list[Board] = []

    @classmethod
    def create(
        cls, root: Path | None, meta: dict[str, Any], fill: Callable[[Board], None] = empty
    ) -> "State":
        """Make a directory with a board in it, or put the board into that of the last generation.

        Runs in the master, after it has become a daemon. Sweeps `root` of the stale.

        Args:
            root: a directory that may hold other things too, None: `default_root()`.
            meta: see `Board.format`.
            fill: see `add_board`.

        Raises:
            StateError: the directory is not ours, not writable, or full.
        """
        handed_over = os.environ.pop(HANDED_OVER, None)
        if handed_over is not None:
            held, _, directory = handed_over.partition(":")
            if NAME.fullmatch(Path(directory).name):
                return cls._succeed(Path(directory), held, root, meta, fill)
        return cls._begin(make_root(root), meta, fill)

    @classmethod
    def _begin(cls, root: Path, meta: dict[str, Any], fill: Callable[[Board], None]) -> "State":
        try:
            sweep(root)
            path, directory_fd = _make_directory(root)
            try:
                state = cls(path)
                state.add_board(meta, fill)
                return state
            except OSError:
                shutil.rmtree(path, ignore_errors=True)
                raise
            finally:
                posix.close(directory_fd)
        except OSError as error:
            raise unusable(root, error) from error

    @classmethod
    def _succeed(
        cls,
        path: Path,
        held: str,
        root: Path | None,
        meta: dict[str, Any],
        fill: Callable[[Board], None],
    ) -> "State":
        """Join the last generation, or begin anew where its directory is of no use any more.

        The last one is about to be ended, so this one must not fail for the sake of its metrics.

        Raises:
            StateError: there is no directory of use anywhere.
        """
        try:
            return cls._join(path, held, meta, fill)
        except StateError as error:
            for place in (root, None, Path(tempfile.gettempdir())):
                with suppress(StateError):
                    state = cls._begin(make_root(place), meta, fill)
                    state.problem = error
                    return state
            raise

    @classmethod
    def _join(
        cls, path: Path, held: str, meta: dict[str, Any], fill: Callable[[Board], None]
    ) -> "State":
        board_file = Descriptor.take_over(held)
        state = cls(path)
        try:
            state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            state.add_board(meta, fill)
        except OSError as error:
            raise unusable(state.path, error) from error
        finally:
            if board_file is not None:
                board_file.close()
        return state

    @property
    def board(self) -> Board:
        """The board in use."""
        return self.boards[-1]

    def add_board(self, meta: dict[str, Any], fill: Callable[[Board], None] = empty) -> Board:
        """Make a board and use it from now on.

        Args:
            meta: see `Board.format`; number, first slot and generation are found.
            fill: writes on the board what is to be there when the first reader comes.

        Raises:
            OSError: there is no room, or no directory any more.
        """
        number = time.time_ns() // 1000  # a float holds microseconds exactly
        numbering = {
            "number": number,
            "first_slot": self._free_range(meta["slots"]),
            "generation": self._generation(),
        }
        paths = [self.path / f"{name}.{number}" for name in (UNFINISHED, KEYS)]
        final_path = self.path / f"{BOARD}.{number}"
        try:
            board = _make_board(paths[0], (final_path, paths[1]), {**numbering, **meta})
            fill(board)
            paths[0].rename(final_path)
        except OSError:
            for path in paths:
                path.unlink(missing_ok=True)
            raise
        self.boards.append(board)
        return board

    def _generation(self) -> int:
        """Return the generation of this master, the first one's is 1."""
        if self.boards:
            return int(self.board.meta["generation"])
        others = [0]
        for number, path in self._others():
            with suppress(FileNotFoundError, StateError), open_board(path, number) as board:
                others.append(board.meta["generation"])
        return max(others) + 1

    def _free_range(self, slots: int) -> int:
        """Return the lowest number from which on so many slots are on none of our boards."""
        first_slot = 0
        for board in sorted(self.boards, key=lambda board: board.meta["first_slot"]):
            if first_slot + slots > board.meta["first_slot"]:
                first_slot = board.meta["first_slot"] + board.layout.slots
        return first_slot

    def pass_on(self, environ: dict[str, str]) -> None:
        """Tell the next generation, about to be executed in this child, of the directory."""
        held = ""
        with suppress(OSError):  # this generation holds it, as long as it lives
            held = self.board.pass_on()
        environ[HANDED_OVER] = f"{held}:{self.path}"

    def publish(self, listeners: list[Listener], url: str) -> None:
        """Tell who reads the directory where this master listens.

        Args:
            url: of its metrics, "" where it serves none.

        Raises:
            OSError: there is no room, or no directory any more.
        """
        write(self.path / f"{LISTENERS}.{self.board.number:.0f}", listeners)
        replace_text(self.path / f"{METRICS_URL}.{self.board.number:.0f}", url)

    def relatives(self) -> list[Reading]:
        """Return what the boards of other generations tell that somebody still holds."""
        readings = []
        for number, path in self._others():
            with suppress(FileNotFoundError, StateError), open_board(path, number) as board:
                if is_held(board.board_fd):
                    readings.append(board.read())
        return readings

    def fold_the_dead(self) -> None:
        """Fold the boards that nobody holds any more into the one in use, and remove them.

        A board that another version has laid out stays until the directory goes.
        Killed in the middle it leaves a board that is in the totals of the one in use
        but not removed yet; readers see that by its number.

        Raises:
            OSError: the label file cannot be extended.
        """
        for number, path in self._others():
            with suppress(FileNotFoundError, StateError), open_board(path, number) as board:
                # The lock on the labels is between those who fold: one on the board would
                # make readers think that its processes live.
                is_dead = not is_held(board.board_fd) and _lock(board.keys_fd)
                if not is_dead or not path.exists():
                    continue
                if number not in self._inherited():
                    self._inherit([number], board.read(), is_live=False)
                _remove_board(path, number)

    def fold_unused(self, board: Board) -> None:
        """Fold a board of this master on which no worker is left into the one in use.

        Its files are closed when the thread of the metrics server is done with it too.

        Raises:
            OSError: the label file cannot be extended.
        """
        self._inherit([board.number], board.read(), is_live=True)
        self.boards.remove(board)
        _remove_board(self.path / f"{BOARD}.{board.number:.0f}", board.number)

    def _inherit(self, numbers: list[float], reading: Reading, *, is_live: bool) -> None:
        totals = Totals(self.board.layout.buckets)
        totals.add(reading, is_live=is_live)
        self.board.inherit([*numbers, *reading.inherited], totals.fixed, totals.rows())

    def _inherited(self) -> set[float]:
        """Return the numbers of all boards that are in the totals of another one."""
        numbers = {number for board in self.boards for number in board.read().inherited}
        for number, path in self._others():
            with suppress(FileNotFoundError, StateError), open_board(path, number) as board:
                numbers.update(board.read().inherited)
        return numbers

    def _others(self) -> list[tuple[int, Path]]:
        ours = {board.number for board in self.boards}
        return [(n, path) for n, path in board_files(self.path) if n not in ours]

    def close(self) -> None:
        """Leave the directory at the end of the master's life.

        The last one removes it. Where another generation lives, that one finds the
        board that nobody holds and folds it.
        """
        for board in self.boards:
            # Who has been killed may take a moment to be gone, and would hold it.
            with suppress(OSError):
                fcntl.flock(board.board_fd, fcntl.LOCK_UN)
        # Where the application has closed our board, this process still holds it.
        if not any(is_held_file(path) for _, path in self._others()):
            _remove_server(self.path)


def _make_board(path: Path, final_paths: tuple[Path, Path], meta: dict[str, Any]) -> Board:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptors: list[int] = []
    try:
        descriptors.append(os.open(path, flags, 0o600))
        fcntl.flock(descriptors[0], fcntl.LOCK_EX)
        descriptors.append(os.open(final_paths[1], flags | os.O_APPEND, 0o600))
        Board.format(descriptors[0], meta)
        return Board(descriptors[0], descriptors[1], final_paths)
    except OSError:
        for descriptor in descriptors:
            posix.close(descriptor)
        raise


def board_files(directory: Path) -> list[tuple[int, Path]]:
    """Return number and path of every board in the directory of a server, oldest first.

    An unreadable or missing directory has none.
    """
    found = []
    with suppress(OSError):
        for name in os.listdir(directory):
            kind, _, number = name.partition(".")
            if kind == BOARD and number.isdecimal():
                found.append((int(number), directory / name))
    return sorted(found)


def metrics_url(directory: Path) -> str:
    """Return the URL of the metrics in the directory of a server, "" where it serves none.

    That of the newest generation which has told one.
    """
    for number, path in reversed(board_files(directory)):
        with suppress(OSError, UnicodeDecodeError):
            url = path.with_name(f"{METRICS_URL}.{number}").read_text()
            if url:
                return url
    return ""


@contextmanager
def open_board(path: Path, number: int, mode: int = os.O_RDONLY) -> Iterator[Board]:
    """Open a board of another process for the time of a block.

    Raises:
        FileNotFoundError: it is gone.
        StateError: it was laid out by another version.
    """
    board = load_board(path, number, mode)
    try:
        yield board
    finally:
        board.close()


def load_board(path: Path, number: int, mode: int = os.O_RDONLY) -> Board:
    """Open a board of another process, see `open_board`; the caller closes it."""
    board_fd = os.open(path, mode | os.O_CLOEXEC)
    try:
        keys_fd = os.open(path.with_name(f"{KEYS}.{number}"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        posix.close(board_fd)
        raise
    try:
        return Board(board_fd, keys_fd)
    except Exception:
        posix.close(board_fd)
        posix.close(keys_fd)
        raise


def is_held(board_fd: int) -> bool:
    """Tell whether another open file than `board_fd` holds the board: its processes live."""
    try:
        fcntl.flock(board_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(board_fd, fcntl.LOCK_UN)
    return False


def servers(root: Path) -> list[Path]:
    """Return the directories of servers in the state directory `root`, held or not.

    Raises:
        OSError: it cannot be listed.
    """
    return sorted(path for path in root.iterdir() if NAME.fullmatch(path.name))


def is_held_file(path: Path) -> bool:
    """Tell whether a process that has opened the file at `path` holds it, see `is_held`."""
    try:
        board_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return is_held(board_fd)
    finally:
        posix.close(board_fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_board(path: Path, number: float) -> None:
    # The labels last: a board without them could not be read.
    path.unlink(missing_ok=True)
    for name in (LISTENERS, METRICS_URL):
        path.with_name(f"{name}.{number:.0f}").unlink(missing_ok=True)
    path.with_name(f"{KEYS}.{number:.0f}").unlink(missing_ok=True)


def sweep(root: Path) -> None:
    """Remove the directories of servers in `root` of which no process is left."""
    for path in servers(root):
        if not _is_ours(path):
            continue
        with suppress(FileNotFoundError), _opened_directory(path) as directory_fd:
            # Who makes a server holds its directory until there is a board in it.
            is_being_made = not _lock(directory_fd)
            if not is_being_made and not has_holder(path):
                _remove_server(path)


def _remove_server(path: Path) -> None:
    remove_announced(path)
    shutil.rmtree(path, ignore_errors=True)


def has_holder(path: Path) -> bool:
    """Tell whether a process of the server whose directory that is still lives."""
    return any(is_held_file(board) for _, board in board_files(path))


@contextmanager
def _opened_directory(path: Path) -> Iterator[int]:
    directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield directory_fd
    finally:
        posix.close(directory_fd)


def _make_directory(root: Path) -> tuple[Path, int]:
    """Make the directory of a server; return it with a descriptor that holds it."""
    while True:
        path = root / f"{PREFIX}.{os.getpid()}.{time.time_ns()}"
        path.mkdir(mode=0o700)
        try:
            directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(directory_fd, fcntl.LOCK_EX)
        # Another start may have swept the directory before we held it.
        if path.exists():
            return path, directory_fd
        posix.close(directory_fd)


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
        raise unusable(chosen, error) from error


def unusable(root: Path, error: OSError) -> StateError:
    """Return what to tell a user whose state directory failed with `error`."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StateError(f"cannot use the state directory {root}: {reason}", HINT)

"""Descriptors that other code of the same process may have closed.

Applications close what they do not know: a daemon's `os.closerange(3, 256)`, a sandbox that
goes through /proc/self/fd. The kernel gives the number to whatever is opened next, such as a
database. So what is ours and stays open while code of the user's runs is never used, nor
closed, by its number before that was seen to refer to it still.
"""

import errno
import fcntl
import mmap
import os
import posix
import socket
import sys
from pathlib import Path

__all__ = ["Descriptor", "OwnSocket", "let_go", "map_file"]


class Descriptor:
    """An open file: its number, and what that referred to at first.

    Args:
        number: of the open file.
        path: where it can be opened again when somebody has closed it, None: nowhere.

    Raises:
        OSError: the number is not open.
    """

    def __init__(self, number: int, path: Path | None = None) -> None:
        self._number = number
        self._path = path
        self._identity = _identity(os.fstat(number))
        mode = fcntl.fcntl(number, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND)
        self._flags = mode | os.O_CLOEXEC

    @classmethod
    def take_over(cls, passed_on: str) -> "Descriptor | None":
        """Return what `pass_on` has left to this program; None when it is not there any more."""
        try:
            number, *identity = map(int, passed_on.split("."))
            descriptor = cls(number)
        except (ValueError, OverflowError, OSError):
            return None
        if descriptor._identity != tuple(identity):
            return None
        os.set_inheritable(number, False)
        return descriptor

    def pass_on(self) -> str:
        """Leave the file open for the program about to be executed; return how to tell it.

        Raises:
            OSError: somebody has closed it, and it cannot be opened again.
        """
        os.set_inheritable(self.fileno(), True)
        return ".".join(map(str, (self._number, *self._identity)))

    def is_open(self) -> bool:
        """Tell whether the number still refers to the file."""
        try:
            return _identity(os.fstat(self._number)) == self._identity
        except OSError:
            return False

    def fileno(self) -> int:
        """Return the number, for use at once; see `stat`."""
        self.stat()
        return self._number

    def stat(self) -> os.stat_result:
        """Return the status of the file, which is opened again if somebody has closed it.

        Raises:
            OSError: it cannot be opened again.
        """
        try:
            status = os.fstat(self._number)
        except OSError:
            return self._open_again()
        return status if _identity(status) == self._identity else self._open_again()

    def _open_again(self) -> os.stat_result:
        if self._path is None:
            raise _lost()
        number = os.open(self._path, self._flags)
        status = os.fstat(number)
        if _identity(status) != self._identity:
            posix.close(number)
            raise _lost()
        self._number = number
        return status

    def close(self) -> None:
        """Close the file, unless somebody has; who has got its number since keeps it."""
        if self.is_open():
            posix.close(self._number)
        self._number, self._path = -1, None


class OwnSocket(Descriptor):
    """A socket that somebody else may have closed.

    Attributes:
        socket: for use at once when `is_open`. Nobody else may close it.
    """

    def __init__(self, given: socket.socket) -> None:
        super().__init__(given.fileno())
        self.socket = given

    def close(self) -> None:
        """Close the socket, unless somebody has; who has got its number since keeps it."""
        self.socket.detach()  # or it would close the number when it is collected
        super().close()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _lost() -> OSError:
    return OSError(errno.EBADF, "somebody else has closed it")


def map_file(number: int, size: int, access: int) -> tuple[mmap.mmap, Descriptor | None]:
    """Map an open file into memory, where it stays when all its descriptors are closed.

    Returns:
        The mapping, and the descriptor of its own that it has up to Python 3.12 and closes by
        its number. Both are for `let_go`.
    """
    if sys.version_info >= (3, 13):
        return mmap.mmap(number, size, access=access, trackfd=False), None
    # Python does not tell the number: it is the lowest that is free.
    free = os.dup(number)
    posix.close(free)
    mapped = mmap.mmap(number, size, access=access)
    own = Descriptor(number)
    own._number = free  # if another thread was faster it counts as closed, and the mapping stays
    return mapped, own


def let_go(mapped: mmap.mmap, own: Descriptor | None) -> None:
    """Be about to drop a mapping, or to end the process.

    It is kept when it would close somebody else's file.
    """
    if own is not None and not own.is_open():
        # What is registered there outlives all modules at the end.
        os.register_at_fork(after_in_child=mapped.__len__)

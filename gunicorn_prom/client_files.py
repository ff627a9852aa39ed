"""The application's prometheus_client, kept from failing where it finds no place for its files.

In its mode for many processes the client opens a file at the first value of a kind, and
extends it for further ones: in an import, in a request, in a hook of the master. What
goes wrong there is the application's own error, which it would not have without us. So in
the directories that are ours, and in no other, what finds no place in a file is counted in
memory; it is not served, and that is reported.

The room for a value is claimed before the value is written: the client only extends its
files, and a store to memory that the file system cannot provide is a SIGBUS.

Nothing here imports the client. A finder waits for the application to do it, and inherits
with every fork. A client that is not built as we know it is left as it is.
"""

import errno
import mmap
import os
import posix
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from gunicorn_prom.app_metrics import VARIABLE, entry_size

__all__ = ["CLIENT", "claim", "count_in_memory", "report_to", "tolerate"]

CLIENT = "prometheus_client"

# What posix_fallocate says of a file system that cannot claim room. The last one is glibc's
# for a file that is open for appending, as the client's are.
CANNOT_CLAIM = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})

# What the client's MmapedDict must have for us to rely on it.
ATTRIBUTES = frozenset({"_f", "_m", "_used", "_capacity", "_positions"})
METHODS = frozenset({"read_value", "write_value", "close"})

Report = Callable[[BaseException], None]
Value = tuple[float, float]

_directories: set[str] = set()
_is_in_memory = False
# The process that has asked to be told, and how; what nobody could be told yet.
_reporter: tuple[int, Report] | None = None
_untold: BaseException | None = None


def tolerate(directory: str) -> None:
    """Keep the client from failing in a directory of ours, in this process and its forks.

    Args:
        directory: as it is in the environment variable.
    """
    _directories.add(directory)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        for name in _PATCHES:
            if name in sys.modules:
                _patch(sys.modules[name])


def count_in_memory(*, is_wanted: bool) -> None:
    """Have the client try no file in our directories, or try again; for those forked from now on.

    It is not reported then: who calls this knows it.
    """
    global _is_in_memory  # noqa: PLW0603  # one for the process, as the client is
    _is_in_memory = is_wanted


def report_to(report: Report) -> None:
    """Call `report` with what makes the client count in memory, once for each kind of metric.

    In this process only. What a process forked from it meets is tolerated and told nobody.
    """
    global _reporter, _untold  # noqa: PLW0603  # see count_in_memory
    _reporter = os.getpid(), report
    if _untold is not None:
        untold, _untold = _untold, None
        _report(untold)


def _report(error: BaseException) -> None:
    global _untold  # noqa: PLW0603  # see count_in_memory
    if _reporter is None or _reporter[0] != os.getpid():
        _untold = error.with_traceback(None)  # which would keep what the application has
        return
    with suppress(Exception):  # it would become the application's
        _reporter[1](error)


def claim(descriptor: int, offset: int, length: int) -> None:
    """Claim room in a file, where its file system can.

    Raises:
        OSError: there is none.
    """
    try:
        os.posix_fallocate(descriptor, offset, length)
    except OSError as error:
        if error.errno not in CANNOT_CLAIM:
            raise


class _Tolerant:
    """The client's MmapedDict, before which it stands in the order of classes.

    To write a value that has its place costs nothing more than before.
    """

    _f: Any
    _m: Any
    _used: int
    _capacity: int
    _positions: dict[str, int]
    write_value: Callable[[str, float, float], None]

    def __init__(self, filename: str) -> None:
        self._in_memory: dict[str, Value] = {}
        self._has_file = not _is_in_memory
        if not self._has_file:
            self.write_value = self._write
            return
        try:
            _claim_first_page(filename)
            self._stock.__init__(filename)
        except Exception as error:
            self._has_file = False
            file = vars(self).pop("_f", None)
            if file is not None:
                file.close()
            self._fall_back(error)

    @property
    def _stock(self) -> Any:
        return super()

    def read_value(self, key: str) -> Value:
        """Return value and timestamp; what is not there yet gets its place, at 0."""
        if self._has_file and key not in self._in_memory:
            try:
                if key not in self._positions:
                    claim(self._f.fileno(), self._used, entry_size(key.encode()))
                value: Value = self._stock.read_value(key)
                return value
            except Exception as error:
                self._capacity = len(self._m)  # which may have been promised more
                if not self._in_memory:
                    self._fall_back(error)
        return self._in_memory.setdefault(key, (0.0, 0.0))

    def _fall_back(self, error: Exception) -> None:
        self.write_value = self._write
        _report(error)

    def _write(self, key: str, value: float, timestamp: float) -> None:
        if self._has_file and key not in self._in_memory:
            self._stock.write_value(key, value, timestamp)
        else:
            self._in_memory[key] = value, timestamp

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._has_file:
            self._stock.close()


def _claim_first_page(filename: str) -> None:
    """Make the file if it is not there. The client takes it at the size that it has.

    Raises:
        OSError: it cannot be made, or not be written.
    """
    descriptor = os.open(filename, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        claim(descriptor, 0, mmap.PAGESIZE)
    finally:
        posix.close(descriptor)


class _TolerantCollector:
    """The client's MultiProcessCollector, which the application may serve by itself."""

    _path: Any

    def __init__(self, registry: Any, path: Any = None) -> None:
        wanted = os.environ.get(VARIABLE) if path is None else path
        stock: Any = super()
        if not _is_ours(wanted) or (wanted is not None and os.path.isdir(wanted)):
            stock.__init__(registry, path)
            return
        stock.__init__(registry, path=os.path.dirname(__file__))  # it asks for a directory
        if wanted is not None:
            self._path = str(wanted)

    def collect(self) -> Any:
        """Return the families, none where the files cannot be read."""
        stock: Any = super()
        try:
            return stock.collect()
        except Exception:
            if not _is_ours(self._path):
                raise
            return []


def _is_ours(directory: Any) -> bool:
    """Tell whether that is a directory of ours, or None because we have taken the variable."""
    return _is_in_memory if directory is None else str(directory) in _directories


def _patch_values(module: Any) -> None:
    stock: Any = module.MmapedDict
    # The names in the code of `__init__` are those of its attributes.
    names = set(stock.__init__.__code__.co_names)
    if names >= ATTRIBUTES and vars(stock).keys() >= METHODS:
        tolerant = type(stock.__name__, (_Tolerant, stock), {"__module__": stock.__module__})
        module.MmapedDict = partial(_open, stock, tolerant)


def _open(stock: Any, tolerant: Any, filename: str, *arguments: Any, **options: Any) -> Any:
    is_ours = os.path.dirname(filename) in _directories and not arguments and not options
    return (tolerant if is_ours else stock)(filename, *arguments, **options)


def _patch_multiprocess(module: Any) -> None:
    stock, mark_process_dead = module.MultiProcessCollector, module.mark_process_dead
    names = {"__module__": stock.__module__, "__doc__": stock.__doc__}
    module.MultiProcessCollector = type(stock.__name__, (_TolerantCollector, stock), names)

    @wraps(mark_process_dead)
    def tolerant(pid: int, path: Any = None) -> None:
        try:
            mark_process_dead(pid, path)
        except Exception:
            if not _is_ours(os.environ.get(VARIABLE) if path is None else path):
                raise

    module.mark_process_dead = tolerant


_PATCHES = {
    f"{CLIENT}.values": _patch_values,
    f"{CLIENT}.multiprocess": _patch_multiprocess,
}


def _patch(module: ModuleType) -> None:
    with suppress(Exception):  # it is left as it is
        _PATCHES[module.__name__](module)


class _Finder:
    """Finds the client's modules as they would be found, and has them patched when they are run.

    It stays: there may be several clients one after the other, of which we import one.
    """

    def __init__(self) -> None:
        self._looking: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> Any:
        """Return where a module is, None for every other one."""
        if name not in _PATCHES or name in self._looking:
            return None
        self._looking.add(name)
        try:
            spec: Any = find_spec(name)
            if isinstance(spec.loader, type):  # which is there for all modules
                return None
            spec.loader.exec_module = partial(_run, spec.loader, spec.loader.exec_module)
        except Exception:
            return None  # somebody else finds it
        else:
            return spec
        finally:
            self._looking.discard(name)


def _run(loader: Any, exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Run a module as its loader does, which is then as it was, and patch it."""
    with suppress(AttributeError):
        del loader.exec_module
    exec_module(module)
    if module.__name__ in _PATCHES:
        _patch(module)

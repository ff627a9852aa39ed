"""prometheus_client in a directory of ours: whatever fails there, the application goes on."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, mmap_dict, multiprocess

from gunicorn_prom import client_files
from tests.unit.app_files import NOBODY, count
from tests.unit.app_files import ours as read_values

ERRNOS = ("EROFS", "ENOSPC", "EDQUOT", "EACCES", "ENOENT", "ENOTDIR", "EIO", "EMFILE", "ENOMEM")
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
STOCK: Any = mmap_dict.MmapedDict


def patched(name: str, **contents: Any) -> Any:
    """Return a module of the client after it was imported."""
    module = ModuleType(f"prometheus_client.{name}")
    vars(module).update(contents)
    client_files._patch(module)
    return module


def fail(number: int) -> Callable[..., Any]:
    """Return a function that fails with that errno."""

    def failing(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return failing


def key(name: str) -> str:
    """Return the key of a counter."""
    return mmap_dict.mmap_key(name, f"{name}_total", [], [], "Help.")


class Client:
    """prometheus_client in a process for which a directory is the only one of ours.

    Attributes:
        path: of a file that it would make there.
        reported: what it was reported to have met.
    """

    def __init__(self, directory: Path, opened: ExitStack) -> None:
        self.path = directory / f"counter_{NOBODY}.db"
        self.reported: list[BaseException] = []
        self._opened = opened
        self._values = patched("values", MmapedDict=STOCK)

    def open(self, *arguments: Any) -> Any:
        """Open a file as the client does, by default that one; it is closed behind the test."""
        values = self._values.MmapedDict(*map(str, arguments or [self.path]))
        self._opened.enter_context(closing(values))
        return values

    @contextmanager
    def broken(self, call: str, number: int) -> Iterator[None]:
        """Have a call fail in the block by which the client makes a file or extends it."""
        with pytest.MonkeyPatch.context() as patch:
            match call:
                case "os.open" | "os.posix_fallocate":
                    patch.setattr(call, fail(number))
                case "open":
                    patch.setattr(mmap_dict, "open", fail(number), raising=False)
                case "mmap":
                    stand_in = SimpleNamespace(mmap=fail(number), ACCESS_WRITE=1)
                    patch.setattr(mmap_dict, "mmap", stand_in)
            yield


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(client_files, "_directories", {str(tmp_path)})
    for name in ("_is_in_memory", "_reporter", "_untold"):
        monkeypatch.setattr(client_files, name, vars(client_files)[name])
    with ExitStack() as opened:
        client = Client(tmp_path, opened)
        client_files.report_to(client.reported.append)
        yield client


@pytest.mark.parametrize("call", ["os.open", "os.posix_fallocate", "open", "mmap"])
@pytest.mark.parametrize("name", ERRNOS)
def test_a_file_that_cannot_be_opened(client: Client, call: str, name: str) -> None:
    """Whatever fails, and how: values are in memory, it is reported once, nothing stays open."""
    before = len(os.listdir("/proc/self/fd"))
    with client.broken(call, getattr(errno, name)):
        values = client.open()
        assert values.read_value(key("first")) == (0.0, 0.0)
    values.write_value(key("first"), 3.0, 4.0)
    assert values.read_value(key("first")) == (3.0, 4.0)
    assert values.read_value(key("second")) == (0.0, 0.0)
    assert [getattr(error, "errno", None) for error in client.reported] == [getattr(errno, name)]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("call", ["os.posix_fallocate", "mmap", "truncate"])
def test_a_file_that_cannot_be_extended(client: Client, call: str) -> None:
    """What has its place is counted there on, what is new in memory, until there is room again."""
    values = client.open()
    values.read_value(key("old"))
    values.write_value(key("old"), 1.0, 0.0)
    long = "x" * mmap_dict.mmap.PAGESIZE
    file = values._f
    if call == "truncate":
        values._f = SimpleNamespace(fileno=file.fileno, truncate=fail(errno.ENOSPC))
    with client.broken(call, errno.ENOSPC):
        for number in range(3):
            assert values.read_value(key(f"{long}{number}")) == (0.0, 0.0)
            values.write_value(key(f"{long}{number}"), 5.0, 0.0)
        values.write_value(key("old"), 2.0, 0.0)
    values._f = file
    for name in ("later", f"{long}later"):
        values.read_value(key(name))
        values.write_value(key(name), 7.0, 0.0)
    assert values.read_value(key(f"{long}1")) == (5.0, 0.0)
    served = {sample: value for (sample, _), value in read_values(client.path.parent).items()}
    assert served == {"old_total": 2.0, "later_total": 7.0, f"{long}later_total": 7.0}
    assert len(client.reported) == 1


@pytest.mark.parametrize("number", sorted(client_files.CANNOT_CLAIM))
def test_a_file_system_that_cannot_claim_room(client: Client, number: int) -> None:
    """There the client does as it does without us."""
    with client.broken("os.posix_fallocate", number):
        values = client.open()
        values.read_value(key("app"))
        values.write_value(key("app"), 1.0, 0.0)
    assert list(read_values(client.path.parent).values()) == [1.0]
    assert client.reported == []


@pytest.mark.parametrize("content", [b"\xff" * 64, b"\x64\0\0\0\0\0\0\0\xe8\3\0\0"])
def test_a_file_that_is_broken(client: Client, content: bytes) -> None:
    """A file that a process of the same pid has left broken is left alone."""
    client.path.write_bytes(content)
    values = client.open()
    values.read_value(key("app"))
    values.write_value(key("app"), 1.0, 0.0)
    assert values.read_value(key("app")) == (1.0, 0.0)
    assert client.path.read_bytes()[: len(content)] == content
    assert len(client.reported) == 1


def test_what_was_counted_before_is_counted_on(client: Client) -> None:
    """A file that a process of the same pid has left sound is gone on with."""
    count(client.path.parent, NOBODY, 2.0)
    known = mmap_dict.mmap_key("app", "app_total", [], [], "Help.")
    assert client.open().read_value(known) == (2.0, 0.0)


def test_a_file_takes_what_is_used(client: Client) -> None:
    """Of the 64 KiB that the client foresees for a file no more is claimed than a page."""
    client.open().read_value(key("app"))
    assert client.path.stat().st_blocks * 512 <= mmap_dict.mmap.PAGESIZE


def test_in_memory_no_file_is_tried(client: Client) -> None:
    """Where the master knows that the directory is of no use nothing is made or reported."""
    client_files.count_in_memory(is_wanted=True)
    values = client.open()
    values.read_value(key("app"))
    values.write_value(key("app"), 1.0, 0.0)
    assert values.read_value(key("app")) == (1.0, 0.0)
    assert not client.path.exists()
    assert client.reported == []


def test_the_users_directory_is_the_users(client: Client) -> None:
    """In a directory that is not ours the client fails as it does, and reads ours as it does."""
    with pytest.raises(FileNotFoundError):
        client.open(client.path.parent / "own" / "counter_1.db")
    count(client.path.parent, NOBODY, 2.0)
    assert type(client.open(client.path, "read")) is STOCK
    assert client.reported == []


def test_what_nobody_could_be_told_is_told_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails before anybody asks, or in a process forked since, waits for who asks there."""
    monkeypatch.setattr(client_files, "_reporter", (os.getppid(), client.reported.append))
    with client.broken("open", errno.EIO):
        client.open()
    assert client.reported == []
    for _ in range(2):
        client_files.report_to(client.reported.append)
        assert len(client.reported) == 1


def test_who_is_told_cannot_fail_the_application(client: Client) -> None:
    """What fails in the report of a failure stays there."""
    client_files.report_to(fail(errno.EBADF))
    with client.broken("open", errno.EIO):
        assert client.open().read_value(key("app")) == (0.0, 0.0)


class Odd:
    """A client of the future."""

    def __init__(self, path: str) -> None:
        self.path = path


@pytest.mark.parametrize("contents", [{}, {"MmapedDict": None}, {"MmapedDict": Odd}])
def test_an_unknown_client_is_left_alone(contents: dict[str, Any]) -> None:
    """A client that is not built as we know it stays as it is."""
    for name in ("values", "multiprocess"):
        module = patched(name, **contents)
        assert {k: v for k, v in vars(module).items() if not k.startswith("__")} == contents


# What an application asks the client for by itself.


def multiprocess_module() -> Any:
    names = ("MultiProcessCollector", "mark_process_dead")
    return patched("multiprocess", **{name: getattr(multiprocess, name) for name in names})


@pytest.mark.parametrize("place", ["given", "variable", "nothing"])
def test_an_application_that_serves_its_metrics_itself(
    client: Client, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Its own collector shows nothing when our directory is gone or taken from it."""
    directory = client.path.parent / "app"
    monkeypatch.setattr(client_files, "_directories", {str(directory)})
    monkeypatch.delenv(VARIABLE, raising=False)
    if place == "variable":
        monkeypatch.setenv(VARIABLE, str(directory))
    if place == "nothing":
        client_files.count_in_memory(is_wanted=True)
    registry = CollectorRegistry()
    module = multiprocess_module()
    given = [directory] if place == "given" else []
    module.MultiProcessCollector(registry, *given)
    assert list(registry.collect()) == []
    module.mark_process_dead(1, *given)
    if place != "nothing":
        directory.mkdir()
        count(directory, 1, 2.0)
        assert [metric.name for metric in registry.collect()] == ["app"]
        monkeypatch.setattr(multiprocess.glob, "glob", fail(errno.EIO))
        assert list(registry.collect()) == []


@pytest.mark.usefixtures("client")
def test_a_gauge_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mark_process_dead`, called by a hook of the master, fails in the user's directory alone."""
    (tmp_path / "gauge_liveall_1.db").touch()
    monkeypatch.setattr(os, "remove", fail(errno.EROFS))
    module = multiprocess_module()
    module.mark_process_dead(1, str(tmp_path))
    monkeypatch.setattr(client_files, "_directories", set())
    with pytest.raises(OSError, match="Read-only"):
        module.mark_process_dead(1, str(tmp_path))
    with pytest.raises(ValueError, match="not a directory"):
        module.MultiProcessCollector(None, str(tmp_path / "nowhere"))


# The finder.

TOLERATED = """
import sys
from gunicorn_prom.client_files import tolerate

assert "prometheus_client" not in sys.modules
tolerate("{directory}")
tolerate("{directory}/other")
assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1
"""
COUNTING = """
import prometheus_client
from prometheus_client import Counter, values

counter = Counter("jobs", "Jobs.", ["kind"])
counter.labels("a").inc()
assert counter.labels("a")._value.get() == 1
"""
FORKING = """
import os

pid = os.fork()
if not pid:
    counter.labels("a").inc()
    assert counter.labels("a")._value.get() == 1
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
ANOTHER = """
import sys

for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
    del sys.modules[name]
"""
RELOADED = """
import importlib

importlib.reload(values)
"""
INSPECTED = """
import inspect

assert "class MutexValue" in inspect.getsource(values)
assert "exec_module" not in vars(values.__spec__.loader)
"""
FOREIGN = """
import importlib.abc, sys
from importlib.util import find_spec

class Foreign(importlib.abc.MetaPathFinder):
    seen = []

    def find_spec(self, name, path=None, target=None):
        self.seen.append(name)

sys.meta_path.insert({index}, Foreign())
"""
SEEN = "\nassert 'prometheus_client.values' in Foreign.seen\n"


@pytest.mark.parametrize(
    "script",
    [
        TOLERATED + COUNTING,
        TOLERATED + COUNTING + FORKING,
        "import prometheus_client" + TOLERATED.replace("assert", "1 or") + COUNTING,
        TOLERATED + COUNTING + ANOTHER + COUNTING,
        TOLERATED + COUNTING + RELOADED + COUNTING.replace("jobs", "others"),
        TOLERATED + COUNTING + INSPECTED,
        TOLERATED + FOREIGN.replace("{index}", "0") + COUNTING + SEEN,
        TOLERATED + FOREIGN.replace("{index}", "1") + COUNTING + SEEN,
    ],
    ids=["once", "forked", "imported", "twice", "reloaded", "inspected", "before", "behind"],
)
def test_whoever_imports_the_client(tmp_path: Path, script: str) -> None:
    """It is patched when it is imported, however that comes, and counts without a directory."""
    run_python(script.replace("{directory}", f"{tmp_path}/gone"), tmp_path / "gone")


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ("MmapedDict = 7", "7"),
        ("class MmapedDict: __slots__ = ()", "type"),
        ("raise RuntimeError('own')", "RuntimeError: own"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        (None, "No module named 'prometheus_client.values'"),
    ],
)
def test_an_odd_client_is_imported_as_without_us(
    tmp_path: Path, values: str | None, outcome: str
) -> None:
    """What a client of the future raises or holds comes to the application as it is."""
    (tmp_path / "prometheus_client").mkdir()
    (tmp_path / "prometheus_client" / "__init__.py").touch()
    if values is not None:
        (tmp_path / "prometheus_client" / "values.py").write_text(values)
    script = TOLERATED.replace("{directory}", str(tmp_path)) + (
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "try:\n"
        "    from prometheus_client.values import MmapedDict\n"
        "    print(MmapedDict, type(MmapedDict).__name__)\n"
        "except Exception as error:\n"
        "    print(f'{type(error).__name__}: {error}')\n"
    )
    assert outcome in run_python(script, tmp_path)


def run_python(script: str, directory: Path) -> str:
    """Run a script for which the variable names a directory, and return what it has printed."""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, VARIABLE: str(directory)},
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout

"""The announced directory: what starts have left is swept, what anybody may use is not."""

import errno
import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gunicorn_prom import app_directory
from gunicorn_prom.app_directory import HANDED_OVER, AppDirectory, announce, make_temporary
from gunicorn_prom.app_metrics import VARIABLE
from tests.unit.app_files import NOBODY

ROUNDS = 200


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where directories are made, in a process that has announced nothing yet."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in (VARIABLE, HANDED_OVER):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"_announced": None, "_announcer": 0, "_held": {}}.items():
        monkeypatch.setattr(app_directory, name, value)
    monkeypatch.setattr(app_directory, "tolerate", lambda _: None)
    monkeypatch.setattr(app_directory, "atexit", SimpleNamespace(register=lambda _: None))
    yield tmp_path
    for path in list(app_directory._held):
        app_directory._release(path)
    os.environ.pop(VARIABLE, None)


def left_by(parent: Path, maker: object) -> Path:
    """Leave a directory that a process has announced, with a file in it."""
    path = parent / f"gunicorn-prom-app-{maker}-k3f_x1a0"
    path.mkdir()
    (path / "counter_1.db").touch()
    return path


def announced() -> Path:
    announce()
    return Path(os.environ[VARIABLE])


@pytest.mark.parametrize("maker", [NOBODY, os.getpid()], ids=["gone", "us"])
@pytest.mark.parametrize("environ", [{}, {VARIABLE: "own"}, {"GUNICORN_PROM_APP_METRICS": "0"}])
def test_what_nobody_uses_is_swept(
    parent: Path, monkeypatch: pytest.MonkeyPatch, maker: int, environ: dict[str, str]
) -> None:
    """A start removes what a killed one has left, also if that had its pid, whatever it wants."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    path = left_by(parent, maker)
    announce()
    assert not path.exists()
    assert len(list(parent.iterdir())) == (not environ)


def test_what_somebody_uses_stays(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory whose maker lives, or that is held, or is none of ours, is left alone."""
    own, held = announced(), left_by(parent, NOBODY)
    descriptor = os.open(held, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    unheld = left_by(parent, os.getppid())  # its application has closed all descriptors
    early = left_by(parent, "early")
    link, file = parent / f"{unheld.name}-link", parent / f"gunicorn-prom-app-{NOBODY}-file"
    link.symlink_to(early)
    file.touch()
    kept = {own, held, unheld, early, link, file}
    if os.geteuid() == 0:
        theirs = left_by(parent, NOBODY + 1)
        os.chown(theirs, 65534, 65534)
        kept.add(theirs)
    del os.environ[VARIABLE]
    assert {announced(), *kept} == set(parent.iterdir())
    os.close(descriptor)
    del os.environ[VARIABLE]
    announce()
    assert not held.exists()


def test_the_next_generation_holds_it_too(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that was handed over is held when its maker has gone."""
    path = left_by(parent, NOBODY)
    monkeypatch.setenv(HANDED_OVER, str(path))
    assert announced() == path
    del os.environ[VARIABLE]
    announce()
    assert path.exists()


def test_starts_at_the_same_time(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts that cannot see each other's pids take no directory from one another."""
    monkeypatch.setattr(app_directory, "has_ended", lambda _: True)
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            os._exit(make_and_sweep(parent))
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    app_directory._sweep(str(parent))
    assert list(parent.iterdir()) == []


def make_and_sweep(parent: Path) -> int:
    """Make directories and sweep those of others; return 1 when one of ours is taken."""
    signal.alarm(60)
    for _ in range(ROUNDS):
        path = make_temporary()
        app_directory._sweep(str(parent))
        if not os.path.isdir(path):
            return 1
        app_directory._release(path)
    return 0


def test_a_descriptor_that_is_another_files_by_now(parent: Path) -> None:
    """Where the configuration closes all descriptors, its own are not closed by us."""
    path = make_temporary()
    descriptor = app_directory._held[path][0]
    with (parent / "own").open("w") as own:
        os.dup2(own.fileno(), descriptor)
        app_directory._release(path)
        assert os.fstat(descriptor).st_ino == os.fstat(own.fileno()).st_ino
        os.close(descriptor)


@pytest.mark.parametrize("error", ["EROFS", "ENOSPC", "EDQUOT", "EACCES", "EIO", "ENOTDIR"])
@pytest.mark.parametrize("call", ["is_dir", "mkdir", "open", "unlink", "posix_fallocate"])
def test_a_directory_that_becomes_of_no_use(parent: Path, error: str, call: str) -> None:
    """Whatever call fails: it is told when it begins, and forks go on in memory until it ends."""
    number = getattr(errno, error)
    directory = AppDirectory(announced(), is_ours=True)
    directory.restore(is_fork_next=True)
    path = os.environ[VARIABLE]
    if call == "mkdir":
        Path(path).rmdir()

    def failing(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    told: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_directory, "count_in_memory", lambda *, is_wanted: told.append(is_wanted))
        owner = Path if call in {"is_dir", "mkdir", "unlink"} else os
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(owner, call, failing)
            with pytest.raises(OSError, match=f"new workers do without.*{os.strerror(number)}"):
                directory.restore(is_fork_next=True)
            for _ in range(3):
                directory.restore(is_fork_next=True)
        assert set(told) == {True}
        # This process has the client, which needs the variable.
        assert os.environ[VARIABLE] == path
        if call == "mkdir":
            Path(path).mkdir()
        directory.restore(is_fork_next=True)
        assert told[-1] is False


def test_a_client_that_is_yet_to_be_imported(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New workers find no variable while there is a file in the directory's place, which stays."""
    monkeypatch.delitem(sys.modules, "prometheus_client")
    monkeypatch.setattr(app_directory, "count_in_memory", lambda **_: None)
    path = announced()
    directory = AppDirectory(path, is_ours=True)
    path.rmdir()
    path.write_text("the user's")
    with pytest.raises(OSError, match="new workers do without"):
        directory.restore()
    directory.restore(is_fork_next=True)
    assert VARIABLE not in os.environ
    assert path.read_text() == "the user's"
    path.unlink()
    with pytest.raises(OSError, match="begin anew"):
        directory.restore(is_fork_next=True)
    assert os.environ[VARIABLE] == str(path)

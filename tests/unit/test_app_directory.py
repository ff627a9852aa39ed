"""The directory of the application's metrics, in a master to which it may become of no use."""

import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gunicorn_prom import app_directory
from gunicorn_prom.app_directory import HANDED_OVER, AppDirectory, announce
from gunicorn_prom.app_metrics import VARIABLE


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where directories are made, in a process that has announced nothing yet."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in (VARIABLE, HANDED_OVER):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"_announced": None, "_announcer": 0}.items():
        monkeypatch.setattr(app_directory, name, value)
    monkeypatch.setattr(app_directory, "tolerate", lambda _: None)
    monkeypatch.setattr(app_directory, "atexit", SimpleNamespace(register=lambda _: None))
    yield tmp_path
    os.environ.pop(VARIABLE, None)


def announced() -> Path:
    announce()
    return Path(os.environ[VARIABLE])


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

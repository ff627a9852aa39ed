"""The state directory: whose it is, what is swept from it, and what stays."""

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from gunicorn_prom.errors import StateError
from gunicorn_prom.scoreboard import Board
from gunicorn_prom.state import State, default_root, metrics_url, sweep
from tests.unit.boards import META


def release(state: State) -> None:
    """Let go of the lock as the kernel does when a master is killed."""
    state.board.close()
    state.boards.clear()


def test_a_directory_of_its_own(tmp_path: Path) -> None:
    """Each master has a directory that only its user can enter, until it removes it."""
    states = [State.create(tmp_path / "root", META) for _ in range(2)]
    for state in states:
        assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
        assert {path.stem for path in state.path.iterdir()} == {"board", "keys"}
        state.close()
    assert list((tmp_path / "root").iterdir()) == []


def test_a_url_is_always_whole(tmp_path: Path) -> None:
    """Who has just opened the file of a URL reads the one before, and not a part of the new one."""
    state = State.create(tmp_path, META)
    first, second = "http://127.0.0.1:9464/metrics", "http://127.0.0.1:9465/metrics"
    state.publish([], first)
    (path,) = state.path.glob("metrics_url.*")
    with path.open() as opened:
        state.publish([], second)
        assert opened.read() == first
    assert metrics_url(state.path) == second
    state.close()


def test_what_nobody_holds_is_swept(tmp_path: Path) -> None:
    """A start removes the directories of masters that are gone, and no other."""
    dead, living = (State.create(tmp_path, META) for _ in range(2))
    release(dead)
    following = State.create(tmp_path, META)
    assert {path.name for path in tmp_path.iterdir()} == {living.path.name, following.path.name}
    for state in (living, following):
        state.close()


@pytest.mark.parametrize(
    "name", ["gunicorn-prom", "gunicorn-prom.conf.d", "gunicorn-prom.1.2.3", "gunicorn-prom.1.x"]
)
def test_what_is_not_ours_stays(tmp_path: Path, name: str) -> None:
    """Only names that a master gives are swept."""
    (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert (tmp_path / name).exists()


def test_files_and_links_stay(tmp_path: Path) -> None:
    """What is no directory is not swept, and no link is followed."""
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "gunicorn-prom.1.1").touch()
    (tmp_path / "gunicorn-prom.1.2").symlink_to(target)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_what_belongs_to_another_user_stays(tmp_path: Path) -> None:
    """A directory of another user is not swept, even by root."""
    path = tmp_path / "gunicorn-prom.1.2"
    path.mkdir()
    os.chown(path, 4242, 4242)
    sweep(tmp_path)
    assert path.exists()


def test_a_child_holds_the_board(tmp_path: Path) -> None:
    """A directory stays as long as a process lives that may still write to it."""
    state = State.create(tmp_path, META)
    reading_end, writing_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing_end)
        os.read(reading_end, 1)
        os._exit(0)
    os.close(reading_end)
    path = state.path
    release(state)
    sweep(tmp_path)
    assert path.exists()
    os.close(writing_end)
    os.waitpid(child, 0)
    sweep(tmp_path)
    assert not path.exists()


def test_a_board_that_cannot_be_filled_leaves_nothing(tmp_path: Path) -> None:
    """The one in use stays in use."""
    state = State.create(tmp_path, META)
    before = state.board, sorted(state.path.iterdir())

    def fill(board: Board) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(OSError, match="no space"):
        state.add_board(META, fill)
    assert (state.board, sorted(state.path.iterdir())) == before


def test_an_unusable_directory_is_told(tmp_path: Path) -> None:
    """The error names the directory, the reason and the option."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="file/below: Not a directory") as caught:
        State.create(tmp_path / "file" / "below", META)
    assert "--metrics-state-dir" in caught.value.hint


def test_the_default_is_the_users_runtime_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is below XDG_RUNTIME_DIR where that is the user's, else on shared memory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_root() == tmp_path / "gunicorn-prom"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    assert default_root().name == f"gunicorn-prom-{os.geteuid()}"
    assert default_root().parent in {Path("/dev/shm"), Path(tempfile.gettempdir())}


def test_a_default_directory_that_is_another_users_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody else has put in its place, a link for one, is not used."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "gunicorn-prom").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateError, match="another user's"):
        State.create(None, META)

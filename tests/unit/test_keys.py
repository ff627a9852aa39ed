"""The file of labels: equal rows in every process, whatever happens to it."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gunicorn_prom.descriptors import Descriptor
from gunicorn_prom.keys import (
    ERROR_HANDLING,
    EXCEPTIONS,
    HTTP,
    MAX_LABEL_LENGTH,
    OTHER,
    OVERFLOW_ROW,
    SEPARATOR,
    KeyFile,
)

Opener = Callable[[], KeyFile]


@pytest.fixture
def open_keys(tmp_path: Path) -> Iterator[Opener]:
    """Open the same file once more, as each process does."""
    opened = []

    def open_once_more() -> KeyFile:
        opened.append(os.open(tmp_path / "keys", os.O_RDWR | os.O_CREAT | os.O_APPEND))
        return KeyFile(Descriptor(opened[-1]))

    yield open_once_more
    for fd in opened:
        os.close(fd)


def test_rows_are_the_same_for_everybody(open_keys: Opener) -> None:
    """Whoever asks, and in whatever order, a key has the row of its first appearance."""
    one, other = open_keys(), open_keys()
    assert [one.row(HTTP, ("GET", "200")), other.row(HTTP, ("GET", "404"))] == [1, 2]
    assert [other.row(HTTP, ("GET", "200")), one.row(HTTP, ("GET", "404"))] == [1, 2]
    assert one.keys(HTTP) == other.keys(HTTP) == [(OTHER, OTHER), ("GET", "200"), ("GET", "404")]


def test_tables_do_not_mix(open_keys: Opener) -> None:
    """Each table counts its rows by itself."""
    keys = open_keys()
    assert keys.row(HTTP, ("GET", "200")) == keys.row(EXCEPTIONS, ("GET",)) == 1


def test_of_equal_lines_the_first_counts(open_keys: Opener, tmp_path: Path) -> None:
    """Two workers that append the same key at the same moment make one row of it."""
    line = f"{HTTP.name}{SEPARATOR}GET{SEPARATOR}200\n"
    (tmp_path / "keys").write_text(line * 2 + line.replace("200", "404"))
    assert open_keys().keys(HTTP)[1:] == [("GET", "200"), ("GET", "404")]


@pytest.mark.parametrize(
    "torn",
    [
        b"http",
        b"http\x1fGET",
        b"\nhttp\x1fGET",
        b"\xff\xfe\n",
        b"nosuchtable\x1fx\n",
        b"http\x1fa\x1fb\x1fc\n",
        b"http\x1fG\xc3",
    ],
)
def test_a_torn_line_harms_nobody(open_keys: Opener, tmp_path: Path, torn: bytes) -> None:
    """After an append that was cut short the next keys are found as ever."""
    keys = open_keys()
    keys.row(HTTP, ("GET", "200"))
    with (tmp_path / "keys").open("ab") as file:
        file.write(torn)
    assert keys.row(HTTP, ("GET", "404")) == 2
    assert open_keys().keys(HTTP)[1:] == [("GET", "200"), ("GET", "404")]


def test_a_full_table_takes_no_more(open_keys: Opener, tmp_path: Path) -> None:
    """Past the cap every key has the row of the rest, and the file does not grow."""
    keys = open_keys()
    rows = [keys.row(EXCEPTIONS, (f"Error{number}",)) for number in range(EXCEPTIONS.cap)]
    assert rows == list(range(1, EXCEPTIONS.cap + 1))
    assert keys.is_full(EXCEPTIONS)
    size = (tmp_path / "keys").stat().st_size
    assert {keys.row(EXCEPTIONS, (f"More{n}",)) for n in range(100)} == {OVERFLOW_ROW}
    assert (tmp_path / "keys").stat().st_size == size
    assert open_keys().row(EXCEPTIONS, ("Error7",)) == 8


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("a\nb", "a?b"),
        (f"a{SEPARATOR}b", "a?b"),
        ("a\u2028b\x00\x85", "a?b??"),
        ("\ud800", "?"),
        ("é" * (MAX_LABEL_LENGTH + 1), "é" * MAX_LABEL_LENGTH),
        ("", ""),
    ],
)
def test_labels_are_made_harmless(open_keys: Opener, label: str, shown: str) -> None:
    """No label breaks the file or fills it, and it is found again as it was given."""
    keys = open_keys()
    assert keys.row(ERROR_HANDLING, ("GET", label, "x")) == 1
    assert keys.row(ERROR_HANDLING, ("GET", label, "x")) == 1
    assert open_keys().keys(ERROR_HANDLING)[1] == ("GET", shown, "x")


def test_writers_at_the_same_time_agree(open_keys: Opener) -> None:
    """Eight that meet the same keys in different orders end with the same rows."""
    writers = [open_keys() for _ in range(8)]
    barrier = threading.Barrier(len(writers))
    rows: list[dict[int, int]] = [{} for _ in writers]

    def write(number: int) -> None:
        barrier.wait()
        for status in (*range(number, 100), *range(number)):
            rows[number][status] = writers[number].row(HTTP, ("GET", str(status)))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(writers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found == rows[0] for found in rows)
    assert sorted(rows[0].values()) == list(range(1, 101))


def test_a_full_disk_is_an_error_of_the_caller(open_keys: Opener) -> None:
    """What cannot be appended raises, and is not taken for a row."""
    with open("/dev/full", "r+b", buffering=0) as full:
        keys = KeyFile(Descriptor(full.fileno()))
        with pytest.raises(OSError, match="No space left"):
            keys.row(HTTP, ("GET", "200"))

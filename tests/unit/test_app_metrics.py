"""The application's metrics: folding changes no sum, whatever happens in the middle of it."""

import errno
import itertools
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.mmap_dict import MmapedDict

from gunicorn_prom import app_metrics
from gunicorn_prom.app_metrics import Folder
from gunicorn_prom.exporter import app_collector
from gunicorn_prom.exporter.app_collector import Reader, exposed_names, reserved_names
from tests.unit.app_files import NOBODY, Samples, count, file_of, ours, stock, total, write_values

# Every type and mode, counted by three processes that are gone.
APPLICATION = """
import os
from prometheus_client import Counter, Gauge, Histogram, Summary

counter = Counter("jobs", "Jobs.", ["queue"])
plain = Counter("plain", "No labels.")
histogram = Histogram("size", "Sizes.", ["queue"], buckets=(1, 2, 5))
summary = Summary("wait", "Waits.")
modes = ("all", "min", "max", "sum", "mostrecent")
modes += tuple("live" + mode for mode in modes)
gauges = {mode: Gauge("g_" + mode, "Gauge.", ["queue"], multiprocess_mode=mode) for mode in modes}
for number in range(1, 4):
    pid = os.fork()
    if not pid:
        counter.labels("ä \\U0001f600").inc(number)
        counter.labels(str(number)).inc(0.1)
        plain.inc(number / 10)
        histogram.labels("a").observe(number * 1.1)
        summary.observe(number / 7)
        for gauge in gauges.values():
            gauge.labels("a").set(4 - number)
        os._exit(0)
    os.waitpid(pid, 0)
"""

FOLDING = """
import pathlib, sys
from gunicorn_prom.app_metrics import Folder
from gunicorn_prom.exporter import app_collector

directory, first, last = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder = Folder(directory, is_ours=False)
print(flush=True)
for pid in range(first, last):
    folder.fold({pid})
"""


def approximately(samples: Samples) -> Any:
    return pytest.approx(samples, rel=1e-12)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {app_metrics.LOCK}


def fold(directory: Path) -> None:
    """Fold as a master would that has just been started."""
    Folder(directory, is_ours=True).fold()


# Sums.


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the files of an application hold that uses everything."""
    directory = tmp_path_factory.mktemp("application")
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", APPLICATION], env=environ, check=True, timeout=30)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_every_type_and_mode_keeps_its_value(application: dict[str, bytes], tmp_path: Path) -> None:
    """Before and behind a fold the client reads the same, and so do we."""
    for name, content in application.items():
        (tmp_path / name).write_bytes(content)
    before = stock(tmp_path)
    assert ours(tmp_path) == approximately(before)
    kept = {
        sample: value
        for sample, value in before.items()
        if not sample[0].startswith(("g_all", "g_live"))
    }
    assert len(kept) < len(before)
    fold(tmp_path)
    assert stock(tmp_path) == approximately(kept)
    assert ours(tmp_path) == approximately(kept)
    modes = ("gauge_min", "gauge_max", "gauge_sum", "gauge_mostrecent")
    kinds = ("counter", "histogram", "summary", *modes)
    assert names(tmp_path) == {f"{kind}_0.db" for kind in kinds}


def test_folding_in_any_order_comes_to_the_same(tmp_path: Path) -> None:
    """One after the other or all at once, newest, lowest and highest are what they were."""
    chance = random.Random(1)
    kinds = ("counter", "gauge_min", "gauge_max", "gauge_sum", "gauge_mostrecent")
    pids = list(range(NOBODY, NOBODY + 12))
    for kind, pid in itertools.product(kinds, pids):
        pair = (chance.uniform(-5, 5), chance.uniform(1, 9))
        sample = "app_total" if kind == "counter" else kind
        write_values(
            file_of(tmp_path, kind, pid), {sample: pair}, family=sample.removesuffix("_total")
        )
    before = ours(tmp_path)
    chance.shuffle(pids)
    folder = Folder(tmp_path, is_ours=False)
    while pids:
        folder.fold({pids.pop() for _ in range(min(len(pids), chance.randint(1, 3)))})
        assert ours(tmp_path) == approximately(before)
        assert stock(tmp_path) == approximately(before)


def test_a_sum_of_fractions_never_falls(tmp_path: Path) -> None:
    """Not by the last digit: Prometheus would take it for a counter that began anew."""
    chance = random.Random(2)
    pids = range(NOBODY, NOBODY + 200)
    for pid in pids:
        count(tmp_path, pid, chance.choice([0.1, 1e-9, 1e9]) * chance.random())
    count(tmp_path, os.getpid(), 0.3)
    before = total(tmp_path)
    folder = Folder(tmp_path, is_ours=False)
    for pid in pids:
        folder.fold({pid})
        assert total(tmp_path) == before


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1.7e308])
def test_infinities_are_added_too(tmp_path: Path, value: float) -> None:
    """A sum beyond every number fails nobody."""
    for pid in range(3):
        count(tmp_path, NOBODY + pid, value)
    before = stock(tmp_path)
    fold(tmp_path)
    count(tmp_path, NOBODY, value)
    fold(tmp_path)
    assert stock(tmp_path) == before == ours(tmp_path)


def test_no_number_stays_no_number(tmp_path: Path) -> None:
    """NaN of one process is NaN of all, folded or not."""
    for pid, value in enumerate((1.0, float("nan"), 2.0)):
        count(tmp_path, NOBODY + pid, value)
    fold(tmp_path)
    assert total(tmp_path) != total(tmp_path)


def test_documentation_may_differ(tmp_path: Path) -> None:
    """Two versions of an application count in the same series."""
    write_values(file_of(tmp_path, "counter", NOBODY), {"app_total": 1}, documentation="Old.")
    write_values(file_of(tmp_path, "counter", os.getpid()), {"app_total": 2}, documentation="New.")
    assert total(tmp_path) == 3
    fold(tmp_path)
    assert total(tmp_path) == 3


# Who is folded.


def test_the_living_are_left_alone(tmp_path: Path) -> None:
    """Also if a pid that was reaped belongs to somebody else by now."""
    mine = count(tmp_path, os.getpid(), 1)
    count(tmp_path, NOBODY, 2)
    folder = Folder(tmp_path, is_ours=True)
    folder.fold({os.getpid(), NOBODY})
    assert names(tmp_path) == {mine.name, "counter_0.db"}


def test_who_goes_on_with_a_dead_ones_file_is_folded_in_the_end(tmp_path: Path) -> None:
    """A pid that was given away again is remembered until it is free."""
    with subprocess.Popen(["sleep", "60"]) as process:
        count(tmp_path, process.pid, 1)
        folder = Folder(tmp_path, is_ours=False)
        folder.fold({process.pid})
        assert names(tmp_path) == {f"counter_{process.pid}.db"}
        process.kill()
    folder.fold()
    assert names(tmp_path) == {"counter_0.db"}


def test_of_a_foreign_directory_only_the_named_are_folded(tmp_path: Path) -> None:
    """Who cannot be seen may live in another container."""
    theirs = count(tmp_path, NOBODY, 1)
    count(tmp_path, NOBODY + 1, 2)
    folder = Folder(tmp_path, is_ours=False)
    folder.fold({NOBODY + 1})
    folder.fold()
    assert names(tmp_path) == {theirs.name, "counter_0.db"}


def test_one_is_named_once(tmp_path: Path) -> None:
    """A pid is forgotten when it is folded; whoever has it next is not ours to judge."""
    folder = Folder(tmp_path, is_ours=False)
    count(tmp_path, NOBODY, 1)
    folder.fold({NOBODY, NOBODY + 1})
    for pid in (NOBODY, NOBODY + 1):
        count(tmp_path, pid, 2)
    folder.fold()
    assert total(tmp_path) == 5
    assert len(names(tmp_path)) == 3


def test_what_is_not_the_clients_is_left_alone(tmp_path: Path) -> None:
    """Unknown kinds, names without a pid, directories and links are not touched."""
    count(tmp_path, NOBODY, 1)
    (tmp_path / f"info_{NOBODY}.db").write_bytes(b"x")
    (tmp_path / f"gauge_unheard_{NOBODY}.db").write_bytes(b"")
    (tmp_path / "counter_worker-1.db").write_bytes(b"")
    (tmp_path / f"counter_{10**12}.db").write_bytes(b"")
    (tmp_path / f"counter_{NOBODY + 1}.db").mkdir()
    (tmp_path / f"counter_{NOBODY + 2}.db").symlink_to(tmp_path / "nothing")
    before = names(tmp_path)
    fold(tmp_path)
    assert names(tmp_path) == before - {f"counter_{NOBODY}.db"} | {"counter_0.db"}
    assert total(tmp_path) == 1


def test_a_directory_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    """Neither folding nor reading minds."""
    Folder(tmp_path / "none", is_ours=True).fold({NOBODY})
    assert ours(tmp_path / "none") == {}


def test_nothing_to_do_writes_nothing(tmp_path: Path) -> None:
    """Files of the living alone do not even take the lock."""
    count(tmp_path, os.getpid(), 1)
    fold(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"counter_{os.getpid()}.db"]


def test_five_thousand_dead_leave_as_much_as_one(tmp_path: Path) -> None:
    """Neither files nor bytes grow with the dead."""

    def size() -> tuple[int, int]:
        return len(names(tmp_path)), (tmp_path / "counter_0.db").stat().st_size

    template = count(tmp_path, NOBODY, 1).read_bytes()[:4096]
    fold(tmp_path)
    after_one = size()
    for pid in range(NOBODY + 1, NOBODY + 5000):
        (tmp_path / f"counter_{pid}.db").write_bytes(template)
    fold(tmp_path)
    assert (size(), total(tmp_path)) == (after_one, 5000)


def test_who_could_read_still_can(tmp_path: Path) -> None:
    """The totals have the rights of the files that are in them."""
    count(tmp_path, NOBODY, 1).chmod(0o640)
    fold(tmp_path)
    assert (tmp_path / "counter_0.db").stat().st_mode & 0o777 == 0o640


# Crashes.


class Crash(BaseException):
    """The end of a master in the middle of something."""


class InterruptedOs:
    """The module os, with something that happens before one of the calls to it."""

    def __init__(self, calls: int, interrupt: Callable[[], None]) -> None:
        self._left, self._interrupt = calls, interrupt

    @property
    def was_interrupted(self) -> bool:
        """Tell whether it has happened."""
        return self._left < 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        return self._counted(value) if callable(value) and name != "close" else value

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == -1:
                self._interrupt()
            return call(*arguments, **options)

        return counted


def crash() -> None:
    raise Crash


def test_a_crash_while_folding_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the master dies in a fold, every value is read once, and the next fold ends it."""
    for calls in itertools.count():
        directory = tmp_path / str(calls)
        directory.mkdir()
        count(directory, NOBODY, 0.1)
        fold(directory)
        for pid in (NOBODY, NOBODY + 1, os.getpid()):
            count(directory, pid, 0.7)
        before = ours(directory)
        with monkeypatch.context() as patch:
            interrupted = InterruptedOs(calls, crash)
            patch.setattr(app_metrics, "os", interrupted)
            with suppress(Crash):
                fold(directory)
        assert ours(directory) == before
        fold(directory)
        assert ours(directory) == before
        assert stock(directory) == approximately(before)
        assert len(names(directory) - {"counter_0.db.new"}) == 2
        if not interrupted.was_interrupted:
            assert calls > 20
            return


def test_a_fold_while_reading_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever in a reading files are folded, and made anew, it has every value once."""
    for calls in itertools.count():
        directory = tmp_path / str(calls)
        directory.mkdir()
        for pid in (NOBODY, NOBODY + 1, os.getpid()):
            count(directory, pid, 0.7)
        before = ours(directory)

        def replace_processes(directory: Path = directory) -> None:
            folder = Folder(directory, is_ours=False)
            folder.fold({NOBODY})
            count(directory, NOBODY, 0)
            folder.fold({NOBODY + 1})

        with monkeypatch.context() as patch:
            interrupted = InterruptedOs(calls, replace_processes)
            patch.setattr(app_metrics, "os", interrupted)
            patch.setattr(app_collector, "os", interrupted)
            assert ours(directory) == before, calls
        if not interrupted.was_interrupted:
            assert calls > 10
            return


def test_a_master_that_begins_finishes_what_another_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a foreign directory too, where it does not know who was dead."""
    count(tmp_path, NOBODY, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "_remove", lambda *_: None)
        Folder(tmp_path, is_ours=False).fold({NOBODY})
    assert names(tmp_path) == {"counter_0.db", f"counter_{NOBODY}.db"}
    assert total(tmp_path) == 1
    Folder(tmp_path, is_ours=False).fold()
    assert names(tmp_path) == {"counter_0.db"}
    assert stock(tmp_path) == ours(tmp_path) == {("app_total", ()): 1}


def test_a_new_file_of_the_same_name_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that was never cut off does not mean the file of a later process."""
    old = count(tmp_path, NOBODY, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "_remove", lambda *_: None)
        fold(tmp_path)
    old.unlink()
    time.sleep(0.02)  # the clock of files ticks every few milliseconds
    count(tmp_path, NOBODY, 2)
    assert total(tmp_path) == 3
    fold(tmp_path)
    assert total(tmp_path) == stock(tmp_path)["app_total", ()] == 3


def test_a_call_into_the_middle_of_another_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to Gunicorn 23 a signal handler calls; whom it names is folded later."""
    for pid in (NOBODY, NOBODY + 1):
        count(tmp_path, pid, 1)
    folder = Folder(tmp_path, is_ours=False)
    rename = os.rename

    def interrupted(source: Any, target: Any) -> None:
        folder.fold({NOBODY + 1})
        assert len(list(tmp_path.glob("counter_*.db"))) == 2
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        folder.fold({NOBODY})
    folder.fold()
    assert (names(tmp_path), total(tmp_path)) == ({"counter_0.db"}, 2)


def test_of_two_masters_one_waits_for_its_next_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not get the lock folds nothing, and forgets nobody."""
    count(tmp_path, NOBODY, 1)
    count(tmp_path, NOBODY + 1, 1)
    first, second = (Folder(tmp_path, is_ours=False) for _ in range(2))
    rename = os.rename

    def interrupted(source: Any, target: Any) -> None:
        second.fold({NOBODY + 1})
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        first.fold({NOBODY})
    assert names(tmp_path) == {"counter_0.db", f"counter_{NOBODY + 1}.db"}
    second.fold()
    assert (names(tmp_path), total(tmp_path)) == ({"counter_0.db"}, 2)


@contextmanager
def folding(directory: Path, first: int, last: int) -> Iterator[subprocess.Popen[bytes]]:
    """A master that folds one pid after the other, as fast as it can."""
    arguments = [sys.executable, "-c", FOLDING, str(directory), str(first), str(last)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_reader_never_sees_a_value_twice_or_not_at_all(tmp_path: Path) -> None:
    """While masters fold, and are killed at any moment, the total stays what it is."""
    pids = 400
    for pid in range(NOBODY, NOBODY + pids):
        count(tmp_path, pid, 0.1)
    before = total(tmp_path)
    readings = 0
    for first in range(NOBODY, NOBODY + pids, pids // 4):
        with folding(tmp_path, first, first + pids // 4) as process:
            deadline = time.monotonic() + 0.1
            while process.poll() is None and time.monotonic() < deadline:
                assert total(tmp_path) == before
                readings += 1
    fold(tmp_path)
    assert (names(tmp_path) - {"counter_0.db.new"}, total(tmp_path)) == ({"counter_0.db"}, before)
    assert readings >= 4


# Errors.


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow, as a disk without room would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """The error is raised once, everything is as it was, and the next call succeeds."""
    count(tmp_path, NOBODY, 1)
    write_values(file_of(tmp_path, "gauge_livesum", NOBODY), {"g": 1}, family="g")
    folder = Folder(tmp_path, is_ours=False)
    with full_disk():
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            folder.fold({NOBODY})
        folder.fold()
    assert names(tmp_path) == {f"counter_{NOBODY}.db"}
    assert total(tmp_path) == 1
    folder.fold()
    assert (names(tmp_path), total(tmp_path)) == ({"counter_0.db"}, 1)
    count(tmp_path, NOBODY, 1)
    with full_disk(), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        folder.fold({NOBODY})


def test_a_directory_that_cannot_be_read_is_warned_of_once(tmp_path: Path) -> None:
    """A scrape goes on without the application's metrics."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    told: list[str] = []
    reader = Reader(path, (), told.append)
    assert [list(reader.collect()) for _ in range(2)] == [[], []]
    assert len(told) == 1


BROKEN = {
    "empty": lambda content: b"",
    "header cut": lambda content: content[:3],
    "zeros": lambda content: bytes(len(content)),
    "used is negative": lambda content: struct.pack("i", -5) + content[4:],
    "length is negative": lambda content: content[:8] + struct.pack("i", -9) + content[12:],
    "length is beyond": lambda content: content[:8] + struct.pack("i", 2**30) + content[12:],
    "no JSON": lambda content: content.replace(b'["app"', b'"app"]]'),
    "no UTF-8": lambda content: content.replace(b'"app"', b'"\xff\xff\xff"'),
    "no key": lambda content: content.replace(b'"app_total", ', b"             "),
    "labels are no texts": lambda content: content.replace(b'"v"', b" 12"),
    "deep": lambda content: content.replace(b'["app"', b"[" * 6),
    "noise": lambda content: random.Random(3).randbytes(len(content)),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_file_fails_nobody(tmp_path: Path, damage: str) -> None:
    """It is left out of a reading, and is gone behind the next fold."""
    broken = count(tmp_path, NOBODY, 1, label="v")
    broken.write_bytes(BROKEN[damage](broken.read_bytes()))
    count(tmp_path, os.getpid(), 2)
    assert ours(tmp_path) == {("app_total", ()): 2}
    fold(tmp_path)
    assert not broken.exists()
    assert ours(tmp_path) == stock(tmp_path) == {("app_total", ()): 2}


def test_what_is_said_to_be_beyond_the_end_is_left_out(tmp_path: Path) -> None:
    """A file that claims to be longer than it is counts as far as it goes."""
    broken = count(tmp_path, NOBODY, 1)
    broken.write_bytes(struct.pack("i", 2**31 - 1) + broken.read_bytes()[4:])
    count(tmp_path, os.getpid(), 2)
    assert total(tmp_path) == 3
    fold(tmp_path)
    assert not broken.exists()
    assert total(tmp_path) == stock(tmp_path)["app_total", ()] == 3


@pytest.mark.parametrize("length", [*range(0, 200, 8), 57, 99, 131])
def test_of_a_file_cut_short_the_good_part_counts(tmp_path: Path, length: int) -> None:
    """Entries before the damage are read, and are kept by a fold."""
    values = {f"app{number}_total": float(number + 1) for number in range(3)}
    cut = write_values(file_of(tmp_path, "counter", NOBODY), values)
    count(tmp_path, os.getpid(), 10)
    cut.write_bytes(cut.read_bytes()[:length])
    before = ours(tmp_path)
    assert sum(before.values()) in (10, 11, 13, 16)
    fold(tmp_path)
    assert not cut.exists()
    assert ours(tmp_path) == stock(tmp_path) == before


def test_noise_fails_nobody(tmp_path: Path) -> None:
    """Whatever single bytes become, reading and folding go on."""
    chance = random.Random(4)
    healthy = count(tmp_path, NOBODY, 1, label="v").read_bytes()[:256]
    count(tmp_path, os.getpid(), 2)
    for _ in range(200):
        damaged = bytearray(healthy)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(96)] = chance.randrange(256)
        for pid in (NOBODY, NOBODY + 1):
            (tmp_path / f"counter_{pid}.db").write_bytes(damaged)
        assert ours(tmp_path, [])["app_total", ()] == 2
        fold(tmp_path)
        assert ours(tmp_path, [])["app_total", ()] == 2
        assert len(names(tmp_path)) == 2
        (tmp_path / "counter_0.db").unlink()


def test_broken_totals_are_written_anew(tmp_path: Path) -> None:
    """What cannot be read is lost; counting goes on."""
    count(tmp_path, NOBODY, 1)
    fold(tmp_path)
    (tmp_path / "counter_0.db").write_bytes(b"")
    count(tmp_path, NOBODY, 2)
    fold(tmp_path)
    assert total(tmp_path) == stock(tmp_path)["app_total", ()] == 2


def test_files_of_an_unknown_format_stay(tmp_path: Path) -> None:
    """If none of them is understood, they are the client's to read, and are not folded."""
    for pid in (NOBODY, NOBODY + 1):
        write_values(file_of(tmp_path, "counter", pid), {"other": 1})
    before, expected = names(tmp_path), stock(tmp_path)
    told: list[str] = []
    folder = Folder(tmp_path, is_ours=True, warn=told.append)
    for _ in range(2):
        folder.fold()
    assert (names(tmp_path), len(told)) == (before, 1)
    assert ours(tmp_path) == expected == {("other", ()): 2}


def test_a_file_that_only_we_refuse_does_not_stop_folding(tmp_path: Path) -> None:
    """One healthy file proves that the format is known."""
    write_values(file_of(tmp_path, "counter", NOBODY), {"other": 1})
    told: list[str] = []
    folder = Folder(tmp_path, is_ours=True, warn=told.append)
    folder.fold()
    count(tmp_path, NOBODY + 1, 1)
    folder.fold()
    assert (names(tmp_path), total(tmp_path)) == ({"counter_0.db"}, 1)


# Reading.


def test_files_that_vanish_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application deletes some by itself (mark_process_dead)."""
    kinds = ("gauge_livesum", "gauge_liveall")
    for pid in (NOBODY, os.getpid()):
        for kind in kinds:
            write_values(file_of(tmp_path, kind, pid), {kind: 1}, family=kind)
    listed = app_metrics.list_files(tmp_path)
    for kind in kinds:
        (tmp_path / f"{kind}_{NOBODY}.db").unlink()
    monkeypatch.setattr("gunicorn_prom.exporter.app_collector.list_files", lambda _: listed)
    pid = ("pid", str(os.getpid()))
    assert ours(tmp_path) == {("gauge_livesum", ()): 1, ("gauge_liveall", (pid,)): 1}


def test_live_gauges_of_the_dead_count_until_they_are_folded(tmp_path: Path) -> None:
    """They are there, so they are read."""
    write_values(file_of(tmp_path, "gauge_liveall", NOBODY), {"g": 1}, family="g")
    assert ours(tmp_path) == {("g", (("pid", str(NOBODY)),)): 1}
    fold(tmp_path)
    assert (ours(tmp_path), names(tmp_path)) == ({}, set())


def test_a_file_being_written_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    """What a living process adds later is in a later reading."""
    path = count(tmp_path, os.getpid(), 1)
    file = MmapedDict(str(path))
    for number in range(2000):  # far beyond the file's first size
        file.write_value(f'["x", "x{number}", {{}}, ""]', 1.0, 0.0)
        if number % 500 == 0:
            assert sum(ours(tmp_path).values()) == number + 2
    file.close()


@pytest.mark.parametrize(
    ("kind", "family", "sample"),
    [
        ("counter", "gunicorn_http_requests", "gunicorn_http_requests_total"),
        ("gauge_all", "gunicorn_http_requests_total", "gunicorn_http_requests_total"),
        ("gauge_sum", "gunicorn_http_requests", "gunicorn_http_requests"),
        ("summary", "gunicorn_http_request_duration_seconds", ""),
        ("counter", "process_cpu_seconds", "process_cpu_seconds_total"),
        ("gauge_max", "python_info", "python_info"),
        (
            "gauge_min",
            "gunicorn_http_request_size_bytes_count",
            "gunicorn_http_request_size_bytes_count",
        ),
    ],
)
def test_our_names_are_ours(tmp_path: Path, kind: str, family: str, sample: str) -> None:
    """A family that would be served under one of them is left out, with one warning."""
    write_values(
        file_of(tmp_path, kind, os.getpid()), {sample or f"{family}_sum": 1}, family=family
    )
    count(tmp_path, os.getpid(), 2)
    told: list[str] = []
    reader = Reader(tmp_path, reserved_names(), told.append)
    for _ in range(2):
        assert [metric.name for metric in reader.collect()] == ["app"]
    assert [family in message for message in told] == [True]


@pytest.mark.parametrize(
    "name", ["gunicorn_http_requests_by_me", "process_jobs", "gunicorn", "python_info_extra"]
)
def test_other_names_are_not(tmp_path: Path, name: str) -> None:
    """The application may have what begins as ours do."""
    write_values(file_of(tmp_path, "gauge_sum", os.getpid()), {name: 1}, family=name)
    assert ours(tmp_path) == {(name, ()): 1}


def test_names_of_a_family() -> None:
    """Those of its samples are among them."""
    assert exposed_names("x", "counter") == {"x", "x_total"}
    assert exposed_names("x", "gauge") == {"x"}
    assert exposed_names("x", "summary") == {"x", "x_sum", "x_count"}
    assert exposed_names("x", "histogram") == {"x", "x_bucket", "x_sum", "x_count"}


def test_of_two_kinds_of_one_name_the_first_is_served(tmp_path: Path) -> None:
    """Always the same one, with one warning."""
    write_values(file_of(tmp_path, "gauge_sum", os.getpid()), {"app": 1})
    write_values(file_of(tmp_path, "gauge_max", os.getpid()), {"app": 3})
    count(tmp_path, NOBODY, 2)
    told: list[str] = []
    reader = Reader(tmp_path, (), told.append)
    for _ in range(2):
        (family,) = reader.collect()
        assert (family.type, [sample.value for sample in family.samples]) == ("counter", [2])
        fold(tmp_path)
    assert len(told) == 1


def test_every_text_can_be_sent(tmp_path: Path) -> None:
    """Half a character in a label, as from a path that is no UTF-8, fails no scrape."""
    half = os.fsdecode(b"\xff")
    write_values(
        file_of(tmp_path, "counter", os.getpid()),
        {"app_total": 1},
        documentation=half,
        path=half + "😀",
    )
    write_values(
        file_of(tmp_path, "histogram", os.getpid()), {"h_bucket": 1}, family="h", le="much"
    )
    reader: Any = Reader(tmp_path, (), pytest.fail)
    assert 'app_total{path="?😀"} 1.0' in generate_latest(reader).decode()


def test_the_master_does_not_import_the_client() -> None:
    """It is the application's; in the master it must not be loaded for us."""
    code = """
        import sys
        import gunicorn_prom.app_metrics
        assert not [name for name in sys.modules if name.startswith("prometheus_client")]
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    subprocess.run(command, check=True, timeout=30)

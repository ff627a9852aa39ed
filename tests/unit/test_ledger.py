"""Why workers exit: status, intent and last words together name one reason."""

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gunicorn_prom import ledger
from gunicorn_prom.assignment import assignment_of
from gunicorn_prom.ledger import CLAIM_S, OomKills, exit_reason, watch_waiting
from gunicorn_prom.scoreboard import EXIT_REASONS, Gauge, State

SERVING = {Gauge.BOOTED_TIME: 1.0, Gauge.STATE: State.RUNNING}
LEAVING = {**SERVING, Gauge.LEAVING: 1.0}
QUITTING = {**SERVING, Gauge.STATE: State.QUITTING}
ABORTING = {**SERVING, Gauge.STATE: State.ABORTING}
BOOTING: dict[int, float] = {}

KILLED, SEGFAULT, ABORTED = signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT
FIRST_COUNT = 3


def code(number: int) -> int:
    """Return the status of a process that has exited with a code."""
    return number << 8


def reason_of(
    status: int | None,
    words: dict[int, float],
    *,
    intent: str | None = None,
    aborted: bool = False,
    is_oom: bool = False,
) -> str:
    """Return the reason of a worker that ended like this."""
    gauges = [0.0] * Gauge.CELLS
    for cell, value in words.items():
        gauges[cell] = value
    worker = SimpleNamespace(aborted=aborted)
    assignment = assignment_of(worker)
    assignment.exit_status, assignment.intent = status, intent
    return exit_reason(worker, gauges, lambda: is_oom)


@pytest.mark.parametrize(
    ("status", "words", "known", "reason"),
    [
        (code(0), LEAVING, {}, "max_requests"),
        (code(0), LEAVING, {"intent": "reload"}, "reload"),
        (code(1), LEAVING, {}, "error"),
        (KILLED, LEAVING, {}, "signal"),
        (code(0), SERVING, {}, "exit"),
        (None, SERVING, {}, "exit"),
        (code(0), BOOTING, {}, "exit"),
        (code(7), SERVING, {}, "error"),
        (code(7), BOOTING, {}, "error"),
        (code(255), SERVING, {}, "error"),
        (KILLED, SERVING, {}, "signal"),
        (KILLED, BOOTING, {}, "signal"),
        (KILLED, SERVING, {"is_oom": True}, "oom"),
        (KILLED, SERVING, {"is_oom": True, "intent": "shutdown"}, "shutdown"),
        (KILLED, SERVING, {"is_oom": True, "aborted": True}, "timeout"),
        (SEGFAULT, SERVING, {"is_oom": True}, "signal"),
        (SEGFAULT | 0x80, SERVING, {}, "signal"),
        (code(0), QUITTING, {}, "signal"),
        (code(1), ABORTING, {}, "signal"),
        (code(0), QUITTING, {"intent": "scale_down"}, "scale_down"),
        (code(0), QUITTING, {"intent": "reload"}, "reload"),
        (code(0), QUITTING, {"intent": "shutdown"}, "shutdown"),
        (code(0), ABORTING, {"aborted": True}, "timeout"),
        (code(1), ABORTING, {"aborted": True}, "timeout"),
        (ABORTED, SERVING, {"aborted": True}, "timeout"),
        (KILLED, SERVING, {"aborted": True}, "timeout"),
        (KILLED, SERVING, {"aborted": True, "intent": "scale_down"}, "timeout"),
        (code(3), BOOTING, {}, "boot_error"),
        (code(4), BOOTING, {}, "app_load_error"),
        (code(3), BOOTING, {"intent": "shutdown"}, "boot_error"),
        (code(4), BOOTING, {"intent": "reload"}, "app_load_error"),
        (code(3), SERVING, {}, "error"),
        (code(4), SERVING, {}, "error"),
    ],
)
def test_reasons(
    status: int | None, words: dict[int, float], known: dict[str, Any], reason: str
) -> None:
    """Each end has the reason that the contract gives it."""
    assert reason_of(status, words, **known) == reason


def test_whatever_comes_has_a_reason() -> None:
    """No combination of status, intent and last words is without one."""
    statuses = [None, *map(code, range(256)), *range(1, 32)]
    words = [BOOTING, SERVING, LEAVING, QUITTING, ABORTING]
    intents = [None, "scale_down", "reload", "shutdown"]
    for status, word, intent in itertools.product(statuses, words, intents):
        for flags in itertools.product((False, True), repeat=2):
            reason = reason_of(status, word, intent=intent, aborted=flags[0], is_oom=flags[1])
            assert reason in EXIT_REASONS


# The count of the kernel.


class FakeKernel:
    """A machine whose cgroup files and /proc are a directory of the test."""

    def __init__(self, root: Path) -> None:
        self.cgroups, self.proc = root / "cgroup", root / "proc"
        (self.proc / "self").mkdir(parents=True)
        self.cgroups.mkdir()

    def join(self, *lines: str) -> None:
        """Say which cgroups the process is in."""
        (self.proc / "self" / "cgroup").write_text("\n".join(lines) + "\n")

    def count(self, file: str, kills: int) -> None:
        """Write a count where the kernel would."""
        path = self.proc.parent / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"low 0\noom {kills + 9}\noom_kill {kills}\n")

    def kills(self) -> OomKills:
        """Return what a master would watch here."""
        return OomKills(self.cgroups, self.proc)


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    """A machine without any count so far."""
    return FakeKernel(tmp_path)


V1 = ("5:devices:/", "4:memory:/docker/c0ffee", "0::/")
V2 = ("0::/system.slice/app.service",)


@pytest.mark.parametrize(
    ("lines", "file"),
    [
        (V2, "cgroup/system.slice/app.service/memory.events"),
        (V2, "cgroup/memory.events"),
        (V1, "cgroup/memory/docker/c0ffee/memory.oom_control"),
        (V1, "cgroup/memory/memory.oom_control"),
        (V2, "proc/vmstat"),
        ((), "proc/vmstat"),
    ],
    ids=["v2", "v2-container", "v1", "v1-container", "host", "no-cgroup"],
)
def test_a_kill_explains_one_death(kernel: FakeKernel, lines: tuple[str, ...], file: str) -> None:
    """Wherever the count is: kills from before are none of ours, each new one is claimed once."""
    if lines:
        kernel.join(*lines)
    kernel.count(file, FIRST_COUNT)
    kills = kernel.kills()
    assert not kills.claim()
    kernel.count(file, FIRST_COUNT + 2)
    assert [kills.claim() for _ in range(3)] == [True, True, False]
    kernel.count(file, FIRST_COUNT + 3)
    kills.poll()
    assert [kills.claim() for _ in range(2)] == [True, False]


def test_the_nearest_count_is_taken(kernel: FakeKernel) -> None:
    """What the kernel kills elsewhere on the machine explains nothing here."""
    kernel.join(*V2)
    near, far = "cgroup/system.slice/app.service/memory.events", "proc/vmstat"
    kernel.count(near, 0)
    kernel.count(far, 0)
    kills = kernel.kills()
    kernel.count(far, 1)
    assert not kills.claim()
    kernel.count(near, 1)
    assert kills.claim()


def test_without_a_count_every_kill_may_be_one(kernel: FakeKernel) -> None:
    """Where nothing can be read a SIGKILL of unknown origin is taken for the kernel's."""
    assert [kernel.kills().claim() for _ in range(2)] == [True, True]


def test_old_kernels_say_no_count(kernel: FakeKernel) -> None:
    """A file without `oom_kill` is no count: the next place is asked."""
    kernel.join(*V1)
    kernel.count("proc/vmstat", 0)
    path = kernel.cgroups / "memory" / "memory.oom_control"
    path.parent.mkdir(parents=True)
    path.write_text("oom_kill_disable 0\nunder_oom 0\n")
    kills = kernel.kills()
    kernel.count("proc/vmstat", 1)
    assert [kills.claim(), kills.claim()] == [True, False]


def test_a_claim_expires(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill that nobody of ours died of does not explain a death a minute later."""
    now = 1000.0
    monkeypatch.setattr(ledger.time, "monotonic", lambda: now)
    kernel.count("proc/vmstat", 0)
    kills = kernel.kills()
    kernel.count("proc/vmstat", 1)
    kills.poll()
    now += CLAIM_S - 1
    kernel.count("proc/vmstat", 2)
    kills.poll()
    now += 2
    assert [kills.claim(), kills.claim()] == [True, False]


def test_a_count_that_vanishes_is_no_kill(kernel: FakeKernel) -> None:
    """When the files of the cgroup go nothing is claimed, and nothing fails."""
    kernel.join(*V2)
    file = "cgroup/memory.events"
    kernel.count(file, FIRST_COUNT)
    kills = kernel.kills()
    (kernel.cgroups / "memory.events").unlink()
    assert not kills.claim()


# The status of a child.


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """What Gunicorn's master is seen to wait for."""
    from gunicorn import arbiter

    monkeypatch.setattr(arbiter, "os", os)
    found: list[tuple[int, int]] = []
    watch_waiting(lambda pid, status: found.append((pid, status)))
    return found


def test_the_status_of_every_child_is_noted(noted: list[tuple[int, int]]) -> None:
    """Gunicorn's master gets what it always did, and we see it as well."""
    from gunicorn import arbiter

    child = os.fork()
    if not child:
        os._exit(7)
    assert arbiter.os.waitpid(child, 0) == (child, code(7))
    assert noted == [(child, code(7))]
    assert arbiter.os.getpid() == os.getpid()


def test_nothing_is_noted_when_nobody_has_ended(noted: list[tuple[int, int]]) -> None:
    """A child that lives has no status."""
    from gunicorn import arbiter

    reading_end, writing_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(writing_end)
        os.read(reading_end, 1)
        os._exit(0)
    os.close(reading_end)
    assert arbiter.os.waitpid(child, os.WNOHANG) == (0, 0)
    assert noted == []
    os.close(writing_end)
    os.waitpid(child, 0)

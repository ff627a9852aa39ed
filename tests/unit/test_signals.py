"""The queue of the master's signals where eventlet has replaced Python's own."""

import contextlib
import queue
import signal
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from gunicorn_prom.signals import SignalQueue, is_unfit
from tests.support import DEADLINE_S


@pytest.fixture
def handled() -> Iterator[SignalQueue]:
    """Return a queue into which a handler puts SIGALRM."""
    signals = SignalQueue()
    former = signal.signal(signal.SIGALRM, lambda number, _: signals.put_nowait(number))
    yield signals
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


def test_signals_come_out_in_their_order() -> None:
    """What was put in first comes out first; then there is nothing, at once or after a wait."""
    signals = SignalQueue()
    signals.put_nowait(1)
    signals.put_nowait(15)
    assert (signals.get(timeout=1.0), signals.get_nowait()) == (1, 15)
    with pytest.raises(queue.Empty):
        signals.get_nowait()
    with pytest.raises(queue.Empty):
        signals.get(timeout=0.01)


def test_a_handler_may_interrupt_who_waits(handled: SignalQueue) -> None:
    """The wait ends with the signal that comes in the middle of it."""
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    assert handled.get(timeout=DEADLINE_S) == signal.SIGALRM
    assert time.monotonic() - began < DEADLINE_S


def test_no_signal_is_lost_among_many(handled: SignalQueue) -> None:
    """A handler that interrupts at any place, again and again, loses and doubles nothing."""
    handler = signal.getsignal(signal.SIGALRM)
    assert callable(handler)
    put = []

    def handle_and_count(number: int, frame: FrameType | None) -> None:
        put.append(number)
        handler(number, frame)

    signal.signal(signal.SIGALRM, handle_and_count)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    for _ in range(2000):
        assert handled.get(timeout=DEADLINE_S) == signal.SIGALRM
    signal.setitimer(signal.ITIMER_REAL, 0)
    left = 0
    with contextlib.suppress(queue.Empty):
        while handled.get_nowait():
            left += 1
    assert len(put) == 2000 + left


def test_only_a_queue_with_a_lock_is_unfit() -> None:
    """Python's own queue is in C, and Gunicorn 23 has a list."""
    assert is_unfit(queue._PySimpleQueue())  # type: ignore[attr-defined]  # what eventlet takes
    assert not is_unfit(queue.SimpleQueue())
    assert not is_unfit([])
    assert not is_unfit(SignalQueue())

"""A queue for signals that a handler may put into while it is read."""

import queue
import time
from collections import deque
from typing import Any

__all__ = ["SignalQueue", "is_unfit"]

POLL_S = 0.05


def is_unfit(signals: Any) -> bool:
    """Tell whether a handler that puts a signal in there may wait for what it has interrupted.

    eventlet, in Gunicorn 24 and 25, has Python's own queue replaced by one that takes a lock.
    """
    return isinstance(signals, getattr(queue, "_PySimpleQueue", ()))


class SignalQueue:
    """What Gunicorn's arbiter needs of `queue.SimpleQueue`, without a lock.

    Only the main thread reads, and puts: in the handlers that interrupt it.
    """

    def __init__(self) -> None:
        self._signals: deque[int] = deque()
        self.put_nowait = self._signals.append

    def get_nowait(self) -> int:
        """Return the oldest signal.

        Raises:
            queue.Empty: there is none.
        """
        if not self._signals:
            raise queue.Empty
        return self._signals.popleft()

    def get(self, block: bool = True, timeout: float = 0.0) -> int:
        """Return the oldest signal, if need be after a wait of up to `timeout` seconds.

        Raises:
            queue.Empty: none has come.
        """
        end = time.monotonic() + timeout
        # Not in one go: the sleep lets greenlets run, but no signal ends it.
        while block and not self._signals and time.monotonic() < end:
            time.sleep(POLL_S)
        return self.get_nowait()

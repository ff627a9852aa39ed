"""Clients for the pictures of a server: without work there is little to see."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

__all__ = ["clients"]


@contextmanager
def clients(count: int, ask: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """Have so many clients ask a server again and again while the block runs.

    Args:
        ask: with the client's number, and what is set when the block has ended. That the server
            does not answer is nothing to it.
    """
    is_over = threading.Event()

    def keep_asking(number: int) -> None:
        while not is_over.is_set():
            with suppress(OSError, http.client.HTTPException):
                ask(number, is_over)

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()

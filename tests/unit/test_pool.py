"""Which connections of a gthread worker wait for a thread."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any

from gunicorn_prom.instrument.wsgi import _count_waiting


def test_what_a_free_thread_is_about_to_take_does_not_wait() -> None:
    """A worker looks right after it has given a connection away, when no thread is awake yet."""
    is_over, has_begun = Event(), Event()

    def work() -> None:
        has_begun.set()
        is_over.wait()

    with ThreadPoolExecutor(1) as pool:
        worker: Any = SimpleNamespace(cfg=SimpleNamespace(threads=1), tpool=pool)
        pool.submit(work)
        has_begun.wait()
        pool.submit(work)
        pool.submit(work)
        assert _count_waiting(worker, {1}) == 2
        assert _count_waiting(worker, set()) == 1
        is_over.set()
    assert _count_waiting(worker, set()) == 0

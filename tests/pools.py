"""How long requests wait for a thread, as the metrics of every Gunicorn have to show it.

The tests of integration/ and compat/ are made of this module.
"""

import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import DEADLINE_S, Server, gunicorn_prom

APP = "behave:app"
QUEUE = "gunicorn_http_request_queue_seconds"
BUSY = "gunicorn_worker_busy_seconds_total"
REQUESTS = 8
WORK_S = 0.5
ONE_THREAD = ("--worker-type=gthread", "--threads=1", "--keep-alive=30")


class Work:
    """Eight requests of half a second each, sent at once to a server that has one worker.

    Attributes:
        metrics: a scrape after they have ended.
        span_s: seconds from the first request to the last answer, as the clients saw it.
        total_s: the sum of the clients' waiting.
    """

    def __init__(self, server: Server) -> None:
        server.wait_for_workers(1)
        with ThreadPoolExecutor(REQUESTS) as pool:
            spans = list(pool.map(lambda _: self._ask(server), range(REQUESTS)))
        self.metrics = server.wait_for_requests(REQUESTS)
        self.span_s = max(end for _, end in spans) - min(begin for begin, _ in spans)
        self.total_s = sum(end - begin for begin, end in spans)

    @staticmethod
    def _ask(server: Server) -> tuple[float, float]:
        begin = time.monotonic()
        assert server.get(f"/sleep/{WORK_S}").text == "slept"
        return begin, time.monotonic()


class Pool:
    """What must be right with every Gunicorn."""

    def test_two_threads(self, tmp_path: Path) -> None:
        """8 requests of 0.5 s on 2 threads: 2 s busy, and 6 s of waiting for a thread in sum."""
        with gunicorn_prom(tmp_path, APP, "--worker-type=gthread", "--threads=2") as server:
            work = Work(server)
        waited = work.metrics.one(f"{QUEUE}_sum", stage="pool")
        assert work.metrics.one("gunicorn_worker_capacity") == 2
        assert work.metrics.one(f"{QUEUE}_count", stage="pool") == REQUESTS
        assert 2.0 <= work.metrics.one(BUSY) <= work.span_s
        # 0, 0, 0.5, 0.5, 1, 1, 1.5 and 1.5 s, less what the last ones came late.
        assert 5.0 <= waited <= work.total_s - REQUESTS * WORK_S
        assert work.metrics.one(f"{QUEUE}_bucket", stage="pool", le="0.25") >= 2
        assert work.metrics.one(f"{QUEUE}_bucket", stage="pool", le="1.0") <= 6

    def test_each_request_of_a_connection_waits_anew(self, tmp_path: Path) -> None:
        """A connection that is kept alive is given to a thread again for each of its requests."""
        with gunicorn_prom(tmp_path, APP, *ONE_THREAD) as server, ThreadPoolExecutor() as pool:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
            for _ in range(3):
                connection.request("GET", "/")
                assert connection.getresponse().read() == b"ok"
            before = server.wait_for_requests(3)
            assert before.one(f"{QUEUE}_count", stage="pool") == 3
            # The next one finds the only thread taken.
            begin = time.monotonic()
            stuck = pool.submit(server.get, "/sleep/0.5")
            server.wait_for_metrics(lambda m: m.one("gunicorn_workers", state="busy") == 1, "it")
            connection.request("GET", "/sleep/0.1")
            assert connection.getresponse().read() == b"slept"
            connection.close()
            assert stuck.result().text == "slept"
            metrics = server.wait_for_requests(5)
            span_s = time.monotonic() - begin
        assert metrics.one(f"{QUEUE}_count", stage="pool") == 5
        waited = metrics.one(f"{QUEUE}_sum", stage="pool") - before.one(
            f"{QUEUE}_sum", stage="pool"
        )
        assert 0 < waited < span_s

    def test_who_says_nothing_does_not_wait(self, tmp_path: Path) -> None:
        """The time for which a client is silent is none that its request waited for a thread."""
        # Gunicorn's threads wait so long for the first byte, then the connection goes back.
        (tmp_path / "conf.py").write_text(
            "from gunicorn.workers import gthread\ngthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.1\n"
        )
        with gunicorn_prom(tmp_path, APP, *ONE_THREAD, "--config=conf.py") as server:
            with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as silent:
                asked = time.monotonic()
                for _ in range(3):
                    assert server.get("/sleep/0.5").text == "slept"
                silence_s = time.monotonic() - asked
                before = server.wait_for_requests(3).one(f"{QUEUE}_sum", stage="pool")
                silent.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                assert silent.recv(65536).startswith(b"HTTP/1.1 200")
            metrics = server.wait_for_requests(4)
        assert metrics.one(f"{QUEUE}_count", stage="pool") == 4
        assert metrics.one(f"{QUEUE}_sum", stage="pool") - before < silence_s

"""Connections that nobody accepts are shown, by listener and by whoever shows metrics."""

import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.backlogs import APP, BACKLOG, LIMIT, PEAK, WAITING, Backlogs, connected, stuck
from tests.support import (
    OWN_OPTIONS,
    Metrics,
    Server,
    free_port,
    gunicorn_prom,
    is_running,
    request,
    running,
    start_next_generation,
    wait_for,
)

ERRORS = "gunicorn_prom_errors_total"
ACTIVATION = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("\\0" + sys.argv[1])
listener.listen(9)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "gunicorn_prom", "run", *sys.argv[2:]])
"""


class TestBacklogs(Backlogs):
    """See tests/backlogs.py."""


@pytest.mark.parametrize("place", ["process", "sidecar"])
def test_in_another_process(tmp_path: Path, place: str) -> None:
    """A metrics server that has no socket of the server open tells the same."""
    arguments = (APP, "--metrics-server=process") if place == "process" else (APP,)
    with gunicorn_prom(tmp_path / "server", *arguments) as server, stuck(server, 1) as behind:
        if place == "process":
            assert waiting_at(server) == WAITING + behind
            return
        command = [sys.executable, "-m", "gunicorn_prom", "export", str(server.state_directory)]
        bind = "--metrics-bind=127.0.0.1:{server.metrics_port}"
        with running(Server(tmp_path / "sidecar", [*command, bind], {}), start=True) as sidecar:
            sidecar.port = server.port
            assert waiting_at(sidecar) == WAITING + behind


def waiting_at(server: Server) -> float:
    """Return what a scrape tells while some connections wait."""
    with connected(socket.AF_INET, ("127.0.0.1", server.port)):
        return server.scrape().one(BACKLOG, listener=f"127.0.0.1:{server.port}")


def test_on_a_socket_of_systemd(tmp_path: Path) -> None:
    """A socket that somebody else has made is counted, with the limit that it was given."""
    name = f"gunicorn-prom-test-{os.getpid()}"
    command = [sys.executable, "-c", ACTIVATION, name, *OWN_OPTIONS[1:], APP]
    with running(Server(tmp_path, command, {}), start=True) as server:
        metrics = server.scrape()
        assert [labels["listener"] for labels, _ in metrics.all(BACKLOG)] == [f"unix:@{name}"]
        assert metrics.one(LIMIT) > 0


def test_the_peak_is_seen_between_scrapes(tmp_path: Path) -> None:
    """Connections that came and were accepted between two scrapes have left their peak."""
    with gunicorn_prom(tmp_path, APP) as server:
        assert server.scrape().one(PEAK) == 0

        def scraped_behind_a_crowd() -> Metrics | None:
            with ThreadPoolExecutor() as pool:
                slow = pool.submit(server.get, "/sleep/1")
                server.wait_for_metrics(lambda m: m.one("gunicorn_workers", state="busy"), "it")
                with connected(socket.AF_INET, ("127.0.0.1", server.port)):
                    slow.result()
            metrics = server.wait_for_metrics(lambda m: m.one(BACKLOG) == 0, "an empty queue")
            return metrics if metrics.one(PEAK) >= WAITING else None

        metrics = wait_for(scraped_behind_a_crowd, "a peak")
        # Another scraper sees it as well.
        assert server.scrape().one(PEAK) == metrics.one(PEAK) <= WAITING + 1


def test_the_listeners_of_a_reload(tmp_path: Path) -> None:
    """After a reload that binds elsewhere the new listener is shown, and in the end only it."""
    conf, port = tmp_path / "conf.py", free_port()
    command = [sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS[1:], "-c", "conf.py", APP]
    server = Server(tmp_path, command, {})
    conf.write_text(f"bind = '127.0.0.1:{server.port}'\n")
    with running(server, start=True):
        assert listeners_of(server.scrape()) == {f"127.0.0.1:{server.port}"}
        conf.write_text(f"bind = '127.0.0.1:{port}'\n")
        server.send_signal(signal.SIGHUP)
        server.wait_for_metrics(lambda m: listeners_of(m) == {f"127.0.0.1:{port}"}, "the new one")
        assert server.scrape().total(ERRORS) == 0


def listeners_of(metrics: Metrics) -> set[str]:
    return {labels["listener"] for labels, _ in metrics.all(BACKLOG)}


def test_two_generations_have_one_listener(tmp_path: Path) -> None:
    """Both masters of USR2 listen on the same socket, which is counted once, and then goes on."""
    pidfile = tmp_path / "pid"
    with gunicorn_prom(tmp_path, APP, f"--pid={pidfile}", "--backlog=50") as server:
        successor = start_next_generation(server, pidfile)
        server.wait_for_metrics(lambda m: m.one("gunicorn_workers_target") == 2, "both")
        assert server.scrape().one(LIMIT, listener=f"127.0.0.1:{server.port}") == 50
        assert server.stop() == 0
        server.wait_for_metrics(lambda m: m.one("gunicorn_workers_target") == 1, "the second")
        assert server.scrape().one(LIMIT, listener=f"127.0.0.1:{server.port}") == 50
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not is_running(successor), "the end of the second")
        assert not list(server.state_directory.iterdir())


def test_where_the_kernel_may_not_be_asked(tmp_path: Path) -> None:
    """Without netlink there are no samples, one error, and everything else."""
    (tmp_path / "conf.py").write_text(
        "import gunicorn_prom.exporter.backlog as module\nmodule.NETLINK_SOCK_DIAG = 31\n"
    )
    with gunicorn_prom(tmp_path, APP, "--config=conf.py") as server:
        assert not server.scrape().all(BACKLOG)
        for _ in range(2):
            metrics = server.scrape()
            assert not metrics.all(BACKLOG)
            assert metrics.one(ERRORS, where="backlog") == metrics.total(ERRORS) == 1
        assert server.log.count("metrics of backlog failed") == 1
        assert request(server.port, "/").status == 200

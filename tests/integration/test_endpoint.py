"""What the metrics server answers, to whom, and that nobody can keep it from answering."""

import contextlib
import gzip
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gunicorn_prom.exporter import server as server_module
from gunicorn_prom.exporter.message import Answer, Request
from tests.prometheus import query, running_prometheus
from tests.real_parts import find_program
from tests.support import (
    Server,
    descriptors,
    gunicorn_prom,
    is_listening,
    request,
    sockets_of,
    wait_for,
)

APP = "behave:app"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
GOOD_ANSWER_S = 1.0
HOSTILE_CLIENTS = 300
SCRAPES = 1000
LEAK_BYTES = 64 * 1024
# Itself, the metrics server, and Gunicorn's control socket.
MASTER_THREADS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has answered requests of several kinds."""
    with gunicorn_prom(tmp_path_factory.mktemp("endpoint"), APP, "--workers=2") as server:
        server.wait_for_workers(2)
        for target in ("/", "/404", "/503"):
            server.get(target)
        server.wait_for_requests(3)
        yield server


# Formats.


def test_the_text_format_is_the_default(server: Server) -> None:
    """Whoever asks for nothing gets the text format 0.0.4, as one body of a known length."""
    answer = request(server.metrics_port, "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    families = {family.name: family for family in parse_text(answer.text)}
    assert families["gunicorn_http_requests"].type == "counter"
    assert all(family.documentation for family in families.values())


def test_openmetrics_by_negotiation(server: Server) -> None:
    """Whoever accepts OpenMetrics gets it, and prometheus_client's strict parser reads it."""
    answer = request(
        server.metrics_port, "/metrics", Accept=f"{OPENMETRICS};q=0.5,text/plain;q=0.4"
    )
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = families["gunicorn_http_requests"].samples
    assert {sample.labels["status"] for sample in requests} == {"200", "404", "503"}


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=abc",
        "text/plain;version=x",
        "text/plain;version=0.0.4;q=much",
        "application/openmetrics-text;version=1.x;q=y, nonsense",
        ";;,;=,",
    ],
)
def test_what_is_not_understood_is_text(server: Server, accept: str) -> None:
    """A version or a weight that is no number asks for nothing, as an unknown type does."""
    answer = request(server.metrics_port, "/metrics", Accept=accept)
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    assert "version=0.0.4" in answer.headers["Content-Type"]


def test_what_is_understood_beside_nonsense_is_followed(server: Server) -> None:
    """One part of a header that means nothing leaves the others what they are."""
    accept = f"text/plain;version=x, {OPENMETRICS}"
    answer = request(server.metrics_port, "/metrics", Accept=accept)
    assert answer.headers["Content-Type"].startswith(OPENMETRICS)


@pytest.mark.parametrize(
    ("accept_encoding", "is_compressed"),
    [
        ("gzip", True),
        ("gzip;q=0.5, identity", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("identity", False),
        ("br", False),
        ("", False),
    ],
)
def test_gzip_when_it_is_asked_for(
    server: Server, accept_encoding: str, is_compressed: bool
) -> None:
    """The answer is compressed if gzip is accepted and not refused by q=0."""
    answer = request(server.metrics_port, "/metrics", Accept_Encoding=accept_encoding)
    assert (answer.headers["Content-Encoding"] == "gzip") == is_compressed
    body = gzip.decompress(answer.body) if is_compressed else answer.body
    assert b"\ngunicorn_info{" in body
    assert "Accept-Encoding" in answer.headers["Vary"]


def test_names_filter_the_families(server: Server) -> None:
    """`name[]` restricts the answer to the named families."""
    target = "/metrics?name[]=gunicorn_workers_target&name[]=gunicorn_http_requests_total"
    families = {family.name for family in parse_text(request(server.metrics_port, target).text)}
    assert families == {"gunicorn_workers_target", "gunicorn_http_requests"}


# Paths and methods.


def test_head_is_get_without_the_body(server: Server) -> None:
    """HEAD has the headers of GET and no body."""
    answer = request(server.metrics_port, "/metrics", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 1000


@pytest.mark.parametrize("target", ["/nowhere", "/metrics/", "/-/", "/metrics.json"])
def test_other_paths_are_not_found(server: Server, target: str) -> None:
    """What is not an endpoint is 404."""
    assert request(server.metrics_port, target).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    """Only GET and HEAD are allowed, and the refusal says so."""
    answer = request(server.metrics_port, "/metrics", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_server_that_serves_is_healthy_and_ready(server: Server) -> None:
    """Both probes say 200 while the master's loop turns and a worker has booted."""
    for probe in ("/-/healthy", "/-/ready"):
        assert request(server.metrics_port, probe).status == 200


def test_not_ready_before_a_worker_has_booted(tmp_path: Path) -> None:
    """While the application loads the master is healthy and not ready, and says why."""
    (tmp_path / "slow.py").write_text(
        "from behave import app, wait\nprint('loading')\nwait('gate')\n__all__ = ['app']\n"
    )
    with gunicorn_prom(tmp_path, "slow:app", start=False) as server:
        server.launch()
        wait_for(lambda: "loading" in server.log, "the application to be loaded")
        answer = request(server.metrics_port, "/-/ready")
        assert (answer.status, answer.text) == (503, "no worker has booted\n")
        assert request(server.metrics_port, "/-/healthy").status == 200
        assert server.scrape().one("gunicorn_workers", state="booting") == 1
        server.open_gate("gate")
        wait_for(server.is_ready, "readiness")


def test_a_stopped_master_is_not_healthy(tmp_path: Path) -> None:
    """When the master's loop stands still, a metrics server of its own says so."""
    with gunicorn_prom(tmp_path, APP, "--metrics-server=process") as server:
        psutil.Process(server.pid).suspend()
        wait_for(lambda: request(server.metrics_port, "/-/healthy").status == 503, "a 503")
        assert "has not turned" in request(server.metrics_port, "/-/healthy").text
        psutil.Process(server.pid).resume()
        wait_for(lambda: request(server.metrics_port, "/-/healthy").status == 200, "a 200")


# Hostile clients.


def open_hostile_clients(port: int, stack: contextlib.ExitStack) -> None:
    """Open connections that are silent, half sent, too long, or not read."""
    beginnings = (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"GET /metr")
    for number in range(HOSTILE_CLIENTS):
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        client.sendall(beginnings[number % len(beginnings)])
    unread = stack.enter_context(socket.socket())
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    unread.connect(("127.0.0.1", port))
    unread.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    talkative = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    with contextlib.suppress(OSError):  # it is cut off
        talkative.sendall(b"GET /metrics HTTP/1.1\r\n" + b"X-Header: value\r\n" * 65536)


def test_hostile_clients_do_not_keep_others_waiting(tmp_path: Path) -> None:
    """Beside 300 connections that go nowhere a scrape is answered, with bounded means."""
    with gunicorn_prom(tmp_path, APP) as server, contextlib.ExitStack() as stack:
        master = psutil.Process(server.pid)
        fds = master.num_fds()
        open_hostile_clients(server.metrics_port, stack)
        for _ in range(10):
            assert request(server.metrics_port, "/metrics", timeout_s=GOOD_ANSWER_S).status == 200
        assert master.num_threads() <= MASTER_THREADS
        assert master.num_fds() < fds + HOSTILE_CLIENTS
        # They are not waited for for ever.
        wait_for(lambda: has_no_clients(server), "the end of their connections")
        assert server.scrape().total("gunicorn_prom_errors_total") == 0


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 65536, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/9.9\r\n\r\n", b"505"),
        (b"\r\n\r\n", b""),
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /metrics?name[]=%ff HTTP/1.1\r\n\r\n", b"200"),
        (b"GET //[ HTTP/1.1\r\n\r\n", b"4"),
    ],
)
def test_malformed_requests_get_an_answer(server: Server, sent: bytes, status: bytes) -> None:
    """Whatever comes, the answer is an error of the client or the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.metrics_port), timeout=5) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while received := client.recv(65536):
                answer += received
    # Having sent more than was read, a client may lose the answer.
    if not (status == b"431" and not answer):
        assert answer.partition(b" ")[2].startswith(status)
    assert request(server.metrics_port, "/metrics").status == 200


def test_it_answers_while_every_worker_is_stuck(tmp_path: Path) -> None:
    """All workers asleep in a request keep neither metrics nor probes from being answered."""
    arguments = (APP, "--workers=2", "--timeout=300")
    with gunicorn_prom(tmp_path, *arguments) as server, ThreadPoolExecutor() as pool:
        stuck = [pool.submit(server.get, "/wait/gate") for _ in range(2)]
        server.wait_for_metrics(lambda m: m.one("gunicorn_workers", state="busy") == 2, "both")
        for target in ("/metrics", "/-/healthy", "/-/ready"):
            answer = request(server.metrics_port, target, timeout_s=GOOD_ANSWER_S)
            assert answer.status == 200
        server.open_gate("gate")
        assert [answer.result().text for answer in stuck] == ["waited", "waited"]


def test_an_ending_server_finishes_what_it_has() -> None:
    """After the end was asked for, who is connected is answered, and nobody else is accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        theirs, ours = os.pipe()
        server = server_module.Server(listener, answer_ok, logging.getLogger("test"), theirs)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.1\r\n")
            assert request(port, "/").text == "ok"  # so the first one was accepted
            os.close(ours)
            wait_for(lambda: not is_listening(port), "the end of the listener")
            client.sendall(b"\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        thread.join(5)
        assert not thread.is_alive()


def answer_ok(_request: Request) -> Answer:
    return Answer(200, b"ok")


def test_many_scrapes_do_not_grow_the_master(tmp_path: Path) -> None:
    """After the first scrapes the master keeps the memory, descriptors and threads it has."""
    with gunicorn_prom(tmp_path, APP, "--workers=2") as server:
        server.wait_for_workers(2)
        master = psutil.Process(server.pid)
        scrape_often(server)  # until what is kept and reused is there
        fds, threads = master.num_fds(), master.num_threads()
        # The allocator takes a MiB at a time, now and then; a leak would show each time.
        assert any(growth_bytes(server, master) < LEAK_BYTES for _ in range(4))
        assert (master.num_fds(), master.num_threads()) == (fds, threads)


def growth_bytes(server: Server, master: psutil.Process) -> int:
    """Return by how much the master grows while it is scraped."""
    # Not PSS, which also grows when another process that shares pages ends.
    before: int = master.memory_info().rss
    scrape_often(server)
    after: int = master.memory_info().rss
    return after - before


def has_no_clients(server: Server) -> bool:
    """Tell whether the master has no socket of the metrics server but the listening one."""
    return len(sockets_of(server.metrics_port) & set(descriptors(server.pid))) == 1


def scrape_often(server: Server) -> None:
    for number in range(SCRAPES):
        accept = OPENMETRICS if number % 2 else "text/plain"
        request(server.metrics_port, "/metrics", Accept=accept, Accept_Encoding="gzip")
    wait_for(lambda: has_no_clients(server), "the end of the last connection")


# Prometheus.


@pytest.mark.real_parts
def test_promtool_finds_nothing(server: Server) -> None:
    """`promtool check metrics` has nothing to say about names, types, units or help."""
    promtool = find_program("promtool", "prometheus")
    text = request(server.metrics_port, "/metrics").body
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=30
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.real_parts
def test_prometheus_scrapes_it(server: Server, tmp_path: Path) -> None:
    """A real Prometheus reads the endpoint and answers a query with the right numbers."""
    with running_prometheus(tmp_path, server.metrics_port) as port:
        wait_for(lambda: query(port, "up") == {(): 1}, "a scrape")
        assert query(port, 'sum by (status) (gunicorn_http_requests_total{method="GET"})') == {
            ("200",): 1,
            ("404",): 1,
            ("503",): 1,
        }
        assert query(port, "count(gunicorn_worker_info)") == {(): 2}
        assert query(port, "sum(scrape_samples_scraped) > 100")

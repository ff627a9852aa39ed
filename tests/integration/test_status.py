"""/status.json of real servers: what it says is so, and /metrics says the same."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.support import (
    ROOT,
    Metrics,
    Response,
    Server,
    gunicorn_prom,
    is_running,
    request,
    running,
    start_next_generation,
    wait_for,
)

SCHEMA = Draft202012Validator(json.loads((ROOT / "docs" / "status-schema.json").read_text()))
HEARTBEAT = "gunicorn_worker_heartbeat_timestamp_seconds"
# Nothing here comes in milliseconds, and a document costs some.
PAUSE_S = 0.2
EXPORT = [sys.executable, "-m", "gunicorn_prom", "export"]
SERVERS = {
    "sync": ("--workers=2",),
    "gthread": ("--workers=2", "--threads=4", "--max-worker-memory=1GB"),
    "gevent": ("--workers=2", "--worker-type=gevent", "--metrics-server=process"),
}


def status(port: int, target: str = "/status.json") -> dict[str, Any]:
    """Return the document, which fits the schema."""
    answer = request(port, target)
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.body)
    SCHEMA.validate(found)
    return found


def wait_for_status(
    port: int, condition: Callable[[dict[str, Any]], Any], what: str
) -> dict[str, Any]:
    """Read the document until `condition` holds, and return that one."""
    pause = threading.Event()

    def found() -> dict[str, Any] | None:
        document = status(port)
        return document if condition(document) else pause.wait(PAUSE_S) or None

    document: dict[str, Any] = wait_for(found, what)
    return document


def wait_for_word(port: int, word: str) -> dict[str, Any]:
    """Wait until the server is in the state of that word, and return the document."""

    return wait_for_status(port, lambda found: found["health"]["word"] == word, word)


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of each kind that has answered requests of several kinds."""
    directory = tmp_path_factory.mktemp(request.param)
    with gunicorn_prom(directory, "behave:app", *SERVERS[request.param]) as server:
        server.wait_for_workers(2)
        for target in ("/",) * 20 + ("/404", "/503"):
            server.get(target)
        server.wait_for_requests(22)
        server.wait_for_metrics(lambda m: len(m.all(HEARTBEAT)) == 2, "signs of life")
        yield server


# The same as /metrics.


def test_totals(server: Server) -> None:
    """Totals are those of /metrics."""
    found, metrics = status(server.metrics_port)["totals"], server.scrape()
    assert found["requests"] == metrics.total("gunicorn_http_requests_total") == 22
    assert found["by_status_class"] == {"2xx": 20, "4xx": 1, "5xx": 1}
    aborted = {labels["reason"]: n for labels, n in metrics.all("gunicorn_http_aborted_total")}
    assert found["aborted"] == aborted
    assert found["spawned"] == metrics.one("gunicorn_worker_spawns_total")
    assert found["workers"]["target"] == metrics.one("gunicorn_workers_target")
    for state in ("idle", "busy", "booting"):
        assert found["workers"][state] == metrics.one("gunicorn_workers", state=state)


def test_workers(server: Server) -> None:
    """Workers are those of /metrics, each with its own figures."""
    found, metrics = status(server.metrics_port), server.scrape()
    for worker in found["workers"]:
        ids = {"worker_id": worker["id"]}
        [info] = [
            labels
            for labels, _ in metrics.all("gunicorn_worker_info")
            if ids.items() <= labels.items()
        ]
        assert (info["pid"], info["age"]) == (str(worker["pid"]), str(worker["age"]))
        assert worker["requests"] == metrics.one("gunicorn_worker_requests_total", **ids)
        assert worker["start_time"] == metrics.one("gunicorn_worker_start_time_seconds", **ids)
        assert worker["capacity"] == metrics.one("gunicorn_worker_capacity", **ids)
        assert worker["memory_rss_bytes"] == pytest.approx(
            metrics.one("gunicorn_worker_memory_bytes", **ids), rel=0.2
        )
        assert worker["memory_pss_bytes"] == pytest.approx(
            metrics.one("gunicorn_worker_memory_pss_bytes", **ids), rel=0.2
        )
        assert (worker["state"], worker["booted"], worker["generation"]) == ("idle", True, 1)
        assert 0 <= worker["heartbeat_age_s"] < worker["timeout_s"] == 30
    assert {worker["id"] for worker in found["workers"]} == {"0", "1"}
    limits = {worker["memory_limit_bytes"] for worker in found["workers"]}
    assert limits == ({10**9} if "gthread" in str(server.directory) else {None})


def test_master_and_listeners(server: Server) -> None:
    """The master, where it listens, and what runs are told."""
    found, metrics = status(server.metrics_port), server.scrape()
    [(info, _)] = metrics.all("gunicorn_info")
    assert found["masters"] == [found["master"]]
    assert (found["master"]["pid"], found["master"]["generation"]) == (server.pid, 1)
    assert found["master"]["worker_class"] == info["worker_class"]
    assert found["master"]["start_time"] == metrics.one("gunicorn_start_time_seconds")
    assert found["versions"]["gunicorn"] == info["version"]
    [listener] = found["listeners"]
    label = {"listener": listener["address"]}
    assert listener["address"] == f"127.0.0.1:{server.port}"
    assert listener["backlog_limit"] == metrics.one("gunicorn_socket_backlog_limit", **label)
    assert found["totals"]["backlog"] == listener["backlog"] == 0


def test_history(server: Server) -> None:
    """Rows come by themselves, and tell of the requests."""

    def requests(found: dict[str, Any]) -> float:
        history = found["history"]
        return float(sum(filter(None, history["request_rate"])) * history["interval_s"])

    found = wait_for_status(server.metrics_port, lambda found: requests(found) > 15, "the rows")
    assert requests(found) == pytest.approx(22, rel=0.5)
    history = found["history"]
    columns = [column for column in history.values() if isinstance(column, list)]
    assert {len(column) for column in columns} == {len(history["time"])}
    assert history["workers"][-1] == 2
    assert all(0 <= share <= 1 for share in history["saturation"])


def test_recent(server: Server) -> None:
    """What happened lately is told in rates."""
    found = wait_for_status(
        server.metrics_port, lambda found: found["recent"]["request_rate"], "a rate"
    )
    assert 0 < found["window_s"] <= 60
    recent = found["recent"]
    # The first requests may have come before the first sample; the last one of all failed.
    requests = round(recent["request_rate"] * found["window_s"])
    assert 1 <= requests <= 22
    assert recent["request_rate"] * found["window_s"] == pytest.approx(requests, rel=0.01)
    assert recent["error_share"] == pytest.approx(1 / requests, abs=1e-6)
    assert 0 < recent["latency_s"]["p50"] <= recent["latency_s"]["p99"]
    assert found["health"]["word"] == "healthy"


def test_headers(server: Server) -> None:
    """It is JSON that nobody keeps."""
    answer: Response = request(server.metrics_port, "/status.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert request(server.metrics_port, "/status.json?server=other").status == 404
    assert request(server.metrics_port, "/status.json", "POST").status == 405


# When something goes wrong.


def test_stuck_workers(tmp_path: Path) -> None:
    """Workers that do not run are called stuck, and the document comes."""
    with gunicorn_prom(
        tmp_path, "behave:app", "--workers=2", "--threads=2", "--timeout=20"
    ) as server:
        pids = server.wait_for_workers(2)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        found = wait_for_word(server.metrics_port, "stuck")
        assert found["health"] == {
            "word": "stuck",
            "reason": "every worker is stuck",
            "live": True,
            "ready": True,
        }
        assert [worker["state"] for worker in found["workers"]] == ["stuck", "stuck"]
        os.kill(pids[0], signal.SIGCONT)
        found = wait_for_word(server.metrics_port, "degraded")
        assert found["health"]["reason"] == "1 of 2 workers stuck"
        os.kill(pids[1], signal.SIGCONT)
        wait_for_word(server.metrics_port, "healthy")


def test_connections_wait_for_a_thread(tmp_path: Path) -> None:
    """What a gthread worker has accepted and no thread has taken up is told until one does."""
    name = "gunicorn_worker_connections_waiting"
    with gunicorn_prom(tmp_path, "behave:app", "--threads=2") as server:
        server.wait_for_workers(1)
        clients = [threading.Thread(target=server.get, args=("/wait/gate",)) for _ in range(5)]
        for client in clients:
            client.start()
        server.wait_for_metrics(lambda metrics: metrics.total(name) == 3, "three that wait")
        found = status(server.metrics_port)
        assert (found["workers"][0]["in_progress"], found["workers"][0]["waiting"]) == (2, 3)
        assert (found["totals"]["waiting"], found["totals"]["backlog"]) == (3, 0)
        (server.directory / "gate").touch()
        for client in clients:
            client.join()
        server.wait_for_metrics(lambda metrics: metrics.total(name) == 0, "nobody who waits")


def test_a_timeout_and_a_death(tmp_path: Path) -> None:
    """The request that a worker is stuck in is shown, then its autopsy; exits are counted."""
    with gunicorn_prom(tmp_path, "stuck:app", "--workers=2", "--timeout=2") as server:
        pids = server.wait_for_workers(2)
        path = "/sleep/%3Cscript%3E%0a"
        client = threading.Thread(target=_ask_in_vain, args=(server, f"{path}?secret=7"))
        client.start()
        oldest = wait_for(lambda: _oldest_request(server), "the request")
        assert oldest["request"] == f"GET {path}"
        assert 0 <= oldest["age_s"] < 30
        wait_for_status(server.metrics_port, lambda found: found["autopsies"], "the autopsy")
        client.join()
        os.kill(next(pid for pid in pids if is_running(pid)), signal.SIGKILL)
        server.wait_for_metrics(lambda m: len(_exits(m)) == 2, "both exits")
        found = status(server.metrics_port)
        assert "secret" not in json.dumps(found)
        [autopsy] = found["autopsies"]
        assert autopsy["pid"] in pids
        assert [one["request"] for one in autopsy["requests"]] == [f"GET {path}"]
        assert "sleep" in autopsy["text"]
        assert {e["reason"]: e["count"] for e in found["exits"]} == _exits(server.scrape())
        assert not any(e["wanted"] for e in found["exits"])
        assert (found["health"]["word"], found["totals"]["aborted"]["timeout"]) == ("degraded", 1)


def _ask_in_vain(server: Server, target: str) -> None:
    try:
        server.get(target)
    except OSError:
        return


def _oldest_request(server: Server) -> Any:
    workers = status(server.metrics_port)["workers"]
    return next(filter(None, (worker["oldest_request"] for worker in workers)), None)


def _exits(metrics: Metrics) -> dict[str, float]:
    exits = metrics.all("gunicorn_worker_exits_total")
    return {labels["reason"]: count for labels, count in exits if count}


# Several masters, several servers.


def test_an_upgrade_and_sidecars(tmp_path: Path) -> None:
    """A sidecar shows both generations of one server, another server by its name, and an end."""
    pidfile = tmp_path / "pid"
    names = {name: tmp_path / name / "state" for name in ("web", "api")}
    command = [*EXPORT, "--metrics-bind=127.0.0.1:{server.metrics_port}"]
    command += [f"{name}={path}" for name, path in names.items()]
    with (
        running(_Sidecar(tmp_path / "sidecar", command, {}), start=True) as sidecar,
        gunicorn_prom(tmp_path / "web", "behave:app", "--threads=2", f"--pid={pidfile}") as web,
    ):
        port = sidecar.metrics_port
        assert status(port, "/status.json?server=api")["health"]["word"] == "down"
        assert status(port)["problems"]["api"] == "no master is running"
        new = start_next_generation(web, pidfile)
        found = wait_for_status(port, lambda found: len(found["workers"]) == 2, "both workers")
        assert (found["server"], found["servers"]) == ("web", ["web", "api"])
        assert [master["pid"] for master in found["masters"]] == [web.pid, new]
        assert found["master"]["generation"] == 2
        assert {worker["generation"] for worker in found["workers"]} == {1, 2}
        assert web.stop() == 0
        found = wait_for_status(port, lambda found: len(found["masters"]) == 1, "one master")
        assert found["master"]["generation"] == 2
        os.kill(new, signal.SIGKILL)
        found = wait_for_word(port, "down")
        assert found["health"]["reason"].startswith(
            (f"the master (pid {new}) has died, its workers are left", "no master is running")
        )
        found = wait_for_status(port, lambda found: not found["masters"], "nobody")
        assert (found["master"], found["workers"]) == (None, [])
        assert found["health"]["reason"] == "no master is running"


def test_an_upgrade_goes_on(tmp_path: Path) -> None:
    """What the last master has seen, the next one's verdict is made of as well."""
    pidfile = tmp_path / "pid"
    with gunicorn_prom(tmp_path, "behave:app", f"--pid={pidfile}") as server:
        port = server.metrics_port
        before = wait_for_status(port, lambda found: found["history"]["time"], "a sample")
        for _ in range(10):
            server.get("/503")
        wait_for_word(port, "degraded")
        new = start_next_generation(server, pidfile)
        try:
            assert server.stop() == 0
            after = status(port)
            assert after["master"]["pid"] == new
            assert after["health"]["reason"] == "100% of the requests fail"
            assert after["history"]["time"][0] == before["history"]["time"][0]
        finally:
            os.kill(new, signal.SIGTERM)
        wait_for(lambda: not is_running(new), "the end")


def test_an_upgrade_whose_old_master_is_killed(tmp_path: Path) -> None:
    """The dead one keeps no workers, and those it has left are told of."""
    pidfile = tmp_path / "pid"
    arguments = ("behave:app", f"--pid={pidfile}", "--timeout=60")
    with gunicorn_prom(tmp_path, *arguments) as server:
        new = start_next_generation(server, pidfile)
        try:
            # Gunicorn's new master ends if it looks while the old one is dead and not reaped.
            os.kill(new, signal.SIGSTOP)
            server.stop(signal.SIGKILL)
            os.kill(new, signal.SIGCONT)
            found = wait_for_word(server.metrics_port, "degraded")
            dead = f"the master (pid {server.pid}) has died, its workers are left"
            assert found["health"]["reason"] == dead
            assert found["totals"]["workers"]["target"] == 1
        finally:
            os.kill(new, signal.SIGTERM)
        wait_for(lambda: not is_running(new), "the end")


def test_a_reload_goes_on(tmp_path: Path) -> None:
    """A metrics server that a reload has put in the place of another goes on from there."""
    conf = tmp_path / "conf.py"
    conf.write_text("metrics_path = '/metrics'\n")
    with gunicorn_prom(tmp_path, "behave:app", "-c", "conf.py") as server:
        port = server.metrics_port
        before = wait_for_status(port, lambda found: found["history"]["time"], "a sample")
        conf.write_text("metrics_path = '/numbers'\n")
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: request(port, "/numbers").status == 200, "the other metrics server")
        assert status(port)["history"]["time"][0] == before["history"]["time"][0]


class _Sidecar(Server):
    """`gunicorn-prom export`, ready as soon as it answers."""

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        try:
            return bool(request(self.metrics_port, "/-/healthy").status)
        except OSError:
            return False

"""Incidents that a server can have, each by the name of the alert that shall tell of it."""

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable

from tests.fleet import PATIENCE_S, Fleet
from tests.support import Server, wait_for

# Of the requests to a job, which are to succeed in 99 of 100 cases: 14.4, 6 and 1 in 100 are the
# limits of the three burn rates.
ALL_FAIL = ("/500",)
ONE_IN_TEN_FAILS = ("/200",) * 9 + ("/500",)
ONE_IN_THIRTY_FAILS = ("/200",) * 29 + ("/500",)
FAILING_PAUSE_S = 0.03


def ask_in_vain(server: Server, path: str, count: int) -> list[threading.Thread]:
    """Send requests that are answered late or never; return who waits for them."""

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            server.get(path, timeout_s=PATIENCE_S)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def fail_all(fleet: Fleet, name: str) -> None:
    fleet.load(name, ALL_FAIL, FAILING_PAUSE_S)


def fail_some(fleet: Fleet, name: str) -> None:
    fleet.load(name, ONE_IN_TEN_FAILS, FAILING_PAUSE_S)


def fail_few(fleet: Fleet, name: str) -> None:
    fleet.load(name, ONE_IN_THIRTY_FAILS, FAILING_PAUSE_S)


def kill_server(fleet: Fleet, name: str) -> None:
    fleet.servers[name].destroy()


def kill_workers(fleet: Fleet, name: str) -> None:
    """Kill each worker as soon as it has booted, until the alert fires."""
    server = fleet.servers[name]
    end = time.monotonic() + PATIENCE_S
    while ("GunicornBootLoop", name) not in fleet.fired():
        assert time.monotonic() < end, "workers were killed in vain"
        workers = server.worker_pids()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: set(server.worker_pids()) - set(workers), "other workers")  # noqa: B023


def restart_server(fleet: Fleet, name: str) -> None:
    """Kill the whole server and start it again, until the alert fires."""
    server = fleet.servers[name]
    end = time.monotonic() + PATIENCE_S
    while ("GunicornServerRestarting", name) not in fleet.fired():
        assert time.monotonic() < end, "it was restarted in vain"
        killed = time.time()
        server.destroy()
        server.start()
        instance = f'instance="localhost:{server.metrics_port}"'
        fleet.wait_for(f"gunicorn_start_time_seconds{{{instance}}} > {killed:.3f}")


def devour_memory(fleet: Fleet, name: str) -> None:
    server = fleet.servers[name]
    ask_in_vain(server, "/devour/all", 1)
    server.wait_for_metrics(
        lambda m: m.one("gunicorn_worker_exits_total", reason="oom"), "the kernel", PATIENCE_S
    )


def time_out(fleet: Fleet, name: str) -> None:
    """Have two workers stuck, and two others after them."""
    server = fleet.servers[name]
    for count in (2, 4):
        ask_in_vain(server, "/sleep/600", 2)
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_worker_exits_total", reason="timeout") >= count,  # noqa: B023
            "the timeouts",
            PATIENCE_S,
        )


def hang_at_boot(fleet: Fleet, name: str) -> None:
    """Reload to an application that does not import."""
    server = fleet.servers[name]
    server.open_gate("hold")
    server.send_signal(signal.SIGHUP)


def lose_a_worker(fleet: Fleet, name: str) -> None:
    """Kill one worker, whose successor hangs."""
    server = fleet.servers[name]
    server.open_gate("hold")
    os.kill(server.worker_pids()[0], signal.SIGKILL)


def stop_master(fleet: Fleet, name: str) -> None:
    """Have a worker stand still, and nobody who sees to it."""
    server = fleet.servers[name]
    worker = server.worker_pids()[0]
    os.kill(server.pid, signal.SIGSTOP)
    os.kill(worker, signal.SIGSTOP)


def stand_in_line(fleet: Fleet, name: str) -> None:
    """Have more clients than a worker can serve, each of which is served in time."""
    for _ in range(6):
        fleet.load(name, ("/sleep/0.2",), 0.0)


def fill(fleet: Fleet, name: str) -> None:
    """Have all threads of a server busy, and nobody behind them."""
    server = fleet.servers[name]
    capacity = int(server.scrape().total("gunicorn_worker_capacity"))
    ask_in_vain(server, "/wait/gate", capacity)


def spoil_web_config(fleet: Fleet, name: str) -> None:
    (fleet.servers[name].directory / "web.yml").write_text("basic_auth_users: {me: hunter2}\n")


Provoke = Callable[[Fleet, str], None]
INCIDENTS: dict[str, Provoke] = {
    "GunicornErrorBudgetBurnsFast": fail_all,
    "GunicornErrorBudgetBurns": fail_some,
    "GunicornErrorBudgetBurnsSlowly": fail_few,
    "GunicornJobMissing": kill_server,
    "GunicornServerMissing": kill_server,
    "GunicornBootLoop": kill_workers,
    "GunicornServerRestarting": restart_server,
    "GunicornWorkerOutOfMemory": devour_memory,
    "GunicornWorkerTimeouts": time_out,
    "GunicornNoWorkers": hang_at_boot,
    "GunicornWorkersBelowTarget": lose_a_worker,
    "GunicornHeartbeatStale": stop_master,
    "GunicornBacklog": stand_in_line,
    "GunicornSaturated": fill,
    "GunicornMetricsFailing": spoil_web_config,
}
# These tell of a job, not of a server.
OF_A_JOB = {
    "GunicornErrorBudgetBurnsFast",
    "GunicornErrorBudgetBurns",
    "GunicornErrorBudgetBurnsSlowly",
    "GunicornJobMissing",
}


def provoke(fleet: Fleet, alert: str, name: str) -> tuple[str, str]:
    """Do to a server what the alert is for; return what has to fire."""
    fleet.stop_clients(name)
    INCIDENTS[alert](fleet, name)
    return alert, fleet.members[name].job if alert in OF_A_JOB else name

"""gunicorn-prom as PID 1, in a PID namespace: what a container asks of it, without an engine."""

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

APPS = Path(__file__).parents[1] / "apps"
START_S = 20.0
EXIT_S = 10.0
STOP_AT_REST_S = 2.0
T = TypeVar("T")

REQUIRE_REAL_PARTS = os.environ.get("GUNICORN_PROM_REQUIRE_REAL_PARTS") == "1"


@dataclass
class Server:
    """A server whose master is PID 1 of its namespace.

    `unshare` waits for the master and exits with its code; it does not pass signals on.
    """

    unshare: subprocess.Popen[str]
    master_pid: int
    port: int
    metrics_port: int

    def get(self, path: str) -> str:
        return get(self.port, path)

    def wait_until_ready(self) -> None:
        wait_for(lambda: get(self.metrics_port, "/-/ready"), START_S, "server ready")

    def wait_until_busy(self) -> None:
        busy = re.compile(r"^gunicorn_http_requests_in_progress 1(\.0)?$", re.MULTILINE)
        wait_for(
            lambda: busy.search(get(self.metrics_port, "/metrics")), START_S, "request in progress"
        )

    def stop(self) -> float:
        """Send TERM, as an engine does, and return the seconds until the master has exited."""
        start = time.monotonic()
        os.kill(self.master_pid, 15)
        self.unshare.wait(EXIT_S)
        return time.monotonic() - start


def test_the_master_is_pid_1_and_exits_soon_at_rest(server: Server) -> None:
    """TERM at rest ends the server within 2 seconds with exit code 0."""
    assert server.get("/parent") == "1"
    assert server.stop() < STOP_AT_REST_S
    assert server.unshare.returncode == 0


def test_term_drains(server: Server) -> None:
    """A request in progress when TERM arrives gets its answer, and the master exits with 0."""
    answers: list[str] = []
    client = threading.Thread(target=lambda: answers.append(server.get("/slow")))
    client.start()
    server.wait_until_busy()
    server.stop()
    client.join(EXIT_S)
    assert answers == ["done"]
    assert server.unshare.returncode == 0


def test_orphans_are_reaped(server: Server) -> None:
    """An orphan that PID 1 inherits does not stay a zombie, and its end is no worker's end."""
    orphan = server.get("/orphan")
    wait_for(lambda: server.get(f"/process/{orphan}").startswith("1 "), START_S, "orphan inherited")
    server.get(f"/kill/{orphan}")
    wait_for(lambda: server.get(f"/process/{orphan}") == "gone", START_S, "orphan reaped")
    assert server.stop() < STOP_AT_REST_S
    assert server.unshare.returncode == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port, metrics_port = free_ports(2)
    command = [
        *unshare_command(),
        sys.executable,
        *("-m", "gunicorn_prom", "run", "processes:app"),
        f"--pythonpath={APPS}",
        f"--bind=127.0.0.1:{port}",
        f"--metrics-bind=127.0.0.1:{metrics_port}",
    ]
    log = tmp_path / "server.log"
    with log.open("w") as stderr:
        unshare = subprocess.Popen(
            command, env=own_environment(tmp_path), stdout=stderr, stderr=stderr, text=True
        )
    try:
        server = Server(unshare, first_child(unshare), port, metrics_port)
        server.wait_until_ready()
        yield server
    finally:
        unshare.kill()  # --kill-child: the master goes with it, and with the master the namespace.
        unshare.wait(EXIT_S)
        print(log.read_text())


def unshare_command() -> list[str]:
    """The `unshare` that works here: as root, or with a user namespace of its own."""
    program = shutil.which("unshare")
    if program is None:
        unavailable("unshare is not installed (Debian: util-linux)")
    namespaces = [program, "--pid", "--fork", "--mount-proc", "--kill-child"]
    errors = []
    for command in (namespaces, [*namespaces, "--user", "--map-root-user"]):
        trial = subprocess.run([*command, "true"], check=False, capture_output=True, text=True)
        if trial.returncode == 0:
            return command
        errors.append(trial.stderr.strip())
    unavailable(f"no PID namespace can be made here: {'; '.join(errors)}")


def unavailable(reason: str) -> NoReturn:
    if REQUIRE_REAL_PARTS:
        pytest.fail(reason)
    pytest.skip(reason)


def own_environment(home: Path) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {
        **inherited,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONUNBUFFERED": "1",
    }


def first_child(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(wait_for(lambda: children.read_text().split(), START_S, "child of unshare")[0])


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on; taken together, so that they differ."""
    with contextlib.ExitStack() as sockets:
        taken = [
            sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listener.getsockname()[1] for listener in taken]


def get(port: int, path: str) -> str:
    """The body of the answer; raises unless it came with status 200."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    ) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        if response.status != 200:
            raise ConnectionError(f"{path}: {response.status} {body}")
        return body


def wait_for(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Poll until the condition is true; an error of the connection counts as not yet."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            if result := condition():
                return result
        except OSError as error:
            last = error
        time.sleep(0.02)
    raise TimeoutError(f"not within {timeout_s} s: {what} ({last})")

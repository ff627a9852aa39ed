"""Real servers for the tests: started, asked, and ended by their pid."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

ROOT = Path(__file__).parent.parent
APPS = ROOT / "tests" / "apps"
# Not `python -m gunicorn`, which USR2 cannot start again.
GUNICORN = str(Path(sys.executable).with_name("gunicorn"))
DEADLINE_S = 30.0
POLL_S = 0.02
# What takes long is asked for less often: each look is work for both sides.
LONGEST_POLL_S = 0.1

Labels = dict[str, str]


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the first true value of `condition`; fail when there is none in time."""
    end = time.monotonic() + deadline_s
    pause_s = POLL_S
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s in vain for {what}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, LONGEST_POLL_S)


_given_ports: set[int] = set()


def free_port() -> int:
    """Return a TCP port of the loopback that nobody has at this moment, each time another."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _given_ports:
            _given_ports.add(port)
            return port


def is_listening(port: int) -> bool:
    """Tell whether a server accepts connections on that port of the loopback."""
    try:
        socket.create_connection(("127.0.0.1", port), DEADLINE_S).close()
    except OSError:
        return False
    return True


def can_bind(port: int) -> bool:
    """Tell whether a server could have that port of the loopback now."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def sockets_of(port: int) -> set[str]:
    """Return the TCP sockets of this machine whose own port that is, as `descriptors` has them."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    return {f"socket:[{row[9]}]" for row in rows if int(row[1].rpartition(":")[2], 16) == port}


def backlog_of(port: int) -> int:
    """Return how many connections to that port of the loopback nobody has accepted yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [
        row for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[3] == "0A"
    ]
    return sum(int(row[4].rpartition(":")[2], 16) for row in listening)


def descriptors(pid: int) -> list[str]:
    """Return what the descriptors of a process refer to."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return found


def children(pid: int) -> list[int]:
    """Return the pids of the children of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def is_running(pid: int) -> bool:
    """Tell whether a process lives and is not just waiting to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


class Response:
    """An HTTP answer that was read to its end."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self) -> str:
        return self.body.decode()


def request(
    port: int, target: str, method: str = "GET", timeout_s: float = 10.0, **headers: str
) -> Response:
    """Send one request to the loopback; header names have `_` for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, headers=named)
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def is_answered(port: int, target: str = "/-/ready", status: int = 200) -> bool:
    """Tell whether a GET request gets that status."""
    try:
        return request(port, target).status == status
    except OSError:
        return False


class QuietHandler(BaseHTTPRequestHandler):
    """What answers the requests to a server of `http_server`, and logs none."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def http_server(handler: type[QuietHandler]) -> Iterator[int]:
    """Run a server in a thread until the block ends; yield its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(POLL_S,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def read_samples(text: str) -> list[Sample]:
    """Return the samples of an exposition, or of a part of one, in the text format."""
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


class Metrics:
    """One scrape, by sample."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def samples(self) -> list[Sample]:
        """Every sample of every family."""
        return read_samples(self.text)

    def all(self, name: str) -> list[tuple[Labels, float]]:
        """Return every sample of that name.

        No other line is read: for the client's parser a whole scrape is as much work as
        it was for the server.
        """
        lines = [line for line in self.text.split("\n") if line.startswith(name)]
        samples = read_samples("\n".join(lines) + "\n")
        return [(s.labels, s.value) for s in samples if s.name == name]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of that name which have the labels, 0 for none."""
        return sum(v for found, v in self.all(name) if labels.items() <= found.items())

    def one(self, name: str, **labels: str) -> float:
        """Return the value of the one sample of that name which has the labels."""
        values = [v for found, v in self.all(name) if labels.items() <= found.items()]
        assert len(values) == 1, f"{name} {labels}: {values}"
        return values[0]


class Server:
    """A server under test, with its own HOME, state directory and ports.

    Attributes:
        port: of the application.
        metrics_port: of the metrics server.
        directory: of its files: `stderr`, `state/`, `home/`.
    """

    def __init__(self, directory: Path, command: list[str], environ: dict[str, str]) -> None:
        self.directory = directory
        self.port, self.metrics_port = free_port(), free_port()
        self.state_directory = directory / "state"
        (directory / "home").mkdir(parents=True, exist_ok=True)
        self._environ = {
            **os.environ,
            "HOME": str(directory / "home"),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(APPS))),
            "PYTHONUNBUFFERED": "1",
            **environ,
        }
        self._command = [part.format(server=self) for part in command]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The master's."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        """What the server has written on stdout and stderr."""
        return (self.directory / "stderr").read_text(errors="replace")

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        with (self.directory / "stderr").open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd=self.directory,
                start_new_session=True,
            )

    def run_to_end(self) -> subprocess.CompletedProcess[str]:
        """Run the command that is expected to end by itself, apart from the log."""
        return subprocess.run(
            self._command,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_S,
            env=self._environ,
            cwd=self.directory,
        )

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        self.launch()
        wait_for(self.is_ready, "readiness")

    def is_ready(self) -> bool:
        """Tell whether the metrics server says that a worker has booted."""
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended:\n{self.log}"
        return is_answered(self.metrics_port)

    def get(self, target: str, method: str = "GET", **headers: str) -> Response:
        """Send one request to the application."""
        return request(self.port, target, method, **headers)

    def scrape(self, **headers: str) -> Metrics:
        """Read /metrics in the text format."""
        answer = request(self.metrics_port, "/metrics", **headers)
        assert answer.status == 200
        return Metrics(answer.text)

    def wait_for_metrics(
        self, condition: Callable[[Metrics], Any], what: str, deadline_s: float = DEADLINE_S
    ) -> Metrics:
        """Scrape until `condition` holds, and return that scrape."""

        def scraped() -> Metrics | None:
            metrics = self.scrape()
            return metrics if condition(metrics) else None

        found: Metrics = wait_for(scraped, what, deadline_s)
        return found

    def worker_pids(self) -> list[int]:
        """Return the pids of the live workers, by slot."""
        infos = self.scrape().all("gunicorn_worker_info")
        return [int(labels["pid"]) for labels, _ in infos]

    def wait_for_workers(self, count: int) -> list[int]:
        """Wait until that many workers have booted and no other lives; return their pids."""
        self.wait_for_metrics(
            lambda m: (
                m.total("gunicorn_worker_state", state="running") == count
                and len(m.all("gunicorn_worker_info")) == count
            ),
            f"{count} workers",
        )
        return self.worker_pids()

    def wait_for_requests(self, count: int) -> Metrics:
        """Wait until so many requests are counted, which each is once it was answered."""
        self.wait_for_metrics(
            lambda m: m.total("gunicorn_http_requests_total") == count, f"{count} requests"
        )
        # The worker may have been about to count the rest of the last one.
        return self.scrape()

    def exporter_pid(self) -> int:
        """Return the pid of the metrics server that runs as a process of its own, 0 for none."""
        for pid in children(self.pid):
            with contextlib.suppress(FileNotFoundError):
                if b"gunicorn_prom.exporter" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0

    def open_gate(self, name: str) -> None:
        """Let the requests go on that wait for the file `name`, see tests/apps/behave.py."""
        (self.directory / name).touch()

    def send_signal(self, number: int) -> None:
        """Send a signal to the master."""
        os.kill(self.pid, number)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the end of the master and return its exit code."""
        assert self.process is not None
        return self.process.wait(deadline_s)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the master by a signal and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.send_signal(number)
        return self.wait()

    def destroy(self) -> None:
        """End whatever is left of the server's session."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)


OWN_OPTIONS = [
    "--bind=127.0.0.1:{server.port}",
    "--metrics-bind=127.0.0.1:{server.metrics_port}",
    "--metrics-state-dir={server.state_directory}",
]


@contextlib.contextmanager
def gunicorn_prom(
    directory: Path, *arguments: str, environ: dict[str, str] | None = None, start: bool = True
) -> Iterator[Server]:
    """Run `gunicorn-prom run ARGUMENTS` on ports of its own until the block ends."""
    command = [sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS, *arguments]
    with running(Server(directory, command, environ or {}), start=start) as server:
        yield server


@contextlib.contextmanager
def plain_gunicorn(
    directory: Path, *arguments: str, environ: dict[str, str] | None = None, start: bool = True
) -> Iterator[Server]:
    """Run `gunicorn ARGUMENTS` with our settings in the environment until the block ends."""
    command = [GUNICORN, OWN_OPTIONS[0], *arguments]
    server = Server(directory, command, environ or {})
    server._environ |= {
        "GUNICORN_PROM_METRICS_BIND": f"127.0.0.1:{server.metrics_port}",
        "GUNICORN_PROM_METRICS_STATE_DIR": str(server.state_directory),
    }
    with running(server, start=start) as server:
        yield server


class BareServer(Server):
    """Gunicorn without us: it is ready when it listens."""

    def is_ready(self) -> bool:
        """Tell whether the master listens; what comes waits for the workers."""
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended:\n{self.log}"
        return is_listening(self.port)


@contextlib.contextmanager
def bare_gunicorn(directory: Path, *arguments: str) -> Iterator[Server]:
    """Run `gunicorn ARGUMENTS` with nothing of ours until the block ends."""
    command = [GUNICORN, OWN_OPTIONS[0], *arguments]
    with running(BareServer(directory, command, {}), start=True) as server:
        yield server


def run_to_end(
    directory: Path,
    *arguments: str,
    prefix: Sequence[str] = (),
    environ: dict[str, str] | None = None,
    command: Sequence[str] = ("run", *OWN_OPTIONS),
) -> subprocess.CompletedProcess[str]:
    """Run `gunicorn-prom COMMAND ARGUMENTS` that is expected to end by itself."""
    program = [*prefix, sys.executable, "-m", "gunicorn_prom", *command, *arguments]
    server = Server(directory, program, environ or {})
    return server.run_to_end()


class Scraper:
    """A thread that scrapes again and again while a block runs.

    Attributes:
        totals: requests counted, by scrape.
        failures: what went wrong, by scrape that failed.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.totals: list[float] = []
        self.failures: list[Exception | AssertionError] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._scrape)

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def assert_flawless(self) -> None:
        """Fail unless every scrape came and no total went backwards."""
        assert not self.failures
        assert self.totals
        assert self.totals == sorted(self.totals)

    def _scrape(self) -> None:
        while not self._stopping.wait(POLL_S):
            try:
                self.totals.append(self._server.scrape().total("gunicorn_http_requests_total"))
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(error)


@contextlib.contextmanager
def running(server: Server, *, start: bool) -> Iterator[Server]:
    """Run a server until the block ends; on failure show what it logged."""
    try:
        if start:
            server.start()
        yield server
    except BaseException:
        print(f"--- log of the server in {server.directory}\n{server.log}", file=sys.stderr)
        raise
    finally:
        server.destroy()


def start_next_generation(server: Server, pidfile: Path) -> int:
    """Send USR2 and return the pid of the new master once its worker has booted."""
    server.send_signal(signal.SIGUSR2)
    next_pidfile = pidfile.with_name(pidfile.name + ".2")
    pid = int(wait_for(lambda: next_pidfile.exists() and next_pidfile.read_text(), "a new master"))
    wait_for(lambda: server.log.count("Booting worker") == 2, "a worker of the new master")
    return pid

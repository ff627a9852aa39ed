"""Start a contender, wait until it answers, and end it by its pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import load
from bench.contenders import Contender, Launch
from bench.errors import BenchError
from bench.processes import list_tree

__all__ = ["Server", "run_server"]

_APPS = Path(__file__).resolve().parent / "apps"
_SHARED_MEMORY = Path("/dev/shm")
_BOOT_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 20
_POLL_S = 0.001


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        first_answer_s: Seconds from launch to the first 200.
    """

    contender: Contender
    launch: Launch
    master_pid: int
    first_answer_s: float

    def find_worker_pid(self) -> int:
        """Ask a worker for its pid."""
        return int(load.get(self.launch.port, "/pid"))

    def scrape(self) -> bytes:
        """Fetch the exposition."""
        return load.get(self.launch.metrics_port, "/metrics")


@contextmanager
def run_server(
    contender: Contender,
    worker_type: str,
    *,
    workers: int = 1,
    wrapper: tuple[str, ...] = (),
    hash_seed: int = 0,
) -> Iterator[Server]:
    """Run a contender for the length of a `with` block.

    Args:
        wrapper: A command to put before the server's own, such as valgrind's.
        hash_seed: The interpreter's, so that contenders of one round have the same.

    Raises:
        BenchError: If the server ends or stays silent before its first 200.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_pick_parent()) as name:
        port, metrics_port = _take_free_ports(2)
        launch = Launch(worker_type, workers, port, metrics_port, Path(name))
        launch.multiprocess_directory.mkdir()
        started = time.perf_counter()
        master = _spawn(contender, launch, wrapper, hash_seed)
        try:
            _wait_for_answer(master, contender, launch)
            answered_s = time.perf_counter() - started
            yield Server(contender, launch, master.pid, answered_s)
        finally:
            _stop(master)


def _pick_parent() -> Path | None:
    """Prefer a tmpfs: no contender should pay for writing metrics back to a disk."""
    return _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None


def _take_free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for candidate in sockets:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in sockets]


def _spawn(
    contender: Contender, launch: Launch, wrapper: tuple[str, ...], hash_seed: int
) -> subprocess.Popen[bytes]:
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(launch.directory),
        "TMPDIR": str(launch.directory),
        "PYTHONHASHSEED": str(hash_seed),
        **contender.variables(launch),
    }
    placed_wrapper = [part.format(directory=launch.directory) for part in wrapper]
    with _log_path(launch).open("wb") as log:
        return subprocess.Popen(
            [*placed_wrapper, *contender.command(launch)],
            cwd=_APPS,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait_for_answer(master: subprocess.Popen[bytes], contender: Contender, launch: Launch) -> None:
    deadline = time.monotonic() + _BOOT_TIMEOUT_S
    while time.monotonic() < deadline and master.poll() is None:
        try:
            load.get(launch.port, "/")
        except OSError:
            time.sleep(_POLL_S)
        else:
            return
    log = _log_path(launch).read_text(errors="replace")
    raise BenchError(f"{contender.name} ({launch.worker_type}) did not start:\n{log}")


def _stop(master: subprocess.Popen[bytes]) -> None:
    """End the master gracefully, and by force whatever of its tree is left."""
    tree = list_tree(master.pid)
    master.terminate()
    try:
        master.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        for pid in tree:
            _kill(pid)
        master.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _log_path(launch: Launch) -> Path:
    return launch.directory / "server.log"

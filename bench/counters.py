"""Count the user instructions of a running worker.

Instructions repeat to a fraction of a percent where times vary by a fifth, so they
are what a cost of one percent can be told by.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bench.errors import BenchError
from bench.servers import Server

__all__ = ["COUNTERS", "CallgrindCounter", "Counter", "PerfCounter", "pick_counter"]

_EVENT = "instructions:u"
_TIMEOUT_S = 60


class Counter(Protocol):
    """Counts what one process does while some work goes on.

    Attributes:
        name: For the report: what does the counting.
        wrapper: What the server has to run under; `{directory}` is its own directory.
        requests: How many requests give a steady figure.
    """

    name: str
    wrapper: tuple[str, ...]
    requests: int

    @staticmethod
    def is_available() -> bool:
        """Return whether this machine can count in this way."""

    def count(self, server: Server, pid: int, work: Callable[[], object]) -> int:
        """Do the work and return the user instructions of the process meanwhile."""


class PerfCounter:
    """The processor's own counter, by `perf stat`."""

    name = "perf stat -e instructions:u"
    wrapper: tuple[str, ...] = ()
    requests = 5000

    @staticmethod
    def is_available() -> bool:
        """Return whether perf is there and the machine lets it count."""
        if shutil.which("perf") is None:
            return False
        done = subprocess.run(
            ["perf", "stat", "-x", ",", "-e", _EVENT, "true"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
        return done.returncode == 0 and _parse_perf(done.stderr) is not None

    def count(self, server: Server, pid: int, work: Callable[[], object]) -> int:
        """Count between perf's two acknowledgements that it is on and off."""
        output = server.launch.directory / "perf.out"
        control_read, control_write = os.pipe()
        answer_read, answer_write = os.pipe()
        perf = subprocess.Popen(
            [
                *("perf", "stat", "-x", ",", "-e", _EVENT, "-p", str(pid)),
                *("-D", "-1", "-o", str(output)),
                *("--control", f"fd:{control_read},{answer_write}"),
            ],
            pass_fds=(control_read, answer_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(control_read)
        os.close(answer_write)
        try:
            _command_perf("enable", control_write, answer_read)
            work()
            _command_perf("disable", control_write, answer_read)
        finally:
            perf.send_signal(signal.SIGINT)
            perf.wait(_TIMEOUT_S)
            os.close(control_write)
            os.close(answer_read)
        counted = _parse_perf(output.read_text())
        if counted is None:
            raise BenchError(f"perf did not count {_EVENT} of pid {pid}")
        return counted


class CallgrindCounter:
    """A synthetic processor that counts each instruction it executes: valgrind.

    Some thirty times slower than the machine, and exact on any, virtual ones without a
    performance counter included. Only what is counted runs that slow.
    """

    name = "valgrind --tool=callgrind (on a synthetic processor that counts)"
    wrapper: tuple[str, ...] = (
        *("valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"),
        # Threads take turns; without it one may keep the others from running at all.
        *("--fair-sched=yes", "--trace-children=yes"),
        "--callgrind-out-file={directory}/callgrind.%p",
        "--vgdb-prefix={directory}/vgdb",
    )
    requests = 200

    @staticmethod
    def is_available() -> bool:
        """Return whether valgrind is installed."""
        return shutil.which("valgrind") is not None

    def count(self, server: Server, pid: int, work: Callable[[], object]) -> int:
        """Switch the counting on, work, and read the totals of a dump."""
        directory = server.launch.directory
        self._control(directory, pid, "--instr=on")
        work()
        self._control(directory, pid, "--dump")
        dump = directory / f"callgrind.{pid}.1"
        lines = dump.read_text(errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("totals"))

    def _control(self, directory: Path, pid: int, action: str) -> None:
        prefix = f"--vgdb-prefix={directory}/vgdb"
        done = subprocess.run(
            ["callgrind_control", prefix, action, str(pid)],
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
        if "OK." not in done.stdout:
            raise BenchError(f"callgrind_control {action} failed:\n{done.stderr}")


COUNTERS: dict[str, type[Counter]] = {
    "perf": PerfCounter,
    "callgrind": CallgrindCounter,
}


def pick_counter(name: str) -> Counter | None:
    """Return the counter of that name, or for `auto` the best one available.

    Returns:
        None for `none`, and for `auto` on a machine that cannot count.

    Raises:
        BenchError: If the one asked for is not available.
    """
    if name == "none":
        return None
    candidates = list(COUNTERS.values()) if name == "auto" else [COUNTERS[name]]
    for candidate in candidates:
        if candidate.is_available():
            return candidate()
    if name == "auto":
        return None
    raise BenchError(f"this machine does not count instructions with {name}")


def _command_perf(command: str, control: int, answer: int) -> None:
    os.write(control, f"{command}\n".encode())
    if not os.read(answer, 16).startswith(b"ack"):
        raise BenchError(f"perf did not acknowledge {command}")


def _parse_perf(output: str) -> int | None:
    for line in output.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2].startswith(_EVENT):
            return int(fields[0]) if fields[0].isdigit() else None
    return None

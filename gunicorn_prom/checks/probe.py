"""Start the process in which the application is imported, and let nothing of it get out."""

import ctypes
import json
import os
import posix
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import psutil

from gunicorn_prom.app_directory import HANDED_OVER, make_temporary
from gunicorn_prom.app_metrics import VARIABLE
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.errors import is_users
from gunicorn_prom.trial import AppReport, Sight, writable

__all__ = ["LIMIT_S", "AppReport", "Sight", "limit_of", "probe"]

# Of the import, where the master does not end such a worker.
LIMIT_S = 60.0
# In which it must have written where it hangs, and have ended after it has reported.
GRACE_S = 2.0
POLL_S = 0.05
MAX_REPORT_BYTES = 1 << 20
# As linux/prctl.h has it.
PR_SET_CHILD_SUBREAPER = 36

# Before the configuration has had its way with it, which it will have in the process too.
IMPORT_PATH = tuple(sys.path)
# The working directory stays out of its import path until Gunicorn puts it there.
BOOTSTRAP = (
    "import json, sys; order = json.loads(sys.argv[1]); sys.path[:] = order['path']; "
    "from gunicorn_prom.trial import main; main(order)"
)
# As faulthandler shows a line of a traceback.
LINE = re.compile(r'  File "(.*)", line (\d+) in ')


def probe(configuration: Configuration) -> AppReport:
    """Import the application as a worker would, and return what happened.

    Takes as long as that takes, up to `limit_of(configuration)`. No process is left, no
    thread, and no file that the application has not made by itself.
    """
    if configuration.app_uri is None:
        return AppReport(outcome="unnamed")
    with _throw_away_directory() as directory, _adopted():
        return _probe(configuration, directory)


def limit_of(configuration: Configuration) -> float:
    """Return the seconds that the import may take.

    A worker that has not booted within `timeout` is ended by the master. An application that
    is preloaded has as long, and at least LIMIT_S.
    """
    cfg: Any = configuration.cfg
    if cfg.timeout > 0 and not cfg.preload_app:
        return float(cfg.timeout)
    return max(LIMIT_S, float(cfg.timeout))


def _probe(configuration: Configuration, directory: str) -> AppReport:
    limit_s = limit_of(configuration)
    ours, theirs = os.pipe()
    try:
        process = _start(configuration, directory, limit_s, (ours, theirs))
        try:
            received = _read_report(ours, process, limit_s + GRACE_S)
            return _judge(received, process, limit_s)
        finally:
            _end(process)
    finally:
        posix.close(ours)
        posix.close(theirs)  # so late, for the application may close its own


def _start(
    configuration: Configuration, directory: str, limit_s: float, pipe: tuple[int, int]
) -> subprocess.Popen[bytes]:
    cfg: Any = configuration.cfg
    order = {
        "pipe": pipe[1],
        "pipe_path": f"/proc/{os.getpid()}/fd/{pipe[0]}",
        "path": IMPORT_PATH,
        "arguments": cfg.arguments,
        "argv": [sys.argv[0], "run", *cfg.arguments],
        "uri": configuration.app_uri,
        "limit_s": limit_s,
        "throw_away": directory,
    }
    return subprocess.Popen(
        # Nothing is written: no bytecode either.
        [sys.executable, "-P", "-B", "-c", BOOTSTRAP, json.dumps(order)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=cfg.settings["chdir"].default,  # where the command was given
        env=_environment(cfg.env_orig, directory),
        pass_fds=[pipe[1]],
        start_new_session=True,
    )


def _environment(given: dict[str, str], directory: str) -> dict[str, str]:
    """Return the environment of the command, with its own place for the application's metrics.

    A directory that cannot be used stays, so that the application fails as it would.
    """
    environment = dict(given)
    if VARIABLE not in environment:
        environment[HANDED_OVER] = directory
    elif writable(environment[VARIABLE]):
        environment[VARIABLE] = directory
    return environment if directory else dict(given)


def _read_report(pipe: int, process: subprocess.Popen[bytes], limit_s: float) -> bytes:
    """Return what the process writes until its report is complete, it ends, or time is up."""
    received = b""
    end = time.monotonic() + limit_s
    while time.monotonic() < end and len(received) < MAX_REPORT_BYTES:
        has_ended = process.poll() is not None
        if select.select([pipe], [], [], 0 if has_ended else POLL_S)[0]:
            received += os.read(pipe, 1 << 16)
            if _is_report(received):
                break
        elif has_ended:
            break
    return received


def _is_report(received: bytes) -> bool:
    return received.startswith(b"{") and received.endswith(b"\n")


def _judge(received: bytes, process: subprocess.Popen[bytes], limit_s: float) -> AppReport:
    """Make a report, of what is left of the process if it has written none."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    if _is_report(received):
        with suppress(ValueError, TypeError):
            return AppReport.parse(received)
    traceback = received.decode(errors="replace")
    report = AppReport(place=_place_in(traceback), import_s=limit_s)
    if process.returncode is None or traceback.startswith("Timeout"):
        return replace(report, outcome="hung")
    outcome = "killed" if process.returncode < 0 else "exited"
    return replace(report, outcome=outcome, status=process.returncode)


def _place_in(traceback: str) -> str:
    """Return the user's innermost line in what faulthandler has written, "" for none.

    The main thread stands last.
    """
    main_thread = traceback.rpartition("(most recent call first)")[2]
    places = (f"{file}:{line}" for file, line in LINE.findall(main_thread) if is_users(file))
    return next(places, "")


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _throw_away_directory() -> Iterator[str]:
    """Make a directory for the time of the block, "" where none can be made."""
    directory = ""
    with suppress(OSError):
        directory = make_temporary()
    try:
        yield directory
    finally:
        if directory:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _adopted() -> Iterator[None]:
    """End, after the block, whatever process it has left.

    One that has left its group and its parent becomes our child for the time being.
    """
    before = set(_descendants())
    _become_subreaper(is_wanted=True)
    try:
        yield
    finally:
        _end_all_but(before)
        _become_subreaper(is_wanted=False)


def _end_all_but(before: set[psutil.Process]) -> None:
    """End our descendants but those, and those that they make while they are ended."""
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end:
        left = [process for process in _descendants() if process not in before]
        for process in left:
            with suppress(psutil.Error):
                process.kill()
                process.wait(GRACE_S)
        if not left:
            break


def _become_subreaper(*, is_wanted: bool) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(is_wanted))


def _descendants() -> list[psutil.Process]:
    """Return the processes that have come of this one; none where /proc is not there."""
    try:
        return psutil.Process().children(recursive=True)
    except psutil.Error:
        return []

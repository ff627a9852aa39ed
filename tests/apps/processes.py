"""`behave`, and requests that make and show processes: for a master that is PID 1."""

import os
import subprocess
from pathlib import Path

from behave import ANSWERS, app

__all__ = ["app"]


def parent_of_worker(_argument):
    return str(os.getppid())


def make_orphan(_argument):
    """Leave a process behind whose parent has ended, and answer with its PID."""
    command = "sleep 600 >/dev/null 2>&1 & echo $!"
    finished = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True)
    return finished.stdout.strip()


def show_process(pid):
    """Answer with the parent and the state of a process (`1 S`), or `gone`."""
    try:
        stat = Path("/proc", pid, "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    state, parent = stat.rpartition(")")[2].split()[:2]
    return f"{parent} {state}"


def kill_process(pid):
    os.kill(int(pid), 9)
    return "killed"


ANSWERS |= {
    "parent": parent_of_worker,
    "orphan": make_orphan,
    "process": show_process,
    "kill": kill_process,
}

"""A master that gevent has patched, in part or in whole: metrics all the same, and a clean end."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patched import lead_a_life

pytest.importorskip("gevent", exc_type=ImportError)

IMPORT = "from gevent import monkey\n"
HOOK = IMPORT + "def {}:\n    monkey.patch_all({})\n"
# When the master loses patience with a metrics server that has not heard of the end.
KILLED_AFTER_S = 5.0
# Some parts make Gunicorn's own control socket a greenlet that blocks, and the master with it.
WITHOUT_CONTROL_SOCKET = "--no-control-socket"

# Whatever `patch` may be followed by, and is not a part of what is here already.
PARTS = (
    "time()",
    "socket()",
    "select()",
    "selectors()",
    "subprocess()",
    "signal()",
    "queue()",
    "all()",
    "all(thread=False)",
    "all(os=False)",
    "all(socket=False)",
)


@pytest.mark.parametrize("part", PARTS)
def test_a_part(tmp_path: Path, part: str) -> None:
    """Any part that the configuration has patched has the metrics served by a process."""
    log = lead_a_life(tmp_path, f"{IMPORT}monkey.patch_{part}\n")
    assert "gunicorn-prom:" not in log


@pytest.mark.parametrize("part", ["os()", "all(time=False)"])
def test_a_part_with_which_the_event_loop_never_runs(tmp_path: Path, part: str) -> None:
    """The metrics server hears of the end, for which gevent's `os.close` would wait in vain."""
    lead_a_life(tmp_path, f"{IMPORT}monkey.patch_{part}\n", end_s=KILLED_AFTER_S)


@pytest.mark.parametrize("part", ["thread()", "all(select=False)"])
def test_a_part_beside_no_control_socket(tmp_path: Path, part: str) -> None:
    """So it is with those parts with which Gunicorn's own control socket hangs."""
    lead_a_life(tmp_path, f"{IMPORT}monkey.patch_{part}\n", WITHOUT_CONTROL_SOCKET)


@pytest.mark.parametrize(
    "hook",
    [
        "nworkers_changed(server, new, old)",
        "when_ready(server)",
        "pre_fork(server, worker)",
        "child_exit(server, worker)",
    ],
)
@pytest.mark.parametrize("arguments", ["", "thread=False"])
def test_a_hook(tmp_path: Path, hook: str, arguments: str) -> None:
    """A hook that patches, also once the thread has served, has a process go on."""
    log = lead_a_life(tmp_path, HOOK.format(hook, arguments), WITHOUT_CONTROL_SOCKET)
    assert "Traceback" not in log
    is_late = "nworkers_changed" not in hook
    assert log.count("(thread)") == is_late
    assert log.count("(process)") == 1


def test_a_preloaded_application(tmp_path: Path) -> None:
    """One that patches in part has a process serve the metrics from the start."""
    source = f"{IMPORT}monkey.patch_all(thread=False)\nfrom behave import app\n"
    (tmp_path / "patching.py").write_text(source)
    log = lead_a_life(tmp_path, "", "--preload", app="patching:app")
    assert "(thread)" not in log


def test_a_thread_that_was_asked_for(tmp_path: Path) -> None:
    """It becomes a process there, too, and the log says so once."""
    log = lead_a_life(tmp_path, f"{IMPORT}monkey.patch_socket()\n", "--metrics-server=thread")
    assert log.count("the metrics server is a process, no thread") == 1


EVERY_PART = """
import os
from gevent import monkey
from gunicorn_prom.exporter.host import is_patched

assert not is_patched()
for name in dir(monkey):
    if name.startswith("patch_") and name not in ("patch_item", "patch_module"):
        pid = os.fork()
        if pid == 0:
            getattr(monkey, name)()
            os._exit(is_patched() != bool(monkey.saved))
        assert os.waitpid(pid, 0)[1] == 0, name
"""


def test_every_part_is_noticed() -> None:
    """Whatever gevent can patch, and does, the master is told from one that is not patched."""
    subprocess.run([sys.executable, "-c", EVERY_PART], check=True)

"""A master that eventlet has patched, in part or in whole, on the last Gunicorn that knows it."""

from pathlib import Path

import pytest

from gunicorn_prom.workers import unavailable
from tests.patched import lead_a_life

pytestmark = pytest.mark.skipif(
    unavailable("eventlet") is not None, reason="there are no eventlet workers"
)

PATCH = "import eventlet\neventlet.monkey_patch({})\n"
HOOK = "import eventlet\ndef {}:\n    eventlet.monkey_patch()\n"
# Where threads are greenlets, Gunicorn's own control socket may block, and the master with it.
WITHOUT_CONTROL_SOCKET = "--no-control-socket"


@pytest.mark.parametrize(
    "part", ["os=True", "socket=True", "thread=True", "all=True, thread=False"]
)
def test_a_part_by_eventlet(tmp_path: Path, part: str) -> None:
    """Any part that the configuration has patched has the metrics served by a process."""
    lead_a_life(tmp_path, PATCH.format(part), WITHOUT_CONTROL_SOCKET)


@pytest.mark.parametrize("hook", ["when_ready(server)", "child_exit(server, worker)"])
def test_a_hook_with_eventlet(tmp_path: Path, hook: str) -> None:
    """A hook that patches, also once the thread has served, has a process go on."""
    log = lead_a_life(tmp_path, HOOK.format(hook), WITHOUT_CONTROL_SOCKET)
    assert (log.count("(thread)"), log.count("(process)")) == (1, 1)

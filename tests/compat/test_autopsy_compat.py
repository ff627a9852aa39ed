"""A worker that times out tells in what, on the Gunicorn that is installed here."""

from pathlib import Path

import pytest

from gunicorn_prom.workers import unavailable
from tests.autopsies import (
    TIMEOUTS,
    assert_discreet,
    assert_tells_greenlets_apart,
    line_of,
    our_records,
    wait_for_autopsies,
)
from tests.support import gunicorn_prom, plain_gunicorn


def test_hooks(tmp_path: Path) -> None:
    """Two workers of plain Gunicorn that time out at once tell request, line and route."""
    (tmp_path / "conf.py").write_text("from gunicorn_prom.hooks import *\n")
    options = ("stuck:app", "--config=conf.py", "--timeout=1", "--workers=2")
    with plain_gunicorn(tmp_path, *options) as server:
        server.wait_for_workers(2)
        asleep, seized = wait_for_autopsies(server, "/sleep/1", "/seize/2")
        assert line_of("asleep") in asleep.stacks
        assert line_of("seized") in seized.stacks
        metrics = server.wait_for_metrics(lambda m: m.total(TIMEOUTS) == 2, "two timeouts")
        assert metrics.one(TIMEOUTS, route="/sleep/<rest>") == 1
        assert len(our_records(server)) == 4
        assert_discreet(server)


@pytest.mark.parametrize("worker_type", ["gevent", "eventlet"])
def test_greenlets(tmp_path: Path, worker_type: str) -> None:
    """A greenlet that does not give way is told from those that wait."""
    problem = unavailable(worker_type)
    if problem is not None:
        pytest.skip(str(problem))
    with gunicorn_prom(tmp_path, "stuck:app", f"-k{worker_type}", "--timeout=2") as server:
        assert_tells_greenlets_apart(server)

"""One minute of everything at once; ten of them are `python -m bench.soak`."""

from pathlib import Path

import pytest

from tests.soak import Soak, soaking_server

SEED = 3
SECONDS = 60


@pytest.mark.timeout(180)
def test_a_minute_of_everything(tmp_path: Path) -> None:
    """An event a second under load: every total is right at the end, and nothing has grown."""
    with soaking_server(tmp_path, "sync") as (server, masters, per_kill):
        outcome = Soak(server, masters, SEED, per_kill=per_kill).run(SECONDS)
    assert len(outcome.events) >= SECONDS / 4
    assert outcome.answered > 100

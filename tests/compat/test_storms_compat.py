"""No count is lost whatever happens to masters, on the Gunicorn that is installed here."""

from pathlib import Path

import pytest

from tests.storms import Reloads, Upgrades

GTHREAD = "--worker-type=gthread --threads=4"


@pytest.fixture(params=["sync-process", "gthread-thread"])
def pair(request: pytest.FixtureRequest) -> str:
    """Return a type of workers and a host; the other pairs are in tests/integration."""
    return request.param


@pytest.fixture
def worker_type(pair: str) -> str:
    """Return how to ask for the types that matter here: with and without threads."""
    return GTHREAD if pair.startswith("gthread") else "--worker-type=sync"


@pytest.fixture
def host(pair: str) -> str:
    """Return how to ask for each host of the metrics server."""
    return f"--metrics-server={pair.partition('-')[2]}"


class TestUpgrades(Upgrades):
    """See tests/storms.py."""


def test_reloads_under_load(tmp_path: Path, worker_type: str) -> None:
    """HUP upon HUP under load: every whole answer is counted, once."""
    Reloads().test_reloads_under_load(tmp_path, worker_type)

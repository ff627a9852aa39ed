"""No count is lost whatever happens to masters, on the Gunicorn that is installed here."""

from pathlib import Path

import pytest

from tests.storms import Reloads, Upgrades

GTHREAD = "--worker-type=gthread --threads=4"


@pytest.fixture(params=["sync", "gthread"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return how to ask for the types that matter here: with and without threads."""
    return GTHREAD if request.param == "gthread" else f"--worker-type={request.param}"


@pytest.fixture(params=["thread", "process"])
def host(request: pytest.FixtureRequest) -> str:
    """Return how to ask for each host of the metrics server."""
    return f"--metrics-server={request.param}"


class TestUpgrades(Upgrades):
    """See tests/storms.py."""


def test_reloads_under_load(tmp_path: Path, worker_type: str) -> None:
    """HUP upon HUP under load: every whole answer is counted, once."""
    Reloads().test_reloads_under_load(tmp_path, worker_type)

"""No count is lost whatever happens to workers and masters, on the newest Gunicorn."""

import pytest

from tests.storms import Reloads, Storms, Upgrades

GTHREAD = "--worker-type=gthread --threads=4"


@pytest.fixture(params=["sync", "gthread", "gevent"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return how to ask for each type of workers."""
    return GTHREAD if request.param == "gthread" else f"--worker-type={request.param}"


class TestReloads(Reloads):
    """See tests/storms.py."""


class TestUpgrades(Upgrades):
    """See tests/storms.py."""

    @pytest.fixture(params=["sync-thread", "gthread-process"])
    def pair(self, request: pytest.FixtureRequest) -> str:
        """Return a type of workers and a host; the other pairs are in tests/compat."""
        return request.param

    @pytest.fixture
    def worker_type(self, pair: str) -> str:
        """Return how to ask for the types that matter here: with and without threads."""
        return GTHREAD if pair.startswith("gthread") else "--worker-type=sync"

    @pytest.fixture
    def host(self, pair: str) -> str:
        """Return how to ask for each host of the metrics server."""
        return f"--metrics-server={pair.partition('-')[2]}"


class TestStorms(Storms):
    """See tests/storms.py."""

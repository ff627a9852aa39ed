"""Why workers have gone is known, on the newest Gunicorn."""

import pytest

from tests.ledger import ExitReasons, Ledger


@pytest.fixture(params=["sync", "gthread", "gevent"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type that the newest Gunicorn has."""
    return request.param


class TestExitReasons(ExitReasons):
    """See tests/ledger.py."""


class TestLedger(Ledger):
    """See tests/ledger.py."""

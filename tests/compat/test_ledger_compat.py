"""Why workers have gone is known, on the Gunicorn that is installed here."""

import pytest

from gunicorn_prom.workers import WORKER_TYPES, unavailable
from tests.ledger import ExitReasons, Ledger


@pytest.fixture(params=[name for name in WORKER_TYPES if unavailable(name) is None])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type that this Gunicorn has; eventlet is one up to 25."""
    return request.param


class TestExitReasons(ExitReasons):
    """See tests/ledger.py."""


class TestLedger(Ledger):
    """See tests/ledger.py."""

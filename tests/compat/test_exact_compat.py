"""The counts are exactly what clients saw, on the Gunicorn that is installed here."""

import pytest

from gunicorn_prom.workers import WORKER_TYPES, unavailable
from tests.exactness import Applications, TheMix


@pytest.fixture(params=[name for name in WORKER_TYPES if unavailable(name) is None])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type that this Gunicorn has; eventlet is one up to 25."""
    return request.param


class TestTheMix(TheMix):
    """See tests/exactness.py."""


class TestApplications(Applications):
    """See tests/exactness.py."""

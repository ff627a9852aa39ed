"""The counts are exactly what clients saw, on the newest Gunicorn."""

import pytest

from tests.exactness import Applications, TheMix


@pytest.fixture(params=["sync", "gthread", "gevent"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type that the newest Gunicorn has."""
    return request.param


class TestTheMix(TheMix):
    """See tests/exactness.py."""


class TestApplications(Applications):
    """See tests/exactness.py."""

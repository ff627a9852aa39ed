"""The counts are exactly what clients saw, on the Gunicorn that is installed here."""

import pytest

from gunicorn_prom.workers import REGISTRY, unavailable
from tests.exactness import Applications, TheMix

# Those on which Gunicorn's own code answers; each of the others has its own test.
HOOKED = [name for name, worker_type in REGISTRY.items() if worker_type.plugin_class]


@pytest.fixture(params=[name for name in HOOKED if unavailable(name) is None])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each of these types that this Gunicorn has; eventlet is one up to 25."""
    return request.param


class TestTheMix(TheMix):
    """See tests/exactness.py."""


class TestApplications(Applications):
    """See tests/exactness.py."""

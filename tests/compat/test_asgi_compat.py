"""The counts of the ASGI workers are what clients saw, on the Gunicorn that is installed here."""

from collections.abc import Iterator

import pytest

from gunicorn_prom.workers import unavailable
from tests.asgi import Mix, Traffic, traffic


@pytest.fixture(
    scope="module",
    params=[name for name in ("asgi", "uvicorn") if unavailable(name) is None],
)
def asked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Traffic]:
    """Return a server of each type that this Gunicorn has; asgi is one from 24 on."""
    with traffic(tmp_path_factory.mktemp(request.param), request.param) as served:
        yield served


class TestMix(Mix):
    """See tests/asgi.py."""

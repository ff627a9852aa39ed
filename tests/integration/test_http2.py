"""HTTP/2 is counted exactly on the workers that speak it, on the newest Gunicorn."""

from pathlib import Path

import pytest

from tests.exactness import options
from tests.http2 import send
from tests.streams import MIX, Streams, assert_exact_streams
from tests.support import gunicorn_prom


@pytest.fixture(params=["gthread", "gevent"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type with WSGI that speaks HTTP/2."""
    return request.param


class TestStreams(Streams):
    """See tests/streams.py."""


def test_without_tls(tmp_path: Path) -> None:
    """HTTP/2 in clear text, which a proxy may speak, is counted in the same way."""
    arguments = (*options("gthread"), "--http-protocols=h2,h1", "--http2-cleartext=prior-knowledge")
    with gunicorn_prom(tmp_path, "mix:app", *arguments) as server:
        assert_exact_streams(server, send(server.port, MIX, is_encrypted=False))

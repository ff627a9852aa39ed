"""HTTP/2 and the workers with servers of their own, on the Gunicorn that is installed here."""

from pathlib import Path

import gunicorn
import pytest

from gunicorn_prom.workers import unavailable
from tests.exactness import CONNECTIONS, assert_exact, options
from tests.servers import PYWSGI, TORNADO_NATIVE, TORNADO_WSGI
from tests.streams import Streams
from tests.support import gunicorn_prom
from tests.traffic import Shot, send, shuffled

SERVERS = [
    pytest.param("gevent_pywsgi", "mix:app", PYWSGI, id="gevent_pywsgi"),
    pytest.param("tornado", "tornado_app:app", TORNADO_NATIVE, id="tornado"),
    pytest.param("tornado", "mix:app", TORNADO_WSGI, id="tornado-wsgi"),
]


@pytest.fixture(params=["gthread", "gevent"])
def worker_type(request: pytest.FixtureRequest) -> str:
    """Return each type with WSGI that speaks HTTP/2."""
    return request.param


@pytest.mark.skipif(gunicorn.version_info < (25,), reason="Gunicorn 25 brought HTTP/2")
class TestStreams(Streams):
    """See tests/streams.py."""


@pytest.mark.parametrize(("server_type", "application", "kinds"), SERVERS)
def test_are_counted_as_the_clients_saw_it(
    tmp_path: Path, server_type: str, application: str, kinds: list[Shot]
) -> None:
    """Mixed requests over 8 connections: every family says what the clients saw."""
    if unavailable(server_type):
        pytest.skip(f"no worker {server_type} here")
    arguments = (application, *options(server_type), "--no-route-labels")
    with gunicorn_prom(tmp_path, *arguments) as server:
        assert_exact(server, send(server.port, shuffled(kinds, 400), connections=CONNECTIONS))

"""Every option of Gunicorn works as with `gunicorn`."""

import pytest

from tests.passthrough import Matrix, PassThrough


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """Return what comes of all cases, gathered once."""
    return Matrix(tmp_path_factory.mktemp("matrix"))


class TestPassThrough(PassThrough):
    """See tests/passthrough.py."""

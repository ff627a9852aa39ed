"""How long requests wait for a thread, on the Gunicorn that is installed here."""

from tests.pools import Pool


class TestPool(Pool):
    """See tests/pools.py."""

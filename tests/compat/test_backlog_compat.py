"""Connections that nobody accepts are shown, on the Gunicorn that is installed here."""

from tests.backlogs import Backlogs


class TestBacklogs(Backlogs):
    """See tests/backlogs.py."""

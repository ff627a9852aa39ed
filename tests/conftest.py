"""What all tests share."""

import signal

import pytest

# A shell starts what runs in the background with Ctrl-C ignored, and all servers of the tests
# would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Helpers that assert: pytest shows in them, too, what differs.
pytest.register_assert_rewrite(
    "tests.asgi",
    "tests.autopsies",
    "tests.backlogs",
    "tests.bare",
    "tests.checked",
    "tests.configurations",
    "tests.exactness",
    "tests.fleet",
    "tests.fleet_rules",
    "tests.hooks",
    "tests.http2",
    "tests.incidents",
    "tests.ledger",
    "tests.load",
    "tests.pages",
    "tests.passthrough",
    "tests.patched",
    "tests.plugin_settings",
    "tests.pools",
    "tests.prometheus",
    "tests.shells",
    "tests.soak",
    "tests.storms",
    "tests.streams",
    "tests.support",
    "tests.traffic",
    "tests.walkthrough",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that nothing is left for one process in the end.

    Those are the tests with a time limit of their own.
    """
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)

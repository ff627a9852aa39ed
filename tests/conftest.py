"""What all tests share."""

import pytest

# Helpers that assert: pytest shows in them, too, what differs.
pytest.register_assert_rewrite(
    "tests.autopsies",
    "tests.backlogs",
    "tests.exactness",
    "tests.fleet",
    "tests.ledger",
    "tests.load",
    "tests.passthrough",
    "tests.pools",
    "tests.soak",
    "tests.storms",
    "tests.support",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that nothing is left for one process in the end.

    Those are the tests with a time limit of their own.
    """
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)

"""What all tests share."""

import pytest

# Helpers that assert: pytest shows in them, too, what differs.
pytest.register_assert_rewrite(
    "tests.autopsies",
    "tests.backlogs",
    "tests.exactness",
    "tests.ledger",
    "tests.load",
    "tests.passthrough",
    "tests.pools",
    "tests.soak",
    "tests.storms",
    "tests.support",
)

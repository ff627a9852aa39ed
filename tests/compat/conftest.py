"""What is shown on which Gunicorn."""

from pathlib import Path

import pytest

from gunicorn_prom.workers import unavailable

# What the Gunicorn with eventlet has otherwise than 23.0 and the newest: how it hands over,
# HTTP/2, and the first of its ASGI workers.
SHOWN_WITH_EVENTLET = ("eventlet", "TestUpgrades", "TestStreams", "test_asgi_compat")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there is eventlet leave out what 23.0 and the newest show as well."""
    if unavailable("eventlet") is not None:
        return
    left_out = [item for item in items if is_shown_elsewhere(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def is_shown_elsewhere(item: pytest.Item) -> bool:
    """Tell whether a test of this directory is of use with the promised Gunicorns only."""
    is_here = item.path.parent == Path(__file__).parent
    return is_here and not any(word in item.nodeid for word in SHOWN_WITH_EVENTLET)

"""A small fleet on a real Prometheus and Alertmanager; bench/fleet.py has a larger one."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import (
    SETTLING_S,
    Fleet,
    Member,
    assert_agreement,
    assert_fired,
    running_fleet,
    upgraded,
)
from tests.incidents import provoke
from tests.pages import blocks_of
from tests.support import ROOT

MEMBERS = (
    Member("upgraded", "gthread", options=("--threads=2",)),
    Member("crowded", "sync"),
    Member("gone", "gevent"),
    Member("broken", "asgi", job="broken"),
)
INCIDENTS = {
    "GunicornBacklog": "crowded",
    "GunicornServerMissing": "gone",
    "GunicornErrorBudgetBurnsFast": "broken",
}
BLOCKS = blocks_of(ROOT / "docs" / "fleet.md")
YAML = [block.title for block in BLOCKS if block.language == "yaml"]
CHECKED = [
    command.typed.split()[-1]
    for block in BLOCKS
    if block.language == "console"
    for command in block.commands()
    if command.typed.startswith("promtool check ")
]

pytestmark = pytest.mark.real_parts


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four servers of two jobs."""
    directory: Path = tmp_path_factory.mktemp("fleet")
    with running_fleet(directory, MEMBERS) as found:
        yield found


def test_prometheus_counts_what_clients_count(fleet: Fleet) -> None:
    """Over the fleet, also while a master is replaced: every count, the rates, the quantiles."""
    fleet.warm_up()
    begin = time.time()
    fleet.wait_for_scrapes()
    for name in fleet.servers:
        fleet.load(name)
    middle = time.time()
    upgraded(fleet, "upgraded")
    # Which also is time enough for an alert that would not be calm.
    fleet.wait_for(f"vector(time()) > {middle + SETTLING_S}")
    end = time.time()
    fleet.stop_clients()
    agreement = assert_agreement(fleet, begin, (middle, end))
    assert agreement.requests > 20
    assert agreement.lost == 0


def test_incidents_fire_their_alerts_and_no_other(fleet: Fleet) -> None:
    """None has fired so far; then just those fire, and reach the webhook behind Alertmanager."""
    assert fleet.fired() == set()
    expected = {provoke(fleet, alert, name) for alert, name in INCIDENTS.items()}
    assert_fired(fleet, expected)


@pytest.mark.parametrize("title", YAML)
def test_promtool_checks_what_the_page_has(title: str) -> None:
    """Each file of docs/fleet.md is one that a command on the page checks, which a test runs."""
    assert title in CHECKED

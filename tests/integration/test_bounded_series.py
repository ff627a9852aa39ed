"""No client can make the metrics grow without end."""

import itertools
import string

import pytest

from gunicorn_prom.exporter.collector import OVERFLOW_FAMILIES
from gunicorn_prom.keys import (
    ERROR_HANDLING,
    EXCEPTIONS,
    FAILED_REQUESTS,
    HTTP,
    OTHER,
    TABLES,
    Table,
)
from tests.exactness import CONNECTIONS, all_were_heard_of, expected, observed, options, settled
from tests.support import Metrics, gunicorn_prom
from tests.traffic import Shot, send, shuffled

METHODS = ["SCAN" + "".join(end) for end in itertools.product(string.ascii_uppercase, repeat=3)]
PATHS = [Shot(path=f"/scan/{number}") for number in range(5000)]
UNKNOWN_METHODS = [Shot(method) for method in METHODS[:5000]]
FAILURES = [Shot(path=f"/raise/Error{number}", raises=f"Error{number}") for number in range(500)]
STATUSES = [Shot(path=f"/status/{number}") for number in range(200, 800)]

SCAN = [*PATHS, *UNKNOWN_METHODS, *FAILURES, *STATUSES]

# How often each overflowing family is to have counted something.
EVENTS = {
    HTTP: len(SCAN),
    EXCEPTIONS: len(FAILURES),
    FAILED_REQUESTS: len(FAILURES),
    ERROR_HANDLING: len(FAILURES),
}


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Metrics, Metrics]:
    """Scrape before and after a scan by paths, methods, statuses and exceptions."""
    directory = tmp_path_factory.mktemp("scan")
    with gunicorn_prom(directory, "mix:app", *options("gthread")) as server:
        before = server.wait_for_metrics(all_were_heard_of, "heartbeats")
        exchanges = send(server.port, shuffled(SCAN, len(SCAN)), connections=CONNECTIONS)
        want = expected(exchanges)
        sizes = {name: samples for name, samples in want.items() if "_size_" in name}
        after = settled(server, sizes)
    assert observed(after, sizes) == sizes
    return before, after


def test_series_are_bounded(scanned: tuple[Metrics, Metrics]) -> None:
    """A scan adds at most a series for each row of a table, and a histogram for each of HTTP's."""
    before, after = scanned
    buckets = {
        labels["le"] for labels, _ in after.all("gunicorn_http_request_duration_seconds_bucket")
    }
    of_a_histogram = len(buckets) + len(("count", "sum"))
    bound = sum(table.cap + 1 for table in TABLES) + (HTTP.cap + 1) * of_a_histogram
    assert len(after.samples) <= len(before.samples) + bound


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_family_keeps_to_its_cap(scanned: tuple[Metrics, Metrics], table: Table) -> None:
    """A family has as many series as its table has rows, and one for the rest."""
    _, after = scanned
    assert len(after.all(OVERFLOW_FAMILIES[table.name])) <= table.cap + 1


@pytest.mark.parametrize("table", EVENTS, ids=lambda table: table.name)
def test_the_overflow_is_told(scanned: tuple[Metrics, Metrics], table: Table) -> None:
    """What found no series of its own is under _OTHER, and the overflow counter says so."""
    _, after = scanned
    family = OVERFLOW_FAMILIES[table.name]
    rest = [value for labels, value in after.all(family) if set(labels.values()) == {OTHER}]
    overflow = after.one("gunicorn_prom_series_overflow_total", family=family)
    assert overflow > 0
    assert rest == [overflow]
    assert after.total(family) == EVENTS[table]


def test_durations_are_of_the_same_requests(scanned: tuple[Metrics, Metrics]) -> None:
    """The duration histogram lost nothing of the scan either."""
    _, after = scanned
    assert after.total("gunicorn_http_request_duration_seconds_count") == len(SCAN)

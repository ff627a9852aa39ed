"""Exemplars: from a slow request to its trace, out of a real server into a real Prometheus."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.prometheus import ask, running_prometheus
from tests.support import Server, gunicorn_prom, request, wait_for

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
DURATION = "gunicorn_http_request_duration_seconds"
GOOD, FAILED, OTHER = (digit * 32 for digit in "abc")
WORKERS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two workers that have both had sampled requests."""
    directory = tmp_path_factory.mktemp("exemplars")
    options = (f"--workers={WORKERS}", "--threads=2", "--metrics-buckets=0.5,30")
    with gunicorn_prom(directory, "behave:app", *options) as server:
        server.wait_for_workers(WORKERS)
        yield server


def get(server: Server, path: str, trace: str, flags: str = "01") -> str:
    """Send a request that belongs to a trace and return the body of the answer."""
    return server.get(path, traceparent=f"00-{trace}-00f067aa0ba902b7-{flags}").text


def exemplars(server: Server) -> dict[tuple[str, str], Sample]:
    """Return the samples with an exemplar by class of status and bound."""
    text = request(server.metrics_port, "/metrics", Accept=OPENMETRICS).text
    samples = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    found = [sample for sample in samples if sample.exemplar is not None]
    assert all(sample.name == f"{DURATION}_bucket" for sample in found)
    return {(sample.labels["status_class"], sample.labels["le"]): sample for sample in found}


def trace_of(server: Server, key: tuple[str, str]) -> str:
    """Return the trace that is shown in a bucket, "" for none."""
    sample = exemplars(server).get(key)
    return sample.exemplar.labels["trace_id"] if sample is not None else ""


def show(server: Server, path: str, trace: str, key: tuple[str, str]) -> None:
    """Send requests of a trace until it is shown: a worker takes one a second for each bucket."""

    def is_shown() -> bool:
        get(server, path, trace)
        return trace_of(server, key) == trace

    wait_for(is_shown, f"the trace {trace}")


def test_each_bucket_has_its_trace(server: Server) -> None:
    """A good request and a failed one are shown in their buckets, with their time."""
    began = time.time()
    show(server, "/", GOOD, ("2xx", "0.5"))
    show(server, "/503", FAILED, ("5xx", "0.5"))
    assert set(exemplars(server)) == {("2xx", "0.5"), ("5xx", "0.5")}
    for key, trace in {("2xx", "0.5"): GOOD, ("5xx", "0.5"): FAILED}.items():
        sample = exemplars(server)[key]
        assert sample.value >= 1
        assert sample.exemplar.labels == {"trace_id": trace}
        assert 0 <= sample.exemplar.value <= float(key[1])
        assert began <= float(sample.exemplar.timestamp) <= time.time()


def test_the_newest_of_all_workers_wins(server: Server) -> None:
    """Whichever worker a request comes to, its trace replaces that of the others."""
    for number in range(1, 4):
        show(server, "/", f"{number:032x}", ("2xx", "0.5"))


@pytest.mark.parametrize(
    ("trace", "flags"), [(OTHER, "00"), ("0" * 32, "01"), ("xyz", "01"), (OTHER.upper(), "01")]
)
def test_what_is_not_sampled_is_not_shown(server: Server, trace: str, flags: str) -> None:
    """Traces that nobody keeps, and headers that are none, are in no bucket."""
    count = server.scrape().total("gunicorn_http_requests_total")
    get(server, "/418", trace, flags)
    server.wait_for_requests(int(count) + 1)
    assert all(status_class != "4xx" for status_class, _ in exemplars(server))


def test_the_text_format_has_none(server: Server) -> None:
    """Who does not ask for OpenMetrics gets what the text format can have."""
    show(server, "/", GOOD, ("2xx", "0.5"))
    assert "trace_id" not in request(server.metrics_port, "/metrics").text


@pytest.mark.real_parts
def test_prometheus_keeps_them(server: Server, tmp_path: Path) -> None:
    """A real Prometheus stores the exemplars and finds them by their series."""
    show(server, "/503", FAILED, ("5xx", "0.5"))
    option = "--enable-feature=exemplar-storage"
    target = f"query_exemplars?query={DURATION}_bucket&start=0&end={time.time() + 3600:.0f}"
    with running_prometheus(tmp_path, server.metrics_port, option) as port:
        found = wait_for(lambda: ask(port, target), "exemplars")
    traces = {
        (series["seriesLabels"]["status_class"], exemplar["labels"]["trace_id"])
        for series in found
        for exemplar in series["exemplars"]
    }
    assert ("5xx", FAILED) in traces


def test_a_dead_workers_exemplars_vanish(server: Server) -> None:
    """When the workers are replaced their exemplars are gone, and their counts stay."""
    show(server, "/", GOOD, ("2xx", "0.5"))
    before = server.scrape().total("gunicorn_http_requests_total")
    for pid in server.worker_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not exemplars(server), "their end")
    server.wait_for_workers(WORKERS)
    assert exemplars(server) == {}
    assert server.scrape().total("gunicorn_http_requests_total") == before

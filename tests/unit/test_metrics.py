"""Every family that is promised is declared with a help text and exposed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from gunicorn_prom.exporter.collector import ServerCollector
from gunicorn_prom.metrics import FAMILIES, Family
from tests.unit.boards import log, opened, server_with, start_worker

# The contract, as far as it is built: name, type, labels.
PROMISED = """
gunicorn_http_requests_total counter method status
gunicorn_http_request_duration_seconds histogram method status_class
gunicorn_http_request_size_bytes histogram
gunicorn_http_response_size_bytes histogram
gunicorn_http_requests_in_progress gauge
gunicorn_http_exceptions_total counter exception
gunicorn_http_parse_errors_total counter error
gunicorn_http_aborted_total counter reason
gunicorn_info gauge version python_version worker_class gunicorn_prom_version
gunicorn_workers gauge state
gunicorn_workers_target gauge
gunicorn_worker_timeout_seconds gauge
gunicorn_worker_spawns_total counter
gunicorn_worker_exits_total counter reason
gunicorn_worker_boot_seconds histogram
gunicorn_reloads_total counter
gunicorn_signals_total counter signal
gunicorn_start_time_seconds gauge
gunicorn_config_reload_success_timestamp_seconds gauge
gunicorn_worker_restart_total counter reason
gunicorn_worker_restart_count_total counter restart_type reason
gunicorn_prom_server_up gauge server
gunicorn_prom_scrape_duration_seconds gauge
gunicorn_prom_errors_total counter where
gunicorn_prom_series_overflow_total counter family
gunicorn_worker_info gauge worker_id pid age unique_id
gunicorn_worker_requests_total counter worker_id
gunicorn_worker_request_duration_seconds histogram worker_id
gunicorn_worker_memory_bytes gauge worker_id
gunicorn_worker_memory_pss_bytes gauge worker_id
gunicorn_worker_cpu_percent gauge worker_id
gunicorn_worker_cpu_seconds_total counter worker_id
gunicorn_worker_uptime_seconds gauge worker_id
gunicorn_worker_start_time_seconds gauge worker_id
gunicorn_worker_open_fds gauge worker_id
gunicorn_worker_threads gauge worker_id
gunicorn_worker_context_switches_total counter worker_id kind
gunicorn_worker_state gauge worker_id state
gunicorn_worker_busy_seconds_total counter worker_id
gunicorn_worker_requests_in_progress gauge worker_id
gunicorn_worker_capacity gauge worker_id
gunicorn_worker_heartbeat_timestamp_seconds gauge worker_id
gunicorn_worker_oldest_request_start_time_seconds gauge worker_id
gunicorn_worker_gc_collections_total counter worker_id generation
gunicorn_worker_gc_pause_seconds_total counter worker_id generation
gunicorn_worker_failed_requests_total counter method endpoint error_type
gunicorn_worker_error_handling_total counter method endpoint error_type
"""
LABELS_OF_SAMPLES = {"le"}


@pytest.mark.parametrize("line", PROMISED.strip().splitlines(), ids=lambda line: line.split()[0])
def test_what_is_promised_is_declared(line: str) -> None:
    """Name, type and labels are those of the contract."""
    name, kind, *labels = line.split()
    family = FAMILIES[name]
    assert (family.kind, sorted(family.labels)) == (kind, sorted(labels))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_each_family_is_declared_well(family: Family) -> None:
    """It has a help text of one sentence, and a name as Prometheus wants it."""
    assert family.help.endswith(".")
    assert "\n" not in family.help
    assert re.fullmatch(r"gunicorn_[a-z_]+", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")


def test_each_family_is_exposed_as_declared(tmp_path: Path) -> None:
    """A scrape of a server at rest has every family, with its type, help and labels."""
    with opened(tmp_path) as board, server_with(board, tmp_path) as reader:
        start_worker(board, 0, 1).observe_request(("GET", "200"), 0.05)
        exposed = {
            exposed_name(metric): metric for metric in ServerCollector(reader, log).collect()
        }
    only_with_several = {"gunicorn_prom_server_up"}
    assert {name for name in exposed if name.startswith("gunicorn")} == (
        FAMILIES.keys() - only_with_several
    )
    for name, metric in exposed.items():
        if name not in FAMILIES:
            continue  # of the master's process
        family = FAMILIES[name]
        assert (metric.type, metric.documentation) == (family.kind, family.help)
        for sample in metric.samples:
            assert set(sample.labels) - LABELS_OF_SAMPLES == set(family.labels), name


def exposed_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def test_importing_the_package_imports_nothing_heavy() -> None:
    """`import gunicorn_prom` costs nothing, and the launcher brings no command line library."""
    script = (
        "import sys; import gunicorn_prom; first = set(sys.modules)\n"
        "import gunicorn_prom.launcher; print(*sorted(first)); print(*sorted(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    package, launcher = (set(line.split()) for line in shown.stdout.splitlines())
    assert package.isdisjoint({"gunicorn", "prometheus_client", "psutil"})
    assert launcher.isdisjoint({"typer", "rich", "click", "pydantic"})

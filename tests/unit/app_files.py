"""Files of an application's metrics, as prometheus_client makes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from gunicorn_prom.exporter.app_collector import Reader, reserved_names

# Beyond what Linux gives out, so nobody has them.
NOBODY = 5_000_000

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def file_of(directory: Path, kind: str, pid: int) -> Path:
    """Return where the process `pid` has its metrics of a kind."""
    return directory / f"{kind}_{pid}.db"


def write_values(
    file_path: Path,
    values: Mapping[str, float | tuple[float, float]],
    *,
    family: str = "app",
    documentation: str = "Help.",
    **labels: str,
) -> Path:
    """Write the file of one process; `values` has value, or value and timestamp, by sample name."""
    file = MmapedDict(str(file_path))
    for sample, value in values.items():
        key = mmap_key(family, sample, list(labels), list(labels.values()), documentation)
        file.write_value(key, *(value if isinstance(value, tuple) else (value, 0.0)))
    file.close()
    return file_path


def count(directory: Path, pid: int, value: float, **labels: str) -> Path:
    """Write the file of a process that has counted up to `value`."""
    return write_values(file_of(directory, "counter", pid), {"app_total": value}, **labels)


def stock(directory: Path) -> Samples:
    """Return every sample as the client alone reads them."""
    return _samples(MultiProcessCollector(None, path=str(directory)))


def ours(directory: Path, warnings: list[str] | None = None) -> Samples:
    """Return every sample as we serve them; a warning is a failure unless expected."""
    told: list[str] = []
    samples = _samples(Reader(directory, reserved_names(), told.append))
    if warnings is None:
        assert told == []
    else:
        warnings += told
    return samples


def _samples(collector: Any) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def total(directory: Path) -> float:
    """Return what all processes have counted by `count` without labels, as we serve it."""
    return ours(directory)["app_total", ()]

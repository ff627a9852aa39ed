"""From the files of the application's own metrics to families.

Reading takes no lock. What keeps a reading whole: the file of totals is read
before those of the processes, and held open. If it is still the same file at
the end, no fold has moved a value meanwhile; otherwise the reading begins anew.
"""

import itertools
import os
import struct
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prometheus_client import PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from gunicorn_prom.app_metrics import (
    TOTAL,
    VARIABLE,
    Content,
    FileName,
    Key,
    KeyCache,
    exact_sum,
    is_format_unknown,
    list_files,
    opened,
    read,
    total_name,
)
from gunicorn_prom.metrics import FAMILIES

__all__ = ["Reader", "exposed_names", "reserved_names"]

# A fold takes less than a reading, and folds are rare. A burst of them is over by then.
MAX_READ_ATTEMPTS = 100

SUFFIXES = {
    "counter": ("", "_total"),
    "histogram": ("", "_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
}

Reading = list[tuple[FileName, Content]]
# By name: its kind, and the family, None if it is not served.
Chosen = dict[str, tuple[str, Metric | None]]
# Labels as the library has them until it has merged.
Sample = tuple[Key, Any, float, float | None]

# Both are the library's own: how files are merged is for it to say.
merge_files: Any = MultiProcessCollector.merge
accumulate: Any = MultiProcessCollector._accumulate_metrics


def exposed_names(name: str, kind: str) -> frozenset[str]:
    """Return every name under which a family is served, its own and those of its samples.

    Args:
        name: of the family, without `_total` for a counter, as `Metric.name` is.
    """
    return frozenset(name + suffix for suffix in SUFFIXES.get(kind, ("",)))


def reserved_names() -> frozenset[str]:
    """Return every name that is served besides the application's: ours and the client's."""
    ours = [(family.name.removesuffix("_total"), family.kind) for family in FAMILIES.values()]
    collectors: tuple[Any, ...] = (
        ProcessCollector(registry=None),
        PlatformCollector(registry=None),
    )
    theirs = [(metric.name, metric.type) for one in collectors for metric in one.collect()]
    return frozenset().union(*(exposed_names(*family) for family in ours + theirs))


class Reader:
    """Collect the application's metrics, in the process of the metrics server.

    Args:
        directory: where the application's processes have their files. It may not
            exist, and need not be writable.
        reserved: names the application must not serve, in the sense of
            `exposed_names`. A family that would is left out.
        warn: is told once of each family that is left out, and of files that
            cannot be read.
    """

    def __init__(
        self, directory: Path, reserved: Container[str], warn: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._reserved = reserved
        self._warn = warn
        self._warned: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they stand now.

        None if folds come so fast that no reading is whole: a gap does no harm,
        while Prometheus takes a counter that falls for one that began anew.
        """
        keys: KeyCache = {}
        try:
            reading = self._read(keys)
        except OSError as error:
            self._warn_once("directory", f"cannot read the application's metrics: {error}")
            return
        if is_format_unknown(content for _, content in reading):
            families = self._merge_as_client(reading)
            if families is not None:
                yield from families
                return
        yield from accumulate(self._families(reading, keys), True)

    def _read(self, keys: KeyCache) -> Reading:
        for _ in range(MAX_READ_ATTEMPTS):
            reading = self._try_to_read(keys)
            if reading is not None:
                return reading
        self._warn_once("folds", "the application's metrics were folded faster than read")
        return []

    def _try_to_read(self, keys: KeyCache) -> Reading | None:
        """Return what is there by kind, None if a fold came between."""
        with ExitStack() as held:
            files = list_files(self._directory)
            kinds = {file.kind for file in files}
            totals = {kind: self._read_total(kind, keys, held) for kind in kinds}
            reading = self._read_processes(files, totals, keys)
            if not all(self._is_in_place(kind, content) for kind, content in totals.items()):
                return None
        for kind, content in totals.items():
            if content is not None:  # which is not to say that it was listed
                reading.append((FileName(kind, TOTAL, total_name(kind)), content))
        return sorted(reading, key=lambda pair: pair[0])

    def _read_total(self, kind: str, keys: KeyCache, held: ExitStack) -> Content | None:
        fd = held.enter_context(opened(self._directory / total_name(kind)))
        return None if fd is None else read(fd, keys)

    def _is_in_place(self, kind: str, content: Content | None) -> bool:
        try:
            inode = os.stat(self._directory / total_name(kind)).st_ino
        except FileNotFoundError:
            return content is None
        # Another file cannot have the inode: it is held open.
        return content is not None and content.status.st_ino == inode

    def _read_processes(
        self, files: list[FileName], totals: dict[str, Content | None], keys: KeyCache
    ) -> Reading:
        """Read the files whose values are not in the totals yet."""
        reading: Reading = []
        for file in files:
            if file.process == TOTAL:
                continue
            total, content = totals[file.kind], self._read_process(file.name, keys)
            if content is None:
                continue
            if total is None or content.identity(file.name) not in total.consumed:
                reading.append((file, content))
        return reading

    def _read_process(self, name: str, keys: KeyCache) -> Content | None:
        try:
            with opened(self._directory / name) as fd:
                return None if fd is None else read(fd, keys)
        except OSError as error:
            self._warn_once("file", f"cannot read some of the application's metrics: {error}")
            return None

    def _families(self, reading: Reading, keys: KeyCache) -> dict[str, Metric]:
        """Return the families by name, with a sample for each value to be merged."""
        chosen: Chosen = {}
        for kind, group in itertools.groupby(reading, key=lambda pair: pair[0].kind):
            samples = _gauges if kind.startswith("gauge") else _sums
            for key, labels, value, timestamp in samples(group, keys):
                metric = self._metric(kind, key, chosen)
                if metric is not None:
                    metric.add_sample(key.sample, labels, value, timestamp)
        return {name: metric for name, (_, metric) in chosen.items() if metric is not None}

    def _metric(self, kind: str, key: Key, chosen: Chosen) -> Metric | None:
        """Return the family of `key`, None if it is not to be served."""
        if key.family not in chosen:
            chosen[key.family] = (kind, self._new_metric(kind, key))
        first, metric = chosen[key.family]
        if first == kind:
            return metric
        if metric is not None:
            self._warn_once(
                key.family,
                f"the application's metric {key.family} is {first} in some processes and {kind} "
                f"in others; only {first} is served: rename one of them, or restart with an "
                f"empty {VARIABLE} if the other is gone",
            )
        return None

    def _new_metric(self, kind: str, key: Key) -> Metric | None:
        metric_type, _, mode = kind.partition("_")
        if self._is_reserved(key.family, metric_type):
            return None
        try:
            metric = Metric(key.family, key.documentation, metric_type)
        except ValueError:
            return None  # a name that the client itself would refuse
        # As the library does between reading and accumulating.
        metric._multiprocess_mode = mode  # type: ignore[attr-defined]  # known to it alone
        return metric

    def _is_reserved(self, family: str, metric_type: str) -> bool:
        clashes = [n for n in sorted(exposed_names(family, metric_type)) if n in self._reserved]
        if clashes:
            self._warn_once(
                family,
                f"the application's metric {family} is not served: gunicorn-prom serves "
                f"{clashes[0]} itself; rename the application's",
            )
        return bool(clashes)

    def _merge_as_client(self, reading: Reading) -> list[Metric] | None:
        """Leave files of a format that we do not know to the installed client."""
        paths = [str(self._directory / file.name) for file, _ in reading]
        try:
            families = list(merge_files(paths))
        except (OSError, RuntimeError, ValueError, struct.error) as error:
            self._warn_once("format", f"cannot read the application's metrics: {error!r}")
            return None
        return [family for family in families if not self._is_reserved(family.name, family.type)]

    def _warn_once(self, subject: str, message: str) -> None:
        if subject not in self._warned:
            self._warned.add(subject)
            self._warn(message)


def _sums(reading: Iterable[tuple[FileName, Content]], keys: KeyCache) -> Iterator[Sample]:
    """Yield what is added up, one sample for each series.

    Exactly, not one after the other as the library does: with another order of
    files a sum could be a hair less than it was.
    """
    values: dict[bytes, list[float]] = {}
    for file, content in reading:
        for raw, value, timestamp in content.entries:
            found = values.setdefault(raw, [])
            found.append(value)
            if file.process == TOTAL:
                found.append(timestamp)  # what rounding dropped, see Folder
    series: dict[Any, tuple[Key, list[float]]] = {}
    for raw, found in values.items():
        key = _encodable(raw, keys)
        if _has_bounds(key):
            # Two versions of the application may differ in the documentation.
            series.setdefault(key[:3], (key, []))[1].extend(found)
    for key, found in series.values():
        yield key, key.labels, exact_sum(found), None


def _gauges(reading: Iterable[tuple[FileName, Content]], keys: KeyCache) -> Iterator[Sample]:
    """Yield every value of every process, for the library to merge."""
    for file, content in reading:
        for raw, value, timestamp in content.entries:
            key = _encodable(raw, keys)
            yield key, (*key.labels, ("pid", file.process)), value, timestamp


def _encodable(raw: bytes, keys: KeyCache) -> Key:
    """Return the key, without what cannot be put into an answer.

    JSON can tell of half a surrogate pair, as in a path that is no UTF-8.
    """
    key = keys[raw]
    assert key is not None, "read() ends where a key is broken"
    if b"\\ud" not in raw:
        return key
    labels = tuple((_replace(name), _replace(value)) for name, value in key.labels)
    return Key(key.family, key.sample, labels, _replace(key.documentation))


def _replace(text: str) -> str:
    return text.encode(errors="replace").decode()


def _has_bounds(key: Key) -> bool:
    """Tell whether the bounds of buckets are numbers, as the library takes for granted."""
    try:
        [float(value) for name, value in key.labels if name == "le"]
    except ValueError:
        return False
    return True

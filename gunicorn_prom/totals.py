"""The counts of several boards as one: generations of a master, and boards within one.

Boards number their rows each for itself and may have different buckets, so their
counts meet by label. A count in a bucket that the sum does not have goes into the
next one above: what was said to be at most 0.3 s is at most 0.5 s as well.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from gunicorn_prom.keys import HISTOGRAMS, TABLES, Table
from gunicorn_prom.scoreboard import ABORT_REASONS, EXIT_REASONS, Reading

__all__ = ["Totals", "rebin"]

Key = tuple[str, ...]


class Totals:
    """A sum of readings.

    Args:
        buckets: upper bounds in seconds that the sum is to have.

    Attributes:
        fixed: the counters that are in no table, as `Layout` has them.
        tables: for each table the cells of its rows, by key.
        spawns: the workers that were ever started.
    """

    def __init__(self, buckets: Sequence[float]) -> None:
        self.buckets = tuple(buckets)
        self.fixed: list[float] = []
        self.tables: dict[str, dict[Key, list[float]]] = {table.name: {} for table in TABLES}
        self.spawns = 0.0

    def add(self, reading: Reading, *, is_live: bool) -> None:
        """Add what a board told.

        Args:
            is_live: False when no process of the board's is left. Then the workers
                that it still shows have ended, and so has what they worked on.
        """
        layout = reading.columns.layout
        fixed = reading.totals[: layout.fixed_counters]
        exits = slice(layout.exits, layout.exits + len(EXIT_REASONS))
        self.spawns += sum(fixed[exits]) + len(reading.workers)
        if not is_live:
            lost = sum(worker.in_progress for worker in reading.workers)
            fixed[layout.aborted + ABORT_REASONS.index("no_response")] += lost
            fixed[layout.exits + EXIT_REASONS.index("exit")] += len(reading.workers)
            # The cell of a busy worker is what it will be, less the time of its end.
            busy = [worker.counters[layout.busy_seconds] for worker in reading.workers]
            fixed[layout.busy_seconds] += reading.time * sum(cell < 0 for cell in busy)
        self.fixed = _sum(self.fixed, fixed) if self.fixed else fixed
        for table, key, cells in rows(reading, reading.totals):
            is_histogram = table in HISTOGRAMS
            counted = rebin(cells, layout.buckets, self.buckets) if is_histogram else cells
            known = self.tables[table.name]
            known[key] = _sum(known[key], counted) if key in known else counted

    def rows(self) -> Iterator[tuple[Table, Key, list[float]]]:
        """Yield every row that has counted something."""
        for table in TABLES:
            for key, cells in self.tables[table.name].items():
                if any(cells):
                    yield table, key, cells


def rows(reading: Reading, counters: Sequence[float]) -> Iterator[tuple[Table, Key, list[float]]]:
    """Yield the rows of all tables in `counters`, which are laid out as in `reading`."""
    for table in TABLES:
        width = reading.columns.layout.width(table)
        start = reading.columns.tables[table.name]
        for key in reading.columns.keys[table.name]:
            yield table, key, list(counters[start : start + width])
            start += width


def rebin(cells: list[float], bounds: Sequence[float], wanted: Sequence[float]) -> list[float]:
    """Return the cells of a histogram with `bounds` as one with the bounds `wanted`.

    The last two cells, above all bounds and the sum, stay what they are.
    """
    if tuple(bounds) == tuple(wanted):
        return cells
    moved = [0.0] * len(wanted) + cells[-2:]
    for bound, count in zip(bounds, cells, strict=False):
        moved[bisect_left(wanted, bound)] += count
    return moved


def _sum(left: list[float], right: list[float]) -> list[float]:
    return [a + b for a, b in zip(left, right, strict=True)]

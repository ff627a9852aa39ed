"""The result as Markdown, for a terminal and for the documentation alike."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import GTHREAD_THREADS, Contender
from bench.measure import Measurements, Session, Spread

__all__ = ["format_report"]

_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True)
class _Column:
    """A column of the footprint table: absolute, or as a ratio to bare Gunicorn."""

    title: str
    measure: str
    format_value: Callable[[float], str]
    has_ratio: bool = False


_TRAFFIC_MEASURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    (
        "User instructions per request",
        "instructions",
        lambda value: f"{value:,.0f}",
    ),
    (
        "CPU time per request (user and system, microseconds)",
        "cpu_s",
        lambda value: f"{value * 1e6:.0f} us",
    ),
    ("Requests per second", "requests_per_s", lambda value: f"{value:,.0f}/s"),
)


def _format_milliseconds(value: float) -> str:
    return f"{value * 1000:.1f} ms"


def _format_mebibytes(value: float) -> str:
    return f"{value / _MIB:.1f} MiB"


def _format_kibibytes(value: float) -> str:
    return f"{value / _KIB:,.0f} KiB"


_FOOTPRINT_COLUMNS = (
    _Column("total PSS", "pss_bytes", _format_mebibytes, has_ratio=True),
    _Column("first 200", "first_answer_s", _format_milliseconds, has_ratio=True),
    _Column("scrape, median", "scrape_median_s", _format_milliseconds),
    _Column("scrape, p95", "scrape_p95_s", _format_milliseconds),
    _Column("scrape size", "scrape_bytes", _format_kibibytes),
    _Column("master growth", "master_growth_bytes", _format_kibibytes),
    _Column("tree growth", "tree_growth_bytes", _format_kibibytes),
)


def format_report(session: Session, versions: dict[str, dict[str, str]]) -> str:
    """Return the whole report, with the machine and the versions at its top.

    Args:
        versions: For each environment by its name, versions by package.
    """
    parts = [_format_setting(session, versions)]
    for title, measure, format_value in _TRAFFIC_MEASURES:
        if measure == "instructions" and session.counter is None:
            parts.append(f"## {title}\n\nNot counted in this run.")
            continue
        table = _format_traffic(session, measure, format_value)
        parts.append(f"## {title}\n\n{table}")
        if session.counts_only:
            return "\n\n".join(parts) + "\n"
    footprint = _format_footprint(session)
    parts.append(f"## Four sync workers\n\n{footprint}\n\n{_describe_footprint(session)}")
    return "\n\n".join(parts) + "\n"


def _format_setting(session: Session, versions: dict[str, dict[str, str]]) -> str:
    lines = [
        f"- Machine: {_read_cpu_model()}, {os.cpu_count()} cores,"
        f" {platform.system()} {platform.release()}",
        *_format_versions(versions),
        f"- Instructions: {_describe_counter(session)}",
        f"- CPU time and requests per second: {session.effort.traffic_rounds} launches of"
        f" {session.effort.traffic_requests:,} requests each",
        "- One worker answers a hello-world application, FastAPI's where that is said; four"
        " connections, kept alive except with sync, which closes. The client has a processor"
        " of its own",
        "- Contenders take turns in every round. A figure is the median, a ratio the"
        " median of the ratios to bare Gunicorn in the same round, with the quartiles"
        " in brackets",
    ]
    return "\n".join(lines)


def _format_versions(versions: dict[str, dict[str, str]]) -> list[str]:
    return [
        f"- Environment {name}: "
        + ", ".join(f"{package} {version}" for package, version in packages.items())
        for name, packages in versions.items()
    ]


def _describe_counter(session: Session) -> str:
    if session.counter is None:
        return "not counted in this run"
    return (
        f"{session.counter.name}; launches: {session.effort.counted_rounds}, of"
        f" {session.counter.requests:,} requests each, each with another hash seed"
    )


def _describe_footprint(session: Session) -> str:
    return (
        f"Launches of each: {session.effort.footprint_rounds}. Scrapes are timed from"
        f" connecting to the last byte; growth is that of resident memory over"
        f" {session.effort.scrapes:,} scrapes after the first ones, of the master and of"
        " the whole process tree."
    )


def _format_traffic(
    session: Session,
    measure: str,
    format_value: Callable[[float], str],
) -> str:
    rows = [["", *(_describe_worker_type(name) for name in session.worker_types)]]
    for contender in session.contenders:
        cells = [
            _format_cell(session.measurements, measure, worker_type, contender, format_value)
            for worker_type in session.worker_types
        ]
        rows.append([contender.name, *cells])
    return _format_table(rows)


def _format_footprint(session: Session) -> str:
    rows = [["", *(column.title for column in _FOOTPRINT_COLUMNS)]]
    for contender in session.able("sync"):
        cells = [
            _format_footprint_cell(session.measurements, column, contender)
            for column in _FOOTPRINT_COLUMNS
        ]
        rows.append([contender.name, *cells])
    return _format_table(rows)


def _format_footprint_cell(
    measurements: Measurements, column: _Column, contender: Contender
) -> str:
    if column.has_ratio:
        return _format_cell(measurements, column.measure, "sync", contender, column.format_value)
    spread = measurements.spread(column.measure, "sync", contender.name)
    return "-" if spread is None else column.format_value(spread.median)


def _format_cell(
    measurements: Measurements,
    measure: str,
    worker_type: str,
    contender: Contender,
    format_value: Callable[[float], str],
) -> str:
    """Show a base by its value, everything else by its value and its ratio."""
    spread = measurements.spread(measure, worker_type, contender.name)
    if spread is None:
        return "-"
    value = format_value(spread.median)
    if contender.name == contender.base:
        return value
    ratio = measurements.ratio(measure, worker_type, contender.name, contender.base)
    return value if ratio is None else f"{_format_ratio(ratio)} {value}"


def _format_ratio(ratio: Spread) -> str:
    if ratio.low == ratio.high:  # A single round has no spread.
        return f"**x{ratio.median:.3f}**"
    return f"**x{ratio.median:.3f}** ({ratio.low:.3f}-{ratio.high:.3f})"


def _format_table(rows: list[list[str]]) -> str:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    separator = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [rows[0], separator, *rows[1:]]
    )


def _describe_worker_type(worker_type: str) -> str:
    if worker_type == "gthread":
        return f"gthread, {GTHREAD_THREADS} threads"
    return worker_type


def _read_cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

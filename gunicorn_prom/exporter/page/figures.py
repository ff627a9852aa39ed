"""Numbers as a person reads them."""

from typing import NamedTuple

__all__ = ["UNKNOWN", "Figure", "big", "plain", "rate", "seconds", "share", "size"]

NO_BREAK = "\N{NO-BREAK SPACE}"
# A dash alone would be read out as nothing.
UNKNOWN = '<span aria-hidden="true">\N{EN DASH}</span><span class="unseen">not known</span>'

THOUSAND = 1000
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
TWO_DIGITS, THREE_DIGITS = 10, 100


class Figure(NamedTuple):
    """A number and its unit, which is drawn smaller."""

    number: str
    unit: str


def plain(figure: Figure | None) -> str:
    """Return the figure as text."""
    return UNKNOWN if figure is None else NO_BREAK.join(filter(None, figure))


def big(figure: Figure | None) -> str:
    """Return the figure as it stands in large type."""
    if figure is None:
        return UNKNOWN
    return f"{figure.number}{NO_BREAK}<small>{figure.unit}</small>"


def rate(per_second: float | None) -> Figure | None:
    """Return a number of events per second."""
    if per_second is None:
        return None
    if per_second >= TWO_DIGITS * THOUSAND:
        return Figure(_digits(per_second / THOUSAND), "k/s")
    return Figure(_digits(per_second), "/s")


def share(part: float | None) -> Figure | None:
    """Return a part of 1 in percent."""
    return None if part is None else Figure(_digits(part * 100), "%")


def seconds(duration_s: float | None) -> Figure | None:
    """Return a duration, a short one in milliseconds, a long one in its two largest units."""
    if duration_s is None:
        return None
    if duration_s < 1:
        return Figure(_digits(duration_s * THOUSAND), "ms")
    if duration_s < 2 * MINUTE_S:
        return Figure(_digits(duration_s), "s")
    minutes, hours, days = (int(duration_s // unit) for unit in (MINUTE_S, HOUR_S, DAY_S))
    if duration_s < HOUR_S:
        return Figure(str(minutes), "min")
    if duration_s < DAY_S:
        return Figure(f"{hours}{NO_BREAK}h{NO_BREAK}{minutes % 60}", "min")
    return Figure(f"{days}{NO_BREAK}d{NO_BREAK}{hours % 24}", "h")


def size(count_bytes: float | None) -> Figure | None:
    """Return an amount of memory."""
    if count_bytes is None:
        return None
    for unit_bytes, unit in ((GIB, "GiB"), (MIB, "MiB")):
        if count_bytes >= unit_bytes:
            return Figure(_digits(count_bytes / unit_bytes), unit)
    return Figure(_digits(count_bytes / KIB), "KiB")


def _digits(value: float) -> str:
    """Return two digits at least, none behind the point from 10 on."""
    if 0 < value < 0.1:  # noqa: PLR2004  # what would read as 0.0
        return "<0.1"
    if value >= TWO_DIGITS - 0.05 or value == 0:
        return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.1f}"

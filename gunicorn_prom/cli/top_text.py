"""How `top` writes a number, a bar, a curve, and what came from a client."""

from collections.abc import Sequence
from typing import Any

__all__ = [
    "ABSENT",
    "bar",
    "cleaned",
    "duration",
    "latency",
    "number",
    "percent",
    "size",
    "sparkline",
]

ABSENT = "-"
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
KIB = 1024
LEVELS = ("▁▂▃▄▅▆▇█", "_.:-=+*#")
EIGHTHS = " ▏▎▍▌▋▊▉█"
FULL = ("█", "#")
REPLACEMENT = "?"


def cleaned(value: Any, *, is_unicode: bool) -> Any:
    """Return a value of JSON's kinds in whose texts nothing can move the cursor or hide.

    Args:
        is_unicode: whether the terminal shows more than ASCII.
    """
    if isinstance(value, str):
        return "".join(
            c if c.isprintable() and (is_unicode or c.isascii()) else REPLACEMENT for c in value
        )
    if isinstance(value, list):
        return [cleaned(part, is_unicode=is_unicode) for part in value]
    if isinstance(value, dict):
        return {
            cleaned(name, is_unicode=is_unicode): cleaned(part, is_unicode=is_unicode)
            for name, part in value.items()
        }
    return value


def number(value: float | None) -> str:
    """Return a number in five characters at the most: `0.5`, `12.3`, `1234`, `12.3k`, `4.5M`."""
    if value is None:
        return ABSENT
    for limit, unit in ((1e4, ""), (1e6, "k"), (1e9, "M")):
        if value < limit:
            scaled = value / (limit / 1e3) if unit else value
            is_whole = value == int(value) and not unit
            return f"{scaled:.0f}{unit}" if is_whole or scaled >= 100 else f"{scaled:.1f}{unit}"  # noqa: PLR2004  # three digits say enough
    return f"{value / 1e9:.1f}G"


def percent(share: float | None, *, digits: int = 0) -> str:
    """Return a share of one as `42%`."""
    return ABSENT if share is None else f"{share * 100:.{digits}f}%"


def size(size_bytes: float | None) -> str:
    """Return a size as `512K`, `23.4M` or `1.5G`."""
    if size_bytes is None:
        return ABSENT
    amount, units = size_bytes / KIB, "KMGT"
    while amount >= KIB and len(units) > 1:
        amount, units = amount / KIB, units[1:]
    is_short = amount >= 100 or units[0] == "K"  # noqa: PLR2004  # three digits say enough
    return f"{amount:.0f}{units[0]}" if is_short else f"{amount:.1f}{units[0]}"


def latency(seconds: float | None) -> str:
    """Return a short time as `0.4ms`, `12ms` or `1.52s`."""
    if seconds is None:
        return ABSENT
    if seconds >= 1:
        return f"{seconds:.1f}s" if seconds >= 10 else f"{seconds:.2f}s"  # noqa: PLR2004  # three digits say enough
    return f"{seconds * 1000:.1f}ms" if seconds < 0.01 else f"{seconds * 1000:.0f}ms"  # noqa: PLR2004  # three digits say enough


def duration(seconds: float | None) -> str:
    """Return a time as `0.5s`, `31s`, `12m05s`, `3h12m` or `4d03h`."""
    if seconds is None:
        return ABSENT
    seconds = max(0.0, seconds)
    if seconds < MINUTE_S:
        return f"{seconds:.1f}s" if seconds < 10 else f"{int(seconds)}s"  # noqa: PLR2004  # two digits say enough
    for unit, smaller, names in ((HOUR_S, MINUTE_S, "ms"), (DAY_S, HOUR_S, "hm")):
        if seconds < unit:
            part = 1 if smaller == MINUTE_S else MINUTE_S
            return (
                f"{int(seconds // smaller)}{names[0]}{int(seconds % smaller // part):02}{names[1]}"
            )
    return f"{int(seconds // DAY_S)}d{int(seconds % DAY_S // HOUR_S):02}h"


def sparkline(
    values: Sequence[float | None], width: int, *, most: float = 0.0, is_unicode: bool
) -> str:
    """Return the last values as a curve, the newest on the right.

    Args:
        width: how many there is room for.
        most: what the highest character stands for at least.
    """
    shown = list(values[-width:]) if width > 0 else []
    top = max([most, *(value for value in shown if value is not None)]) or 1.0
    levels = LEVELS[0] if is_unicode else LEVELS[1]
    last = len(levels) - 1
    curve = (" " if v is None else levels[min(last, max(0, round(v / top * last)))] for v in shown)
    return "".join(curve)


def bar(share: float | None, width: int, *, is_unicode: bool) -> str:
    """Return a share of one as a bar in so many characters."""
    filled = max(0.0, min(1.0, share or 0.0)) * width
    whole = int(filled)
    rest = EIGHTHS[int((filled - whole) * 8)] if is_unicode and whole < width else ""
    return f"{(FULL[0] if is_unicode else FULL[1]) * whole}{rest}".ljust(width)

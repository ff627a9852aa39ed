"""Drawings of the page, as inline SVG; style attributes are forbidden by its policy."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from gunicorn_prom.exporter.history import POINTS

__all__ = ["bar", "shape", "sparkline"]

WIDTH, HEIGHT = 240, 40
# The line's own thickness stays inside.
TOP, BOTTOM = 3, 38

Point = tuple[int, int]


def shape(name: str) -> str:
    """Return a symbol that page.html defines; the words beside it say the same."""
    return f'<svg class="shape" aria-hidden="true"><use href="#{name}"/></svg>'


def bar(part: float | None) -> str:
    """Return a bar that is filled to this part of 1; the words beside it say the same."""
    width = f"{min(max(part or 0.0, 0.0), 1.0) * 100:.0f}%"
    return f'<svg class="bar" aria-hidden="true"><rect width="{width}" height="100%"/></svg>'


def sparkline(history: Mapping[str, Any], column: str, top: float) -> str:
    """Return the recent course of a column, the newest value at the right end.

    Args:
        history: as /status.json has it.
        top: the value at the upper edge, at least.
    """
    lines = list(_lines(history["time"], history[column], history["interval_s"], top))
    line = "".join(map(_path, lines))
    area = "".join(f"{_path(points)}V{HEIGHT}H{points[0][0]}Z" for points in lines)
    # A line without length has only its round cap, which no scaling makes an ellipse.
    last = f'<path class="dot" d="{_path(lines[-1][-1:])}h0"/>' if lines else ""
    return (
        f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
        f' aria-hidden="true"><path class="area" d="{area}"/><path class="line" d="{line}"/>'
        f"{last}</svg>"
    )


def _lines(
    times: Sequence[float], values: Sequence[float | None], interval_s: float, top: float
) -> Iterator[list[Point]]:
    """Yield each run of known values as points; one that is not known leaves a gap."""
    top = max([top, *(value for value in values if value is not None)])
    span_s = interval_s * (POINTS - 1)
    pairs = list(zip(times, values, strict=True))
    for is_known, run in groupby(pairs, key=lambda pair: pair[1] is not None):
        if is_known:
            yield [
                (
                    max(0, round(WIDTH * (1 - (times[-1] - time) / span_s))),
                    round(BOTTOM - (BOTTOM - TOP) * (value or 0.0) / top),
                )
                for time, value in run
            ]


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)

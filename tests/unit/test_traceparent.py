"""The trace of a request: taken when it is sampled, and never when it cannot be one."""

import pytest

from gunicorn_prom.instrument.headers import sampled_trace_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-03",
        f"00-{TRACE}-{SPAN}-ff",
        f"01-{TRACE}-{SPAN}-01-what-the-next-version-adds",
    ],
)
def test_a_sampled_trace_is_taken(header: str) -> None:
    """The lowest bit of the flags says that it is; other bits and newer versions may be there."""
    assert sampled_trace_id(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-02",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01x",
        f"00-{TRACE}-{SPAN}-01-what-this-version-has-not",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE[:-1]}\u0661-{SPAN}-01",
        f'00-{TRACE[:-2]}"}}-{SPAN}-01',
        "",
        "0" * 10_000,
    ],
)
def test_nothing_else_is_taken(header: str) -> None:
    """A trace that is not sampled, and whatever W3C Trace Context does not allow, is none."""
    assert sampled_trace_id(header) == ""

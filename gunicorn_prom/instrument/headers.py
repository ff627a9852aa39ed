"""What proxies and tracers write into the headers of a request."""

import re

__all__ = ["QueueTimeError", "queue_start", "sampled_trace_id"]

# Clocks of two machines differ a little.
CLOCK_SKEW_S = 1.0
LONGEST_WAIT_S = 24 * 3600.0

# Digits of a Unix time of our days: seconds, milliseconds, microseconds, nanoseconds.
UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (0.0, 1.0))
NUMBER = re.compile(r"(?:t=)?(\d{1,20}(?:\.\d{1,9})?)", re.ASCII)

# Source: W3C Trace Context, section 3.2.
TRACEPARENT = re.compile(
    # Only versions to come have more behind it.
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?",
    re.ASCII,
)
SAMPLED = 1


class QueueTimeError(ValueError):
    """A time that a proxy wrote cannot be taken.

    Attributes:
        fault: one of scoreboard.QUEUE_FAULTS.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault


def queue_start(header: str, now: float) -> float:
    """Return the Unix seconds that X-Request-Start or X-Queue-Start tells.

    Proxies write seconds, milliseconds, microseconds or nanoseconds, some behind `t=`.
    A time that is ahead of `now` by less than the clocks may differ is taken as `now`.

    Args:
        now: Unix seconds.

    Raises:
        QueueTimeError: it is no time, or one that cannot be.
    """
    match = NUMBER.fullmatch(header.strip())
    if match is None:
        raise QueueTimeError("garbage")
    number = float(match[1])
    seconds = number / next(divisor for least, divisor in UNITS if number >= least)
    if seconds > now + CLOCK_SKEW_S:
        raise QueueTimeError("future")
    if seconds < now - LONGEST_WAIT_S:
        raise QueueTimeError("past")
    return min(seconds, now)


def sampled_trace_id(traceparent: str) -> str:
    """Return the 32 digits of the trace when it is sampled, else ""."""
    # Cheaper than to look at the rest of most that are not sampled.
    match = TRACEPARENT.fullmatch(traceparent) if traceparent[-2:] != "00" else None
    if match is None or not int(match[2], 16) & SAMPLED:
        return ""
    return match[1]

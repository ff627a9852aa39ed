"""The time that a proxy wrote into a header is taken as it was meant, or not at all."""

import pytest

from gunicorn_prom.instrument.headers import QueueTimeError, queue_start

NOW = 1_700_000_000.5
YEAR_S = 365 * 24 * 3600


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        pytest.param("t=1700000000.123", 1_700_000_000.123, id="nginx"),
        pytest.param("1700000000.123", 1_700_000_000.123, id="nginx without t="),
        pytest.param("1699999999876", 1_699_999_999.876, id="Heroku"),
        pytest.param("t=1699999999876", 1_699_999_999.876, id="HAProxy in milliseconds"),
        pytest.param("t=1699999999876543", 1_699_999_999.876543, id="Apache in microseconds"),
        pytest.param("1699999999876543210", 1_699_999_999.876543, id="nanoseconds"),
        pytest.param("1699999999", 1_699_999_999.0, id="whole seconds"),
        pytest.param("t=1699999999.", None, id="a point and nothing behind it"),
        pytest.param(" t=1699999999 ", 1_699_999_999.0, id="spaces around it"),
        pytest.param("1699999999876.5", 1_699_999_999.8765, id="a fraction of milliseconds"),
        pytest.param("t=1699999999.123456789", 1_699_999_999.123457, id="nine decimals"),
    ],
)
def test_what_proxies_write_is_understood(header: str, seconds: float | None) -> None:
    """Seconds, milliseconds, microseconds and nanoseconds are told apart by their size."""
    if seconds is None:
        assert fault(header) == "garbage"
    else:
        assert queue_start(header, NOW) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "t=",
        "t",
        "soon",
        "-1700000000",
        "t=-1",
        "+1700000000",
        "1.7e9",
        "1_700_000_000",
        "0x65525c00",
        "nan",
        "inf",
        "1700000000,1699999999",
        "t=1700000000 D=4000",
        "t=t=1700000000",
        "T=1700000000",
        "1700000000s",
        "1700000000.1234567890",
        "9" * 21,
        "9" * 5000,
        "\u0661\u0667\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660",
        "\u00b9700000000",
        "1700000000\x00",
        "2023-11-14T22:13:20Z",
        "Root=1-65525c00-abcdef012345678912345678",
    ],
)
def test_garbage_is_not_taken(header: str) -> None:
    """What is not one number, with `t=` before it or not, is garbage, however long it is."""
    assert fault(header) == "garbage"


@pytest.mark.parametrize("header", ["0", "1", "t=1.5", "1700000", str(int(NOW - YEAR_S))])
def test_what_is_long_ago_is_not_taken(header: str) -> None:
    """No request waits for more than a day."""
    assert fault(header) == "past"


@pytest.mark.parametrize(
    "header", [str(int(NOW + 60)), f"{int(NOW + 60)}000", "9" * 11, "9" * 16, "9" * 20]
)
def test_what_is_to_come_is_not_taken(header: str) -> None:
    """A request does not come before it was sent."""
    assert fault(header) == "future"


def test_clocks_may_differ_a_little() -> None:
    """A time less than a second ahead is now, so that the wait is not negative."""
    assert queue_start(str(NOW + 0.75), NOW) == NOW
    assert fault(str(NOW + 1.25)) == "future"


def fault(header: str) -> str:
    """Return why `header` is not taken."""
    with pytest.raises(QueueTimeError) as raised:
        queue_start(header, NOW)
    return raised.value.fault

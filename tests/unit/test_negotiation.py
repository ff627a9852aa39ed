"""What the metrics server makes of Accept-Encoding."""

import pytest

from gunicorn_prom.exporter.endpoint import accepts_gzip


@pytest.mark.parametrize(
    "header",
    ["gzip", "GZIP", "deflate, gzip", "gzip;q=0.1", "gzip ; q=1.0", "*", "*;q=0.5", "br, *"],
)
def test_gzip_is_accepted(header: str) -> None:
    """Named or covered by the asterisk, with any weight but zero."""
    assert accepts_gzip(header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "identity",
        "br",
        "gzip;q=0",
        "gzip;q=0.000",
        "gzip;q=0, *",
        "*;q=0",
        "xgzip",
        "gzip;q=..",
    ],
)
def test_gzip_is_not_accepted(header: str) -> None:
    """Not named, or refused by a weight of zero or of nonsense."""
    assert not accepts_gzip(header)

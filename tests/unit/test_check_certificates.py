"""When certificates are valid, read from files that OpenSSL has made."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from gunicorn_prom.checks.certificates import validities
from tests.dated import dated_certificate
from tests.real_parts import find_program


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("19600229120000Z", "19991231235959Z"),
        ("20000101000000Z", "20491231235959Z"),
        # From 2050 on with four digits.
        ("20491231235959Z", "20500101000000Z"),
        ("20240101000000Z", "99991231235959Z"),
    ],
)
def test_validity(tmp_path: Path, begin: str, end: str) -> None:
    """Begin and end are those that were asked for, in whichever form they are encoded."""
    find_program("openssl", "openssl")
    certificate, _ = dated_certificate(tmp_path, begin, end)
    (validity,) = validities(certificate.read_bytes())
    expected = [datetime.strptime(time, "%Y%m%d%H%M%S%z") for time in (begin, end)]
    assert list(validity) == expected


def test_a_chain(tmp_path: Path) -> None:
    """Each certificate of a file is read, in order; a key and words between them are nothing."""
    find_program("openssl", "openssl")
    first, key = dated_certificate(tmp_path / "first", "20200101000000Z", "20300101000000Z")
    second, _ = dated_certificate(tmp_path / "second", "20200101000000Z", "20400101000000Z")
    parts = (b"a comment\n", key.read_bytes(), first.read_bytes(), b"\n", second.read_bytes())
    assert [validity.end.year for validity in validities(b"".join(parts))] == [2030, 2040]
    assert validities(b"nothing\n") == []


def test_what_is_wrong_with_a_date(tmp_path: Path) -> None:
    """A certificate is good from its first second to its last, and each side has its words."""
    find_program("openssl", "openssl")
    certificate, _ = dated_certificate(tmp_path, "20200101000000Z", "20300101000000Z")
    (validity,) = validities(certificate.read_bytes())
    before, after = datetime(2019, 12, 31, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)
    assert validity.problem(validity.begin) == validity.problem(validity.end) == ""
    assert validity.problem(before) == "is not valid before 2020-01-01 00:00 UTC"
    assert validity.problem(after) == "has expired on 2030-01-01 00:00 UTC"

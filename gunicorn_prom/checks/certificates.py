"""From when to when a certificate is valid.

Python's `ssl` tells that of the certificates of authorities and of peers only, so it is
read from the file.

Source: RFC 5280, section 4.1; X.690 for the encoding.
"""

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["Validity", "validities"]

CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END", re.DOTALL)
VERSION = 0xA0
UTC_TIME = 0x17
LONG_LENGTH = 0x80
# Among what is certified, after the version, which may be missing.
VALIDITY = 3
# Of a year with two digits, the first that means 19..
NINETEEN = "50"


class Validity(NamedTuple):
    """From when to when a certificate is valid."""

    begin: datetime
    end: datetime

    def problem(self, now: datetime) -> str:
        """Say why it is not valid `now`, "" when it is."""
        if now > self.end:
            return f"has expired on {self.end:%Y-%m-%d %H:%M} UTC"
        if now < self.begin:
            return f"is not valid before {self.begin:%Y-%m-%d %H:%M} UTC"
        return ""


def validities(pem: bytes) -> list[Validity]:
    """Return the validity of each certificate, in their order.

    Args:
        pem: certificates that OpenSSL has taken; whatever else is there is passed over.
    """
    return [_validity(base64.b64decode(found)) for found in CERTIFICATE.findall(pem)]


def _validity(der: bytes) -> Validity:
    _, certificate = next(_elements(der))
    _, certified = next(_elements(certificate))
    fields = [content for tag, content in _elements(certified) if tag != VERSION]
    begin, end = (_time(*element) for element in _elements(fields[VALIDITY]))
    return Validity(begin, end)


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each element."""
    while der:
        start, length = 2, der[1]
        if length & LONG_LENGTH:
            start += length - LONG_LENGTH
            length = int.from_bytes(der[2:start], "big")
        yield der[0], der[start : start + length]
        der = der[start + length :]


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode()
    if tag == UTC_TIME:
        text = ("19" if text[:2] >= NINETEEN else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)

"""HTTP messages of the metrics server: requests by Gunicorn's parser, answers by hand.

Python's http.server would do both. With the mail parser that it brings it is as large
as prometheus_client, and Gunicorn's parser is in the master anyway.
"""

from typing import Any, NamedTuple

from gunicorn.config import Config
from gunicorn.http.errors import InvalidHTTPVersion, LimitRequestHeaders, LimitRequestLine
from gunicorn.http.parser import RequestParser
from gunicorn.util import http_date

__all__ = ["PLAIN", "Answer", "Request", "refusal", "understand", "word"]

PLAIN = {"Content-Type": "text/plain; charset=utf-8"}
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
STATUS_BY_ERROR = {InvalidHTTPVersion: 505, LimitRequestHeaders: 431, LimitRequestLine: 414}

_CONFIG = Config()


class Request(NamedTuple):
    """What a client asks for.

    Attributes:
        path: without the query.
        headers: by name in capital letters.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]


class Answer(NamedTuple):
    """What to send: status, body, and headers besides Content-Length."""

    status: int
    body: bytes
    headers: dict[str, str] = PLAIN


def understand(message: bytes) -> Request | Answer:
    """Return the request that lies complete in `message`, or the answer to what is none."""
    try:
        parsed: Any = next(RequestParser(_CONFIG, [message], ("", 0)))
    except Exception as error:
        return refusal(STATUS_BY_ERROR.get(type(error), 400))
    return Request(parsed.method, parsed.path, parsed.query or "", dict(parsed.headers))


def refusal(status: int) -> Answer:
    """Return an answer that says no more than its status."""
    return Answer(status, f"{REASONS[status]}\n".encode())


def word(answer: Answer, *, with_body: bool = True) -> bytes:
    """Return `answer` as it goes out, on a connection that is closed behind it."""
    headers = {
        "Server": "gunicorn-prom",
        "Date": http_date(),
        **answer.headers,
        "Content-Length": str(len(answer.body)),
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {answer.status} {REASONS[answer.status]}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + answer.body if with_body else head

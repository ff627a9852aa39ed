"""A WSGI application that answers, and fails, in every way that a server has to count."""

import contextlib
import errno
import io
import sys
import tempfile

CHUNK = bytes(65536)
BIG_BYTES = 32 << 20  # more than the buffers of both ends of a connection hold
FILE_BYTES = 100_000
SKIPPED_BYTES = 1_000


def make_file(size):
    """Return a file of that many zeros, which takes no space."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - FileWrapper closes it
    file.truncate(size)
    return file


def answer(start_response, body, status="200 OK"):
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def plain(environ, start_response):
    return answer(start_response, b"plain\n")


def stream(environ, start_response):
    start_response("200 OK", [])
    yield b"one, "
    yield b""
    yield b"two\n"


def with_status(environ, start_response):
    code = environ["PATH_INFO"].rpartition("/")[2]
    if code in {"204", "304"}:
        start_response(f"{code} Nothing", [])
        return []
    return answer(start_response, b"as asked for\n", f"{code} Whatever")


def echo(environ, start_response):
    return answer(start_response, environ["wsgi.input"].read(), "201 Created")


def unread(environ, start_response):
    return answer(start_response, b"too much\n", "413 Content Too Large")


def file(environ, start_response):
    start_response("200 OK", [("Content-Length", str(FILE_BYTES))])
    return environ["wsgi.file_wrapper"](make_file(FILE_BYTES))


def file_of_unsaid_length(environ, start_response):
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](make_file(FILE_BYTES))


def rest_of_file(environ, start_response):
    opened = make_file(FILE_BYTES)
    opened.seek(SKIPPED_BYTES)
    start_response("206 Partial Content", [("Content-Length", str(FILE_BYTES - SKIPPED_BYTES))])
    return environ["wsgi.file_wrapper"](opened)


def file_in_memory(environ, start_response):
    start_response("200 OK", [("Content-Length", "9")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"in memory"))


def big(environ, start_response):
    start_response("200 OK", [])
    return (CHUNK for _ in range(BIG_BYTES // len(CHUNK)))


def big_file(environ, start_response):
    start_response("200 OK", [("Content-Length", str(BIG_BYTES))])
    return environ["wsgi.file_wrapper"](make_file(BIG_BYTES))


def outlast(environ, start_response):
    """Have nothing to send any more when the client has gone, besides the last chunk."""
    start_response("200 OK", [])
    yield b"begun"
    with contextlib.suppress(ConnectionResetError):
        environ["gunicorn.socket"].recv(1)


def too_long(environ, start_response):
    """Send more than announced; Gunicorn keeps to what was announced."""
    start_response("200 OK", [("Content-Length", "4")])
    return [b"four", b" and more"]


def use_write(environ, start_response):
    write = start_response("200 OK", [])
    write(b"written, ")
    return [b"returned\n"]


def say_nothing(environ, start_response):
    return []


def start_again(environ, start_response):
    start_response("200 OK", [])
    try:
        raise RuntimeError("found out in time")
    except RuntimeError:
        start_response("500 Sorry", [("Content-Length", "6")], sys.exc_info())
    return [b"sorry\n"]


def start_again_late(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    try:
        raise RuntimeError("found out too late")
    except RuntimeError:
        start_response("500 Sorry", [], sys.exc_info())


def start_twice(environ, start_response):
    start_response("200 OK", [])
    start_response("200 OK", [])
    return [b"never sent"]


def fail(environ, start_response):
    """Raise an exception whose class is the last part of the path."""
    name = environ["PATH_INFO"].rpartition("/")[2]
    raise type(name, (Exception,), {})


def fail_before_first_chunk(environ, start_response):
    start_response("200 OK", [])
    if environ:
        raise LookupError("before the first chunk")
    yield b"never sent"


def fail_after_first_chunk(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    raise LookupError("after the first chunk")


def fail_within_length(environ, start_response):
    start_response("200 OK", [("Content-Length", "100")])
    yield b"begun"
    raise LookupError("before all of it was sent")


def yield_text(environ, start_response):
    start_response("200 OK", [])
    yield "not bytes"


class FailingClose:
    """A body whose close() fails after all of it was sent."""

    def __init__(self, body, error):
        self._body = body
        self._error = error

    def __iter__(self):
        return iter(self._body)

    def close(self):
        raise self._error


def fail_in_close(environ, start_response):
    return FailingClose(answer(start_response, b"whole\n"), ArithmeticError("in close"))


def fail_in_close_of_stream(environ, start_response):
    return FailingClose(stream(environ, start_response), ArithmeticError("in close"))


def os_error_in_close(environ, start_response):
    return FailingClose(stream(environ, start_response), OSError(errno.EIO, "in close"))


def fail_in_stream_and_close(environ, start_response):
    body = fail_after_first_chunk(environ, start_response)
    return FailingClose(body, ArithmeticError("in close"))


def os_error(environ, start_response):
    raise OSError(errno.EIO, "the disk of the application failed")


def os_error_after_first_chunk(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    raise OSError(errno.EIO, "the disk of the application failed")


def reset_elsewhere(environ, start_response):
    raise ConnectionResetError(errno.ECONNRESET, "the database went away")


def reset_elsewhere_after_first_chunk(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    raise ConnectionResetError(errno.ECONNRESET, "the database went away")


def stop_iteration(environ, start_response):
    raise StopIteration


def stop_iteration_after_write(environ, start_response):
    start_response("200 OK", [])(b"begun")
    raise StopIteration


class Alarm(BaseException):
    """What gevent's Timeout is, and what no `except Exception` catches."""


def leave(environ, start_response):
    raise SystemExit(1)


def leave_after_first_chunk(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    raise SystemExit(1)


def alarm(environ, start_response):
    raise Alarm


def alarm_after_first_chunk(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    raise Alarm


ROUTES = {
    "/plain": plain,
    "/stream": stream,
    "/echo": echo,
    "/unread": unread,
    "/file": file,
    "/file/unsaid": file_of_unsaid_length,
    "/file/rest": rest_of_file,
    "/file/memory": file_in_memory,
    "/big": big,
    "/big/file": big_file,
    "/outlast": outlast,
    "/too-long": too_long,
    "/write": use_write,
    "/nothing": say_nothing,
    "/start/again": start_again,
    "/start/late": start_again_late,
    "/start/twice": start_twice,
    "/fail/first": fail_before_first_chunk,
    "/fail/late": fail_after_first_chunk,
    "/fail/length": fail_within_length,
    "/fail/text": yield_text,
    "/fail/close": fail_in_close,
    "/fail/close/stream": fail_in_close_of_stream,
    "/fail/close/os": os_error_in_close,
    "/fail/twice": fail_in_stream_and_close,
    "/os": os_error,
    "/os/late": os_error_after_first_chunk,
    "/reset": reset_elsewhere,
    "/reset/late": reset_elsewhere_after_first_chunk,
    "/stop": stop_iteration,
    "/stop/late": stop_iteration_after_write,
    "/exit": leave,
    "/exit/late": leave_after_first_chunk,
    "/alarm": alarm,
    "/alarm/late": alarm_after_first_chunk,
}
PREFIXES = {"/status/": with_status, "/raise/": fail}


def find(path):
    for prefix, route in PREFIXES.items():
        if path.startswith(prefix):
            return route
    return ROUTES.get(path)


def app(environ, start_response):
    route = find(environ["PATH_INFO"])
    if route is None:
        return answer(start_response, b"not here\n", "404 Not Found")
    body = route(environ, start_response)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else body

"""What Gunicorn's own examples do with WSGI, one path for each of them."""

import logging
import sys
import tempfile
import time
from pathlib import Path
from wsgiref.validate import validator

from gunicorn import __version__

LARGE = b"x" * (1 << 20)
PAUSE_S = 0.05
kept = []

log = logging.getLogger(__name__)
log.addHandler(logging.StreamHandler())


def answer(start_response, body, *headers, status="200 OK"):
    start_response(status, [("Content-Length", str(len(body))), *headers])
    return iter([body])


@validator
def greet(environ, start_response):
    """Say what Gunicorn it is, with a header beyond ASCII."""
    headers = ("Content-Type", "text/plain"), ("X-Version", __version__), ("Name", "B\u00e5r")
    return answer(start_response, b"Good day\n", *headers)


def echo(environ, start_response):
    return answer(start_response, environ["wsgi.input"].read())


def lines(environ, start_response):
    """Read the body line by line, and give it back in chunks of the application's own asking."""
    start_response("200 OK", [("Transfer-Encoding", "chunked")])
    return iter(list(iter(environ["wsgi.input"].readline, b"")))


def file(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))


def drip(environ, start_response):
    """Begin, and wait in the middle of it."""
    print("asked", flush=True)
    start_response("200 OK", [("Transfer-Encoding", "chunked")])
    for part in (b"one\n", b"two\n"):
        yield part
        time.sleep(PAUSE_S)


def pause(environ, start_response):
    sys.stdout.write("waiting\n")
    time.sleep(PAUSE_S)
    return answer(start_response, b"at last\n")


def hang(environ, start_response):
    time.sleep(30)
    return answer(start_response, b"never\n")


def text(environ, start_response):
    """Leave files open, and answer with what is no bytes."""
    kept.append(tempfile.TemporaryFile())  # noqa: SIM115 - this is what it is for
    start_response("200 OK", [("Content-Length", "2")])
    return ["no"]


def logged(environ, start_response):
    """Log at every level, and say nothing of the length."""
    start_response("200 OK", [])
    for say in (log.debug, log.info, log.warning, log.error):
        say("said")
    return [b"logged\n"]


def host(environ, start_response):
    """Answer by the name of the host that is asked."""
    name = environ.get("HTTP_HOST", "").partition(":")[0]
    known = name in {"here", "there"}
    body = name.encode() if known else b""
    return answer(start_response, body, status="200 OK" if known else "404 Not Found")


def names(environ, start_response):
    """Tell what is in the environ, by name."""
    return answer(start_response, ",".join(sorted(environ)).encode())


def large(environ, start_response):
    return answer(start_response, LARGE)


def taken(environ, start_response):
    """Take the connection over, as WebSockets do it on gevent."""
    from gunicorn.workers.base_async import ALREADY_HANDLED

    connection = environ["gunicorn.socket"]
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: own\r\n\r\n")
    while said := connection.recv(100):
        connection.sendall(said.upper())
    return ALREADY_HANDLED


class Mounted:
    """An application of applications, by path."""

    def __init__(self, *apps):
        self._apps = {app.__name__: app for app in apps} | {"greet": greet}

    def __call__(self, environ, start_response):
        app = self._apps.get(environ["PATH_INFO"].strip("/"))
        if app is None:
            return answer(start_response, b"nothing here\n", status="404 Not Found")
        return app(environ, start_response)


app = Mounted(echo, lines, file, drip, pause, hang, text, logged, host, names, large, taken)


def load(word):
    """Return an application that is made for what the command line says."""

    def loaded(environ, start_response):
        return answer(start_response, b"Good day, %s\n" % word)

    return loaded


def from_paste(settings, **_):
    """Return the application as Paste asks for it."""
    return app

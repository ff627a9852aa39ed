"""A WSGI application without a framework."""

from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

DOWNLOAD = Path(__file__).with_name("README.md")
TEXT = ("Content-Type", "text/plain; charset=utf-8")

View = Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]
Route = tuple[tuple[str, ...], View]


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request."""
    allowed, view = find_route(environ["PATH_INFO"])
    if environ["REQUEST_METHOD"] not in allowed:
        return method_not_allowed(allowed, start_response)
    body = view(environ, start_response)
    return empty(body) if environ["REQUEST_METHOD"] == "HEAD" else body


def find_route(path: str) -> Route:
    """Return the methods of a path and the function that answers."""
    if path.startswith("/hello/"):
        return READ, hello
    return ROUTES.get(path, (READ, not_found))


def index(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Greet."""
    return text("Hello, world!\n", start_response)


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Greet by name."""
    # WSGI hands over the path's bytes as Latin-1.
    path = environ["PATH_INFO"].encode("latin-1").decode(errors="replace")
    return text(f"Hello, {path.removeprefix('/hello/')}!\n", start_response)


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Send the request's body back."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Send lines one by one; without a length, the server sends them in chunks."""
    start_response("200 OK", [TEXT])
    return (f"line {number}\n".encode() for number in range(10))


def download(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Hand a file to the server, which lets the kernel send it where it can."""
    start_response("200 OK", [TEXT, ("Content-Length", str(DOWNLOAD.stat().st_size))])
    wrapper: Callable[..., Iterable[bytes]] = environ["wsgi.file_wrapper"]
    return wrapper(DOWNLOAD.open("rb"))


def error(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Fail."""
    raise RuntimeError("this route always fails")


def not_found(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer for every other path."""
    return text("Not found.\n", start_response, HTTPStatus.NOT_FOUND)


def method_not_allowed(allowed: Iterable[str], start_response: StartResponse) -> Iterable[bytes]:
    """Name the methods that the path knows."""
    status = HTTPStatus.METHOD_NOT_ALLOWED
    return text("Method not allowed.\n", start_response, status, ("Allow", ", ".join(allowed)))


def text(
    content: str,
    start_response: StartResponse,
    status: HTTPStatus = HTTPStatus.OK,
    *headers: tuple[str, str],
) -> Iterable[bytes]:
    """Answer with a short text."""
    body = content.encode()
    length = ("Content-Length", str(len(body)))
    start_response(f"{status.value} {status.phrase}", [TEXT, length, *headers])
    return [body]


def empty(body: Iterable[bytes]) -> Iterable[bytes]:
    """Drop a body, as HEAD asks for, and what it holds open."""
    if close := getattr(body, "close", None):
        close()
    return []


READ = ("GET", "HEAD")
ROUTES: dict[str, Route] = {
    "/": (READ, index),
    "/echo": (("POST",), echo),
    "/stream": (READ, stream),
    "/download": (READ, download),
    "/error": (READ, error),
}

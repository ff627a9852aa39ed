"""The views of the example."""

from pathlib import Path

from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.views.decorators.http import require_POST, require_safe

DOWNLOAD = Path(__file__).parent.with_name("README.md")
TEXT = "text/plain; charset=utf-8"


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Greet."""
    return HttpResponse("Hello, world!\n", TEXT)


@require_safe
def hello(request: HttpRequest, name: str) -> HttpResponse:
    """Greet by name, as plain text: a browser must not take a name for markup."""
    return HttpResponse(f"Hello, {name}!\n", TEXT)


@require_POST
def echo(request: HttpRequest) -> HttpResponse:
    """Send the request's body back."""
    return HttpResponse(request.body, TEXT)


@require_safe
def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Send lines one by one."""
    lines = (f"line {number}\n" for number in range(10))
    return StreamingHttpResponse(lines, content_type=TEXT)


@require_safe
def download(request: HttpRequest) -> FileResponse:
    """Send a file."""
    return FileResponse(DOWNLOAD.open("rb"), as_attachment=True)


@require_safe
def error(request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise RuntimeError("this route always fails")

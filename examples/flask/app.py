"""A Flask application."""

from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, request, send_file

DOWNLOAD = Path(__file__).with_name("README.md")

app = Flask(__name__)


@app.get("/")
def index() -> Response:
    """Greet."""
    return text("Hello, world!\n")


@app.get("/hello/<name>")
def hello(name: str) -> Response:
    """Greet by name."""
    return text(f"Hello, {name}!\n")


@app.post("/echo")
def echo() -> Response:
    """Send the request's body back."""
    return text(request.get_data())


@app.get("/stream")
def stream() -> Response:
    """Send lines one by one."""
    return text(f"line {number}\n" for number in range(10))


@app.get("/download")
def download() -> Response:
    """Send a file."""
    return send_file(DOWNLOAD, as_attachment=True)


@app.get("/error")
def error() -> Response:
    """Fail."""
    raise RuntimeError("this route always fails")


def text(content: str | bytes | Iterator[str]) -> Response:
    """Answer with plain text: a browser must not take a name for markup."""
    return Response(content, mimetype="text/plain")

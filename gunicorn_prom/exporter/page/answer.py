"""The page as an HTTP answer: one file, with nothing to be loaded besides."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from gunicorn_prom.exporter.message import Answer
from gunicorn_prom.exporter.page.content import Document, body, head

__all__ = ["show"]

_FOLDER = Path(__file__).parent
TEMPLATE = (_FOLDER / "page.html").read_text()
STYLE = (_FOLDER / "page.css").read_text()
SCRIPT = (_FOLDER / "page.js").read_text()


def show(document: Document, metrics_path: str, host: str, *, is_fragment: bool) -> Answer:
    """Show a document.

    Args:
        document: as /status.json has it.
        metrics_path: where the metrics are.
        host: by which name the client knows this server.
        is_fragment: leave out what the page of the client has already.
    """
    top, content = head(document, host), body(document, metrics_path)
    if is_fragment:
        text = top + content
    else:
        text = TEMPLATE.format(head=top, style=STYLE, body=content, script=SCRIPT)
    # The path of a request may hold what no UTF-8 has.
    return Answer(200, text.encode(errors="replace"), HEADERS)


def _hash(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(STYLE)}",
            f"script-src {_hash(SCRIPT)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "Accept-Encoding",
}

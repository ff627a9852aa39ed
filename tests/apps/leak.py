"""An application that keeps memory for ever: 1 MB for each request that asks for it."""

MEGABYTE = 1_000_000

kept = []


def app(environ, start_response):
    if environ["PATH_INFO"] == "/leak":
        kept.append(b"\1" * MEGABYTE)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


async def asgi_app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    if scope["path"] == "/leak":
        kept.append(b"\1" * MEGABYTE)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})

"""What Gunicorn's own examples do with ASGI, one path for each of them."""

import hashlib
from urllib.parse import parse_qs


async def answer(send, body, *headers, status=200):
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def body_of(receive):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def greet(scope, receive, send):
    name = parse_qs(scope["query_string"].decode()).get("name", ["you"])[0]
    await answer(send, f"Good day, {name}\n".encode(), (b"content-type", b"text/plain"))


async def echo(scope, receive, send):
    await answer(send, await body_of(receive))


async def headers(scope, receive, send):
    shown = [name for name, _ in scope["headers"]]
    await answer(send, b"\n".join(shown))


async def names(scope, receive, send):
    """Tell what is in the scope, by name."""
    await answer(send, ",".join(sorted(scope)).encode())


async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in (b"one\n", b"two\n", b"three\n"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def priority(scope, receive, send):
    """Tell what HTTP/2 says of the stream's weight."""
    shown = scope.get("extensions", {}).get("http.response.priority")
    await answer(send, repr(sorted(shown) if shown else None).encode())


async def trailers(scope, receive, send):
    """Announce a checksum and send it behind the body."""
    body = b"to be checked\n"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"digest")]}
    await send(start | {"trailers": True})
    await send({"type": "http.response.body", "body": body})
    digest = hashlib.sha256(body).hexdigest().encode()
    await send({"type": "http.response.trailers", "headers": [(b"digest", digest)]})


PATHS = {app.__name__: app for app in (greet, echo, headers, names, stream, priority, trailers)}


async def live(receive, send):
    """Begin and end, as lifespan asks for it."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def talk(scope, receive, send):
    """Say again what comes over a WebSocket; refuse one at a path that is not known."""
    await receive()
    if scope["path"] != "/talk":
        await send({"type": "websocket.close", "code": 4004})
        return
    await send({"type": "websocket.accept", "subprotocol": "talk"})
    while (message := await receive())["type"] == "websocket.receive":
        said = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        await send({"type": "websocket.send", **said})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket":
        await talk(scope, receive, send)
    elif scope["path"].strip("/") in PATHS:
        await PATHS[scope["path"].strip("/")](scope, receive, send)
    else:
        await answer(send, b"nothing here\n", status=404)

"""An application that has functions of ours fail while it serves: WSGI as `app`, ASGI as `asgi`.

`/inject/NAME` makes one fail from the next request on, `/restore` puts it back; `/names` tells
which there are.
"""

import os

import injected

restores = []


def control(path):
    """Do what a path asks for; return the body of the answer, None for no such path."""
    action, _, name = path[1:].partition("/")
    if action == "names":
        return "\n".join(injected.functions(os.environ["WORKER_TYPE"]))
    if action == "restore":
        while restores:
            restores.pop()()
        return "restored"
    if action == "inject":
        restores.append(injected.inject(name, injected.functions(os.environ["WORKER_TYPE"])[name]))
        return "injected"
    return None


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise LookupError("asked for")
    body = control(path) or ("ok" if path == "/" else "")
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response("200 OK" if body else "404 Not Found", headers)
    return [body.encode()] if environ["REQUEST_METHOD"] != "HEAD" else []


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                injected.note_boot()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "hello"})
        await send({"type": "websocket.close"})
        return
    path = scope["path"]
    if path == "/fail":
        raise LookupError("asked for")
    body = control(path) or ("ok" if path == "/" else "")
    status = 200 if body else 404
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})

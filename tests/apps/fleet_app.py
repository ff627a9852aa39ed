"""An application for a fleet, as WSGI and as ASGI: its first path segment says what it does.

It does not import while there is a file `hold` in the server's directory.
"""

import asyncio
import os
import time
from pathlib import Path

while Path("hold").exists():
    time.sleep(0.02)


def wait(gate):
    """Yield pauses until the file `gate` appears in the server's directory."""
    while not Path(gate).exists():
        yield 0.02


def sleep(seconds):
    yield float(seconds)


def leave(code):
    os._exit(int(code))


def devour(_argument):
    """Use up all memory, and be the one to go for it."""
    Path("/proc/self/oom_score_adj").write_text("1000")
    held = []
    while True:
        held.append(b"\1" * (1 << 20))


PAUSES = {"wait": wait, "sleep": sleep, "leave": leave, "devour": devour}


def understood(path):
    """Return the route, the status and the pauses that a path asks for."""
    name, _, argument = path.strip("/").partition("/")
    if name in PAUSES:
        return f"/{name}/<argument>", 200, PAUSES[name](argument)
    if name == "route":
        return f"/route/{argument}", 200, ()
    return "/<status>", int(name or 200), ()


def app(environ, start_response):
    environ["gunicorn_prom.route"], status, pauses = understood(environ["PATH_INFO"])
    for pause in pauses:
        time.sleep(pause)
    start_response(f"{status} Whatever", [("Content-Length", "2")])
    return [b"ok"]


async def asgi_app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    scope["gunicorn_prom.route"], status, pauses = understood(scope["path"])
    for pause in pauses:
        await asyncio.sleep(pause)
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})

"""What Gunicorn's own examples do with dirty workers: calls, streams and the stash."""

import contextlib
import json

from gunicorn.dirty import get_dirty_client, get_dirty_client_async, stash
from gunicorn.dirty.app import DirtyApp

DESK = "example_dirty:Desk"
JOBS = ("double", "count", "remember", "recall", "unknown")


class Desk(DirtyApp):
    """Do what is asked for, and remember."""

    stashes = ("notes",)

    def __init__(self):
        self.factor = 0

    def init(self):
        self.factor = 2

    def __call__(self, action, *args, **kwargs):
        if action not in JOBS[:-1]:
            raise ValueError(f"no such job: {action}")
        return getattr(self, action)(*args, **kwargs)

    def double(self, number=21):
        return number * self.factor

    def count(self):
        yield from range(3)

    def remember(self):
        stash.put("notes", "word", {"said": "yes"})
        return stash.exists("notes", "word")

    def recall(self):
        return [stash.get("notes", key) for key in stash.keys("notes")]

    def close(self):
        self.factor = 0


def app(environ, start_response):
    job = environ["PATH_INFO"].strip("/")
    client = get_dirty_client()
    try:
        result = list(client.stream(DESK, job)) if job == "count" else client.execute(DESK, job)
        status = "200 OK"
    except Exception as error:
        result, status = type(error).__name__, "500 Sorry"
    body = json.dumps(result).encode()
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    job = scope["path"].strip("/")
    client = await get_dirty_client_async()
    status = 200
    try:
        if job == "count":
            result = [part async for part in client.stream_async(DESK, job)]
        else:
            result = await client.execute_async(DESK, job)
    except Exception as error:
        result, status = type(error).__name__, 500
    body = json.dumps(result).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    with contextlib.suppress(ConnectionError):
        await send({"type": "http.response.body", "body": body})

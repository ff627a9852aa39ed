"""An application whose requests never end, each stuck in another way."""

import asyncio
import itertools
import threading
import time


def sleep():
    time.sleep(600)  # asleep


def seize():
    """Keep the interpreter to one call in C: no handler in Python runs any more."""
    all(itertools.repeat(True))  # seized


def deadlock():
    """Wait for a thread that waits for us."""
    first, second = threading.Lock(), threading.Lock()
    has_second = threading.Event()

    def take_both():
        with second:
            has_second.set()
            with first:  # the other thread
                pass

    with first:
        threading.Thread(target=take_both, daemon=True).start()
        has_second.wait()
        with second:  # this thread
            pass


def spin():
    while True:
        sum(range(1000))  # spinning


def linger():
    time.sleep(599)  # lingering, where a greenlet sleeps so


def answer():
    pass


ANSWERS = {"": answer} | {f.__name__: f for f in (sleep, seize, deadlock, spin, linger)}


def app(environ, start_response):
    name = environ["PATH_INFO"].split("/")[1]
    environ["gunicorn_prom.route"] = f"/{name}/<rest>"
    secret = environ["QUERY_STRING"]
    ANSWERS[name]()
    start_response("200 OK", [("Content-Length", "0")])
    return [secret.encode()[:0]]


async def linger_async():
    await asyncio.sleep(599)  # suspended


async def asgi_app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    name = scope["path"].split("/")[1]
    scope["gunicorn_prom.route"] = f"/{name}/<rest>"
    if name == "linger":
        await linger_async()
    else:
        ANSWERS[name]()
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})

"""An ASGI application that answers, and fails, in every way that a server has to count."""

import asyncio
import contextlib
import itertools
import os
from pathlib import Path

CHUNK = bytes(65536)
BIG_BYTES = 32 << 20  # more than the buffers of both ends of a connection hold


def start(status=200, headers=()):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def part(body, *, more=True):
    return {"type": "http.response.body", "body": body, "more_body": more}


async def answer(send, body, status=200):
    await send(start(status, [(b"content-length", str(len(body)).encode())]))
    await send(part(body, more=False))


async def body_of(receive):
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError("the client has gone")
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def opened(gate):
    while not Path(gate).exists():
        await asyncio.sleep(0.02)


async def plain(scope, receive, send, _argument):
    await answer(send, b"plain\n")


async def pid(scope, receive, send, _argument):
    await answer(send, str(os.getpid()).encode())


async def stream(scope, receive, send, _argument):
    await send(start())
    for body in (b"one, ", b"", b"two\n"):
        await send(part(body))
    await send({"type": "http.response.body"})


async def with_status(scope, receive, send, code):
    if code in {"204", "304"}:
        await send(start(int(code)))
        await send(part(b"", more=False))
    else:
        await answer(send, b"as asked for\n", int(code))


async def echo(scope, receive, send, _argument):
    await answer(send, await body_of(receive), 201)


async def unread(scope, receive, send, _argument):
    await answer(send, b"too much\n", 413)


async def empty(scope, receive, send, _argument):
    await answer(send, b"")


async def state(scope, receive, send, _argument):
    await answer(send, scope["state"]["begun"].encode())


async def silent(scope, receive, send, _argument):
    """Return without a word."""


async def unfinished(scope, receive, send, _argument):
    await send(start())
    await send(part(b"part"))


async def headless(scope, receive, send, _argument):
    await send(start())


async def bodily(scope, receive, send, _argument):
    await send(part(b"no head", more=False))


async def garbled(scope, receive, send, _argument):
    await send(start(headers=[(b"name", b"a\r\nb")]))
    await send(part(b"", more=False))


async def again(scope, receive, send, _argument):
    await answer(send, b"once\n")
    with contextlib.suppress(RuntimeError):
        await answer(send, b"twice\n", 299)


ERRORS = {
    error.__name__: error
    for error in (ZeroDivisionError, ConnectionResetError, asyncio.CancelledError, SystemExit)
}


async def fail(scope, receive, send, name):
    raise ERRORS[name]("as asked for")


async def fail_late(scope, receive, send, name):
    await send(start())
    await send(part(b"part"))
    raise ERRORS[name]("as asked for")


async def fail_between(scope, receive, send, name):
    await send(start())
    raise ERRORS[name]("as asked for")


async def fail_behind(scope, receive, send, name):
    await answer(send, b"whole\n")
    raise ERRORS[name]("as asked for")


async def big(scope, receive, send, _argument):
    await send(start())
    for _ in range(BIG_BYTES // len(CHUNK)):
        await send(part(CHUNK))
    await send(part(b"", more=False))


async def outlast(scope, receive, send, _argument):
    """Send a part of the answer, and fail as the client goes."""
    await send(start())
    await send(part(b"part"))
    await body_of(receive)
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ConnectionAbortedError("the client has gone")


async def chatter(scope, receive, send, _argument):
    """Answer, and go on sending until the server says that nobody is there."""
    await answer(send, b"answered\n")
    await send_to_the_end(send, part(b"more"))


async def send_to_the_end(send, message, pause_s=0.02):
    try:
        while True:
            await send(message)
            await asyncio.sleep(pause_s)
    finally:
        Path("told").touch()


async def wait(scope, receive, send, gate):
    await opened(gate)
    await answer(send, b"waited\n")


async def background(scope, receive, send, gate):
    """Go on behind the answer."""
    await answer(send, b"answered\n")
    await opened(gate)


async def loop(scope, receive, send, _argument):
    await answer(send, type(asyncio.get_running_loop()).__module__.encode())


async def seize(scope, receive, send, _argument):
    """Keep the interpreter to this call: nothing else runs any more."""
    all(itertools.repeat(True))


ANSWERS = {
    "plain": plain,
    "pid": pid,
    "stream": stream,
    "status": with_status,
    "echo": echo,
    "unread": unread,
    "empty": empty,
    "state": state,
    "silent": silent,
    "unfinished": unfinished,
    "headless": headless,
    "bodily": bodily,
    "garbled": garbled,
    "again": again,
    "fail": fail,
    "fail-late": fail_late,
    "fail-between": fail_between,
    "fail-behind": fail_behind,
    "big": big,
    "outlast": outlast,
    "chatter": chatter,
    "wait": wait,
    "background": background,
    "loop": loop,
    "seize": seize,
}


async def nowhere(scope, receive, send, _argument):
    await answer(send, b"nowhere\n", 404)


async def lifespan(scope, receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            while Path("hold").exists():
                await asyncio.sleep(0.02)
            if Path("refuse").exists():
                await send({"type": "lifespan.startup.failed", "message": "refused"})
                return
            # A copy of it is in the scope of each request.
            scope["state"]["begun"] = f"{receive.__module__} {send.__module__}"
            await send({"type": "lifespan.startup.complete"})
        else:
            Path("ended").touch()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def websocket(scope, receive, send):
    """Say everything twice; /refuse says nothing, /break fails, /chatter and /babble only talk."""
    await receive()
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close"})
        return
    if scope["path"] == "/break":
        raise ValueError("there are no WebSockets here")
    await send({"type": "websocket.accept"})
    if scope["path"] == "/chatter":
        await send_to_the_end(send, {"type": "websocket.send", "text": "more"})
    if scope["path"] == "/babble":
        await send_to_the_end(send, {"type": "websocket.send", "text": "more"}, pause_s=0)
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 1000})
            return
        await send({"type": "websocket.send", "text": 2 * message["text"]})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    if scope["type"] == "websocket":
        return await websocket(scope, receive, send)
    name, _, argument = scope["path"].strip("/").partition("/")
    return await ANSWERS.get(name, nowhere)(dict(scope), receive, send, argument)


class TwoStages:
    """The same as ASGI 2 had it."""

    def __init__(self, scope):
        self._scope = scope

    async def __call__(self, receive, send):
        await app(self._scope, receive, send)

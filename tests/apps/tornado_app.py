"""A tornado application that answers, and fails, in every way that a server has to count."""

import asyncio
import os

import mix
from tornado.web import Application, FallbackHandler, HTTPError, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler
from tornado.wsgi import WSGIContainer

CHUNK = bytes(65536)


class Plain(RequestHandler):
    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, "PROPFIND")

    def get(self):
        self.finish(b"plain\n")

    head = post = propfind = get


class Stream(RequestHandler):
    async def get(self):
        for part in (b"one, ", b"two\n"):
            self.write(part)
            await self.flush()


class Echo(RequestHandler):
    def post(self):
        self.set_status(201)
        self.finish(self.request.body)


@stream_request_body
class Upload(RequestHandler):
    def initialize(self):
        self.received_bytes = 0

    async def data_received(self, chunk):
        self.received_bytes += len(chunk)

    def put(self):
        self.finish(f"{self.received_bytes}\n")


class Status(RequestHandler):
    def get(self, code):
        raise HTTPError(int(code))


class Item(RequestHandler):
    def get(self, number, name=""):
        self.finish(number)


class Fail(RequestHandler):
    def get(self):
        raise LookupError("before the answer")


class FailToBegin(RequestHandler):
    def initialize(self):
        raise LookupError("no handler")


class FailLate(RequestHandler):
    """End the answer all the same: tornado sends the end of a chunked one."""

    async def get(self):
        self.write(b"begun")
        await self.flush()
        raise LookupError("after the first chunk")


class FailWithinLength(RequestHandler):
    async def get(self):
        self.set_header("Content-Length", "100")
        self.write(b"begun")
        await self.flush()
        raise LookupError("before all of it was sent")


class FailWhenDone(RequestHandler):
    def get(self):
        self.finish(b"whole\n")
        raise LookupError("after the answer")


class HandleItself(RequestHandler):
    def get(self):
        try:
            raise LookupError("caught")
        except LookupError:
            self.set_status(503)
            self.finish(b"sorry\n")


class Big(RequestHandler):
    async def get(self):
        for _ in range(512):
            self.write(CHUNK)
            await self.flush()


class Wait(RequestHandler):
    """Answer when a file is there whose name is in the query, however the client does."""

    async def get(self):
        while not os.path.exists(self.get_query_argument("for")):
            await asyncio.sleep(0.01)
        self.finish(b"waited\n")


class Socket(WebSocketHandler):
    def on_message(self, message):
        self.write_message(message)


app = Application(
    [
        (r"/plain", Plain),
        (r"/stream", Stream),
        (r"/echo", Echo),
        (r"/upload", Upload),
        (r"/status/([0-9]+)", Status),
        (r"/items/([0-9]+)", Item),
        (r"/items/(?P<number>[0-9]+)/(?P<name>[a-z]+)", Item),
        (r"/fail", Fail),
        (r"/fail/begin", FailToBegin),
        (r"/fail/late", FailLate),
        (r"/fail/length", FailWithinLength),
        (r"/fail/done", FailWhenDone),
        (r"/handled", HandleItself),
        (r"/big", Big),
        (r"/wait", Wait),
        (r"/socket", Socket),
        (r"/start/again", FallbackHandler, {"fallback": WSGIContainer(mix.app)}),
    ]
)

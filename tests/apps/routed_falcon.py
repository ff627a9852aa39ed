"""Falcon applications with all kinds of routes: WSGI and ASGI."""

import falcon
import falcon.asgi


class Item:
    def on_get(self, request, response, number):
        response.text = str(number)


class AsyncItem:
    async def on_get(self, request, response, number):
        response.text = str(number)


class Broken:
    def on_get(self, request, response, number):
        raise LookupError(number)


def pass_on(request, response, error, params):
    raise error


def sink(request, response, **params):
    response.text = "sink"


app = falcon.App()
app.add_route("/items/{number:int}", Item())
app.add_route("/items/{number:int}/broken", Broken())
app.add_error_handler(LookupError, pass_on)
app.add_sink(sink, "/sink")

asgi = falcon.asgi.App()
asgi.add_route("/items/{number:int}", AsyncItem())

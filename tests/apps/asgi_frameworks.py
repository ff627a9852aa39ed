"""ASGI applications of real frameworks, each made by a function of its name."""

from pathlib import Path

CHUNKS = [b"chunk " * 100] * 50


def make_fastapi():
    from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket

    app = FastAPI()

    @app.get("/items/{number}")
    async def item(number: int):
        if number > 100:
            raise HTTPException(404)
        return {"number": number}

    @app.post("/items")
    def add(item: dict[str, int]):
        return item

    @app.get("/fail")
    async def fail():
        raise ZeroDivisionError

    @app.get("/later")
    async def later(tasks: BackgroundTasks):
        tasks.add_task(Path("later").touch)
        return "now"

    @app.websocket("/echo")
    async def echo(socket: WebSocket):
        await socket.accept()
        while True:
            await socket.send_text(await socket.receive_text())

    return app


def make_starlette():
    import asyncio

    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.responses import FileResponse, StreamingResponse
    from starlette.routing import Route

    async def chunks():
        for chunk in CHUNKS:
            yield chunk
            await asyncio.sleep(0)

    async def endless():
        while True:
            yield CHUNKS[0]
            await asyncio.sleep(0)

    async def stream(request):
        return StreamingResponse(chunks())

    async def forever(request):
        return StreamingResponse(endless())

    async def file(request):
        return FileResponse(__file__)

    async def passed_on(request, call_next):
        return await call_next(request)

    return Starlette(
        routes=[
            Route("/stream", stream),
            Route("/forever", forever),
            Route("/file", file),
        ],
        middleware=[
            Middleware(BaseHTTPMiddleware, dispatch=passed_on),
            Middleware(GZipMiddleware),
        ],
    )


def make_django():
    from django.conf import settings
    from django.core.asgi import get_asgi_application

    settings.ALLOWED_HOSTS = ["*"]
    return get_asgi_application()


def make_datasette():
    from datasette.app import Datasette

    return Datasette([], memory=True).app()

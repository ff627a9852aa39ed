"""Starlette and FastAPI applications in one another, with all kinds of routes and mounts."""

import warnings

from fastapi import APIRouter, FastAPI
from routed_django import asgi as django_app
from routed_flask import app as flask_app
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette.staticfiles import StaticFiles

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.middleware.wsgi import WSGIMiddleware


async def answer(request):
    return PlainTextResponse("yes")


async def own(request):
    request.scope["gunicorn_prom.route"] = "/own/{name}"
    return PlainTextResponse("yes")


async def broken(request):
    raise LookupError(request.path_params)


class CopiesScope:
    """Stand for middleware that hands on a scope of its own."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(dict(scope), receive, send)


items = APIRouter(prefix="/items")
parts = APIRouter(prefix="/{item_id}/parts")


@items.get("")
async def list_items():
    return []


@items.get("/{item_id}")
def item(item_id: int):
    return item_id


@parts.get("/{part_id}")
async def part(item_id: int, part_id: int):
    return part_id


items.include_router(parts)

fast = FastAPI()
fast.include_router(items)
fast.include_router(items, prefix="/again")


@fast.get("/files/{name:path}")
async def file(name: str):
    return name


@fast.get("/broken/{name}")
async def fail(name: str):
    raise LookupError(name)


fast.mount("/sub", Starlette(routes=[Route("/{name}", answer)]))

tenant = [
    Route("/users/{user_id:int}", answer, methods=["GET"]),
    Route("/broken", broken),
    Mount("/fast", fast),
]

app = Starlette(
    routes=[
        Route("/", answer),
        Route("/own/{name}", own),
        Route("/folder/", answer),
        Mount("/tenants/{tenant}", routes=tenant),
        Mount("/copied", Starlette(routes=tenant, middleware=[Middleware(CopiesScope)])),
        Mount("/static", StaticFiles(directory=".")),
        Mount("/flask", WSGIMiddleware(flask_app)),
        Mount("/django", django_app),
        Host("api.test", Starlette(routes=[Route("/host/{name}", answer)])),
    ]
)

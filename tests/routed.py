"""What is asked of the applications tests/apps/routed_*.py, and the route of each request."""

from gunicorn_prom.keys import UNMATCHED

Cases = list[tuple[str, str]]


def below(path: str, template: str, cases: Cases) -> Cases:
    """Return what is to be found when the application is mounted there."""
    return [
        (path + inner, route if route == UNMATCHED else template + route) for inner, route in cases
    ]


FLASK = [
    ("/", "/"),
    ("/users/7", "/users/<int:user_id>"),
    ("/users/7/posts/hello", "/users/<int:user_id>/posts/<slug>"),
    ("/users/7/posts/hello/broken", "/users/<int:user_id>/posts/<slug>/broken"),
    ("/static/routed_flask.py", "/static/<path:filename>"),
    ("/static/nothing", "/static/<path:filename>"),
    ("/folder/", "/folder/"),
    ("/folder", UNMATCHED),
    ("/nowhere", UNMATCHED),
    ("/early", UNMATCHED),
    ("/v1/users/7", "/v1/users/<int:user_id>"),
    ("/v1/", "/v1/"),
    ("/v1", UNMATCHED),
    ("/v1/nowhere", UNMATCHED),
    ("/v12/nowhere", UNMATCHED),
    ("/metrics", "/metrics"),
    ("/metrics/more", "/metrics"),
    ("/deep/er/users/7", "/deep/er/users/<int:user_id>"),
    ("/deep/down", "/deep"),
    ("/own/template", "/own/{name}"),
    ("/own/number", "/own/<name>"),
    ("/own/nothing", "/own/<name>"),
    ("/own/none", "/own/<name>"),
]
DJANGO = [
    ("/", "/"),
    ("/blog/articles/2026/", "/blog/articles/<int:year>/"),
    ("/blog/articles/2026/broken/", "/blog/articles/<int:year>/broken/"),
    ("/blog/articles/a-slug", "/blog/articles/(?P<slug>[a-z-]+)$"),
    ("/archive/2026/", "/archive/(?P<year>[0-9]{4})/$"),
    ("/archive/2026", UNMATCHED),
    ("/nowhere", UNMATCHED),
]
BOTTLE = [
    ("/", "/"),
    ("/items/7", "/items/<number:int>"),
    ("/items/7/broken", "/items/<number:int>/broken"),
    ("/merged/items/7", "/merged/items/<number:int>"),
    ("/wrapped/things/x", "/wrapped/things/<name>"),
    ("/wrapped/nowhere", UNMATCHED),
    ("/plain/anything/at/all", "/plain"),
    ("/nowhere", UNMATCHED),
]
FALCON = [
    ("/items/7", "/items/{number:int}"),
    ("/items/7/broken", "/items/{number:int}/broken"),
    ("/sink/x", UNMATCHED),
    ("/nowhere", UNMATCHED),
]
WSGI = [
    ("routed_flask:mounted", FLASK),
    ("routed_django:app", DJANGO),
    ("routed_bottle:app", BOTTLE),
    ("routed_falcon:app", FALCON),
]

FASTAPI = [
    ("/items", "/items"),
    ("/items/7", "/items/{item_id}"),
    ("/items/x", "/items/{item_id}"),
    ("/items/7/parts/8", "/items/{item_id}/parts/{part_id}"),
    ("/again/items/7", "/again/items/{item_id}"),
    ("/again/items/7/parts/8", "/again/items/{item_id}/parts/{part_id}"),
    ("/files/a/b/c", "/files/{name:path}"),
    ("/broken/7", "/broken/{name}"),
    ("/sub/x", "/sub/{name}"),
    ("/sub/x/y", UNMATCHED),
    ("/docs", "/docs"),
    ("/nowhere", UNMATCHED),
]
TENANT = [
    ("/users/7", "/users/{user_id:int}"),
    ("/broken", "/broken"),
    ("/nowhere", UNMATCHED),
    *below("/fast", "/fast", FASTAPI),
]
STARLETTE = [
    ("/", "/"),
    ("/own/x", "/own/{name}"),
    ("/folder", UNMATCHED),
    ("/static/routed_asgi.py", "/static"),
    ("/static/nothing", "/static"),
    ("/nowhere", UNMATCHED),
    *below("/tenants/acme", "/tenants/{tenant}", TENANT),
    *below("/copied", "/copied", TENANT),
    *below("/flask", "/flask", [("/users/7", "/users/<int:user_id>"), ("/nowhere", UNMATCHED)]),
    *below("/django", "/django", DJANGO),
]
ASGI = [
    ("routed_django:asgi", DJANGO),
    ("routed_falcon:asgi", [FALCON[0], FALCON[-1]]),
    ("routed_asgi:fast", FASTAPI),
    ("routed_asgi:app", STARLETTE),
]

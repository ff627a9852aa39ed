"""Every framework tells the route of a request, by its own template."""

import asyncio
import contextlib
import gc
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from gunicorn_prom.instrument import routes
from gunicorn_prom.instrument.record import Recorder
from gunicorn_prom.instrument.routes import HOLDER, noted, watch_routes
from gunicorn_prom.keys import MAX_LABEL_LENGTH, OTHER, ROUTES, UNMATCHED
from tests.routed import ASGI, WSGI, Cases
from tests.support import APPS
from tests.unit.boards import opened, start_worker

# Django before 6 leaves the body of a request open when its view fails.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.Spooled:ResourceWarning")

FindRoute = Callable[[dict[str, Any]], str]


def flattened(apps: list[tuple[str, Cases]]) -> list[Any]:
    """Return a parameter set for each request."""
    return [
        pytest.param(app, path, route, id=f"{app} {path}")
        for app, cases in apps
        for path, route in cases
    ]


@pytest.fixture(scope="module")
def failures() -> list[BaseException]:
    """What was reported as our own failure by the tests of this module."""
    return []


@pytest.fixture(scope="module")
def find_route(failures: list[BaseException]) -> Iterator[FindRoute]:
    """Find routes in the applications of tests/apps; take the patches away in the end."""
    with pytest.MonkeyPatch.context() as patching:
        patching.syspath_prepend(APPS)
        for name in ("flask", "django", "bottle", "falcon", "asgi"):
            importlib.import_module(f"routed_{name}")
        for patch in routes._PATCHES:
            if patch.module in sys.modules:
                owner = routes._owner(sys.modules[patch.module], patch)
                patching.setattr(owner, patch.name, getattr(owner, patch.name))
        yield watch_routes(failures.append)
    gc.collect()  # what Django has left open, while it may warn


@pytest.fixture(autouse=True)
def no_failures(failures: list[BaseException]) -> Iterator[None]:
    """Fail a test in which something of ours has failed."""
    yield
    assert failures == []


def app_of(name: str) -> Any:
    """Return an application of tests/apps, by `module:name`."""
    module, _, app = name.partition(":")
    return getattr(sys.modules[module], app)


def environ_of(path: str, method: str = "GET", **more: str) -> dict[str, Any]:
    """Return the environ of a request as a server makes it."""
    environ: dict[str, Any] = {
        "PATH_INFO": path,
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        **more,
    }
    setup_testing_defaults(environ)
    return environ


def call_wsgi(app: Any, environ: dict[str, Any]) -> None:
    """Call a WSGI application as a server does, whatever it raises."""
    environ["wsgi.errors"] = sys.stderr
    with contextlib.suppress(LookupError):
        body = app(environ, lambda *_: BytesIO().write)
        list(body)
        getattr(body, "close", lambda: None)()


def call_asgi(app: Any, path: str, method: str = "GET", host: str = "test") -> dict[str, Any]:
    """Call an ASGI application as our seam does, and return what it hands to the recorder."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", host.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    scope[HOLDER] = {}
    received = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in received:
            return message
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        pass

    async def call() -> None:
        with contextlib.suppress(LookupError):
            await asyncio.wait_for(app(scope, receive, send), 10)

    asyncio.run(call())
    return noted(scope)


@pytest.mark.parametrize(("app", "path", "route"), flattened(WSGI))
def test_a_wsgi_application(find_route: FindRoute, app: str, path: str, route: str) -> None:
    """The route is the template as it stands in the source, below those of the mounts."""
    environ = environ_of(path)
    call_wsgi(app_of(app), environ)
    assert find_route(environ) == route


@pytest.mark.parametrize(("app", "path", "route"), flattened(ASGI))
def test_an_asgi_application(find_route: FindRoute, app: str, path: str, route: str) -> None:
    """The route is found through mounts, included routers and copies of the scope."""
    assert find_route(call_asgi(app_of(app), path)) == route


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_a_method_that_flask_adds(find_route: FindRoute, method: str) -> None:
    """HEAD and OPTIONS belong to the route that Flask answers them for."""
    environ = environ_of("/users/7", method)
    call_wsgi(app_of("routed_flask:app"), environ)
    assert find_route(environ) == "/users/<int:user_id>"


@pytest.mark.parametrize(
    ("app", "path", "route"),
    [
        ("routed_flask:app", "/users/7", UNMATCHED),
        ("routed_bottle:app", "/items/7", UNMATCHED),
        ("routed_falcon:app", "/items/7", "/items/{number:int}"),
        ("routed_django:app", "/archive/2026/", "/archive/(?P<year>[0-9]{4})/$"),
    ],
)
def test_a_method_that_is_not_allowed(
    find_route: FindRoute, app: str, path: str, route: str
) -> None:
    """A request refused with 405 has a route where the framework looks at the path first."""
    environ = environ_of(path, "DELETE")
    call_wsgi(app_of(app), environ)
    assert find_route(environ) == route


def test_a_method_that_starlette_does_not_allow(find_route: FindRoute) -> None:
    """A request that Starlette refuses with 405 has the route that has the path."""
    environ = call_asgi(app_of("routed_asgi:app"), "/tenants/acme/users/7", "DELETE")
    assert find_route(environ) == "/tenants/{tenant}/users/{user_id:int}"


def test_a_host_of_its_own(find_route: FindRoute) -> None:
    """A route below a Host has no host in it."""
    environ = call_asgi(app_of("routed_asgi:app"), "/host/x", host="api.test")
    assert find_route(environ) == "/host/{name}"


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_script_names_of_others_are_left_out(find_route: FindRoute, prefix: str) -> None:
    """What a server or a proxy says of SCRIPT_NAME is no part of the route."""
    environ = environ_of(
        f"{prefix}/users/7", SCRIPT_NAME="/scanned/1", HTTP_X_FORWARDED_PREFIX="/scanned/2"
    )
    call_wsgi(app_of("routed_flask:mounted"), environ)
    assert find_route(environ) == f"{prefix}/users/<int:user_id>"


def patched(patch: Any) -> Any:
    """Return what stands now where a framework was patched, None where it is not there."""
    module = sys.modules.get(patch.module)
    return module and getattr(routes._owner(module, patch), patch.name)


def test_an_application_behind_a_bridge(failures: list[BaseException]) -> None:
    """A route is found across a2wsgi, in both directions, and from the inside too."""
    a2wsgi = pytest.importorskip("a2wsgi")
    find_route = watch_routes(failures.append)
    flask, inside = app_of("routed_flask:app"), []

    def seen(environ: dict[str, Any], start_response: Any) -> Any:
        inside.append(environ)
        return flask(environ, start_response)

    assert find_route(call_asgi(a2wsgi.WSGIMiddleware(seen), "/users/7")) == "/users/<int:user_id>"
    assert find_route(noted(inside[0])) == "/users/<int:user_id>"
    environ = environ_of("/tenants/acme/users/7", SERVER_PROTOCOL="HTTP/1.1")
    call_wsgi(a2wsgi.ASGIMiddleware(app_of("routed_asgi:app")), environ)
    assert find_route(environ) == "/tenants/{tenant}/users/{user_id:int}"


def test_a_second_look_changes_nothing(
    find_route: FindRoute, failures: list[BaseException]
) -> None:
    """However often it is asked for, each framework is patched once."""
    before = [patched(patch) for patch in routes._PATCHES]
    watch_routes(failures.append)
    assert before == [patched(patch) for patch in routes._PATCHES]


@pytest.mark.usefixtures("find_route")
@pytest.mark.parametrize("patch", routes._PATCHES, ids=lambda patch: f"{patch.module}.{patch.name}")
def test_a_patched_method_looks_as_before(patch: Any) -> None:
    """What is patched has the signature, the name and the kind that it had."""
    method = patched(patch)
    if method is None:
        pytest.skip(f"{patch.module} is not installed")
    original = method.__wrapped__
    assert inspect.signature(method) == inspect.signature(original)
    assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(original)
    assert method.__qualname__ == original.__qualname__


@pytest.mark.parametrize("given", [7, "", None, b"/x", ["/x"]])
def test_what_is_no_template_is_passed_over(find_route: FindRoute, given: object) -> None:
    """Something else than a string, or an empty one, does not stand for a route."""
    assert find_route({"gunicorn_prom.route": given}) == UNMATCHED


def framework(module: ModuleType, find: Callable[..., Any]) -> None:
    """Make `module` a framework that is known, and whose one method is `find`."""
    module.__dict__["App"] = type("App", (), {"_get_responder": find})


def test_without_a_framework_nothing_is_counted_by_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application of no known framework has the routes that it tells itself."""
    monkeypatch.setattr(routes, "sys", SimpleNamespace(modules={}))
    find_route = watch_routes(lambda failure: None)
    assert find_route({}) == ""
    assert find_route({"gunicorn_prom.route": "/mine"}) == "/mine"
    assert find_route(noted({"gunicorn_prom.route": "/mine"})) == "/mine"


def test_a_framework_that_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework that the first request imports is known from then on."""
    modules: dict[str, ModuleType] = {}
    monkeypatch.setattr(routes, "sys", SimpleNamespace(modules=modules))
    find_route = watch_routes(lambda failure: None)
    late = ModuleType("falcon.app")
    framework(late, lambda app, request: (None, {}, None, "/late"))
    modules["falcon.app"] = late
    environ: dict[str, Any] = {}
    assert find_route(environ) == UNMATCHED
    late.__dict__["App"]()._get_responder(SimpleNamespace(env=environ))
    assert find_route(environ) == "/late"


def test_a_framework_that_has_changed_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework that is not as we know it is reported and does what it does without us."""
    reported: list[BaseException] = []
    changed, strange = ModuleType("falcon.app"), ModuleType("bottle")
    framework(changed, lambda app, request: 7)
    monkeypatch.setattr(
        routes, "sys", SimpleNamespace(modules={"falcon.app": changed, "bottle": strange})
    )
    watch_routes(reported.append)
    assert [type(failure) for failure in reported] == [AttributeError]
    assert changed.__dict__["App"]()._get_responder(SimpleNamespace(env={})) == 7
    assert [type(failure) for failure in reported[1:]] == [TypeError]


def test_an_exception_of_the_framework_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a patched method raises comes through, and its request is unmatched."""
    reported: list[BaseException] = []
    error = LookupError("framework's own")

    def fail(app: Any, request: Any) -> None:
        raise error

    module = ModuleType("falcon.app")
    framework(module, fail)
    monkeypatch.setattr(routes, "sys", SimpleNamespace(modules={"falcon.app": module}))
    find_route = watch_routes(reported.append)
    environ: dict[str, Any] = {"gunicorn_prom.found_route": "/outer"}
    with pytest.raises(LookupError) as raised:
        module.__dict__["App"]()._get_responder(SimpleNamespace(env=environ))
    assert raised.value is error
    assert find_route(environ) == UNMATCHED
    assert reported == []


def test_raw_paths_as_routes_are_bounded(tmp_path: Path) -> None:
    """An application that gives every path as its route fills a table and no more."""
    with opened(tmp_path) as board:
        slot = start_worker(board, 0, 1)
        recorder = Recorder(slot)
        recorder.find_route = watch_routes(lambda failure: None)
        for number in range(2 * ROUTES.cap):
            environ = {"gunicorn_prom.route": f"/{number}/" + "x" * 5000}
            recorder.record(recorder.begin("GET", "/"), "GET", 200, environ, 0)
        overflow = slot.cells[slot.counters + slot.layout.overflow[ROUTES.name]]
        assert overflow == ROUTES.cap
        _, known = recorder._rows["GET"][200]
        assert len(known) == len(slot._known[ROUTES.name]) == ROUTES.cap
        assert max(map(len, known)) == MAX_LABEL_LENGTH
        assert len(board.keys.keys(ROUTES)) == ROUTES.cap + 1
        assert board.keys.keys(ROUTES)[0] == (OTHER,) * 3
        assert (tmp_path / "keys").stat().st_size < 2 * ROUTES.cap * MAX_LABEL_LENGTH

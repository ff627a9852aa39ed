"""The route of a request, as the framework's own template: `/users/<int:id>`.

When the application has been loaded, the frameworks that it has imported are made to note
the route which they find for a request. Each has one method for that; it is wrapped, once in
a process, and nothing of a framework is imported here.

What is noted stands in the environ of a WSGI application. The scope of an ASGI application
is often copied on its way, so there it stands in a dict under HOLDER that copies share; who
hands the scope to the application puts it there.
"""

import functools
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from types import ModuleType
from typing import Any, NamedTuple

from gunicorn_prom.keys import MAX_LABEL_LENGTH, UNMATCHED

__all__ = ["FOUND", "GIVEN", "HOLDER", "noted", "watch_routes"]

# Set by the application itself; wins over what its framework found.
GIVEN = "gunicorn_prom.route"
FOUND = "gunicorn_prom.found_route"
# The templates of the mounts on the way to the application that looks for the route.
MOUNT = "gunicorn_prom.mount"
HOLDER = "gunicorn_prom"

MARK = "gunicorn_prom_route"

Place = MutableMapping[str, Any]
Method = Callable[..., Any]
Report = Callable[[BaseException], None]

_patching = threading.Lock()


def watch_routes(
    report: Report, note_framework: Callable[[], None] = lambda: None
) -> Callable[[Mapping[str, Any]], str]:
    """Make the imported frameworks note routes; return what finds the route of an environ.

    A framework that is imported later, by the first request perhaps, is seen after the
    next request for which no route was noted.

    Args:
        report: called when a framework is not as it is known here.
        note_framework: called when there is one that notes routes.

    Returns:
        A function of the environ of a request, of what is `noted` if it is ASGI's. It
        returns the template, UNMATCHED if the framework has none, and "" if there is no
        framework.
    """
    modules = sys.modules
    otherwise, looked_at = "", 0

    def look() -> None:
        nonlocal otherwise, looked_at
        looked_at = len(modules)
        otherwise = UNMATCHED if _patch_all(report) else ""
        if otherwise:
            note_framework()

    look()

    def find_route(environ: Mapping[str, Any]) -> str:
        if GIVEN in environ:
            given = environ[GIVEN]
            if given and isinstance(given, str):
                # It may be any path; whoever remembers it is to remember little.
                return given[:MAX_LABEL_LENGTH]
        if FOUND in environ:
            found: str = environ[FOUND]
            return found
        if looked_at != len(modules):
            look()
        return otherwise

    return find_route


def noted(place: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands of the route in a scope, or in an environ made of one."""
    found = {}
    if GIVEN in place:
        found[GIVEN] = place[GIVEN]
    notes = place.get(HOLDER, place)
    if FOUND in notes:
        found[FOUND] = notes[FOUND]
    return found


def _note_route(place: Place, route: Any) -> None:
    notes = place.get(HOLDER, place)
    if not isinstance(route, str):
        notes[FOUND] = UNMATCHED
        return
    if route[:1] != "/":
        route = f"/{route}"
    notes[FOUND] = notes[MOUNT] + route if MOUNT in notes else route


def _note_mount(place: Place, template: str) -> None:
    """Note that the request goes on to what is mounted there, and that this is all we know."""
    notes = place.get(HOLDER, place)
    mount = notes[MOUNT] = notes.get(MOUNT, "") + template.rstrip("/")
    notes[FOUND] = mount or "/"


# What is noted when a method has returned, or raised: then its result is None.


def _note_flask(result: None, context: Any) -> None:
    rule = context.request.url_rule
    _note_route(context.request.environ, rule.rule if rule is not None else None)


def _note_django(match: Any, handler: Any, request: Any) -> None:
    # What include() joins has lost its "^" already.
    route = match.route.removeprefix("^") if match is not None else None
    environ = getattr(request, "environ", None)
    _note_route(request.scope if environ is None else environ, route)


def _note_falcon(found: Any, app: Any, request: Any) -> None:
    scope = getattr(request, "scope", None)
    template = found[3] if found is not None else None
    _note_route(request.env if scope is None else scope, template)


def _note_bottle(found: Any, router: Any, environ: Place) -> None:
    route = found[0] if found is not None else None
    prefix = route.config.get("mountpoint.prefix") if route is not None else None
    if prefix is not None:
        _note_mount(environ, prefix)
    else:
        _note_route(environ, route.rule if route is not None else None)


def _note_bridge(inner: Any, outer: Place, *_: Any) -> None:
    if inner is not None:
        inner[HOLDER] = outer.get(HOLDER, outer)


# What is noted before a method is called.


def _note_dispatcher(dispatcher: Any, environ: Place, *_: Any) -> None:
    # Not by SCRIPT_NAME, to which proxies contribute.
    path = environ.get("PATH_INFO", "")
    while path and path not in dispatcher.mounts:
        path = path.rpartition("/")[0]
    if path:
        _note_mount(environ, path)


def _note_starlette(route: Any, scope: Place, *_: Any) -> None:
    _note_route(scope, route.path)


def _after(note: Method, method: Method, report: Report) -> Method:
    @functools.wraps(method)
    def noting(*args: Any, **kwargs: Any) -> Any:
        result = None
        try:
            result = method(*args, **kwargs)
        finally:
            try:
                note(result, *args, **kwargs)
            except Exception as failure:
                report(failure)
        return result

    return noting


def _before(note: Method, method: Method, report: Report) -> Method:
    @functools.wraps(method)
    def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            note(*args, **kwargs)
        except Exception as failure:
            report(failure)
        return method(*args, **kwargs)

    return noting


def _before_awaiting(note: Method, method: Method, report: Report) -> Method:
    @functools.wraps(method)
    async def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            note(*args, **kwargs)
        except Exception as failure:
            report(failure)
        return await method(*args, **kwargs)

    return noting


def _before_fastapi(_: Any, handle: Method, report: Report) -> Method:
    # Where include_router() does not copy the route, the template with the prefix is here.
    module = sys.modules["fastapi.routing"]
    find_context = getattr(module, "_get_scope_effective_route_context", lambda scope: None)

    def note(route: Any, scope: Place, *_: Any) -> None:
        context = find_context(scope)
        is_included = context is not None and context.original_route is route
        _note_starlette(context if is_included else route, scope)

    return _before_awaiting(note, handle, report)


def _around_mount(_: Any, handle: Method, report: Report) -> Method:
    @functools.wraps(handle)
    async def noting(mount: Any, scope: Place, *args: Any, **kwargs: Any) -> Any:
        notes, outer = None, ""
        try:
            notes = scope.get(HOLDER, scope)
            outer = notes.get(MOUNT, "")
            _note_mount(scope, mount.path)
            if mount.routes:
                del notes[FOUND]
        except Exception as failure:
            report(failure)
        try:
            return await handle(mount, scope, *args, **kwargs)
        finally:
            if notes is not None:
                notes[MOUNT] = outer

    return noting


class _Patch(NamedTuple):
    """A function of a framework that knows the route.

    Attributes:
        owners: classes that may have it, the first is taken; none: the module.
    """

    module: str
    owners: tuple[str, ...]
    name: str
    wrap: Callable[[Any, Method, Report], Method]
    note: Any = None


_PATCHES = (
    # From Flask 3.2 on the context of a request is that of the application.
    _Patch("flask.ctx", ("RequestContext", "AppContext"), "match_request", _after, _note_flask),
    _Patch("django.core.handlers.base", ("BaseHandler",), "resolve_request", _after, _note_django),
    _Patch("falcon.app", ("App",), "_get_responder", _after, _note_falcon),
    _Patch("bottle", ("Router",), "match", _after, _note_bottle),
    _Patch("starlette.routing", ("Route",), "handle", _before_awaiting, _note_starlette),
    _Patch("starlette.routing", ("Mount",), "handle", _around_mount),
    _Patch("fastapi.routing", ("APIRoute",), "handle", _before_fastapi),
    _Patch("starlette.middleware.wsgi", (), "build_environ", _after, _note_bridge),
    _Patch("a2wsgi.wsgi", (), "build_environ", _after, _note_bridge),
    _Patch("a2wsgi.asgi", (), "build_scope", _after, _note_bridge),
    _Patch(
        "werkzeug.middleware.dispatcher",
        ("DispatcherMiddleware",),
        "__call__",
        _before,
        _note_dispatcher,
    ),
)


def _patch_all(report: Report) -> bool:
    """Make every framework that is there note its routes; tell whether there is one."""
    is_known, failures = False, []
    # Nothing in here may let another greenlet run: this lock is one of real threads.
    with _patching:
        for patch in _PATCHES:
            module = sys.modules.get(patch.module)
            # The import system's own mark of what another thread is just importing.
            spec = getattr(module, "__spec__", None)
            if module is None or getattr(spec, "_initializing", False):
                continue
            try:
                _patch_once(module, patch, report)
            except Exception as failure:
                failures.append(failure)
            is_known = is_known or patch.note is not _note_bridge
    for each in failures:
        report(each)
    return is_known


def _owner(module: ModuleType, patch: _Patch) -> Any:
    """Return the class that has the function, the module where no class is named."""
    owners = [vars(module)[name] for name in patch.owners if name in vars(module)] or [module]
    return next((owner for owner in owners if hasattr(owner, patch.name)), owners[0])


def _patch_once(module: ModuleType, patch: _Patch, report: Report) -> None:
    owner = _owner(module, patch)
    method = getattr(owner, patch.name)
    if not hasattr(method, MARK):
        noting = patch.wrap(patch.note, method, report)
        setattr(noting, MARK, True)
        setattr(owner, patch.name, noting)

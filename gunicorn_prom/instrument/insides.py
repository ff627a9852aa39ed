"""What Gunicorn's workers keep to themselves: their connections, and when they see that they go.

Gunicorn has no interface for either, so this is the one place that knows how each type
of worker is built inside. What is not found there is not told.

Every worker but uvicorn's goes when it is not `alive` any more. But those of gevent and
asyncio look at that once a second, in which a busy one takes on thousands of requests. A
worker that leaves because it has grown too large must not: gevent's stops to accept at once,
and asyncio's pause is cut short. Those of eventlet and tornado are left alone: they drop
requests when they go (Gunicorn 25.3 and 27), and would do so more often.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["Insides", "end", "look_inside"]

# For how long uvicorn goes on after it has stopped to accept.
SHORT_PAUSE_S = 0.1

Act = Callable[[], Any]
Count = Callable[[], int]


class Insides(NamedTuple):
    """The grip on one worker, in that worker.

    Attributes:
        leave: has it finish what it has and go; called while it serves a request.
        connections: counts those that are open; None where nobody knows.
    """

    leave: Act
    connections: Count | None = None


def look_inside(worker: Any, publish: Act) -> Insides:
    """Return the grip on `worker`; call it right before it begins to serve.

    Args:
        publish: shows the number of connections. Called about once a second by those
            workers that do not notify the master as often.
    """
    for base in type(worker).__mro__:
        look = _BY_MODULE.get(base.__module__)
        if look is not None:
            return look(worker, sys.modules[base.__module__], publish)
    return Insides(partial(end, worker))


def end(worker: Any) -> None:
    """Have `worker` go when it next looks whether it is to."""
    worker.alive = False


def _gthread(worker: Any, module: ModuleType, publish: Act) -> Insides:
    return Insides(partial(end, worker), lambda: worker.nr_conns)


def _asgi(worker: Any, module: ModuleType, publish: Act) -> Insides:
    asyncio = sys.modules["asyncio"]
    serve = type(worker)._serve.__code__

    def leave() -> None:
        end(worker)
        for task in asyncio.all_tasks(worker.loop):
            if getattr(task.get_coro(), "cr_code", None) is serve:
                task.cancel()  # it takes that for the end of its pause

    return Insides(leave, lambda: worker.nr_conns)


def _gevent(worker: Any, module: Any, publish: Act) -> Insides:
    servers: list[Any] = []
    vars(module)["StreamServer"] = _noting(module.StreamServer, servers)
    if worker.server_class is not None:  # gevent_pywsgi
        worker.server_class = _noting(worker.server_class, servers)

    def stop() -> None:
        for server in servers:
            server.stop_accepting()
        end(worker)  # it closes connections after their next answer

    return Insides(partial(module.gevent.spawn, stop), lambda: sum(len(s.pool) for s in servers))


def _tornado(worker: Any, module: ModuleType, publish: Act) -> Insides:
    return Insides(partial(end, worker), lambda: len(worker.server._connections))


def _uvicorn(worker: Any, module: Any, publish: Act) -> Insides:
    servers: list[Any] = []

    class Server(module.Server):  # type: ignore[misc]  # it is known only here
        """uvicorn's, which notifies Gunicorn's master too rarely to show its connections."""

        async def on_tick(self, counter: int) -> bool:
            publish()
            should_exit: bool = await super().on_tick(counter)
            return should_exit

    def exit_all() -> None:
        for server in servers:
            server.should_exit = True

    def leave() -> None:
        # It closes connections whose request it has not read yet.
        for listening in chain.from_iterable(server.servers for server in servers):
            listening.close()
        sys.modules["asyncio"].get_running_loop().call_later(SHORT_PAUSE_S, exit_all)

    vars(module)["Server"] = _noting(Server, servers)
    return Insides(leave, lambda: sum(len(s.server_state.connections) for s in servers))


def _noting(make: Callable[..., Any], made: list[Any]) -> Callable[..., Any]:
    """Return `make` as it also notes what it has made."""

    def make_and_note(*args: Any, **kwargs: Any) -> Any:
        thing = make(*args, **kwargs)
        made.append(thing)
        return thing

    return make_and_note


_BY_MODULE: dict[str, Callable[[Any, Any, Act], Insides]] = {
    "gunicorn.workers.gthread": _gthread,
    "gunicorn.workers.ggevent": _gevent,
    "gunicorn.workers.gtornado": _tornado,
    "gunicorn.workers.gasgi": _asgi,
    "uvicorn_worker._workers": _uvicorn,
    "uvicorn.workers": _uvicorn,
}

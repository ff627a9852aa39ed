"""What Gunicorn's workers keep to themselves: their connections, and when they see that they go.

Gunicorn has no interface for either, so this is the one place that knows how each type
of worker is built inside. What is not found there is not told.

Every worker but uvicorn's goes when it is not `alive` any more. But those of gevent and
asyncio look at that once a second, in which a busy one takes on thousands of requests. A
worker that leaves because it has grown too large must not, so it stops to accept at once.
Those of eventlet and tornado are left alone: they drop requests when they go (Gunicorn 25.3
and 27), and would do so more often.

A connection that is kept alive must not be closed when its client has just sent the next
request. So where the server does not see to that itself, its clients are told to close, and
it ends when they have, or when it would have closed the connection anyway.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["Insides", "end", "look_inside"]

# Until a worker has looked whether the connections are closed for which it waits.
SHORT_PAUSE_S = 0.1
# For how long it waits at the most.
LONGEST_LINGER_S = 5.0

Act = Callable[[], Any]
Count = Callable[[], int]
Finish = Callable[[Any, Any], None]


class Insides(NamedTuple):
    """The grip on one worker, in that worker.

    Attributes:
        leave: has it finish what it has and go; called while it serves a request, when
            its clients have been told to close wherever a seam can do that.
        connections: counts those that are open; None where nobody knows.
    """

    leave: Act
    connections: Count | None = None


def look_inside(worker: Any, publish: Act, websockets: Count) -> Insides:
    """Return the grip on `worker`; call it right before it begins to serve.

    Args:
        publish: shows the number of connections. Called about once a second by those
            workers that do not notify the master as often.
        websockets: counts those that are open.
    """
    for base in type(worker).__mro__:
        look = _BY_MODULE.get(base.__module__)
        if look is not None:
            return look(worker, sys.modules[base.__module__], publish, websockets)
    return Insides(partial(end, worker))


def end(worker: Any) -> None:
    """Have `worker` go when it next looks whether it is to."""
    worker.alive = False


def _gthread(worker: Any, module: ModuleType, publish: Act, websockets: Count) -> Insides:
    if hasattr(worker, "method_queue"):
        vars(worker)["finish_request"] = _counting_off_once(worker, worker.finish_request)
    return Insides(partial(end, worker), lambda: worker.nr_conns)


def _counting_off_once(worker: Any, finish: Finish) -> Finish:
    """Return the end of a request, in the worker's main thread, which closes its connection.

    Gunicorn 24 to 27 counts a connection off, and once more when closing it fails: it was shut
    down already where the application has failed in the middle of an answer.
    """

    def finish_request(connection: Any, future: Any) -> None:
        open_before = worker.nr_conns
        finish(connection, future)
        worker.nr_conns = max(worker.nr_conns, open_before - 1)

    return finish_request


def _asgi(worker: Any, module: ModuleType, publish: Act, websockets: Count) -> Insides:
    def leave() -> None:
        for server in worker.servers:
            server.close()
        linger_s = min(worker.cfg.keepalive, LONGEST_LINGER_S)
        _end_later(worker.loop, linger_s, lambda: worker.nr_conns, partial(end, worker))

    return Insides(leave, lambda: worker.nr_conns)


def _gevent(worker: Any, module: Any, publish: Act, websockets: Count) -> Insides:
    servers: list[Any] = []
    vars(module)["StreamServer"] = _noting(module.StreamServer, servers)
    if worker.server_class is not None:  # gevent_pywsgi
        worker.server_class = _noting(worker.server_class, servers)

    def stop() -> None:
        for server in servers:
            server.stop_accepting()
        end(worker)  # it closes connections after their next answer

    return Insides(partial(module.gevent.spawn, stop), lambda: sum(len(s.pool) for s in servers))


def _tornado(worker: Any, module: ModuleType, publish: Act, websockets: Count) -> Insides:
    # A connection that has become a WebSocket is the server's no more.
    return Insides(partial(end, worker), lambda: len(worker.server._connections) + websockets())


def _uvicorn(worker: Any, module: Any, publish: Act, websockets: Count) -> Insides:
    servers: list[Any] = []

    class Server(module.Server):  # type: ignore[misc]  # it is known only here
        """uvicorn's, which notifies Gunicorn's master too rarely to show its connections."""

        async def on_tick(self, counter: int) -> bool:
            publish()
            should_exit: bool = await super().on_tick(counter)
            return should_exit

    def connections() -> int:
        return sum(len(server.server_state.connections) for server in servers)

    def exit_all() -> None:
        for server in servers:
            server.should_exit = True

    def leave() -> None:
        for listening in chain.from_iterable(server.servers for server in servers):
            listening.close()
        loop = sys.modules["asyncio"].get_running_loop()
        linger_s = min(worker.config.timeout_keep_alive, LONGEST_LINGER_S)
        _end_later(loop, linger_s, connections, exit_all)

    vars(module)["Server"] = _noting(Server, servers)
    return Insides(leave, connections)


def _end_later(loop: Any, linger_s: float, connections: Count, end: Act) -> None:
    """Call `end` when there are no connections any more, after `linger_s` at the latest."""
    deadline = loop.time() + linger_s

    def look() -> None:
        if connections() and loop.time() < deadline:
            loop.call_later(SHORT_PAUSE_S, look)
        else:
            end()

    loop.call_later(SHORT_PAUSE_S, look)


def _noting(make: Callable[..., Any], made: list[Any]) -> Callable[..., Any]:
    """Return `make` as it also notes what it has made."""

    def make_and_note(*args: Any, **kwargs: Any) -> Any:
        thing = make(*args, **kwargs)
        made.append(thing)
        return thing

    return make_and_note


_BY_MODULE: dict[str, Callable[[Any, Any, Act, Count], Insides]] = {
    "gunicorn.workers.gthread": _gthread,
    "gunicorn.workers.ggevent": _gevent,
    "gunicorn.workers.gtornado": _tornado,
    "gunicorn.workers.gasgi": _asgi,
    "uvicorn_worker._workers": _uvicorn,
    "uvicorn.workers": _uvicorn,
}

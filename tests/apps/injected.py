"""Make functions of ours raise, one at a time: in this process, by their qualified name.

Not the functions that stand in the server's way themselves and are called by it, or by the
guards: there what they call is made to fail.
"""

import gc
import importlib
import inspect
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType

SHARED = (
    "gunicorn_prom.slot",
    "gunicorn_prom.keys",
    "gunicorn_prom.instrument.config",
    "gunicorn_prom.instrument.headers",
    "gunicorn_prom.instrument.insides",
    "gunicorn_prom.instrument.instruments",
    "gunicorn_prom.instrument.memory",
    "gunicorn_prom.instrument.record",
    "gunicorn_prom.instrument.routes",
    "gunicorn_prom.instrument.runtime",
    "gunicorn_prom.instrument.stacks",
    "gunicorn_prom.instrument.wsgi",
)
OF_TYPE = {
    "asgi": ("gunicorn_prom.instrument.asgi",),
    "uvicorn": ("gunicorn_prom.instrument.asgi",),
    "gevent_pywsgi": ("gunicorn_prom.instrument.pywsgi",),
    "tornado": ("gunicorn_prom.instrument.tornado",),
}
# Called by the server, or what a failure is told to.
BOUNDARIES = (
    "Answer.send",
    "Answer.__",
    "ASGISeam._serve_websocket",
    "_AtHand.",
    "_Connection.",
    "_Delegate.",
    "_Exchange.send",
    "_Handler.",
    "_Stream.receive",
    "_Stream.send",
    "Failures.",
    "Instruments.__init__",
    "Instruments._begin_to_report",
    "Instruments.report",
    "instruments_of",
    "WSGISeam._end_connection",
    "tolerant",
)
# Closures, made anew for each worker.
OF_RECORDER = ("begin", "end", "record")


def functions(worker_type):
    """Return the functions of ours in a worker of that type, by module and qualified name."""
    found = {}
    for name in (*SHARED, *OF_TYPE.get(worker_type, ())):
        module = importlib.import_module(name)
        places = [module, *(v for v in vars(module).values() if inspect.isclass(v))]
        for place in places:
            for value in vars(place).values():
                function = unwrapped(value)
                # Those in others stand in the server's way.
                is_ours = function is not None and "<locals>" not in function.__qualname__
                if is_ours and function.__module__ == name:
                    found[f"{name}:{function.__qualname__}"] = function
    for recorder in [o for o in gc.get_objects() if type(o).__name__ == "Recorder"]:
        found |= {f"recorder:{name}": getattr(recorder, name) for name in OF_RECORDER}
    return {
        name: function
        for name, function in sorted(found.items())
        if not name.partition(":")[2].startswith(BOUNDARIES)
    }


def unwrapped(value):
    """Return the function behind what a class or module has, None for anything else."""
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, FunctionType) else None


def code_that_fails(name, variables) -> CodeType:
    """Return the code of a function that raises, and leaves word that it was called.

    It is put into one that has those free variables.
    """
    source = f"def failing(*args, **kwargs):\n    import injected\n    injected.fail({name!r})\n"
    scope = {}
    exec(source, scope)
    return scope["failing"].__code__.replace(co_freevars=variables)


def fail(name):
    """Leave word, and raise."""
    with Path("raised").open("a") as raised:
        raised.write(f"{name}\n")
    raise RuntimeError(f"injected into {name}")


def note_boot():
    """Leave word that this worker is about to serve, with handlers for its signals."""
    with Path("booted").open("a") as booted:
        booted.write(f"{os.getpid()}\n")


def inject(name, function):
    """Make a function raise; return what puts it back."""
    code = function.__code__
    function.__code__ = code_that_fails(name, code.co_freevars)

    def restore():
        function.__code__ = code

    return restore


def note_calls(worker_type):
    """Write down which of those functions this thread calls from now on, each once."""
    by_code = {function.__code__: name for name, function in functions(worker_type).items()}

    def profile(frame, event, argument):
        name = by_code.pop(frame.f_code, None) if event == "call" else None
        if name is not None:
            with Path("calls").open("a") as calls:
                calls.write(f"{name}\n")

    sys.setprofile(profile)


def read(path):
    """Return the lines of a file, none where there is no such file."""
    with suppress(FileNotFoundError):
        return Path(path).read_text().split()
    return []

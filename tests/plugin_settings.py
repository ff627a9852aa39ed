"""The ways in which plain Gunicorn comes to a configuration with our settings in it."""

import base64
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import bcrypt

from tests.support import GUNICORN, OWN_OPTIONS, Server, request, running, wait_for

APP = "behave:app"
PASSWORD = "correct horse"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
CREDENTIALS = "Basic " + base64.b64encode(f"prometheus:{PASSWORD}".encode()).decode()

HOOKS = "from gunicorn_prom.hooks import *\n"
# Stands in a file for the settings of the server under test.
OWN = "<settings>\n"
LATE = """
def on_starting(server):
    import gunicorn_prom.hooks
    gunicorn_prom.hooks.on_starting(server)
"""
NAMED = "on_starting = 'gunicorn_prom.hooks.on_starting'\n"
# Run a second time it would fail, as does a file that declares a metric.
ONCE = """
import builtins
assert not hasattr(builtins, "was_run")
builtins.was_run = True
"""

# As Gunicorn's documentation has it.
PROGRAM = """
from gunicorn.app.base import BaseApplication
import behave

class Program(BaseApplication):
    def load_config(self):
        for name, value in OPTIONS.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self):
        return behave.app

<settings>
OPTIONS = {name: value for name, value in globals().items() if name.islower()}
"""
# Takes its options before the file.
SUBCLASS = """
from gunicorn.app.wsgiapp import WSGIApplication

<settings>
OPTIONS = dict(globals())

class Program(WSGIApplication):
    def load_config(self):
        for name, value in OPTIONS.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)
        super().load_config()

Program().run()
"""
PASTE = """
[app:main]
use = call:pasted:make
[server:main]
use = call:gunicorn.app.pasterapp:serve
"""
SERVE = """
from gunicorn.app.pasterapp import serve
import behave

<settings>
serve(behave.app, {"__file__": "app.ini"}, bind=bind, config="python:conf")
"""


class Way(NamedTuple):
    """One way to give a configuration.

    Attributes:
        files: their text by name.
        arguments: of `gunicorn`.
        variable: what stands in GUNICORN_CMD_ARGS.
        program: the file that Python runs instead of `gunicorn`.
    """

    files: dict[str, str]
    arguments: tuple[str, ...] = ()
    variable: str = ""
    program: str = ""


DEFAULT = "gunicorn.conf.py"
WAYS = {
    "the default file": Way({DEFAULT: HOOKS + OWN}),
    "a path": Way({"conf.py": OWN + HOOKS}, ("-c", "conf.py")),
    "file:": Way({"conf.py": HOOKS + OWN}, ("-c", "file:conf.py")),
    "python:": Way({"conf.py": HOOKS + OWN}, ("-c", "python:conf")),
    "a module of a package": Way({"of/conf.py": HOOKS + OWN}, ("-c", "python:of.conf")),
    "a path in the variable": Way({"conf.py": HOOKS + OWN}, variable="-c conf.py"),
    "file: in the variable": Way({"conf.py": HOOKS + OWN}, variable="-c file:conf.py"),
    "python: in the variable": Way({"conf.py": HOOKS + OWN}, variable="-c python:conf"),
    "a shared module": Way({DEFAULT: "from shared import *", "shared.py": HOOKS + OWN}),
    "settings in a shared module": Way(
        {"conf.py": f"{HOOKS}from shared import *", "shared.py": OWN}, ("-c", "python:conf")
    ),
    # The hooks come when Gunicorn has passed over our settings.
    "late": Way({DEFAULT: OWN + ONCE + LATE + "chdir = 'sub'\n", "sub/empty": ""}),
    "late by a path": Way({"conf.py": OWN + ONCE + LATE}, ("-c", "conf.py")),
    "late by python:": Way({"conf.py": OWN + LATE}, ("-c", "python:conf")),
    "late by the variable": Way({"conf.py": OWN + LATE}, variable="-c python:conf"),
    "a name": Way({DEFAULT: OWN + ONCE + NAMED}),
    "a name in a module": Way({"conf.py": NAMED + OWN}, ("-c", "python:conf")),
    "a program": Way({"program.py": HOOKS + PROGRAM + "Program().run()"}, program="program.py"),
    "a late program": Way({"program.py": LATE + PROGRAM + "Program().run()"}, program="program.py"),
    "a program with a name": Way(
        {"program.py": NAMED + PROGRAM + "Program().run()"}, program="program.py"
    ),
    "a program with a file": Way(
        {"program.py": SUBCLASS, DEFAULT: ONCE + HOOKS}, (APP,), program="program.py"
    ),
    "paste": Way(
        {"app.ini": PASTE, "pasted.py": "import behave\nmake = lambda _: behave.app\n"}
        | {"conf.py": HOOKS + OWN},
        ("--paste", "app.ini", "-c", "python:conf"),
    ),
    "a server of paste": Way({"serve.py": SERVE, "conf.py": HOOKS + OWN}, program="serve.py"),
    "a late server of paste": Way({"serve.py": SERVE, "conf.py": OWN + LATE}, program="serve.py"),
}


def settings_of(server: Server, **others: object) -> str:
    """Return statements that set an address, a password and whatever else."""
    settings = {
        "bind": f"127.0.0.1:{server.port}",
        "metrics_bind": f"127.0.0.1:{server.metrics_port}",
        "metrics_state_dir": str(server.state_directory),
        "metrics_web_config": str(server.directory / "web.yml"),
        **others,
    }
    return "".join(f"{name} = {value!r}\n" for name, value in settings.items())


def server_by(
    way: Way, directory: Path, environ: dict[str, str] | None = None, **others: object
) -> Server:
    """Return a server that is given our settings in that way and in no other."""
    command = [sys.executable, way.program] if way.program else [GUNICORN, OWN_OPTIONS[0], APP]
    if "--paste" in way.arguments:
        command.remove(APP)
    variable = {"GUNICORN_CMD_ARGS": way.variable} if way.variable else {}
    server = Server(directory, [*command, *way.arguments], {**variable, **(environ or {})})
    (directory / "web.yml").write_text(f"basic_auth_users:\n  prometheus: {HASH}\n")
    for name, text in way.files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text.replace(OWN, settings_of(server, **others)))
    return server


@contextlib.contextmanager
def given(
    way: Way, directory: Path, environ: dict[str, str] | None = None, **others: object
) -> Iterator[Server]:
    """Run that server until the block ends, from when it has told where its metrics are."""
    with running(server_by(way, directory, environ, **others), start=False) as server:
        server.launch()
        wait_for(lambda: "Metrics at " in server.log or has_ended(server), "the metrics")
        yield server


def has_ended(server: Server) -> bool:
    """Tell whether the master has ended."""
    assert server.process is not None
    return server.process.poll() is not None


def assert_guarded(server: Server, path: str = "/metrics") -> None:
    """Fail unless there is one address, the one that was given, which asks for the password."""
    assert f"Metrics at http://127.0.0.1:{server.metrics_port}{path} " in server.log
    assert server.log.count("Metrics at ") == 1
    assert request(server.metrics_port, path).status == 401
    assert request(server.metrics_port, path, Authorization=CREDENTIALS).status == 200
    assert server.state_directory.is_dir()

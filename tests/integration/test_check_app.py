"""What `gunicorn-prom check` finds in an application, and that nothing of it gets out."""

import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gunicorn
import psutil
import pytest

from tests.checked import Found, assert_finds, assert_passes, checked
from tests.support import APPS, ROOT, Server, run_to_end, wait_for

HAS_EVENTLET_WORKERS = int(gunicorn.__version__.split(".")[0]) < 26
WSGI_TYPES = ["sync", "gthread", "gevent"]
# How an application is imported differs in one thing: gevent patches first.
IMPORTING_TYPES = ["sync", "gevent"]
PRELOADED_GEVENT = ("--preload", "--worker-type=gevent")

WSGI = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"fine"]
"""
ASGI = """
class Application:
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200})


app = Application()
"""


def write_app(directory: Path, source: str, name: str = "mine.py") -> None:
    """Write the application `mine:app`, or another module; the callable is always there."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{source}\n{WSGI}")


def error(detail: str, hint: str = "") -> Found:
    return Found("error", detail, hint)


def warning(detail: str, hint: str = "") -> Found:
    return Found("warning", detail, hint)


# GP001.


@pytest.mark.parametrize("worker_type", IMPORTING_TYPES)
def test_an_application_that_fails(tmp_path: Path, worker_type: str) -> None:
    """GP001 says where in the user's own code the import fails, and how; mended it passes."""
    chosen = f"--worker-type={worker_type}"
    write_app(tmp_path, "import json\nTHE_ANSWER = json.loads('{')")
    place = f"{tmp_path / 'mine.py'}:2: json.decoder.JSONDecodeError: Expecting"
    expected = error(f"the import of mine:app fails: {place}", "mend what fails")
    assert_finds(tmp_path, "GP001", "mine:app", chosen, expected=expected)
    write_app(tmp_path, "import json\nTHE_ANSWER = json.loads('{}')")
    assert_passes(tmp_path, "GP001", "mine:app", chosen)


def test_no_application(tmp_path: Path) -> None:
    """GP001 asks for the application; beside a running server it needs none."""
    expected = error("no application is named", "gunicorn-prom check module:app")
    assert_finds(tmp_path, "GP001", expected=expected)
    (skipped,) = checked(tmp_path, "GP001", "--live=http://127.0.0.1:1", "--workers=1")
    assert skipped.status == "skipped"


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    """GP001 names the module, the directory that was searched, and what may be meant."""
    write_app(tmp_path, "")
    for named, hint in (
        ("nowhere:app", "--chdir"),
        ("mime:app", "did you mean mine?"),
        ("mine.py:app", "did you mean mine:app?"),
    ):
        detail = named.partition(":")[0]
        assert_finds(tmp_path, "GP001", named, expected=error(detail, hint))
    assert_passes(tmp_path, "GP001", "mine:app")


def test_a_module_in_another_directory(tmp_path: Path) -> None:
    """GP001 tells of the directory in which the module is, and passes with it."""
    write_app(tmp_path, "", "src/shop/wsgi.py")
    write_app(tmp_path, "", "src/shop/__init__.py")
    hint = f"give --chdir {tmp_path / 'src'}"
    assert_finds(tmp_path, "GP001", "shop.wsgi:app", expected=error("no module shop", hint))
    assert_passes(tmp_path, "GP001", "shop.wsgi:app", "--chdir=src")
    assert_passes(tmp_path, "GP001", "shop.wsgi:app", "--pythonpath=src")


def test_a_module_that_it_needs(tmp_path: Path) -> None:
    """GP001 tells a library that is not installed from the application itself."""
    write_app(tmp_path, "import no_such_library")
    detail = f"there is no module no_such_library, which is imported ({tmp_path / 'mine.py'}:1)"
    expected = error(detail, f"install what brings no_such_library for {sys.executable}")
    assert_finds(tmp_path, "GP001", "mine:app", expected=expected)
    write_app(tmp_path, "", "no_such_library.py")
    assert_passes(tmp_path, "GP001", "mine:app")


@pytest.mark.parametrize(
    ("named", "detail", "hint"),
    [
        ("mine:ap", "module mine has no ap", "did you mean mine:app?"),
        ("mine", "module mine has no application", "did you mean mine:app?"),
        ("mine:THINGS", "mine:THINGS is of type dict and cannot be called", "MODULE:NAME"),
        ("mine:NOTHING", "mine:NOTHING is None and cannot be called", "MODULE:NAME"),
        ("mine:make", "mine:make can be called without arguments", "name it 'mine:make()'"),
        ("mine:make(1)", "takes 0 positional arguments but 1 was given", "mend"),
    ],
)
def test_a_name_that_is_no_application(tmp_path: Path, named: str, detail: str, hint: str) -> None:
    """GP001 says what stands there in its place, and what was meant."""
    write_app(tmp_path, "THINGS = {}\nNOTHING = None\n\ndef make():\n    return app")
    assert_finds(tmp_path, "GP001", named, expected=error(detail, hint))
    assert_passes(tmp_path, "GP001", "mine:make()")


@pytest.mark.parametrize(
    ("source", "status", "has_place"),
    [
        ("import sys\nsys.exit(5)", 5, True),
        ("raise SystemExit", 0, True),
        ("import os\nos._exit(0)", 0, False),
    ],
)
def test_an_application_that_exits(
    tmp_path: Path, source: str, status: int, has_place: bool
) -> None:
    """GP001 tells the exit code, and the line where Python knows it."""
    write_app(tmp_path, source)
    (found,) = checked(tmp_path, "GP001", "mine:app")
    assert f"ends the process with exit code {status}" in found.detail
    assert (str(tmp_path / "mine.py") in found.detail) == has_place
    assert "__main__" in found.hint
    write_app(tmp_path, f"if __name__ == '__main__':\n    {source.splitlines()[-1]}")
    assert_passes(tmp_path, "GP001", "mine:app")


def test_an_application_that_is_killed(tmp_path: Path) -> None:
    """GP001 names the signal and the line that ran into it."""
    write_app(tmp_path, "import ctypes\nctypes.string_at(0)")
    detail = f"SIGSEGV ends the import of mine:app ({tmp_path / 'mine.py'}:2)"
    assert_finds(tmp_path, "GP001", "mine:app", expected=error(detail, "faulthandler"))
    write_app(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert_finds(tmp_path, "GP001", "mine:app", expected=error("SIGKILL ends", "memory"))


@pytest.mark.parametrize("worker_type", IMPORTING_TYPES)
def test_an_application_that_hangs(tmp_path: Path, worker_type: str) -> None:
    """GP001 tells where, after the time that the master would give a worker."""
    write_app(tmp_path, "while True: pass")
    detail = f"does not end within 2 s ({tmp_path / 'mine.py'}:1), after which the master kills"
    options = ("mine:app", "--timeout=2", f"--worker-type={worker_type}")
    assert_finds(tmp_path, "GP001", *options, expected=error(detail, "--timeout"))
    write_app(tmp_path, "while False: pass")
    # As long as others need on a busy machine.
    assert_passes(tmp_path, "GP001", "mine:app", f"--worker-type={worker_type}")


def test_the_set_up_is_the_one_of_a_worker(tmp_path: Path) -> None:
    """GP001 imports in the directory, with the path, the environment and the arguments of run."""
    write_app(tmp_path / "app", "import mine_too")
    lines = (
        "import os, sys",
        f"assert os.getcwd() == {str(tmp_path / 'app')!r}",
        "assert os.environ['FROM_OPTION'] == 'yes'",
        "assert os.environ['FROM_FILE'] == 'yes'",
        "assert sys.argv[1:3] == ['run', 'mine:app']",
        "assert sys.stdin.read() == ''",
        "import __config__",
    )
    write_app(tmp_path / "library", "\n".join(lines), "mine_too.py")
    (tmp_path / "conf.py").write_text("import os\nos.environ['FROM_FILE'] = 'yes'\n")
    arguments = ("--chdir=app", "--pythonpath=../library", "--env=FROM_OPTION=yes")
    assert_passes(tmp_path, "GP001", "mine:app", "-c", "conf.py", *arguments)


def test_paste(tmp_path: Path) -> None:
    """GP001 loads an application by its paste file, and tells what that lacks."""
    write_app(tmp_path, "def make(global_conf, **local):\n    return app")
    paste = tmp_path / "site.ini"
    paste.write_text("[app:main]\npaste.app_factory = mine:make\n")
    options = ("--paste", str(paste), f"--pythonpath={tmp_path}")
    assert_passes(tmp_path, "GP001", *options)
    paste.write_text("[app:main]\npaste.app_factory = mine:nothing\n")
    (found,) = checked(tmp_path, "GP001", *options)
    assert found.status == "error"
    assert "nothing" in found.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start workers as another user")
def test_the_user_of_the_workers(tmp_path: Path) -> None:
    """GP001 finds what only root may read, when the workers are another user."""
    write_app(tmp_path, "open('/etc/shadow').close()")
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(0o755)
    as_nobody = ("mine:app", "--user=nobody")
    assert_finds(tmp_path, "GP001", *as_nobody, expected=error("PermissionError", "mend"))
    assert_passes(tmp_path, "GP001", *as_nobody, "--preload")


# GP002.


@pytest.mark.parametrize("worker_type", WSGI_TYPES)
def test_asgi_on_wsgi_workers(tmp_path: Path, worker_type: str) -> None:
    """GP002 finds an ASGI application on workers that speak WSGI; a WSGI one passes."""
    chosen = f"--worker-type={worker_type}"
    (tmp_path / "mine.py").write_text(ASGI)
    detail = f"mine:app is ASGI, and {worker_type} workers speak WSGI"
    expected = error(detail, "--worker-type asgi")
    assert_finds(tmp_path, "GP002", "mine:app", chosen, expected=expected)
    write_app(tmp_path, "")
    assert_passes(tmp_path, "GP002", "mine:app", chosen)


def test_wsgi_on_asgi_workers(tmp_path: Path) -> None:
    """GP002 finds the reverse on an ASGI worker class of the user's own."""
    worker_class = "--worker-class=uvicorn_worker.UvicornWorker"
    write_app(tmp_path, "")
    detail = "mine:app is WSGI, and uvicorn_worker.UvicornWorker workers speak ASGI"
    expected = error(detail, "--worker-type gthread")
    assert_finds(tmp_path, "GP002", "mine:app", worker_class, expected=expected)
    (tmp_path / "mine.py").write_text(ASGI)
    assert_passes(tmp_path, "GP002", "mine:app", worker_class)


def test_a_worker_class_that_adapts(tmp_path: Path) -> None:
    """GP002 leaves it to a class that loads the application in its own way."""
    (tmp_path / "mine.py").write_text(ASGI)
    lines = (
        "from gunicorn.workers.sync import SyncWorker",
        "class Adapting(SyncWorker):",
        "    def load_wsgi(self):",
        "        super().load_wsgi()",
    )
    (tmp_path / "adapting.py").write_text("\n".join(lines))
    assert_passes(tmp_path, "GP002", "mine:app", "-k", "adapting.Adapting")


# GP003 and GP004.


def environ_with(directory: Path) -> dict[str, str]:
    """Return an environment in which the modules of `directory` come first."""
    return {"PYTHONPATH": os.pathsep.join(map(str, (directory, ROOT, APPS)))}


def test_a_missing_worker_library(tmp_path: Path) -> None:
    """GP003 tells which library is missing and how to install it, and the other checks go on."""
    write_app(tmp_path, "")
    write_app(tmp_path / "without", "import sys\nsys.modules['gevent'] = None", "sitecustomize.py")
    arguments = ("mine:app", "--worker-type=gevent")
    expected = error("gevent is not installed", "pip install 'gunicorn-prom[gevent]'")
    without = environ_with(tmp_path / "without")
    assert_finds(tmp_path, "GP003", *arguments, expected=expected, environ=without)
    assert_passes(tmp_path, "GP001", *arguments, environ=without)
    assert_passes(tmp_path, "GP003", *arguments)


def test_a_worker_library_that_is_too_old(tmp_path: Path) -> None:
    """GP003 tells what Gunicorn asks for."""
    write_app(tmp_path, "")
    write_app(tmp_path / "old", "__version__ = '1.0'", "gevent/__init__.py")
    arguments = ("mine:app", "--worker-type=gevent")
    expected = error("gevent worker requires gevent", "pip install 'gunicorn-prom[gevent]'")
    old = environ_with(tmp_path / "old")
    assert_finds(tmp_path, "GP003", *arguments, expected=expected, environ=old)


def test_a_worker_class_that_cannot_be_loaded(tmp_path: Path) -> None:
    """GP003 tells why a class of the user's own cannot be loaded."""
    write_app(tmp_path, "")
    detail = "cannot load the worker class no_such.Worker: ModuleNotFoundError"
    arguments = ("mine:app", "--worker-class=no_such.Worker")
    assert_finds(tmp_path, "GP003", *arguments, expected=error(detail, "install"))
    lines = "from gunicorn.workers.sync import SyncWorker\nclass Worker(SyncWorker): pass"
    (tmp_path / "no_such.py").write_text(lines)
    assert_passes(tmp_path, "GP003", *arguments)


@pytest.mark.skipif(HAS_EVENTLET_WORKERS, reason="this Gunicorn has eventlet workers")
def test_eventlet_on_a_gunicorn_without(tmp_path: Path) -> None:
    """GP004 tells that Gunicorn has removed it, and which remedies there are; nothing else does."""
    write_app(tmp_path, "")
    arguments = ("mine:app", "--worker-type=eventlet")
    expected = error("Gunicorn 26 removed it", "pip install 'gunicorn-prom[eventlet]'")
    assert_finds(tmp_path, "GP004", *arguments, expected=expected)
    assert_passes(tmp_path, "GP003", *arguments)
    assert_passes(tmp_path, "GP004", "mine:app", "--worker-type=gevent")


@pytest.mark.skipif(
    not (HAS_EVENTLET_WORKERS and find_spec("eventlet")), reason="there are no eventlet workers"
)
def test_eventlet_where_gunicorn_has_it(tmp_path: Path) -> None:
    """GP003 and GP004 have nothing against eventlet on a Gunicorn that has it."""
    write_app(tmp_path, "")
    for check in ("GP001", "GP003", "GP004", "GP027"):
        assert_passes(tmp_path, check, "mine:app", "--worker-type=eventlet")


def test_run_still_refuses_what_is_unavailable(tmp_path: Path) -> None:
    """The command that serves goes on to tell it as a usage error."""
    write_app(tmp_path / "without", "import sys\nsys.modules['gevent'] = None", "sitecustomize.py")
    environ = environ_with(tmp_path / "without")
    ended = run_to_end(tmp_path, "behave:app", "--worker-type=gevent", environ=environ)
    assert ended.returncode == 2
    assert "gevent is not installed" in ended.stderr


# GP013 and GP014.

LATE = """
from prometheus_client import Counter
import os
os.environ["PROMETHEUS_MULTIPROC_DIR"] = "elsewhere"
"""
DEFAULT = LATE.replace('["PROMETHEUS_MULTIPROC_DIR"] =', '.setdefault("PROMETHEUS_MULTIPROC_DIR",')


@pytest.mark.parametrize("how", [[], ["--preload"], ["--worker-type=gevent"]])
def test_a_directory_for_metrics_that_comes_too_late(tmp_path: Path, how: list[str]) -> None:
    """GP013 tells the line; set before the import, or only where nothing is, it passes."""
    write_app(tmp_path, LATE)
    detail = f"is set to elsewhere when prometheus_client has been imported ({tmp_path}/mine.py:4)"
    expected = error(detail, "gunicorn-prom run")
    assert_finds(tmp_path, "GP013", "mine:app", *how, expected=expected)
    _, imported, import_os, setting = LATE.splitlines()
    for repaired in (
        f"{import_os}\n{setting}\n{imported}",
        f"{imported}\n{import_os}\n{DEFAULT.splitlines()[-1]})",
        f"{imported}\nCounter('things', 'All of them.').inc()",
    ):
        write_app(tmp_path, repaired)
        assert_passes(tmp_path, "GP013", "mine:app", *how)


def test_the_metrics_of_the_user_are_left_alone(tmp_path: Path) -> None:
    """The import on trial writes nothing into a directory for metrics that is the user's."""
    write_app(tmp_path, "import prometheus_client\nprometheus_client.Counter('a', 'A').inc()")
    directory = tmp_path / "metrics"
    directory.mkdir()
    variable = {"PROMETHEUS_MULTIPROC_DIR": str(directory)}
    assert_passes(tmp_path, "GP001", "mine:app", environ=variable)
    in_workers = f"--env=PROMETHEUS_MULTIPROC_DIR={directory}"
    assert_passes(tmp_path, "GP001", "mine:app", in_workers)
    assert not list(directory.iterdir())


def test_a_directory_for_metrics_that_is_missing(tmp_path: Path) -> None:
    """GP001 finds that the application fails with the directory that the user has set."""
    write_app(tmp_path, "import prometheus_client\nprometheus_client.Counter('a', 'A').inc()")
    variable = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "nowhere")}
    expected = error("FileNotFoundError")
    assert_finds(tmp_path, "GP001", "mine:app", environ=variable, expected=expected)


@pytest.mark.parametrize("worker_type", IMPORTING_TYPES)
def test_a_metrics_server_in_each_worker(tmp_path: Path, worker_type: str) -> None:
    """GP014 tells where the application starts it; without, it passes."""
    chosen = f"--worker-type={worker_type}"
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    serving = "import prometheus_client\nprometheus_client.start_http_server({}, '127.0.0.1')"
    write_app(tmp_path, serving.format(port))
    place = f"on 127.0.0.1:{port} in each worker ({tmp_path / 'mine.py'}:2)"
    expected = warning(f"prometheus_client serves metrics {place}", "merged")
    assert_finds(tmp_path, "GP014", "mine:app", chosen, expected=expected)
    write_app(tmp_path, "import prometheus_client")
    assert_passes(tmp_path, "GP014", "mine:app", chosen)


def test_a_metrics_server_whose_port_is_taken(tmp_path: Path) -> None:
    """GP014 finds it as well where the server that runs has the port, and GP001 says why."""
    serving = "import prometheus_client\nprometheus_client.start_http_server({}, '127.0.0.1')"
    with socket.create_server(("127.0.0.1", 0)) as held:
        write_app(tmp_path, serving.format(held.getsockname()[1]))
        assert_finds(tmp_path, "GP014", "mine:app", expected=warning("serves metrics on"))
        expected = error("Address already in use", "bind no port")
        assert_finds(tmp_path, "GP001", "mine:app", expected=expected)


def test_a_listener_of_another_kind(tmp_path: Path) -> None:
    """GP014 tells of a port that each worker would bind, and not of one that is any."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    listening = "import socket\nlistener = socket.create_server(('127.0.0.1', {}))"
    write_app(tmp_path, listening.format(port))
    expected = warning(f"listens on 127.0.0.1:{port} in each worker", "a process of its own")
    assert_finds(tmp_path, "GP014", "mine:app", expected=expected)
    write_app(tmp_path, listening.format(0))
    assert_passes(tmp_path, "GP014", "mine:app")


# GP026 and GP033.

THREAD = """
import os, threading
def count(): threading.Event().wait()
def start(): threading.Thread(target=count, daemon=True).start()
start()
"""


@pytest.mark.parametrize("worker_type", IMPORTING_TYPES)
def test_a_thread_before_the_fork(tmp_path: Path, worker_type: str) -> None:
    """GP026 tells what runs in it; one that starts again in each worker passes."""
    options = ("mine:app", "--preload", f"--worker-type={worker_type}")
    write_app(tmp_path, THREAD)
    detail = f"a thread that runs mine.count stays in the master ({tmp_path / 'mine.py'}:4)"
    assert_finds(tmp_path, "GP026", *options, expected=warning(detail, "post_fork"))
    write_app(tmp_path, f"{THREAD}\nos.register_at_fork(after_in_child=start)")
    assert_passes(tmp_path, "GP026", *options)
    write_app(tmp_path, THREAD)
    (found,) = checked(tmp_path, "GP026", "mine:app")
    assert found.status == "skipped"


def test_a_connection_before_the_fork(tmp_path: Path) -> None:
    """GP026 tells where it goes; datagrams, pairs and what is closed again pass."""
    with socket.create_server(("127.0.0.1", 0)) as database:
        port = database.getsockname()[1]
        connecting = f"import socket\ndb = socket.create_connection(('127.0.0.1', {port}))"
        write_app(tmp_path, connecting)
        place = f"127.0.0.1:{port} ({tmp_path / 'mine.py'}:2)"
        expected = warning(f"all workers share a connection to {place}", "post_fork")
        assert_finds(tmp_path, "GP026", "mine:app", "--preload", expected=expected)
        lines = (
            connecting,
            "db.close()",
            "a, b = socket.socketpair()",
            "statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "statsd.connect(('127.0.0.1', 8125))",
        )
        write_app(tmp_path, "\n".join(lines))
        assert_passes(tmp_path, "GP026", "mine:app", "--preload")


# As opentelemetry-sdk did it up to 1.4, which no Python of today can install.
OPENTELEMETRY = """
import os, threading
class BatchSpanProcessor:
    def __init__(self):
        self.start()
    def start(self):
        threading.Thread(target=self.worker, daemon=True).start()
    def worker(self):
        threading.Event().wait()
"""
TRACED = "from opentelemetry.sdk.trace import BatchSpanProcessor\nprocessor = BatchSpanProcessor()"


def test_opentelemetry_before_the_fork(tmp_path: Path) -> None:
    """GP033 finds an exporting thread that no worker has; one that starts again passes."""
    options = ("mine:app", "--preload")
    write_app(tmp_path, TRACED)
    write_app(tmp_path, OPENTELEMETRY, "opentelemetry/sdk/trace.py")
    detail = f"opentelemetry.sdk.trace.BatchSpanProcessor.worker stays in the master ({tmp_path}"
    assert_finds(tmp_path, "GP033", *options, expected=warning(detail, "post_fork"))
    assert_passes(tmp_path, "GP026", *options)
    again = "self.start()\n        os.register_at_fork(after_in_child=self.start)"
    repaired = OPENTELEMETRY.replace("self.start()", again)
    write_app(tmp_path, repaired, "opentelemetry/sdk/trace.py")
    assert_passes(tmp_path, "GP033", *options)


# GP027.

HOLDS_CLASS = """
from ssl import PROTOCOL_TLS_CLIENT, SSLContext
def connect():
    context = SSLContext(PROTOCOL_TLS_CLIENT)
    context.minimum_version = 771
"""
HOLDS_CONTEXT = "import ssl\ncontext = ssl.create_default_context()"
DERIVED = "import ssl\nclass Context(ssl.SSLContext):\n    pass"
ANNOTATED = (
    "from ssl import SSLContext\ndef use(context: SSLContext) -> SSLContext:\n    return context"
)


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        (HOLDS_CLASS, "mine has imported SSLContext from ssl"),
        (HOLDS_CONTEXT, "mine.context is an SSL context"),
        (DERIVED, "mine.Context is derived from ssl.SSLContext"),
    ],
)
def test_gevent_that_patches_too_late(tmp_path: Path, source: str, detail: str) -> None:
    """GP027 tells what has taken hold of ssl; it passes where gevent patches first."""
    write_app(tmp_path, source)
    expected = error(f"ssl was in use before gevent patched it: {detail}", "gunicorn.conf.py")
    assert_finds(tmp_path, "GP027", "mine:app", *PRELOADED_GEVENT, expected=expected)
    assert_passes(tmp_path, "GP027", "mine:app", "--worker-type=gevent")
    assert_passes(tmp_path, "GP027", "mine:app", "--preload", "--worker-type=gthread")
    (tmp_path / "gunicorn.conf.py").write_text("from gevent import monkey\nmonkey.patch_all()\n")
    assert_passes(tmp_path, "GP027", "mine:app", *PRELOADED_GEVENT)


@pytest.mark.parametrize("source", ["import ssl", ANNOTATED, "import flask", "import http.client"])
def test_preloading_for_gevent_is_not_wrong_as_such(tmp_path: Path, source: str) -> None:
    """GP027 is silent where nothing breaks: ssl by its module, or only in annotations."""
    write_app(tmp_path, source)
    assert_passes(tmp_path, "GP027", "mine:app", *PRELOADED_GEVENT)


def test_an_application_that_patches_late_by_itself(tmp_path: Path) -> None:
    """GP027 finds it with workers of any type."""
    patching = "from gevent import monkey\nmonkey.patch_all()\n"
    write_app(tmp_path, HOLDS_CONTEXT + "\n" + patching)
    expected = error("mine.context is an SSL context")
    assert_finds(tmp_path, "GP027", "mine:app", expected=expected)
    write_app(tmp_path, patching + HOLDS_CONTEXT)
    assert_passes(tmp_path, "GP027", "mine:app")


# What gets out.

UNRULY = {
    "prints": "import sys\nprint('x' * 10_000_000)\nsys.stderr.write('y' * 10_000_000)",
    "writes to the terminal": "import os\nos.write(1, b'z' * 10_000_000)",
    "forks": "import os, time\nif not os.fork():\n    time.sleep(600)",
    "daemonizes": (
        "import os, time\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if not os.fork():\n"
        "        time.sleep(600)\n"
        "    os._exit(0)"
    ),
    "starts processes": (
        "import subprocess\n"
        "subprocess.Popen(['sleep', '600'])\n"
        "subprocess.Popen(['sleep', '600'], start_new_session=True)"
    ),
    "starts threads": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()"
    ),
    "makes temporary files": (
        "import atexit, tempfile\n"
        "directory = tempfile.TemporaryDirectory(dir='.')\n"
        "open(directory.name + '/file', 'w').close()"
    ),
    "changes the process": (
        "import os, signal, sys\n"
        "os.environ.clear()\n"
        "os.chdir('/')\n"
        "os.umask(0o777)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sys.setrecursionlimit(5000)"
    ),
    "patches": "from gevent import monkey\nmonkey.patch_all()",
}


def processes_below(directory: Path) -> list[psutil.Process]:
    """Return the processes that have the environment of a command started in `directory`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(directory / "home"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def files_below(directory: Path) -> set[Path]:
    return {*directory.rglob("*"), *Path("/dev/shm").glob(f"gunicorn-prom-app-*/{directory.name}")}


@pytest.mark.parametrize("worker_type", IMPORTING_TYPES)
@pytest.mark.parametrize("what", UNRULY)
def test_nothing_gets_out(tmp_path: Path, what: str, worker_type: str) -> None:
    """Whatever the application does, the check ends well and leaves no process and no file."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    write_app(tmp_path, UNRULY[what])
    before = files_below(tmp_path)
    own_tmp = {"TMPDIR": str(tmp_path / "tmp")}
    chosen = f"--worker-type={worker_type}"
    assert_passes(tmp_path, "GP001", "mine:app", chosen, environ=own_tmp)
    assert files_below(tmp_path) == before
    assert not processes_below(tmp_path)


@pytest.mark.parametrize("worker_type", IMPORTING_TYPES)
@pytest.mark.parametrize("source", ["import os\nos._exit(0)", "while True: pass"])
def test_nothing_is_left_of_what_fails(tmp_path: Path, source: str, worker_type: str) -> None:
    """An application that exits or hangs leaves as little behind as one that is imported."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    write_app(tmp_path, f"import subprocess\nsubprocess.Popen(['sleep', '600'])\n{source}")
    before = files_below(tmp_path)
    own_tmp = {"TMPDIR": str(tmp_path / "tmp")}
    options = ("mine:app", "--timeout=2", f"--worker-type={worker_type}")
    (found,) = checked(tmp_path, "GP001", *options, environ=own_tmp)
    assert found.status == "error"
    assert files_below(tmp_path) == before
    assert not processes_below(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_import_ends_with_the_check(tmp_path: Path, number: int) -> None:
    """Who stops the check stops the import, by whatever signal."""
    write_app(tmp_path, "import os\nopen('importing', 'w').close()\nwhile True: pass")
    command = [sys.executable, "-m", "gunicorn_prom", "check", "--only=GP001", "mine:app"]
    (tmp_path / "tmp").mkdir()
    # A check that is killed cannot remove its directory.
    server = Server(tmp_path, command, {"TMPDIR": str(tmp_path / "tmp")})
    server.launch()
    assert server.process is not None
    try:
        wait_for((tmp_path / "importing").exists, "the import")
        server.process.send_signal(number)
        server.process.wait(10)
        wait_for(lambda: not processes_below(tmp_path), "the end of the import")
    finally:
        server.destroy()


def test_the_application_is_imported_once(tmp_path: Path) -> None:
    """However many checks look at it, one process imports it."""
    write_app(tmp_path, "open('imports', 'a').write('once ')")
    ended = run_to_end(tmp_path, "mine:app", "--only=app", "--preload", command=("check",))
    assert ended.returncode == 0, ended.stdout
    assert (tmp_path / "imports").read_text() == "once "


@pytest.mark.parametrize("how", [[], ["--preload"], *([f"-k{name}"] for name in WSGI_TYPES)])
@pytest.mark.parametrize("app", ["behave:app", "mix:app"])
def test_a_good_application_gives_no_finding(tmp_path: Path, app: str, how: list[str]) -> None:
    """The applications of our own tests pass every check."""
    ended = run_to_end(tmp_path, app, "--only=app", *how, command=("check", "--strict"))
    assert ended.returncode == 0, ended.stdout


def test_the_import_path_is_the_one_of_run(tmp_path: Path) -> None:
    """Modules of the working directory never stand in for those that we import."""
    write_app(tmp_path, "", "json.py")
    write_app(tmp_path, "")
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import sys; sys.argv[0] = 'gunicorn-prom'; from gunicorn_prom.__main__ import main; main()"
    )
    command = [sys.executable, "-P", "-c", program, "check", "--only=GP001", "mine:app"]
    environ = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr

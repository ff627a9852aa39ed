"""Set-ups that bare Gunicorn serves, or refuses, as cases of tests/bare.py, by their kind."""

import os
import subprocess
import sys
from pathlib import Path

from tests.bare import SIMPLE, Case, configured, module, worker
from tests.traffic import Shot

WORKERS = {
    "sync": "gunicorn.workers.sync.SyncWorker",
    "gthread": "gunicorn.workers.gthread.ThreadWorker",
    "gevent": "gunicorn.workers.ggevent.GeventWorker",
    "asgi": "gunicorn.workers.gasgi.ASGIWorker",
}
APP_OF = dict.fromkeys(WORKERS, "simple:app") | {"asgi": "simple_asgi:app"}
SYNC, GTHREAD, ASGI = WORKERS["sync"], WORKERS["gthread"], WORKERS["asgi"]
PYWSGI = "gunicorn.workers.ggevent.GeventPyWSGIWorker"
UVICORN = "uvicorn_worker.UvicornWorker"

FAILING = "def app(environ, start_response):\n    raise ValueError('application')\n"
UNPRIVILEGED = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override")


# How the configuration is given.


def feed(directory: Path) -> None:
    """Make a configuration file that can be read once, as tools do that keep secrets."""
    os.mkfifo(directory / "gunicorn.conf.py")
    # A shell, for it has written and gone before anybody could open the file once more.
    write = ("timeout", "60", "/bin/sh", "-c", "echo workers=1 > gunicorn.conf.py")
    subprocess.run(["/bin/sh", "-c", '"$@" &', "sh", *write], cwd=directory, check=True)


def leave_pidfile(directory: Path) -> None:
    """Leave a pid file of a process that is no more, which nobody may write."""
    path = directory / "own.pid"
    path.write_text("999999\n")
    path.chmod(0o444)


# What a process may be like, and what its configuration may make of it.
ODD_PROCESS = """
import logging, os, socket, time, warnings
os.environ = dict(os.environ)
time.time = lambda: 1.0
socket.setdefaulttimeout(0.05)
logging.disable(logging.CRITICAL)
warnings.simplefilter("error")
"""
# Modules of the application with the names of others, which it imports by none of them.
SHADOWS = {
    f"{name}.py": "class Own:\n    pass\n" for name in ("resource", "timeit", "urllib", "uuid")
} | {f"{name}.py": "raise RuntimeError('for others')\n" for name in ("gzip", "metrics", "html")}

CONFIGURATIONS = [
    Case(
        "module-of-configuration",
        ("-c", "python:own.conf", "simple:app"),
        {"own/__init__.py": "", "own/conf.py": "workers = 2\nraw_env = ['WORD=said']\n"},
    ),
    Case(
        "command-line-by-environment",
        (),
        {"other.py": "wsgi_app = 'simple:app'\nthreads = 2\n"},
        environ={"GUNICORN_CMD_ARGS": "--config other.py -e 'WORD=two words' --threads=3"},
    ),
    Case("fed-configuration", prepare=feed),
    configured(
        "unknown-names",
        "time_out = 5\nclass Own:\n    pass\nown, __slots__ = Own(), ()\n",
        "--workers=2",
    ),
    Case("shadowed-modules", files=SHADOWS),
    Case(
        "stale-pidfile", ("--pid=own.pid", "simple:app"), prefix=UNPRIVILEGED, prepare=leave_pidfile
    ),
    Case("authorities-without-tls", ("--ca-certs=nowhere", "simple:app")),
    Case("no-log-config-json", ("--log-config-json=nowhere.json", "simple:app")),
    configured("superseded-log-config", "logconfig = 'nowhere'\nlogconfig_dict = {'version': 1}\n"),
    Case("concurrency-as-python-has-it", environ={"WEB_CONCURRENCY": "0_1"}),
    configured(
        "patched-but-threads", "import gevent.monkey\ngevent.monkey.patch_all(thread=False)\n"
    ),
    configured(
        "patched-but-threads-gevent",
        "import gevent.monkey\ngevent.monkey.patch_all(thread=False)\n",
        *("-k", "gevent"),
    ),
    Case("one-request-each", ("--max-requests=1", "simple:app"), shots=(Shot(path="/"),) * 4),
    Case("reload", ("--reload", "--reload-engine=poll", "simple:app")),
    Case("reload-with-error", ("--reload", "own:app"), {"own.py": "def app(:\n"}),
    configured(
        "odd-process",
        ODD_PROCESS,
        environ={"PYTHONOPTIMIZE": "2"},
        prefix=("/bin/sh", "-c", 'exec "$@" <&- >&-', "sh"),
    ),
]


# What is refused, and with which exit code. Ours differs where the contract in the README says
# so: 2 for what is wrong with the configuration, 4 for an application that does not load.

REFUSED = [
    configured("failing-configuration", "1 / 0\n", refuses=1, ours=2),
    configured("invalid-setting", "workers = 'many'\n", refuses=1, ours=2),
    configured("leaving-configuration", "import sys\nsys.exit(5)\n", refuses=5, ours=2),
    configured("leaving-configuration-well", "import sys\nsys.exit(0)\n", refuses=0, ours=2),
    Case("no-configuration", ("-c", "nowhere.py", "simple:app"), refuses=1, ours=2),
    Case("unknown-worker-class", ("-k", "nowhere.Own", "simple:app"), refuses=1, ours=2),
    Case("no-application", (), refuses=1, ours=2),
    Case("no-module", ("nowhere:app",), refuses=3),
    Case("no-attribute", ("simple:nothing",), refuses=4),
    module("failing-application", "1 / 0\n", refuses=3),
    module("leaving-application", "raise SystemExit(5)\n", arguments=("--preload",), refuses=5),
    module("preloaded-failure", "1 / 0\n", arguments=("--preload",), refuses=1, ours=4),
    configured("hook-at-start", "def on_starting(server): raise RuntimeError('no')\n", refuses=1),
    configured("hook-leaves", "def on_starting(server): raise SystemExit(7)\n", refuses=7),
    configured("hook-when-ready", "def when_ready(server): raise ValueError('no')\n", refuses=1),
    configured("hook-of-number", "def nworkers_changed(server, new, old): 1 / 0\n", refuses=1),
    configured("hook-pre-fork", "def pre_fork(server, worker): 1 / 0\n", refuses=255),
    configured("hook-post-fork", "def post_fork(server, worker): 1 / 0\n", refuses=3),
    configured("hook-of-worker", "def post_worker_init(worker): 1 / 0\n", refuses=3),
    Case(
        "lifespan-fails",
        ("-k", "asgi", "own:app"),
        {
            "own.py": "async def app(scope, receive, send):\n    await receive()\n"
            "    await send({'type': 'lifespan.startup.failed', 'message': 'no'})\n"
        },
        refuses=3,
    ),
]


# Loggers of the user's own.

LOGGER = """
import logging

class Log:
    '''What Gunicorn asks a logger for, and not more.'''

    def __init__(self, cfg):
        self._log = logging.getLogger("own")

    def __getattr__(self, name):
        return getattr(logging.getLogger("own"), name)

    def access(self, resp, req, environ, request_time):
        self._log.info("%s", environ.get("PATH_INFO"))

    def reopen_files(self):
        pass

    def close_on_exec(self):
        pass
"""
FINDER = """
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location

class Finder:
    '''As packages install it that are installed to be edited.'''

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "edited":
            return spec_from_file_location(name, "elsewhere/edited.py")

sys.meta_path.append(Finder)
logger_class = "edited.Log"
"""
LOGGERS = [
    Case("least", ("--logger-class=own.Log", "simple:app"), {"own.py": LOGGER}),
    Case(
        "least-gevent",
        ("--logger-class=own.Log", "-k", "gevent", "own:app"),
        {"own.py": LOGGER + FAILING},
    ),
    configured("named-in-the-configuration", f"{LOGGER}\nlogger_class = '__config__.Log'\n"),
    configured("edited", FINDER, files={"elsewhere/edited.py": LOGGER}),
    configured(
        "writes-elsewhere",
        f"{LOGGER}\nlogger_class = Log\nerrorlog = accesslog = 'nowhere/own.log'\n",
    ),
    configured(
        "replaced-in-the-master",
        f"{LOGGER}\ndef on_starting(server): server.log = Log(server.cfg)\n",
    ),
    configured(
        "replaced-in-the-worker",
        f"{LOGGER}\ndef post_fork(server, worker): worker.log = Log(worker.cfg)\n",
    ),
]


# Worker classes of the user's own.

NAMES = (
    *("process", "start_time", "worker_id", "intent", "exit_status", "stack_file", "told_early"),
    *("assign_slot", "_request_count", "_set_state", "_capacity", "_attach", "_board", "_slot"),
    *("_recorder", "_seam", "_asgi_seam", "_server_seam", "_stack_writer", "_made", "_process"),
)
CHECKED = """
    def run(self):
        assert {name: getattr(self, name) for name in NAMES} == dict.fromkeys(NAMES, "own")
        super().run()
"""
ATTRIBUTES = f"""
NAMES = {NAMES}
class Own(Base):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        vars(self).update(dict.fromkeys(NAMES, "own"))
{CHECKED}
"""
PROPERTIES = f"""
NAMES = {NAMES}
class Own(Base):
    locals().update({{name: property(lambda self: "own") for name in NAMES}})
{CHECKED}
"""
METHODS = f"""
NAMES = {NAMES}
class Own(Base):
    def own(self, first, second):
        return first + second
    locals().update(dict.fromkeys(NAMES, own))
    def run(self):
        assert [getattr(self, name)(1, 2) for name in NAMES] == [3] * len(NAMES)
        super().run()
"""
SEALED = """
class Own(Base):
    '''Once made it takes no attribute that it does not know.'''
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.wait_fds = self.wsgi = self.sealed = None
    def __setattr__(self, name, value):
        if "sealed" in vars(self) and not (name in vars(self) or name == "PIPE"):
            raise AttributeError(f"no {name} here")
        super().__setattr__(name, value)
"""
SUBMITS = """
from gunicorn.workers.gthread import TConn
class Own(Base):
    def accept(self, listener):
        client, address = listener.accept()
        client.setblocking(True)
        self.nr_conns += 1
        conn = TConn(self.cfg, client, address, listener.getsockname())
        future = self.tpool.submit(self.handle, conn)
        future.add_done_callback(
            lambda future: self.method_queue.defer(self.finish_request, conn, future)
        )
"""
POOL = """
from concurrent.futures import ThreadPoolExecutor
class Pool:
    def __init__(self, threads):
        self._pool = ThreadPoolExecutor(threads)
    def submit(self, *args):
        return self._pool.submit(*args)
    def shutdown(self, *args, **kwargs):
        self._pool.shutdown(*args, **kwargs)
class Own(Base):
    def get_thread_pool(self):
        return Pool(self.cfg.threads)
"""
FALLS_BACK = """
class Own(Base):
    def init_process(self):
        try:
            super().init_process()
        except ZeroDivisionError:
            import simple
            self.wsgi = simple.app
            self.booted = True
            self.run()
"""
DUCK = """
import os, signal, socket
from gunicorn.workers.workertmp import WorkerTmp
class Own:
    '''No class of Gunicorn's: only what its arbiter asks for.'''
    def __init__(self, age, ppid, sockets, app, timeout, cfg, log):
        self.age, self.sockets, self.tmp, self.pid = age, sockets, WorkerTmp(cfg), 0
        self.booted = self.aborted = False
    def init_process(self):
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        self.booted = True
        listener = self.sockets[0].sock
        listener.setblocking(True)
        while True:
            client, _ = listener.accept()
            client.recv(1000)
            client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
            client.close()
"""
KEYED = """
import socket
class Own(Base):
    '''Treats what it is given as the connection that it has accepted.'''
    def handle(self, listener, client, addr):
        self.clients = {client: addr}
        super().handle(listener, client, addr)
    def handle_error(self, req, client, addr, exc):
        assert isinstance(client, socket.socket)
        answer = b"HTTP/1.1 503 Own\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n"
        assert self.clients.pop(client) == addr
        socket.socket.sendall(client, answer)
"""
NAMED = """
class Own(Base):
    '''Calls its methods by the names that it has given to their parameters.'''
    def handle(self, listener, client, addr):
        try:
            raise ValueError("before the request")
        except ValueError as error:
            self.handle_error(req=None, client=client, addr=addr, er=error)
        client.close()
    def handle_error(self, req, client, addr, er):
        super().handle_error(req, client, addr, er)
"""
LEAVES = """
import threading
class Own(Base):
    '''Has defaults for what a signal's handler is given, and leaves by itself.'''
    def handle_exit(self, sig=None, frame=None):
        super().handle_exit(sig, frame)
    def accept(self, listener):
        self.handle_exit()
        super().accept(listener)
"""
HANDLER = """
from gunicorn.workers.ggevent import PyWSGIHandler, PyWSGIServer
class Handler(PyWSGIHandler):
    def __init__(self, *args):
        assert type(self) is Handler
        super().__init__(*args)
class Server(PyWSGIServer):
    def __init__(self, *args, **kwargs):
        assert type(self) is Server
        super().__init__(*args, **kwargs)
class Own(Base):
    server_class, wsgi_handler = Server, Handler
"""

OWN_WORKERS = [
    *(
        worker(f"{kind}-{name}", WORKERS[name], source, app=APP_OF[name])
        for kind, source, names in (
            ("attributes", ATTRIBUTES, ("sync", "gevent", "asgi")),
            ("properties", PROPERTIES, ("gthread", "gevent", "asgi")),
            ("methods", METHODS, ("sync", "gthread")),
            ("sealed", SEALED, ("sync", "gthread", "gevent")),
        )
        for name in names
    ),
    worker(
        "read-only-handle",
        SYNC,
        "class Own(Base):\n    handle = property(lambda self: super(Own, self).handle)\n",
    ),
    worker("submits-itself", GTHREAD, SUBMITS, "--threads=2"),
    worker("own-pool", GTHREAD, POOL, "--threads=2"),
    worker(
        "handle-by-name",
        SYNC,
        "class Own(Base):\n"
        "    def accept(self, listener):\n"
        "        client, addr = listener.accept()\n"
        "        client.setblocking(True)\n"
        "        self.handle(listener, client=client, addr=addr)\n",
    ),
    worker(
        "handles-errors-on-the-socket",
        SYNC,
        KEYED,
        app="own:app",
        files={"own.py": FAILING},
        is_counted=False,
    ),
    worker("calls-by-name", SYNC, NAMED, is_counted=False),
    worker("leaves-by-itself", SYNC, LEAVES, shots=(Shot(path="/"),) * 3),
    worker(
        "handler-with-argument",
        ASGI,
        "class Own(Base):\n"
        "    def handle_exit_signal(self, number=None):\n"
        "        super().handle_exit_signal()\n"
        "    def init_signals(self):\n"
        "        super().init_signals()\n"
        "        self.loop.add_signal_handler(15, self.handle_exit_signal, 15)\n",
        app="simple_asgi:app",
    ),
    worker(
        "results-of-methods",
        SYNC,
        "class Own(Base):\n"
        "    def load_wsgi(self):\n"
        "        super().load_wsgi()\n"
        "        return self.wsgi\n"
        "    def run(self):\n"
        "        assert self.load_wsgi() is self.wsgi\n"
        "        super().run()\n",
    ),
    worker("falls-back", SYNC, FALLS_BACK, app="own:app", files={"own.py": "1 / 0\n"}),
    worker(
        "of-a-function",
        SYNC,
        "def Own(*args):\n    made = Base(*args)\n    return made\n",
    ),
    worker(
        "final",
        SYNC,
        "class Own(Base):\n"
        "    def __init_subclass__(cls, **kwargs):\n"
        "        raise TypeError('final')\n",
        is_counted=False,
        may_fail=True,
    ),
    worker(
        "of-a-strict-class",
        SYNC,
        "class Kind(type):\n"
        "    def __new__(cls, name, bases, names, *, kind):\n"
        "        return super().__new__(cls, name, bases, names)\n"
        "    def __init__(cls, name, bases, names, *, kind):\n"
        "        super().__init__(name, bases, names)\n"
        "class Own(Base, metaclass=Kind, kind='own'):\n"
        "    pass\n",
        is_counted=False,
        may_fail=True,
    ),
    worker(
        "counts-by-its-class",
        SYNC,
        "class Own(Base):\n"
        "    made = 0\n"
        "    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "        type(self).made += 1\n"
        "        assert Own.made == self.age\n",
    ),
    Case(
        "no-class-of-gunicorns",
        ("-k", "own_worker.Own", "--timeout=0", "simple:app"),
        {"own_worker.py": DUCK},
        shots=(Shot(path="/", headers=("Connection: close",)),) * 2,
        is_counted=False,
        may_fail=True,
    ),
    worker("own-handlers", PYWSGI, HANDLER),
    worker(
        "own-application-in-asgi",
        ASGI,
        "class Own(Base):\n"
        "    def load_wsgi(self):\n"
        "        super().load_wsgi()\n"
        "        inner = self.asgi\n"
        "        async def outer(scope, receive, send):\n"
        "            await inner(scope, receive, send)\n"
        "        self.asgi = outer\n",
        app="simple_asgi:app",
    ),
    worker(
        "own-settings-in-uvicorn",
        UVICORN,
        "class Own(Base):\n"
        "    CONFIG_KWARGS = {'loop': 'asyncio', 'http': 'h11', 'server_header': False}\n",
        app="simple_asgi:app",
    ),
]


# Hooks.

SERVER_NAMES = (
    *("_state", "_roster", "_exporter", "_app_folder", "_app_directory", "_oom_kills", "_intent"),
    *("_last_worker", "_autopsies", "_is_adopted", "_is_serving", "_is_folding", "_vitals_due"),
    *("_published", "_awaited_age", "_failed_places", "_fixed_meta"),
)
CLAIMS = f"""
SERVER, WORKER = {SERVER_NAMES}, {NAMES}

def claim(thing, names):
    vars(thing).update(dict.fromkeys(names, "own"))

def check(thing, names):
    assert {{name: getattr(thing, name) for name in names}} == dict.fromkeys(names, "own")

def on_starting(server): claim(server, SERVER)
def pre_fork(server, worker): claim(worker, WORKER)
def post_fork(server, worker): check(server, SERVER)
def post_worker_init(worker): check(worker, WORKER)
def child_exit(server, worker): check(worker, WORKER)
def on_exit(server): check(server, SERVER)

def pre_request(worker, req): req.gunicorn_prom = "own"
"""
ON_THE_APPLICATION = """
class App:
    seen = 0
    async def __call__(self, scope, receive, send):
        await simple_asgi.app(scope, receive, send)
app = App()
"""

HOOKS = [
    configured("claim-names", CLAIMS),
    configured(
        "claim-names-of-a-request",
        "def pre_request(worker, req): req.gunicorn_prom = 'own'\n",
        *("-k", "gthread"),
    ),
    configured(
        "settings-replaced",
        "def post_fork(server, worker):\n"
        "    import copy\n"
        "    worker.cfg = copy.copy(worker.cfg)\n"
        "    worker.cfg.set('keepalive', 7)\n"
        "    worker.cfg.set('pre_request', lambda worker, req: None)\n"
        "def post_worker_init(worker):\n"
        "    worker.cfg.settings['post_request'].set(lambda worker, req: None)\n",
    ),
    configured(
        "settings-seen-through",
        "class Seen:\n"
        "    def __init__(self, cfg): self._cfg = cfg\n"
        "    def __getattr__(self, name): return getattr(self._cfg, name)\n"
        "def post_fork(server, worker): worker.cfg = Seen(worker.cfg)\n",
    ),
    configured("fails-before-a-request", "def pre_request(worker, req): 1 / 0\n"),
    configured("fails-behind-a-request", "def post_request(worker, req): 1 / 0\n"),
    configured("fails-at-the-end", "def on_exit(server): 1 / 0\n", ends=1),
    configured("leaves-at-the-end", "def on_exit(server): raise SystemExit(9)\n", ends=9),
    configured("fails-at-an-end", "def child_exit(server, worker): 1 / 0\n", ends=1),
    configured("fails-at-a-workers-end", "def worker_exit(server, worker): 1 / 0\n"),
    configured(
        "waits-for-threads-at-the-end",
        "import threading\n"
        "def on_exit(server):\n"
        "    for thread in threading.enumerate():\n"
        "        if thread is not threading.current_thread():\n"
        "            thread.join()\n",
    ),
    configured(
        "on-the-application",
        "def post_worker_init(worker): worker.wsgi.seen = worker.app.callable.seen + 1\n",
        app="own:app",
        files={
            "own.py": f"import simple\n{ON_THE_APPLICATION}".replace("async ", "")
            .replace("await simple_asgi", "return simple")
            .replace("scope, receive, send", "environ, start_response")
        },
    ),
    *(
        configured(
            f"on-the-application-{name}",
            "def post_worker_init(worker):\n"
            "    import own\n"
            f"    worker.{place}.seen += 1\n"
            f"    assert isinstance(worker.{place}, own.App)\n",
            *("-k", kind),
            app="own:app",
            files={"own.py": f"import simple_asgi\n{ON_THE_APPLICATION}"},
        )
        for name, kind, place in (("asgi", "asgi", "asgi"), ("uvicorn", UVICORN, "wsgi"))
    ),
]


# Applications.

# What is opened behind it gets the numbers of ours, and is nobody else's to write or to close.
USES = """
import tempfile
files = [tempfile.TemporaryFile() for _ in range(20)]

def app(environ, start_response):
    sizes = [os.fstat(file.fileno()).st_size for file in files]
    assert not any(sizes)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
CLOSES_FILES = """
import os
for descriptor in map(int, os.listdir("/proc/self/fd")):
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        continue
    if descriptor > 2 and target.startswith("/") and not target.endswith("(deleted)"):
        os.close(descriptor)
"""
CLOSES_ALL = """
import os
os.closerange(3, 256)
"""
FORKS = """
import os, time
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    time.sleep(3)
    os._exit(0)
os.wait()
"""
PROM = """
from prometheus_client import Counter, Enum, Gauge, Histogram, Info, Summary, REGISTRY
from prometheus_client import generate_latest

Info("own_build", "a").info({"version": "1"})
Enum("own_mode", "b", states=["off", "on"]).state("on")
jobs = Counter("own_jobs", "c", ["kind"])
Gauge("own_heat", "d").set(3)
Summary("own_size", "e").observe(2)
Histogram("own_time", "f").observe(0.2, exemplar={"trace_id": "abc"})

def app(environ, start_response):
    jobs.labels("one").inc()
    lines = generate_latest(REGISTRY).splitlines()
    body = b"\\n".join(line for line in lines if b" own_" in line or line.startswith(b"own_"))
    body = b"\\n".join(line for line in body.splitlines() if b"_created" not in line)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
HANDLES_SIGNALS = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGRTMAX - 1, signal.SIG_IGN)
"""
SPAWNS = """
import subprocess
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
assert subprocess.run(["true"]).returncode == 0

def app(environ, start_response):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        body = str(pool.submit(len, "ab").result()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

APPLICATIONS = [
    module("closes-all-when-preloaded", CLOSES_ALL + USES, arguments=("--preload",), may_fail=True),
    module("closes-files-gthread", CLOSES_FILES + USES, arguments=("-k", "gthread"), may_fail=True),
    module("forks", FORKS + SIMPLE),
    module("forks-when-preloaded", FORKS + SIMPLE, arguments=("--preload",)),
    module("handles-signals", HANDLES_SIGNALS + SIMPLE),
    module("spawns", SPAWNS, shots=(Shot(path="/"),)),
    module("own-metrics", PROM),
    module(
        "own-metrics-in-its-directory",
        PROM,
        arguments=("--env=PROMETHEUS_MULTIPROC_DIR=metrics",),
        prepare=lambda directory: (directory / "metrics").mkdir(),
    ),
    module(
        "raises-what-cannot-be-said",
        "class Odd(Exception):\n"
        "    def __str__(self): raise ValueError('no')\n"
        "    __repr__ = __str__\n"
        "def app(environ, start_response): raise Odd\n",
    ),
    module(
        "odd-environ",
        SIMPLE.replace(
            "    return",
            '    environ.update(CONTENT_LENGTH=None, HTTP_X_REQUEST_START="x")\n    return',
        ),
    ),
    Case(
        "strict-scope",
        ("-k", "asgi", "own:app"),
        {
            "own.py": "import simple_asgi\n"
            "def known(type, asgi, state=None, http_version='', method='', scheme='', path='',\n"
            "          raw_path=b'', query_string=b'', root_path='', headers=(), client=None,\n"
            "          server=None, extensions=None): pass\n"
            "async def app(scope, receive, send):\n"
            "    known(**scope)\n"
            "    await simple_asgi.app(scope, receive, send)\n"
        },
    ),
]


# Programs of the user's own, with our hooks in ours.

OWN_ARBITER = f"""
import os, sys
from gunicorn.app.base import Application
from gunicorn.arbiter import Arbiter
{SIMPLE}

class OwnArbiter(Arbiter):
    '''Counts its turns, and has an exit code of its own.'''
    turns = 0

    def manage_workers(self):
        self.turns += 1
        super().manage_workers()

    def halt(self, reason=None, exit_status=0):
        super().halt(reason, 7 if self.turns else 8)

class Own(Application):
    def init(self, parser, opts, args):
        options = {{"bind": f"127.0.0.1:{{sys.argv[-1]}}"}}
        if "GUNICORN_PROM_METRICS_BIND" in os.environ:
            from gunicorn_prom.hooks import on_starting
            options["on_starting"] = on_starting
        return options

    def load(self):
        return app

    def run(self):
        OwnArbiter(self).run()

if __name__ == "__main__":
    Own("%(prog)s").run()
"""

PROGRAMS = [
    Case(
        "own-arbiter",
        ("{server.port}",),
        {"own.py": OWN_ARBITER},
        program=(sys.executable, "own.py"),
        ends=7,
    ),
]

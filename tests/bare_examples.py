"""What Gunicorn's own examples show, as cases of tests/bare.py.

Each mechanism of its `examples/` is here; the applications are in tests/apps/example_*.py. Left
out are frameworks that our tests do not have (CherryPy, Pyramid, web.py, Routes, aiohttp-wsgi),
sentence-transformers, of which the embedding service is a client, and files for other programs.
"""

import socket
import ssl
import sys
from collections.abc import Sequence
from functools import partial
from http.client import HTTPSConnection

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests import http2
from tests.bare import SIMPLE, Case, configured, module
from tests.support import DEADLINE_S, ROOT
from tests.traffic import Exchange, Shot

PYWSGI = "gunicorn.workers.ggevent.GeventPyWSGIWorker"
TORNADO = "gunicorn.workers.gtornado.TornadoWorker"
UVICORN = "uvicorn_worker.UvicornWorker"

CLOSE = ("Connection: close",)
CHUNKED = b"POST /lines HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
WSGI = (
    Shot(path="/greet"),
    Shot(path="/echo"),
    Shot("POST", "/echo", body=b"said\n"),
    Shot("POST", "/lines", body=b"one\ntwo\nthree"),
    Shot("POST", "/lines", raw=CHUNKED + b"5\r\none\nt\r\n3\r\nwo\n\r\n0\r\n\r\n"),
    Shot(path="/file"),
    Shot(path="/drip"),
    Shot(path="/pause"),
    Shot(path="/logged", headers=CLOSE),
    Shot(path="/host"),
    Shot(path="/host", raw=b"GET /host HTTP/1.1\r\nHost: here:80\r\n\r\n"),
    Shot(path="/names"),
    Shot(path="/large"),
    Shot(path="/nowhere"),
    Shot(path="/text", headers=CLOSE),
)
# tornado gives no file wrapper, and an application that announces chunks has to write them there.
WSGI_ON_TORNADO = [shot for shot in WSGI if shot.path not in {"/file", "/text", "/lines", "/drip"}]
ASGI = (
    Shot(path="/greet"),
    Shot(path="/greet?name=me"),
    Shot("POST", "/echo", body=b"x" * 5000),
    Shot(path="/headers"),
    Shot(path="/names"),
    Shot(path="/stream"),
    Shot(path="/priority"),
    Shot(path="/nowhere"),
)
# For applications that look at whom they are asked for.
LOCAL = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
JSON = ("Content-Type: application/json",)
DIRTY = tuple(Shot(path=f"/{job}") for job in ("double", "count", "remember", "recall", "unknown"))
INDEX = (Shot(path="/"), Shot(path="/"), Shot("POST", "/", body=b"x"), Shot(path="/nowhere"))


def send_encrypted(port: int, shots: Sequence[Shot]) -> list[Exchange]:
    """Send each request over a TLS connection of its own, the newest version."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    exchanges = []
    for shot in shots:
        connection = HTTPSConnection("127.0.0.1", port, timeout=DEADLINE_S, context=context)
        connection.request(shot.method, shot.path)
        answer = connection.getresponse()
        body = answer.read()
        exchanges.append(Exchange(shot, str(answer.status), True, len(body), body))
        connection.close()
    return exchanges


def talk_over_websockets(port: int) -> list[object]:
    """Say something over a WebSocket, and try one that is refused."""
    said: list[object] = []
    with connect(f"ws://127.0.0.1:{port}/talk", subprotocols=["talk"]) as client:  # type: ignore[list-item]
        said.append(client.subprotocol)
        for word in ("good day", b"\x00\xff"):
            client.send(word)
            said.append(client.recv(DEADLINE_S))
    try:
        connect(f"ws://127.0.0.1:{port}/nowhere").close()
    except InvalidStatus as error:
        said.append(error.response.status_code)
    return said


def talk_over_the_connection(port: int) -> list[bytes]:
    """Have the application take the connection over."""
    request = b"GET /taken HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n"
    said = []
    with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as client:
        for word in (request, b"good day"):
            client.sendall(word)
            said.append(client.recv(1000))
    return said


EVERY_SETTING = """
backlog = 2048
workers = 1
worker_class = "sync"
worker_connections = 1000
timeout = 30
keepalive = 2
spew = False
daemon = False
raw_env = ["WORD=said", "OTHER=a=b"]
pidfile = "own.pid"
umask = 0o022
user = group = tmp_upload_dir = proc_name = None
errorlog = accesslog = "-"
loglevel = "debug"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(D)s'
certfile, keyfile = "certificate.pem", "key.pem"

def on_starting(server):
    server.log.info("starting with %s", server.cfg.workers)

def pre_fork(server, worker):
    server.log.info("forking %s", worker)

def post_fork(server, worker):
    server.log.info("forked %s", worker.pid)

def pre_exec(server):
    server.log.info("next generation")

def when_ready(server):
    server.log.info("ready at %s", server.address)

def worker_int(worker):
    import sys, threading, traceback
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        worker.log.debug("%s %s", names.get(ident), traceback.extract_stack(frame))

def worker_abort(worker):
    worker.log.info("timed out")

def on_exit(server):
    server.log.info("over")

def ssl_context(conf, default_ssl_context_factory):
    import ssl
    context = default_ssl_context_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_3

    def choose(connection, name, context):
        if name == "there":
            connection.context = default_ssl_context_factory()

    context.sni_callback = choose
    return context
"""

# A thread of the master that looks after the workers' memory.
WATCH = """
import signal, threading, time

class Watch(threading.Thread):
    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.pause_s = server, server.timeout / 1000

    def run(self):
        while True:
            for pid, worker in list(self.server.WORKERS.items()):
                with open(f"/proc/{pid}/statm") as file:
                    grown = int(file.read().split()[1]) > 1
                if grown and worker.age == 1:
                    self.server.log.info("%s has grown", pid)
                    self.server.kill_worker(pid, signal.SIGTERM)
                    return
            time.sleep(self.pause_s)

def when_ready(server):
    Watch(server).start()
"""

LOG_CONFIG = """
[loggers]
keys = root, gunicorn.error, gunicorn.access
[handlers]
keys = console, errors, accesses
[formatters]
keys = plain
[logger_root]
level = INFO
handlers = console
[logger_gunicorn.error]
level = INFO
handlers = errors
propagate = 1
qualname = gunicorn.error
[logger_gunicorn.access]
level = INFO
handlers = accesses
propagate = 0
qualname = gunicorn.access
[handler_console]
class = StreamHandler
formatter = plain
args = (sys.stdout,)
[handler_errors]
class = logging.FileHandler
formatter = plain
args = ("errors.log",)
[handler_accesses]
class = logging.FileHandler
formatter = plain
args = ("accesses.log",)
[formatter_plain]
format = %(asctime)s [%(process)d] %(message)s
"""

PASTE = """
[app:main]
paste.app_factory = example_wsgi:from_paste
[server:main]
use = egg:gunicorn#main
host = 127.0.0.1
port = 8080
workers = 1
"""

DJANGO = f"""
settings = {{}}
with open({str(ROOT / "examples/django/django_app/settings.py")!r}) as file:
    exec(file.read(), settings)
loglevel, proc_name, workers = "warning", "own", 1
if settings["USE_TZ"]:
    loglevel, reload = "debug", True
    proc_name += "_debug"
"""

FLASK_FILE = """
import io
from flask import Flask, send_file
app = Flask(__name__)

@app.route("/")
def index():
    return send_file(io.BytesIO(b"in memory"), download_name="own.txt", as_attachment=True)
"""
FASTAPI = """
from contextlib import asynccontextmanager
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

@asynccontextmanager
async def lifespan(app):
    yield {"word": "said"}

app = FastAPI(lifespan=lifespan)

class Asked(BaseModel):
    text: str

@app.get("/")
async def index():
    return {"status": "ok"}

@app.post("/chat")
async def chat(asked: Asked):
    async def parts():
        for word in asked.text.split():
            yield f"data: {word}\\n\\n"
    return StreamingResponse(parts(), media_type="text/event-stream")

@app.get("/gone")
async def gone():
    raise HTTPException(status_code=504, detail="gone")
"""
NATIVE_TORNADO = """
import asyncio
import tornado.web

class Index(tornado.web.RequestHandler):
    async def get(self):
        await asyncio.sleep(0.01)
        self.write("good day")

app = tornado.web.Application([(r"/", Index)])
"""

# Gunicorn's application of one's own, which knows no command line; with our hooks where the
# tests put our settings into its environment.
STANDALONE = f"""
import os, sys
from gunicorn.app.base import BaseApplication
{SIMPLE}

class Standalone(BaseApplication):
    def __init__(self, app, options):
        self.app, self.options = app, options
        super().__init__()

    def load_config(self):
        for name, value in self.options.items():
            if name in self.cfg.settings and value is not None:
                self.cfg.set(name, value)

    def load(self):
        return self.app

if __name__ == "__main__":
    options = {{"bind": f"127.0.0.1:{{sys.argv[1]}}", "workers": 2, "unknown": 1, "user": None}}
    if "GUNICORN_PROM_METRICS_BIND" in os.environ:
        from gunicorn_prom.hooks import on_starting
        options["on_starting"] = on_starting
    Standalone(app, options).run()
"""

DIRTY_CONFIG = """
from example_dirty import DESK
dirty_apps, dirty_workers, dirty_timeout, dirty_graceful_timeout = [DESK], 1, 30, 2
def on_dirty_starting(arbiter): print("desk starts", list(arbiter.cfg.dirty_apps))
def dirty_post_fork(arbiter, worker): print("desk", worker.pid)
def dirty_worker_init(worker): open("desk", "w").close()
def dirty_worker_exit(arbiter, worker): print("desk ends")

def post_worker_init(worker):
    import os, time
    while not os.path.exists("desk"):
        time.sleep(0.02)
"""


def wsgi(worker_class: str, *arguments: str, shots: Sequence[Shot] = WSGI, **kw: object) -> Case:
    """Return the case of all WSGI examples on that type of worker."""
    name = f"wsgi-{worker_class.rpartition('.')[2]}"
    arguments = ("-k", worker_class, "--keep-alive=30", *arguments, "example_wsgi:app")
    return Case(name, arguments, shots=tuple(shots), **kw)  # type: ignore[arg-type]


def encrypted(name: str, worker_class: str, app: str, *shots: Shot) -> Case:
    """Return a case that speaks HTTP/2."""
    options = ("--http-protocols=h2,h1", "--certfile=certificate.pem", "--keyfile=key.pem")
    limits = ("--http2-max-concurrent-streams=64", "--http2-initial-window-size=262144")
    return Case(
        name,
        ("-k", worker_class, "--threads=2", *options, *limits, app),
        prepare=http2.certificate_files,
        shots=shots,
        send=partial(http2.send, streams=1),
    )


EXAMPLES = [
    wsgi("sync"),
    wsgi("gthread", "--threads=2"),
    wsgi("gevent", talk=talk_over_the_connection),
    wsgi(PYWSGI, shots=[shot for shot in WSGI if shot.path != "/text"]),
    wsgi(TORNADO, shots=WSGI_ON_TORNADO),
    Case(
        "slow-application",
        ("--timeout=1", "example_wsgi:app"),
        shots=(Shot(path="/greet"), Shot(path="/hang"), Shot(path="/greet")),
    ),
    Case("factory", ("example_wsgi:load(b'you')",)),
    module("boot-failure", "raise RuntimeError('bad application')\n", refuses=3),
    Case(
        "every-setting",
        ("-c", "example.py", "simple:app"),
        {"example.py": EVERY_SETTING},
        prepare=http2.certificate_files,
        send=send_encrypted,
    ),
    Case("watch", ("-c", "when_ready.conf.py", "simple:app"), {"when_ready.conf.py": WATCH}),
    Case(
        "log-config",
        ("--log-config=logging.conf", "example_wsgi:app"),
        {"logging.conf": LOG_CONFIG},
        shots=(Shot(path="/greet"), Shot(path="/logged", headers=CLOSE)),
    ),
    Case(
        "paste",
        ("--paste", "own.ini", "--preload"),
        {"own.ini": PASTE},
        shots=(Shot(path="/greet"), Shot(path="/logged", headers=CLOSE)),
    ),
    Case(
        "django-settings",
        ("-c", "own.conf.py", "--chdir", str(ROOT / "examples/django"), "django_app.wsgi"),
        prepare=lambda directory: (directory / "own.conf.py").write_text(DJANGO),
        environ={"GUNICORN_CMD_ARGS": "--config own.conf.py"},
        shots=tuple(Shot(raw=LOCAL % path) for path in (b"/", b"/stream", b"/nowhere")),
    ),
    Case(
        "standalone",
        ("{server.port}",),
        {"standalone.py": STANDALONE},
        program=(sys.executable, "standalone.py"),
    ),
    Case("flask", ("app:app", "--chdir", str(ROOT / "examples/flask")), shots=INDEX),
    module("flask-file", FLASK_FILE, shots=INDEX),
    module(
        "fastapi",
        FASTAPI,
        arguments=("-k", "asgi"),
        shots=(
            Shot(path="/"),
            Shot("POST", "/chat", headers=JSON, body=b'{"text": "a b"}'),
            Shot(path="/gone"),
        ),
    ),
    module("tornado", NATIVE_TORNADO, arguments=("-k", TORNADO), shots=INDEX[:2]),
    Case(
        "asgi",
        ("-k", "asgi", "example_asgi:app"),
        shots=ASGI,
        talk=talk_over_websockets,
        counted=len(ASGI) + 1,  # the handshake that is refused
    ),
    Case(
        "uvicorn",
        ("-k", UVICORN, "example_asgi:app"),
        shots=ASGI,
        talk=talk_over_websockets,
        counted=len(ASGI) + 1,
    ),
    encrypted(
        "http2-asgi",
        "asgi",
        "example_asgi:app",
        *(Shot(path=path) for path in ("/greet", "/priority", "/trailers", "/stream")),
    ),
    encrypted(
        "http2-gevent",
        "gevent",
        "example_wsgi:app",
        Shot(path="/greet"),
        Shot("POST", "/echo", body=b"said"),
        Shot(path="/large"),
        Shot(path="/names"),
    ),
    configured(
        "dirty", DIRTY_CONFIG, "--name=own-{server.port}", app="example_dirty:app", shots=DIRTY
    ),
    configured(
        "dirty-asgi",
        DIRTY_CONFIG,
        *("--name=own-{server.port}", "-k", "asgi", "--asgi-loop=uvloop"),
        *("--max-requests=1000", "--max-requests-jitter=50"),
        app="example_dirty:asgi",
        shots=DIRTY,
    ),
]

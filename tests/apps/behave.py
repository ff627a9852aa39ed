"""An application whose requests do what the tests ask for: answer, wait, spin, hold memory."""

import gc
import os
import threading
import time
from pathlib import Path

held = []


def answer(_argument):
    return "ok"


def pid(_argument):
    return str(os.getpid())


def wait(gate):
    """Sleep until the file `gate` appears in the server's directory."""
    pause = threading.Event()
    while not Path(gate).exists():
        pause.wait(0.02)
    return "waited"


def sleep(seconds):
    time.sleep(float(seconds))
    return "slept"


def spin(gate):
    """Use a whole core until the file `gate` appears in the server's directory."""
    while not Path(gate).exists():
        sum(range(1000))
    return "spun"


def hold(megabytes):
    held.append(b"\1" * (int(megabytes) << 20))
    return "held"


def collect(_argument):
    gc.collect()
    return "collected"


ANSWERS = {
    "": answer,
    "pid": pid,
    "wait": wait,
    "sleep": sleep,
    "spin": spin,
    "hold": hold,
    "collect": collect,
}


def app(environ, start_response):
    name, _, argument = environ["PATH_INFO"].strip("/").partition("/")
    status, body = "200 OK", b""
    if name in ANSWERS:
        body = ANSWERS[name](argument).encode()
    else:
        status = f"{name} Whatever"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

"""Applications that close descriptors that are not theirs, and go on with the numbers.

What they close at import is said by the variable CLOSING: `everything` as daemons do, or what
links to the state directory (`state`). With DATABASES they open eight databases on the numbers
right behind that, and write to them in each request; a request for /close does it later.
"""

import os
import sqlite3
import time
from pathlib import Path

DATABASES = 8
UNWRITTEN = "still to be written"
TABLE = "CREATE TABLE IF NOT EXISTS request (path TEXT)"

databases = []
numbers = {}
notes = []


def links():
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return found


def close_everything():
    kept = {int(fd) for fd in os.environ.get("GUNICORN_FD", "").split(",") if fd}
    for number in sorted(set(range(3, 2048)) - kept):
        try:
            os.close(number)
        except OSError:
            continue


def close_links(*prefixes):
    for number, link in links().items():
        if number > 2 and link.startswith(prefixes):
            os.close(number)


def open_databases():
    for number in range(DATABASES):
        database = sqlite3.connect(
            f"{os.getpid()}.{number}.db", check_same_thread=False, isolation_level=None
        )
        database.execute(TABLE)
        databases.append(database)
    numbers.update({n: link for n, link in links().items() if link.endswith(".db")})
    # Python closes them when all modules are gone, and only then is anything in them.
    for number in range(4):
        note = Path(f"{os.getpid()}.{number}.note").open("w")  # noqa: SIM115  # until the end
        note.write(UNWRITTEN)
        notes.append(note)


def write(path):
    for database in databases:
        database.execute("INSERT INTO request VALUES (?)", (path,))
    now = links()
    return [link for number, link in numbers.items() if now.get(number) != link]


if os.environ.get("CLOSING") == "everything":
    close_everything()
if os.environ.get("CLOSING") == "state":
    close_links(f"{Path.cwd()}/state/")
if "DATABASES" in os.environ:
    open_databases()


def app(environ, start_response):
    path = environ["PATH_INFO"]
    lost = write(path)
    if path == "/sleep":
        time.sleep(60)
    if path == "/close":
        close_links(f"{Path.cwd()}/state/")
        open_databases()
    if path == "/fail":
        raise LookupError(path)
    status = path[1:] if path[1:].isdigit() else "200"
    start_response(f"{status} Whatever", [("Content-Type", "text/plain")])
    return [repr(lost).encode()]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"[]"})

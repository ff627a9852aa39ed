"""A metrics server behind a door, for the tests: python door_server.py WEB_CONFIG.

It says its port, and what came of the commands on stdin: `fork` and `end`.
"""

import logging
import os
import socket
import sys
import threading
from pathlib import Path

from gunicorn_prom.exporter.door import Door
from gunicorn_prom.exporter.message import Answer, Request, refusal
from gunicorn_prom.exporter.server import Server

METRICS = b"one 1\n" * 20000
NOT_READY = "the database has the password hunter2"


def main() -> None:
    log = logging.getLogger("door")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    errors: list[None] = []
    door = Door.open(Path(sys.argv[1]), log, lambda: errors.append(None))

    def respond(request: Request) -> Answer:
        answers = {
            "/metrics": Answer(200, METRICS),
            "/hashes": Answer(200, str(door.passwords.hashes).encode()),
            "/errors": Answer(200, str(len(errors)).encode()),
            "/-/healthy": Answer(200, b"healthy, they say\n"),
            "/-/ready": Answer(503, NOT_READY.encode()),
        }
        return answers.get(request.path, refusal(404))

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    theirs, ours = os.pipe()
    server = Server(listener, respond, log, theirs, door)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    print(listener.getsockname()[1], flush=True)
    for command in sys.stdin:
        if command == "fork\n":
            print(exit_code_of_fork(server), flush=True)
        if command == "end\n":
            break
    os.close(ours)
    thread.join()


def exit_code_of_fork(server: Server) -> int:
    """Fork as the master does, and have the child end as a worker does."""
    with server.lock:
        pid = os.fork()
        if pid == 0:
            server.close()
            sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()

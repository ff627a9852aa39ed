"""The metrics server as a process of its own; the master starts it, nobody else.

    python -m gunicorn_prom.exporter OPTIONS

with OPTIONS in JSON: the `path` of the metrics, the `directory` of the server (see
`State`), the `web_config` file or null, and the `descriptors` of the listening socket,
the lifeline (see `Server`), the scoreboard and its labels.
"""

import json
import logging
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from gunicorn_prom.exporter.endpoint import Endpoint
from gunicorn_prom.exporter.host import open_door
from gunicorn_prom.exporter.server import Server
from gunicorn_prom.reader import ServerReader
from gunicorn_prom.scoreboard import Board


def main(options: str) -> None:
    """Serve until the master is gone."""
    # A signal to the whole group, as Ctrl-C sends it, means the master; the metrics
    # are served until it has ended.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    given = json.loads(options)
    listener_fd, lifeline, board_fd, keys_fd = given["descriptors"]
    log = logging.getLogger("gunicorn_prom")
    log.addHandler(logging.StreamHandler())
    listener = socket.socket(fileno=listener_fd)
    listener.setblocking(False)
    board = Board(board_fd, keys_fd)
    endpoint = Endpoint({"": ServerReader(Path(given["directory"]), [board])}, given["path"], log)
    door = None
    if given["web_config"] is not None:
        door = open_door(given["web_config"], log, partial(endpoint.count_error, "web_config"))
    server = Server(listener, endpoint.respond, log, lifeline, door)
    server.watch = endpoint.watch
    server.serve()


if __name__ == "__main__":
    main(sys.argv[1])

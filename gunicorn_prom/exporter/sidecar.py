"""The metrics server beside a server: in another process, container or pid namespace.

All it has is the state directory. It writes nothing there, so the directory may be
mounted read-only.
"""

import logging
import os
import posix
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gunicorn_prom.exporter.endpoint import Endpoint
from gunicorn_prom.exporter.host import open_door
from gunicorn_prom.exporter.listener import listen, url_of
from gunicorn_prom.exporter.server import Server
from gunicorn_prom.reader import ServerReader, ServerReading
from gunicorn_prom.scoreboard import Board
from gunicorn_prom.settings import DEFAULT_BUCKETS
from gunicorn_prom.state import BOARD, has_holder, servers
from gunicorn_prom.totals import Totals

__all__ = ["RootReader", "serve"]

NOTHING = ServerReading(Totals(DEFAULT_BUCKETS), [], [])


class RootReader:
    """Read the server that runs in a state directory, whichever that is at the moment.

    It stays with one server as long as that lives, through all its generations. Where
    several live it takes none: which one, would be a guess.

    Args:
        root: as given to `--metrics-state-dir`; it need not be there yet.
        log: is told what is followed.

    Attributes:
        directory: of the server that is followed.
        own: none, for there is nothing to write to.
        report: see `ServerReader`.
    """

    def __init__(self, root: Path, log: Any) -> None:
        self.directory = root
        self.own: Sequence[Board] = ()
        self.report: Callable[[Exception], None] = lambda error: None
        self._root = root
        self._log = log
        self._server: ServerReader | None = None
        self._told = ""

    def read(self) -> ServerReading:
        """Return the server at this moment, nothing while there is none."""
        if self._server is None or not has_holder(self._server.directory):
            self._follow(self._find())
        if self._server is None:
            return NOTHING
        self._server.report = self.report
        return self._server.read()

    def _find(self) -> Path | None:
        """Return the directory of the one server that lives, None when it is not one."""
        try:
            living = [path for path in servers(self._root) if _is_held(path)]
        except FileNotFoundError:
            living = []
        except OSError as error:
            self._tell(f"cannot read {error.filename or self._root}: {error.strerror}")
            return None
        if len(living) > 1:
            self._tell(
                f"{len(living)} servers run in {self._root}, none is served: "
                "give each a --metrics-state-dir of its own"
            )
            return None
        if not living:
            self._tell(f"waiting for a server in {self._root}")
        return living[0] if living else None

    def _follow(self, directory: Path | None) -> None:
        if self._server is not None:
            self._server.close()
        self._server = None
        if directory is not None:
            self._server = ServerReader(directory)
            self.directory = directory
            self._tell(f"following {directory}")

    def _tell(self, message: str) -> None:
        if message != self._told:
            self._told = message
            self._log.info("%s", message)


def _is_held(server: Path) -> bool:
    """Tell whether a server lives.

    Raises:
        OSError: it cannot be told, for its files may not be read.
    """
    try:
        for name in os.listdir(server):
            if name.startswith(f"{BOARD}."):
                posix.close(os.open(server / name, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return False
    return has_holder(server)


def serve(roots: Mapping[str, Path], bind: str, path: str, web_config: str | None) -> None:
    """Serve the servers in `roots` until SIGTERM or SIGINT.

    Args:
        roots: state directories, by the value of the label `server`; "" for the only one.
        bind: the address, as `settings.parse_bind` takes it.
        path: where the metrics are.
        web_config: the web configuration file, None for plain HTTP to everybody.

    Raises:
        BindError: the address cannot be had.
        UsageError: the web configuration file cannot be used.
    """
    log = logging.getLogger("gunicorn_prom")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    readers = {name: RootReader(root, log) for name, root in roots.items()}
    endpoint = Endpoint(readers, path, log)
    door = None
    if web_config:
        door = open_door(web_config, log, partial(endpoint.count_error, "web_config"))
    listener = listen(bind)
    lifeline = _cut_by(signal.SIGTERM, signal.SIGINT)
    log.info("Metrics at %s", url_of(listener.getsockname(), path, door.scheme if door else "http"))
    for reader in readers.values():
        reader.read()
    server = Server(listener, endpoint.respond, log, lifeline, door)
    server.watch = endpoint.watch
    server.serve()


def _cut_by(*signals: int) -> int:
    """Return a lifeline, see `Server`, that any of the signals cuts."""
    lifeline, our_end = os.pipe()

    def cut(number: int, frame: Any) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        posix.close(our_end)

    for number in signals:
        signal.signal(number, cut)
    return lifeline

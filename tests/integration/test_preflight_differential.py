"""What the settings name, in use or not: `run` serves where bare Gunicorn does, and only there."""

import contextlib
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.real_parts import find_program
from tests.support import GUNICORN, OWN_OPTIONS, Server, running, wait_for

APP = "behave:app"
OURS = [sys.executable, "-m", "gunicorn_prom", "run", *OWN_OPTIONS]
BARE = [GUNICORN, OWN_OPTIONS[0]]

# What every configuration file begins with. Without a certificate no file is needed for TLS.
PRELUDE = """
import os, ssl, sys, types
from gunicorn.glogging import Logger
def anonymous(context):
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return context
"""


class Answer(NamedTuple):
    """How a case is asked: on the TCP port, or on a unix socket in the server's directory."""

    path: str = ""
    is_tls: bool = False

    def is_given_by(self, server: Server) -> bool:
        """Tell whether a GET request is answered."""
        try:
            with self._connect(server) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(100)
        except OSError:
            return False

    def _connect(self, server: Server) -> socket.socket:
        address = str(server.directory / self.path) if self.path else ("127.0.0.1", server.port)
        client = socket.socket(socket.AF_UNIX if self.path else socket.AF_INET)
        try:
            client.settimeout(10)
            client.connect(address)
            return anonymous_tls().wrap_socket(client) if self.is_tls else client
        except OSError:
            client.close()
            raise


def anonymous_tls() -> ssl.SSLContext:
    """Return what needs no certificate, as `anonymous` of the configuration file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return context


PLAIN = Answer()

# Many at once, for what is served in spite of all of it is served in spite of each. Bare Gunicorn
# passes over our own settings.
SERVED = {
    # A logger of the user's opens nothing of what is there for Gunicorn's.
    "unused": (
        """
class Quiet(Logger):
    def setup(self, cfg):
        self.cfg = cfg
logger_class = "__config__.Quiet"
errorlog = accesslog = logconfig = "no/file"
logconfig_json = "unreadable"
ca_certs = "no/authority.pem"
metrics_server, metrics_web_config = "none", "no/web.yml"
""",
        PLAIN,
    ),
    # The first of the three ways to configure the log wins, and one in JSON may be missing.
    "overruled": (
        """
logconfig_dict = {"version": 1, "disable_existing_loggers": False}
logconfig = logconfig_json = "unreadable"
sys.modules["handmade"] = types.ModuleType("handmade")
sys.modules["handmade"].Log = Logger
logger_class = "handmade.Log"
pidfile = "stale.pid"
""",
        PLAIN,
    ),
    # As an editable installation is found; `chdir` holds for all that is relative.
    "found": (
        """
from importlib.machinery import ModuleSpec
class Finder:
    def find_spec(name, path=None, target=None):
        return ModuleSpec(name, Finder) if name == "editable" else None
    def create_module(spec):
        return None
    def exec_module(module):
        module.Log = Logger
sys.meta_path.append(Finder)
logger_class = "editable.Log"
logconfig_json = "no.json"
logconfig = "no.ini"
chdir = "below"
pidfile = "../stale.pid"
""",
        PLAIN,
    ),
    # A link leads to where the log may be made, and standard streams are there already.
    "links": (
        """
errorlog = "sealed/link"
accesslog = "/dev/stdout"
pidfile = "dangling.pid"
worker_tmp_dir = "made"
bind = "unix:made/app.sock"
def on_starting(server):
    os.mkdir("made")
""",
        Answer("made/app.sock"),
    ),
    # What the hook does not read need only be there; another makes a directory in time.
    "hooks": (
        """
pidfile = "early/pid"
def nworkers_changed(server, new, old):
    os.makedirs("early", exist_ok=True)
certfile = keyfile = "unreadable"
ca_certs = "no/authority.pem"
def ssl_context(conf, default):
    return anonymous(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
""",
        Answer(is_tls=True),
    ),
}

REFUSED = {
    "pid in no directory": 'pidfile = "no/pid"',
    "pid is a directory": 'pidfile = "below"',
    "pid cannot be read": 'pidfile = "unreadable"',
    "pid in a sealed directory": 'pidfile = "sealed/pid"',
    "log in no directory": 'errorlog = "no/log"',
    "log in a sealed directory": 'accesslog = "sealed/log"',
    "log is a directory": 'accesslog = "below"',
    "log cannot be written": 'errorlog = "stale.pid"',
    "no log configuration": 'logconfig = "no.ini"',
    "log configuration cannot be read": 'logconfig_json = "unreadable"',
    "no certificate": (
        'certfile = "no.pem"\ndef ssl_context(conf, default):\n'
        "    return anonymous(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))"
    ),
    "no heartbeat directory": 'worker_tmp_dir = "no"',
    "no logger": 'logger_class = "nowhere.Log"',
    "no logger in it": 'logger_class = "gunicorn.glogging.Nothing"',
    "no descriptor": 'bind = "fd://77"',
    "no socket": 'bind = "unix:stale.pid"',
}


@pytest.mark.parametrize("name", SERVED)
def test_what_gunicorn_starts_is_started(tmp_path: Path, name: str) -> None:
    """Nothing that is not in use, or made in time, keeps a server from serving."""
    config, answer = SERVED[name]
    with pair(tmp_path, config) as servers:
        for server in servers:
            wait_for(partial(is_answered_or_ended, server, answer), "an answer or an end")
            assert not has_ended(server), server.log


@pytest.mark.parametrize("name", REFUSED)
def test_what_gunicorn_refuses_is_refused(tmp_path: Path, name: str) -> None:
    """What is in use and cannot be had ends both; ours says so in one line."""
    with pair(tmp_path, REFUSED[name]) as (bare, ours):
        assert bare.wait() != 0
        assert ours.wait() in (1, 2)
        errors = [line for line in ours.log.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "Traceback" not in ours.log


def is_answered_or_ended(server: Server, answer: Answer) -> bool:
    return has_ended(server) or answer.is_given_by(server)


def has_ended(server: Server) -> bool:
    assert server.process is not None
    return server.process.poll() is not None


@contextlib.contextmanager
def pair(directory: Path, config: str) -> Iterator[tuple[Server, Server]]:
    """Launch bare Gunicorn and ours with the same configuration, each in a place of its own."""
    bare = placed(directory / "bare", [*BARE, APP], config)
    ours = placed(directory / "ours", [*OURS, APP], config)
    with running(bare, start=False), running(ours, start=False):
        bare.launch()
        ours.launch()
        yield bare, ours


def placed(directory: Path, command: list[str], config: str) -> Server:
    """Return a server in a directory with files of every kind, which root may not overrule."""
    if "bind = " in config:  # the command line would prevail
        command = [part for part in command if not part.startswith("--bind=")]
    server = Server(directory, [*without_privileges(), *command], {})
    (directory / "gunicorn.conf.py").write_text(PRELUDE + config)
    (directory / "stale.pid").write_text("gone")
    (directory / "stale.pid").chmod(0o444)
    (directory / "unreadable").touch(0o000)
    (directory / "dangling.pid").symlink_to("nowhere")
    (directory / "below").mkdir()
    (directory / "sealed").mkdir()
    (directory / "sealed" / "link").symlink_to("../log")
    (directory / "sealed").chmod(0o555)
    return server


def without_privileges() -> list[str]:
    """Return what makes root respect the modes of files."""
    if os.geteuid():
        return []
    setpriv = find_program("setpriv", "util-linux")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search"]

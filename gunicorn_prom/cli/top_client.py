"""Where a running server is found, and how it is asked for its state."""

import base64
import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from gunicorn_prom.cli.top_text import cleaned
from gunicorn_prom.errors import GunicornPromError, UsageError
from gunicorn_prom.exporter.health import has_died
from gunicorn_prom.reader import ServerReader
from gunicorn_prom.settings import MetricsBind
from gunicorn_prom.state import default_root, has_holder, metrics_url, servers

__all__ = ["Access", "Source", "UnreachableError", "normalized"]

# The newest form of the document that is understood.
VERSION = 1
# What of it is drawn.
PARTS = {
    "autopsies", "exits", "health", "history", "listeners", "master", "masters", "recent",
    "server", "servers", "time", "totals", "versions", "workers",
}  # fmt: skip
LIMIT_S = 5.0
MAX_BYTES = 16 * 1024 * 1024
URL_HINT = "write it as http://HOST:PORT"
ADDRESS_HINT = "give the address of --metrics-bind, not that of the application"
STATE_DIR_HINT = (
    "give the --metrics-state-dir of the server, or the address of its sidecar with --url"
)
# To bind these is to listen everywhere; to connect to them works, but no certificate has them.
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class UnreachableError(GunicornPromError):
    """The server does not answer, or not with its state.

    Attributes:
        reason: without the URL.
    """

    def __init__(self, url: str, reason: str, hint: str) -> None:
        # Some of it may be what a server has sent, to a terminal.
        self.reason = cleaned(reason, is_unicode=True)
        super().__init__(f"{url}: {self.reason}", hint)


@dataclass(frozen=True, slots=True)
class Access:
    """How to be let in.

    Attributes:
        user: None for nobody.
        password: his.
        ca_file: the authorities that are trusted, None for those of the machine.
        is_insecure: trust any certificate.
        cert: our own certificate, None for none.
        key: its key, None where it is in the same file.
    """

    user: str | None = None
    password: str = ""
    ca_file: Path | None = None
    is_insecure: bool = False
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return what an encrypted connection is made with.

        Raises:
            UsageError: one of the files cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise _unusable("--ca-file", self.ca_file, error) from error
        if self.is_insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert is not None:
            try:
                # A key with a passphrase would have OpenSSL ask for it.
                context.load_cert_chain(self.cert, self.key, password="")
            except OSError as error:
                raise _unusable("--cert", self.cert, error) from error
        return context

    def headers(self) -> dict[str, str]:
        """Return what a request says of who sends it."""
        if self.user is None:
            return {}
        encoded = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}


def _unusable(option: str, path: Path | None, error: OSError) -> UsageError:
    is_theirs = isinstance(error, ssl.SSLError)
    reason = "there is no certificate and key in it" if option == "--cert" else "no certificate"
    said = reason if is_theirs else error.strerror
    return UsageError(f"cannot use {option} {path}: {said}", "name a file in PEM form")


def normalized(url: str) -> str:
    """Return a URL of a metrics server with its scheme, which may have been left out.

    Raises:
        UsageError: it is no URL, or has a password in it.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise UsageError("invalid --url: not a URL of a metrics server", URL_HINT)
    if "@" in parts.netloc:
        hint = "give the name with --user, and the password with --password-file or when asked"
        raise UsageError("invalid --url: a password there is seen by everybody", hint)
    return parts.geturl()


def find(root: Path | None) -> str:
    """Return the URL of the metrics server that runs on this machine.

    Args:
        root: the state directory, None for that of this user.

    Returns:
        "" where no server tells one.

    Raises:
        UsageError: there are several.
    """
    running = list(_running(root or default_root()))
    living = [(url, directory) for url, directory in running if not _is_orphaned(directory)]
    found = {url: directory.name.split(".")[1] for url, directory in living or running}
    if len(found) > 1:
        shown = ", ".join(f"{url} (pid {pid})" for url, pid in found.items())
        hint = f"choose one: --url {next(iter(found))}"
        raise UsageError(f"{len(found)} servers run here: {shown}", hint)
    return next(iter(found), "")


def _running(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the URL and the directory, named after its first master, of each server that lives."""
    with contextlib.suppress(OSError):
        for directory in servers(root):
            url = metrics_url(directory) if has_holder(directory) else ""
            if url:
                yield _reachable(url), directory


def _is_orphaned(directory: Path) -> bool:
    """Tell whether the masters of a server have died, and workers are left that will notice."""
    with contextlib.closing(ServerReader(directory)) as reader:
        try:
            masters = reader.read().masters
        except OSError:
            return False
    return bool(masters) and all(map(has_died, masters))


def _why_none(root: Path) -> str:
    """Say why no server is found in a state directory."""
    try:
        servers(root)
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"cannot look for a server there: {error.strerror}"
    return "no server runs there that has a metrics server"


def _reachable(url: str) -> str:
    """Return the URL of a server on this machine as a client has to write it."""
    parts = urlsplit(url)
    host = EVERYWHERE.get(parts.hostname or "", parts.hostname or "")
    shown = f"[{host}]" if ":" in host else host
    # The metrics may be at any path of it.
    return f"{parts.scheme}://{shown}:{parts.port}"


class Client:
    """Ask a metrics server for the state of its server.

    Args:
        url: of anything that the metrics server has: `/status.json` stands beside it.
        server: which of several, None for the first.

    Attributes:
        url: of the document.
    """

    def __init__(self, url: str, access: Access, server: str | None = None) -> None:
        self._query = "" if server is None else f"?server={quote(server, safe='')}"
        self._access = access
        self._turn_to(urljoin(url, "status.json" if urlsplit(url).path else "/status.json"))

    def _turn_to(self, url: str) -> None:
        self.url, self._parts = url, urlsplit(url)

    def fetch(self) -> dict[str, Any]:
        """Return the document.

        Raises:
            UnreachableError: there is none to be had.
            UsageError: a file that the access needs cannot be used.
        """
        try:
            status, reason, body = self._get()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._explained(error) from error
        if status == http.client.NOT_FOUND and self._parts.path.count("/") > 1:
            # Beside the metrics it is behind a proxy; else it is at the root, wherever they are.
            self._turn_to(urljoin(self.url, "/status.json"))
            return self.fetch()
        if status != http.client.OK:
            raise self._refusal(status, reason, body)
        return self._understood(body)

    def _get(self) -> tuple[int, str, bytes]:
        connection = self._connection()
        with contextlib.closing(connection):
            target = f"{self._parts.path}{self._query}"
            connection.request("GET", target, headers=self._access.headers())
            answer = connection.getresponse()
            return answer.status, answer.reason, answer.read(MAX_BYTES)

    def _connection(self) -> http.client.HTTPConnection:
        host = self._parts.hostname or ""
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, self._parts.port or 80, timeout=LIMIT_S)
        port, context = self._parts.port or 443, self._access.context()
        return http.client.HTTPSConnection(host, port, timeout=LIMIT_S, context=context)

    def _understood(self, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        # A proxy may answer anything.
        version = document.get("version") if isinstance(document, dict) else None
        if isinstance(version, int) and version > VERSION:
            said = f"its state has version {version}, and this gunicorn-prom knows {VERSION}"
            raise UnreachableError(self.url, said, "update the gunicorn-prom that runs top")
        if version != VERSION or not document.keys() >= PARTS:
            said = "what it answers is not the state of a gunicorn-prom"
            raise UnreachableError(self.url, said, ADDRESS_HINT)
        state: dict[str, Any] = document
        return state

    def _refusal(self, status: int, reason: str, body: bytes) -> UnreachableError:
        is_known = self._access.user is not None
        hints = {
            401: "see the user and the password"
            if is_known
            else "say who you are with --user NAME",
            403: "show a certificate that it allows with --cert and --key",
            404: "without --server the names are shown" if self._query else ADDRESS_HINT,
        }
        # Said for a person in one line; a page would be more.
        lines = body[:200].decode(errors="replace").splitlines()
        is_plain = status in (404, 503) and len(lines) == 1 and "<" not in lines[0]
        said = f" ({lines[0]})" if is_plain and lines[0] != reason else ""
        hint = hints.get(status, "see the log of the server")
        return UnreachableError(self.url, f"it answers {status} {reason}{said}", hint)

    def _explained(self, error: Exception) -> UnreachableError:
        hints: dict[type[Exception], tuple[str, str]] = {
            socket.gaierror: ("no address is known for it", "see the name in the URL"),
            ConnectionRefusedError: (
                "nothing listens there",
                "start the server, or say where it is with --url or --state-dir",
            ),
            TimeoutError: (
                f"no answer within {LIMIT_S:g} s",
                "see whether the server still runs and a firewall lets through",
            ),
        }
        said, hint = hints.get(type(error)) or self._explained_rest(error)
        return UnreachableError(self.url, said, hint)

    def _explained_rest(self, error: Exception) -> tuple[str, str]:
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = "name the authority with --ca-file, and the host as the certificate has it"
            return f"no trust in its certificate: {error.verify_message.rstrip('.')}", hint
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError):
            said = f"TLS, {(error.reason or said).replace('_', ' ').lower()}"
            if "alert" in said:
                return said, "show a certificate that it trusts with --cert and --key"
        if self._parts.scheme == "http":
            return said, "see whether it wants https://"
        # Who is refused may see the connection end before it is told why.
        return said, "see whether it wants http://, or a certificate with --cert and --key"


class Source:
    """The state of one server, also where it comes back at another address.

    Args:
        url: of the metrics server, None for the one that runs on this machine.
        root: the state directory in which that is looked for.
        access: see `Access`.
        server: which of several, None for the first.

    Attributes:
        url: what was last asked.
    """

    def __init__(
        self, url: str | None, root: Path | None, access: Access, server: str | None
    ) -> None:
        self.url = ""
        self._given = url
        self._root = root
        self._access = access
        self._server = server
        self._client: Client | None = None

    def fetch(self) -> dict[str, Any]:
        """Return the document.

        Raises:
            UnreachableError: there is none to be had.
            UsageError: there are several servers, or a file cannot be used.
        """
        if self._client is None:
            # While a server restarts there is none, and another's is not asked for.
            url = self._given or find(self._root) or self.url
            if not url and self._root is not None:
                raise UnreachableError(str(self._root), _why_none(self._root), STATE_DIR_HINT)
            default = f"http://{MetricsBind.default}"
            self._client = Client(url or default, self._access, self._server)
        client = self._client
        try:
            return client.fetch()
        except UnreachableError:
            if self._given is None:
                self._client = None
            raise
        finally:
            # It looks in a second place where there is no document in the first.
            self.url = client.url

"""The client that asks a running server's metrics endpoint."""

import base64
import email.utils
import http.client
import os
import socket
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gunicorn_prom.errors import UsageError
from gunicorn_prom.settings import environment

__all__ = ["Endpoint", "Scrape", "normalized"]

# Below the limit of a check, so that what is said is that there was no answer.
LIMIT_S = 4.0
MAX_BYTES = 64 * 1024 * 1024
GZIP_FORMAT = 16 + zlib.MAX_WBITS
URL_HINT = "write it as http://HOST:PORT; with a password, its special characters as %XX"
# As Prometheus asks.
HEADERS = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"}
# There on every server of ours, whatever it does.
MARK = "gunicorn_workers_target"
TYPE = "# TYPE "
# The variable with the password of a user who is named without one; `top` takes it too.
PASSWORD = environment("password")
OWN_LINES = ("gunicorn_", f"{TYPE}gunicorn_")


@dataclass(frozen=True, slots=True)
class Scrape:
    """What the metrics of a running server are at one moment, or why there are none.

    Attributes:
        error: why it failed, "" when it did not.
        hint: what to do about that.
        samples: of Gunicorn and of ours, by name.
        series: how many there are, by family.
        duration_s: from the connection to the last byte.
        time: Unix time of the server at that moment, to the second.
    """

    error: str = ""
    hint: str = ""
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    series: Mapping[str, int] = field(default_factory=dict)
    duration_s: float = 0.0
    time: float = 0.0

    def all(self, name: str, **labels: str) -> list[Sample]:
        """Return the samples of that name which have the labels."""
        found = self.samples.get(name, ())
        return [sample for sample in found if labels.items() <= sample.labels.items()]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of that name which have the labels, 0 for none."""
        return sum(sample.value for sample in self.all(name, **labels))


class _Failure(Exception):
    """The scrape failed: the reason, and what to do about it."""

    def __init__(self, error: str, hint: str) -> None:
        super().__init__(error)
        self.hint = hint


class Endpoint:
    """The metrics endpoint of a running server.

    Args:
        url: with or without the path, perhaps with user and password. The password of a user
            without one is that of the environment variable PASSWORD.
        path: of the metrics, where the URL has none.

    Attributes:
        url: as it may be shown, without user and password.

    Raises:
        UsageError: it is no URL.
    """

    def __init__(self, url: str, path: str = "/metrics") -> None:
        parts, self._port = _split(url)
        self._is_encrypted = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._target = parts.path if parts.path not in ("", "/") else path
        if parts.query:
            self._target += f"?{parts.query}"
        self._headers = dict(HEADERS)
        if parts.username is not None:
            user = unquote(parts.username)
            password = unquote(parts.password or "") or os.environ.get(PASSWORD, "")
            encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {encoded}"
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"{parts.scheme}://{host}:{self._port}{self._target}"

    def scrape(self, limit_s: float = LIMIT_S) -> Scrape:
        """Return what the server answers within `limit_s`, or why it does not."""
        outcome: list[Scrape | _Failure] = []
        # Names that are looked up and answers that drip know no timeout; a thread that is
        # left behind ends with the process.
        thread = threading.Thread(target=self._try, args=(outcome, limit_s), daemon=True)
        thread.start()
        thread.join(limit_s)
        result = outcome[0] if outcome else self._silence(limit_s)
        return result if isinstance(result, Scrape) else Scrape(str(result), result.hint)

    def _try(self, outcome: list[Scrape | _Failure], limit_s: float) -> None:
        try:
            outcome.append(self._scrape(limit_s))
        except _Failure as failure:
            outcome.append(failure)
        except TimeoutError:
            outcome.append(self._silence(limit_s))
        except UnicodeError:
            hint = "write other characters than those of ASCII as %XX"
            outcome.append(_Failure(f"{self.url} cannot be asked for", hint))
        except (OSError, http.client.HTTPException) as error:
            outcome.append(self._explain(error))

    def _silence(self, limit_s: float) -> _Failure:
        hint = "see whether the metrics server still runs and a firewall lets through"
        return _Failure(f"no answer from {self.url} within {limit_s:g} s", hint)

    def _scrape(self, limit_s: float) -> Scrape:
        began = time.monotonic()
        connection = self._connection(limit_s)
        try:
            connection.request("GET", self._target, headers=self._headers)
            answer = connection.getresponse()
            body = answer.read(MAX_BYTES)
            if answer.length:
                raise http.client.IncompleteRead(body, answer.length)
        finally:
            connection.close()
        duration_s = time.monotonic() - began
        body = _unpacked(body, answer.headers.get("Content-Encoding", ""))
        if answer.status != http.client.OK:
            raise self._refusal(answer.status, answer.reason, body)
        text = body.decode(errors="replace")
        return Scrape(
            samples=self._parse(text),
            series=_series(text),
            duration_s=duration_s,
            time=_date(answer.headers.get("Date", "")),
        )

    def _connection(self, limit_s: float) -> http.client.HTTPConnection:
        if not self._is_encrypted:
            return http.client.HTTPConnection(self._host, self._port, timeout=limit_s)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=limit_s, context=context)

    def _parse(self, text: str) -> dict[str, list[Sample]]:
        """Return the samples of our own families; the application's may be very many."""
        own = [line for line in text.split("\n") if line.startswith(OWN_LINES)]
        samples: dict[str, list[Sample]] = {}
        try:
            for family in text_string_to_metric_families("\n".join([*own, ""])):
                for sample in family.samples:
                    samples.setdefault(sample.name, []).append(sample)
        except Exception:  # of what is no metrics the parser raises what it likes
            samples.clear()
        if MARK not in samples:
            raise _Failure(
                f"what {self.url} answers is not the metrics of gunicorn-prom",
                "give the address of --metrics-bind, not that of the application",
            )
        return samples

    def _refusal(self, status: int, reason: str, body: bytes) -> _Failure:
        hints = {
            401: f"name a user, --live https://USER@HOST:PORT, and set {PASSWORD}",
            403: "see who may read: --metrics-web-config",
            404: "give the server's --metrics-path in the URL",
        }
        lines = body.decode(errors="replace").splitlines()
        # A page that was written for people says nothing in its first line.
        said = f" ({lines[0]})" if status == http.client.SERVICE_UNAVAILABLE and lines else ""
        hint = hints.get(status, "see the log of the server")
        return _Failure(f"{self.url} answers {status} {reason}{said}", hint)

    def _explain(self, error: Exception) -> _Failure:
        if isinstance(error, ssl.SSLCertVerificationError):
            hint = "name the file of the authority that signed it: SSL_CERT_FILE=ca.pem"
            return _Failure(f"no trust in {self.url}: {error.verify_message}", hint)
        if isinstance(error, socket.gaierror):
            return _Failure(f"no address is known for {self._host}", "see the name in the URL")
        if isinstance(error, ConnectionRefusedError):
            hint = "start the server, or give the address of its --metrics-bind"
            return _Failure(f"nothing listens at {self.url}", hint)
        other = "http" if self._is_encrypted else "https"
        said = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError):
            said = f"TLS, {(error.reason or said).replace('_', ' ').lower()}"
        return _Failure(f"{self.url} fails: {said}", f"see whether it wants {other}://")


def normalized(url: str) -> str:
    """Return a URL of a metrics server with its scheme, which may have been left out.

    Raises:
        UsageError: it is no URL.
    """
    return _split(url)[0].geturl()


def _split(url: str) -> tuple[SplitResult, int]:
    """Return the parts of a URL and its port.

    No error repeats any of it: it may have a password in it.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        raise UsageError("invalid --live: not a URL of a metrics server", URL_HINT) from None
    if not parts.hostname:
        raise UsageError("invalid --live: there is no host in the URL", URL_HINT)
    return parts, port


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding != "gzip":
        return body
    try:
        return zlib.decompressobj(GZIP_FORMAT).decompress(body, MAX_BYTES)
    except zlib.error:
        return b""


def _series(text: str) -> Counter[str]:
    series: Counter[str] = Counter()
    family = ""
    for line in text.split("\n"):
        if line.startswith(TYPE):
            family = line.split(" ")[2]
        elif line and not line.startswith("#"):
            series[family] += 1
    return series


def _date(header: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(header).timestamp()
    except ValueError:
        return time.time()

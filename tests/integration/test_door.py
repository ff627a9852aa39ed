"""Who comes in to the metrics server, who does not, and that nobody keeps others waiting.

The server is a process of its own, see tests/door_server.py; what it has to be
proof against comes over real sockets.
"""

import base64
import contextlib
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import psutil
import pytest

from gunicorn_prom.errors import InvalidSettingError
from gunicorn_prom.exporter import server as server_module
from gunicorn_prom.exporter.door import Door, validate
from gunicorn_prom.exporter.message import Answer
from tests.support import DEADLINE_S, ROOT, wait_for

LOG = logging.getLogger("test")
PASSWORD = "correct horse"
HASHES = {
    cost: bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(cost)).decode() for cost in (4, 10, 12)
}
GOOD_ANSWER_S = 1.0
# Of the process: the main thread, the server, the hashes.
THREADS = 3
# 256 connections with what OpenSSL keeps for each, and room for the allocator.
GROWTH_BYTES = 64 * 1024 * 1024
GUESSES = 10_000
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


# What the tests are made of.


class Authority:
    """A certificate authority, and the certificates that it signs.

    Attributes:
        file: its own certificate.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory / name
        self._directory.mkdir()
        self.file, self._key = self._directory / "ca.pem", self._directory / "ca.key"
        usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        files = ("-keyout", self._key, "-out", self.file)
        self._run("req", "-x509", *NEW_KEY, *files, *DAYS, *usage)

    def sign(self, name: str, alternative_names: str) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key."""
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        request = self._directory / f"{name}.csr"
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(
            f"subjectAltName={alternative_names}\nauthorityKeyIdentifier=keyid:always\n"
        )
        self._run("req", *NEW_KEY, "-keyout", key, "-out", request)
        signed = ("-req", "-in", request, "-CA", self.file, "-CAkey", self._key, *DAYS)
        self._run("x509", *signed, "-extfile", extensions, "-out", certificate)
        return certificate, key

    def _run(self, command: str, *arguments: str | Path) -> None:
        subprocess.run(["openssl", command, *arguments], check=True, capture_output=True)


NEW_KEY = (
    *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
    *("-subj", "/CN=gunicorn-prom test"),
)
DAYS = ("-days", "2")


class Certificates:
    """What both sides may have; each is a pair of certificate and key."""

    def __init__(self, directory: Path) -> None:
        self.ours, self.strange = Authority(directory, "ours"), Authority(directory, "strange")
        self.server = self.ours.sign("server", "IP:127.0.0.1")
        self.next_server = self.ours.sign("next", "IP:127.0.0.1")
        self.client = self.ours.sign("client", "URI:spiffe://cluster/prometheus,IP:::1")
        self.strange_client = self.strange.sign("client", "URI:spiffe://cluster/prometheus")


class Reply:
    """An answer as it came over the socket."""

    def __init__(self, received: bytes) -> None:
        head, _, self.body = received.partition(b"\r\n\r\n")
        self.head = head.decode()
        self.status = int(self.head.split()[1]) if head else 0


class DoorServer:
    """A server behind a door."""

    def __init__(self, config: Path, certificates: Certificates) -> None:
        self.config = config
        self._certificates = certificates
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._log_file = config.with_name("stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "door_server.py"), str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            text=True,
            env=environ,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    @property
    def log(self) -> str:
        return self.config.with_name("stderr").read_text()

    def command(self, word: str) -> str:
        """Have the process do something, and return what it says about it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> int:
        """End the process in order and return its exit code."""
        self.command("end")
        return self.process.wait(DEADLINE_S)

    def destroy(self) -> None:
        self.process.kill()
        self.process.wait()
        self._log_file.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def connect(self, timeout_s: float = DEADLINE_S) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)

    def tls(
        self,
        pair: tuple[Path, Path] | None = None,
        version: ssl.TLSVersion | None = None,
        timeout_s: float = DEADLINE_S,
    ) -> ssl.SSLSocket:
        """Connect with TLS, with a client's certificate or without."""
        context = ssl.create_default_context(cafile=self._certificates.ours.file)
        if pair is not None:
            context.load_cert_chain(*pair)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        client = self.connect(timeout_s)
        try:
            return context.wrap_socket(client, server_hostname="127.0.0.1")
        except BaseException:
            client.close()
            raise

    def number(self, path: str) -> int:
        """Ask the process for one of its counts, with the right password."""
        return int(ask(self.connect(), path, credentials=basic()).body)


Configure = Callable[[str], DoorServer]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def serve(tmp_path: Path, certificates: Certificates) -> Iterator[Configure]:
    """Return what runs a server by the text of a web configuration file."""
    servers: list[DoorServer] = []

    def start(text: str) -> DoorServer:
        config = tmp_path / "web.yml"
        config.write_text(text)
        servers.append(DoorServer(config, certificates))
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            server.destroy()


def tls_config(pair: tuple[Path, Path], more: str = "") -> str:
    return f"tls_server_config:\n  cert_file: {pair[0]}\n  key_file: {pair[1]}\n{more}"


def mutual(certificates: Certificates, kind: str = "RequireAndVerifyClientCert") -> str:
    more = f"  client_auth_type: {kind}\n  client_ca_file: {certificates.ours.file}\n"
    return tls_config(certificates.server, more)


def users_config(cost: int = 4, user: str = "prometheus") -> str:
    return f"basic_auth_users:\n  {user}: {HASHES[cost]}\n"


def basic(user: str = "prometheus", password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def ask(
    client: socket.socket, path: str = "/metrics", method: str = "GET", credentials: str = ""
) -> Reply:
    """Send one request and read the answer to its end."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    lines += [f"Authorization: {credentials}"] if credentials else []
    with client:
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        return Reply(receive(client))


def receive(client: socket.socket) -> bytes:
    received = bytearray()
    while data := client.recv(65536):
        received += data
    return bytes(received)


def is_turned_away(connect: Callable[[], socket.socket]) -> bool:
    """Tell whether a connection fails, in the handshake or, with TLS 1.3, right after it."""
    try:
        return ask(connect()).status == 0
    except (ssl.SSLError, ConnectionError):
        return True


def assert_good_scrape(connect: Callable[[], socket.socket], credentials: str = "") -> None:
    """Fail unless a scrape is answered within a second."""
    begin = time.monotonic()
    reply = ask(connect(), credentials=credentials)
    assert reply.status == 200
    assert time.monotonic() - begin < GOOD_ANSWER_S


@contextlib.contextmanager
def bounded(server: DoorServer) -> Iterator[None]:
    """Fail if the block makes the server's threads, memory or log grow."""
    process = psutil.Process(server.process.pid)
    rss_bytes = process.memory_info().rss
    yield
    assert process.num_threads() <= THREADS
    assert process.memory_info().rss - rss_bytes < GROWTH_BYTES
    assert server.log == ""


# TLS.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls(serve: Configure, certificates: Certificates, version: ssl.TLSVersion) -> None:
    """The certificate of the file is served, in both versions of TLS, with a whole answer."""
    server = serve(tls_config(certificates.server))
    reply = ask(server.tls(version=version))
    assert reply.status == 200
    assert f"Content-Length: {len(reply.body)}" in reply.head


def test_a_version_that_is_too_low_is_refused(serve: Configure, certificates: Certificates) -> None:
    """With min_version TLS13 a client of TLS 1.2 gets no connection."""
    server = serve(tls_config(certificates.server, "  min_version: TLS13\n"))
    assert is_turned_away(lambda: server.tls(version=ssl.TLSVersion.TLSv1_2))
    assert ask(server.tls()).status == 200


def test_ciphers_and_curve(serve: Configure, certificates: Certificates) -> None:
    """The cipher of the file is the one that is spoken."""
    cipher = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
    more = f"  cipher_suites: [{cipher}]\n  curve_preferences: [X25519]\n"
    server = serve(tls_config(certificates.server, more))
    with server.tls(version=ssl.TLSVersion.TLSv1_2) as client:
        assert client.cipher() == ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLSv1.2", 256)


def test_certificate_and_key_within_the_file(serve: Configure, certificates: Certificates) -> None:
    """Certificate and key may be written in the configuration itself."""
    texts = {"cert": certificates.server[0], "key": certificates.server[1]}
    blocks = [
        f"  {key}: |\n" + "".join(f"    {line}\n" for line in file.read_text().splitlines())
        for key, file in texts.items()
    ]
    server = serve("tls_server_config:\n" + "".join(blocks))
    assert ask(server.tls()).status == 200


def test_plain_http_to_the_tls_port(serve: Configure, certificates: Certificates) -> None:
    """Who does not speak TLS is cut off at once, and nothing is logged."""
    server = serve(tls_config(certificates.server))
    assert is_turned_away(server.connect)
    assert ask(server.tls()).status == 200
    assert server.log == ""


def test_tls_to_the_plain_port(serve: Configure) -> None:
    """Who speaks TLS where there is none is cut off at once, and nothing is logged."""
    server = serve("{}")
    assert is_turned_away(lambda: server.tls(timeout_s=2.0))
    assert ask(server.connect()).status == 200
    assert server.log == ""


# Certificates of clients.


def test_a_client_needs_a_certificate(serve: Configure, certificates: Certificates) -> None:
    """A client with a verified certificate comes in; without, or with another's, nobody does."""
    server = serve(mutual(certificates))
    assert ask(server.tls(certificates.client)).status == 200
    assert is_turned_away(server.tls)
    assert is_turned_away(lambda: server.tls(certificates.strange_client))
    assert is_turned_away(server.connect)


def test_a_certificate_if_there_is_one(serve: Configure, certificates: Certificates) -> None:
    """VerifyClientCertIfGiven lets in who shows none, but not who shows a wrong one."""
    server = serve(mutual(certificates, "VerifyClientCertIfGiven"))
    assert ask(server.tls()).status == 200
    assert ask(server.tls(certificates.client)).status == 200
    assert is_turned_away(lambda: server.tls(certificates.strange_client))


@pytest.mark.parametrize(
    ("allowed", "status"),
    [("spiffe://cluster/prometheus", 200), ("::1", 200), ("spiffe://cluster/other", 403)],
)
def test_alternative_names(
    serve: Configure, certificates: Certificates, allowed: str, status: int
) -> None:
    """With client_allowed_sans a verified certificate also has to have one of the names."""
    server = serve(mutual(certificates) + f"  client_allowed_sans: ['{allowed}']\n")
    assert ask(server.tls(certificates.client)).status == status


def test_certificate_and_password(serve: Configure, certificates: Certificates) -> None:
    """Where both are asked for, one of them is not enough."""
    server = serve(mutual(certificates) + users_config())
    assert ask(server.tls(certificates.client), credentials=basic()).status == 200
    assert ask(server.tls(certificates.client)).status == 401
    assert is_turned_away(server.tls)


# Passwords.


@pytest.mark.parametrize(
    ("credentials", "status"),
    [
        (basic(), 200),
        (basic().replace("Basic", "bASIC"), 200),
        ("", 401),
        (basic(password="wrong"), 401),
        (basic(password=""), 401),
        (basic(user="nobody"), 401),
        (basic(user=""), 401),
        ("Basic", 401),
        ("Basic !!!", 401),
        ("Basic " + base64.b64encode(b"no colon").decode(), 401),
        (basic().replace("Basic", "Bearer"), 401),
    ],
)
def test_passwords(serve: Configure, credentials: str, status: int) -> None:
    """The right password opens, everything else is asked for one."""
    reply = ask(serve(users_config()).connect(), credentials=credentials)
    assert reply.status == status
    assert ("WWW-Authenticate: Basic realm=" in reply.head) == (status == 401)


def test_nothing_leaks_without_a_password(serve: Configure) -> None:
    """Whatever the path and method, the answer is the same 401; probes get a bare status."""
    server = serve(users_config())
    targets = [("GET", "/nowhere"), ("POST", "/metrics"), ("POST", "/-/ready"), ("GET", "/-/")]
    for method, path in targets:
        reply = ask(server.connect(), path, method)
        assert (reply.status, reply.body) == (401, b"Unauthorized\n")
    for credentials in ("", basic(password="wrong")):
        ready = ask(server.connect(), "/-/ready", credentials=credentials)
        assert (ready.status, ready.body) == (503, b"Service Unavailable\n")
        healthy = ask(server.connect(), "/-/healthy", credentials=credentials)
        assert (healthy.status, healthy.body) == (200, b"OK\n")


def test_with_a_password_everything_is_told(serve: Configure) -> None:
    """Who has the password gets the reasons of the probes, 404 and 405."""
    server = serve(users_config())
    assert b"database" in ask(server.connect(), "/-/ready", credentials=basic()).body
    assert ask(server.connect(), "/nowhere", credentials=basic()).status == 404
    assert ask(server.connect(), method="POST", credentials=basic()).status == 405


def test_a_password_is_hashed_once(serve: Configure) -> None:
    """Neither the right password nor a wrong one costs a second hash."""
    server = serve(users_config())
    for _ in range(5):
        ask(server.connect(), credentials=basic())
        ask(server.connect(), credentials=basic(password="wrong"))
        ask(server.connect(), credentials=basic(user="nobody", password="wrong"))
    assert server.number("/hashes") == 3


def test_many_at_once_are_hashed_once(serve: Configure) -> None:
    """Scrapes that come in while their password is being hashed are answered by that hash."""
    server = serve(users_config(12))
    with ThreadPoolExecutor(16) as pool:
        replies = pool.map(lambda _: ask(server.connect(), credentials=basic()), range(16))
        assert {reply.status for reply in replies} == {200}
    assert server.number("/hashes") == 1


def test_headers_are_added(serve: Configure) -> None:
    """The headers of the file are in every answer, also in a refusal."""
    headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n"
    server = serve(users_config() + headers)
    for credentials in (basic(), ""):
        assert "X-Frame-Options: deny" in ask(server.connect(), credentials=credentials).head


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(serve: Configure, certificates: Certificates) -> None:
    """A client of another make comes in with certificate and password, and not without."""
    server = serve(mutual(certificates) + users_config())
    command = ["curl", "-sS", "--max-time", "10", "--cacert", str(certificates.ours.file)]
    pair = ["--cert", str(certificates.client[0]), "--key", str(certificates.client[1])]
    url = f"https://127.0.0.1:{server.port}/metrics"
    for arguments, end in (
        ([*pair, "-u", f"prometheus:{PASSWORD}"], "200"),
        ([*pair, "-u", "prometheus:wrong"], "401"),
        (["-u", f"prometheus:{PASSWORD}"], "000"),
    ):
        run = subprocess.run(
            [*command, *arguments, "-w", "%{http_code}", url],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.stdout.endswith(end)


# Changes of the file.


def test_a_new_password_is_taken_up(serve: Configure) -> None:
    """A changed file counts for new connections, and the old user is out."""
    server = serve(users_config())
    assert ask(server.connect(), credentials=basic()).status == 200
    server.config.write_text(users_config(user="other"))
    wait_for(lambda: ask(server.connect(), credentials=basic()).status == 401, "the change")
    assert ask(server.connect(), credentials=basic("other")).status == 200
    assert "read " in server.log


def test_a_bad_file_leaves_the_last_good_one(serve: Configure) -> None:
    """A file that cannot be used is reported and counted once, and changes nothing."""
    server = serve(users_config())
    server.config.write_text("basic_auth_users:\n  prometheus: hunter2\n")
    wait_for(lambda: server.number("/errors") == 1, "the error")
    assert ask(server.connect()).status == 401
    # It is looked at again, without being reported again, until there is a good one.
    server.config.write_text(users_config(user="other"))
    wait_for(lambda: ask(server.connect(), credentials=basic("other")).status == 200, "the change")
    assert server.log.count("the last good configuration stays in force") == 1
    assert "hunter2" not in server.log


def test_an_empty_file_does_not_open_the_door(serve: Configure) -> None:
    """A file that was cut off, as on a full disk, is no wish to do without passwords."""
    server = serve(users_config())
    server.config.write_text("")
    wait_for(lambda: server.number("/errors") == 1, "the error")
    assert ask(server.connect()).status == 401
    assert "is empty; the last good" in server.log


def test_a_file_that_is_being_written_is_not_read(serve: Configure) -> None:
    """What changes all the time is left alone until it rests."""
    server = serve(users_config())
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        server.config.write_text("# the users are still to be written\n")
        assert ask(server.connect()).status == 401
    server.config.write_text(users_config(user="other"))
    wait_for(lambda: ask(server.connect(), credentials=basic("other")).status == 200, "the change")
    assert server.log.count("read ") == 1


def test_a_file_that_is_gone_leaves_the_last_good_one(serve: Configure) -> None:
    """Without the file nobody comes in who did not before."""
    server = serve(users_config())
    server.config.unlink()
    wait_for(lambda: server.number("/errors") == 1, "the error")
    assert ask(server.connect()).status == 401


def test_a_certificate_is_rotated(
    serve: Configure, certificates: Certificates, tmp_path: Path
) -> None:
    """A certificate is taken up that replaces the last one as Kubernetes does, by a link."""
    for name, pair in (("1", certificates.server), ("2", certificates.next_server)):
        (tmp_path / name).mkdir()
        for file, target in zip(("tls.crt", "tls.key"), pair, strict=True):
            shutil.copy(target, tmp_path / name / file)
    link = tmp_path / "data"
    link.symlink_to("1")
    # Relative paths are those of the configuration file's directory.
    server = serve("tls_server_config:\n  cert_file: data/tls.crt\n  key_file: data/tls.key\n")
    first = serial_number(server)
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(link)
    wait_for(lambda: serial_number(server) != first, "the new certificate")


def serial_number(server: DoorServer) -> object:
    with server.tls() as client:
        certificate = client.getpeercert()
        assert certificate is not None
        return certificate["serialNumber"]


def test_tls_comes_and_goes(serve: Configure, certificates: Certificates) -> None:
    """TLS can be switched on and off without a restart."""
    server = serve("{}")
    assert ask(server.connect()).status == 200
    server.config.write_text(tls_config(certificates.server))
    wait_for(lambda: is_turned_away(server.connect), "TLS")
    assert ask(server.tls()).status == 200
    server.config.write_text("{}")
    wait_for(lambda: not is_turned_away(server.connect), "the end of TLS")


# Files that cannot be used.


def test_a_key_of_another_certificate(certificates: Certificates, tmp_path: Path) -> None:
    """Certificate and key have to belong together."""
    pair = (certificates.server[0], certificates.client[1])
    assert_refused(tmp_path, tls_config(pair), "is not the key of")


def test_a_key_with_a_passphrase(certificates: Certificates, tmp_path: Path) -> None:
    """A key that somebody would have to unlock is refused, instead of asking for it."""
    key = tmp_path / "locked.key"
    arguments = ["-in", str(certificates.server[1]), "-aes256", "-passout", "pass:hunter2"]
    subprocess.run(["openssl", "pkey", *arguments, "-out", str(key)], check=True)
    assert_refused(tmp_path, tls_config((certificates.server[0], key)), "by a passphrase")


def test_a_key_where_the_authority_should_be(certificates: Certificates, tmp_path: Path) -> None:
    """The file of the authority has to hold certificates."""
    text = mutual(certificates).replace(str(certificates.ours.file), str(certificates.server[1]))
    assert_refused(tmp_path, text, "has no certificates of authorities")


def test_a_certificate_that_is_damaged(certificates: Certificates, tmp_path: Path) -> None:
    """What looks like a certificate and is none is refused with OpenSSL's reason."""
    certificate = tmp_path / "damaged.pem"
    certificate.write_text(certificates.server[0].read_text().replace("MII", "AAA", 1)[:300])
    assert_refused(tmp_path, tls_config((certificate, certificates.server[1])), "OpenSSL cannot")


def assert_refused(directory: Path, text: str, message: str) -> None:
    config = directory / "web.yml"
    config.write_text(text)
    with pytest.raises(InvalidSettingError, match=message) as refused:
        validate(config)
    assert str(config) in str(refused.value)


# Hostile clients.


@pytest.fixture
def fortress(serve: Configure, certificates: Certificates) -> DoorServer:
    """A server with TLS and passwords that has been scraped."""
    server = serve(tls_config(certificates.server) + users_config())
    assert ask(server.tls(), credentials=basic()).status == 200
    return server


def half_a_hello() -> bytes:
    """Return the beginning of a TLS handshake."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    return hello[: len(hello) // 2]


@pytest.mark.parametrize("beginning", [b"", half_a_hello(), half_a_hello()[:1]])
def test_connections_that_go_nowhere(fortress: DoorServer, beginning: bytes) -> None:
    """500 clients that are silent or never finish their handshake keep nobody waiting."""
    with bounded(fortress), contextlib.ExitStack() as stack:
        for number in range(500):
            stack.enter_context(fortress.connect()).sendall(beginning)
            if number % 50 == 0:
                assert_good_scrape(fortress.tls, basic())
        assert_good_scrape(fortress.tls, basic())


def test_half_requests(fortress: DoorServer) -> None:
    """300 clients that shake hands and send half a request keep nobody waiting."""
    with bounded(fortress), contextlib.ExitStack() as stack:
        for number in range(300):
            stack.enter_context(fortress.tls()).sendall(GET)
            if number % 50 == 0:
                assert_good_scrape(fortress.tls, basic())


def test_answers_that_nobody_reads(serve: Configure) -> None:
    """300 clients that have the password and do not read keep nobody waiting."""
    server = serve(users_config())
    asking = GET + f"Authorization: {basic()}\r\n\r\n".encode()
    ask(server.connect(), credentials=basic())
    with bounded(server), contextlib.ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            client.connect(("127.0.0.1", server.port))
            client.sendall(asking)
        assert_good_scrape(server.connect, basic())


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_headers_of_two_megabytes(
    serve: Configure, certificates: Certificates, is_encrypted: bool
) -> None:
    """They are refused so that the client sees it, and others are answered meanwhile."""
    tls = tls_config(certificates.server) if is_encrypted else ""
    server = serve(tls + users_config())
    connect: Callable[[], socket.socket] = server.tls if is_encrypted else server.connect
    ask(connect(), credentials=basic())
    with bounded(server), ThreadPoolExecutor(8) as pool:
        replies = [pool.submit(send_much, connect) for _ in range(32)]
        assert_good_scrape(connect, basic())
        assert {reply.result().status for reply in replies} == {431}


def send_much(connect: Callable[[], socket.socket]) -> Reply:
    with connect() as client:
        client.sendall(GET + b"X-Header: value\r\n" * (2 * 1024 * 1024 // 17))
        return Reply(receive(client))


def test_ten_thousand_wrong_passwords(serve: Configure) -> None:
    """They are all refused, and a scrape is answered in time all along."""
    server = serve(users_config())
    ask(server.connect(), credentials=basic())
    with bounded(server), guessing(server, 24, GUESSES) as (statuses, threads):
        while any(thread.is_alive() for thread in threads):
            assert_good_scrape(server.connect, basic())
        assert (set(statuses), len(statuses)) == ({401}, GUESSES)


def test_a_known_password_does_not_wait_for_guesses(serve: Configure) -> None:
    """While hashes of a quarter of a second are computed, a scrape is answered in time."""
    server = serve(users_config(12))
    ask(server.connect(), credentials=basic())
    with bounded(server), guessing(server) as (statuses, _):
        wait_for(lambda: statuses, "the first guess")
        for _ in range(50):
            assert_good_scrape(server.connect, basic())
        assert set(statuses) == {401}


def test_a_new_password_does_not_wait_behind_guesses(serve: Configure) -> None:
    """A password that was not hashed yet is next, though eight clients go on guessing."""
    server = serve(users_config(10))
    with bounded(server), guessing(server) as (statuses, _):
        wait_for(lambda: statuses, "the first guess")
        assert_good_scrape(server.connect, basic())
        assert set(statuses) == {401}


def test_a_crowd_does_not_push_out_who_waits_for_a_hash(serve: Configure) -> None:
    """500 silent connections do not cost a scrape its place while its password is hashed."""
    server = serve(users_config(12))
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        reply = pool.submit(ask, server.connect(), credentials=basic())
        wait_for(lambda: hash_is_going_on(server), "the hash")
        for _ in range(500):
            stack.enter_context(server.connect())
        assert reply.result().status == 200


@contextlib.contextmanager
def guessing(
    server: DoorServer, clients: int = 8, times: int = sys.maxsize
) -> Iterator[tuple[list[int], list[threading.Thread]]]:
    """Have clients guess passwords, so many times together, while the block runs."""
    statuses: list[int] = []
    is_over = threading.Event()

    def guess(first: int) -> None:
        for number in range(first, times, clients):
            if is_over.is_set():
                break
            user = ("prometheus", "nobody")[number % 2]
            reply = ask(server.connect(), credentials=basic(user, f"wrong {number}"))
            statuses.append(reply.status)

    threads = [threading.Thread(target=guess, args=(first,)) for first in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses, threads
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


# In this process.


def test_a_hash_that_takes_too_long_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for his hash in vain is told so, and the hash is not lost."""
    (tmp_path / "web.yml").write_text(users_config(12))
    door = Door.open(tmp_path / "web.yml", LOG)
    monkeypatch.setattr(server_module, "PASSWORD_TIMEOUT_S", -1.0)
    with serving(door) as port:
        address = ("127.0.0.1", port)
        assert ask(socket.create_connection(address), credentials=basic()).status == 401
        wait_for(
            lambda: ask(socket.create_connection(address), credentials=basic()).status == 200,
            "the hash",
        )
    assert door.passwords.hashes == 1


def test_without_users_or_tls_everything_is_open(tmp_path: Path) -> None:
    """A file without either opens the door, as with other exporters."""
    (tmp_path / "web.yml").write_text("{}")
    with serving(Door.open(tmp_path / "web.yml", LOG)) as port:
        assert ask(socket.create_connection(("127.0.0.1", port))).status == 200


@contextlib.contextmanager
def serving(door: Door) -> Iterator[int]:
    """Run a server in a thread; yield its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    port = listener.getsockname()[1]
    theirs, ours = os.pipe()
    server = server_module.Server(listener, lambda _: Answer(200, b"ok"), LOG, theirs, door)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield port
    finally:
        os.close(ours)
        thread.join()


# The master around it.


def test_a_fork_during_a_hash(serve: Configure) -> None:
    """A child that is forked while a hash is computed ends in order, and the hash as well."""
    server = serve(users_config(12))
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(ask, server.connect(), credentials=basic())
        wait_for(lambda: hash_is_going_on(server), "the hash")
        assert [server.command("fork") for _ in range(3)] == ["0", "0", "0"]
        assert reply.result().status == 200
    assert server.end() == 0


def test_the_end_during_a_hash(serve: Configure) -> None:
    """A process that is to end while a hash is computed ends in order."""
    server = serve(users_config(12))
    with server.connect() as client:
        client.sendall(GET + f"Authorization: {basic()}\r\n\r\n".encode())
        wait_for(lambda: hash_is_going_on(server), "the hash")
        assert server.end() == 0


def hash_is_going_on(server: DoorServer) -> bool:
    """Tell whether the thread of the hashes has been started."""
    return psutil.Process(server.process.pid).num_threads() == THREADS

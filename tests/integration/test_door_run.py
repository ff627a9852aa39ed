"""`--metrics-web-config` from end to end: TLS and passwords of a real server's metrics."""

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.integration.test_door import Authority
from tests.real_parts import find_program
from tests.support import (
    DEADLINE_S,
    Metrics,
    Response,
    Server,
    can_bind,
    free_port,
    gunicorn_prom,
    is_listening,
    is_running,
    plain_gunicorn,
    request,
    run_to_end,
    running,
    wait_for,
)

APP = "behave:app"
USER, PASSWORD = "prometheus", "correct horse"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
USERS = f"basic_auth_users:\n  {USER}: {HASH}\n"
Pair = tuple[Path, Path]


def basic(user: str = USER, password: str = PASSWORD) -> str:
    """Return the value of the header that carries a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Identities:
    """Who there is: an authority, servers, a client, and a stranger."""

    def __init__(self, directory: Path) -> None:
        self.ours, self.strange = Authority(directory, "ours"), Authority(directory, "strange")
        self.server = self.ours.sign("server", "IP:127.0.0.1")
        self.renewed = self.ours.sign("renewed", "IP:127.0.0.1")
        self.client = self.ours.sign("client", "DNS:client")
        self.stranger = self.strange.sign("client", "DNS:client")


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    find_program("openssl", "openssl")
    return Identities(tmp_path_factory.mktemp("identities"))


def tls_section(pair: Pair, more: str = "") -> str:
    """Return the section of the web configuration file that encrypts."""
    return f"tls_server_config:\n  cert_file: {pair[0]}\n  key_file: {pair[1]}\n{more}"


def mutual_section(identities: Identities) -> str:
    """Return the section that asks clients for a certificate, too."""
    return tls_section(
        identities.server,
        "  client_auth_type: RequireAndVerifyClientCert\n"
        f"  client_ca_file: {identities.ours.file}\n",
    )


class Visitor:
    """A client of the metrics of one server.

    Attributes:
        server: whose metrics they are.
    """

    def __init__(
        self,
        server: Server,
        authority: Authority | None = None,
        pair: Pair | None = None,
        credentials: str = "",
    ) -> None:
        self.server = server
        self._credentials = credentials
        self._context: ssl.SSLContext | None = None
        if authority is not None:
            self._context = ssl.create_default_context(cafile=authority.file)
            if pair is not None:
                self._context.load_cert_chain(*pair)

    def get(self, target: str = "/metrics") -> Response:
        """Send one request."""
        address = ("127.0.0.1", self.server.metrics_port)
        connection = (
            http.client.HTTPConnection(*address, timeout=DEADLINE_S)
            if self._context is None
            else http.client.HTTPSConnection(*address, timeout=DEADLINE_S, context=self._context)
        )
        headers = {"Authorization": self._credentials} if self._credentials else {}
        with contextlib.closing(connection):
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())

    def scrape(self) -> Metrics:
        """Read /metrics."""
        answer = self.get()
        assert answer.status == 200
        return Metrics(answer.text)

    def is_answered(self, status: int = 200, target: str = "/metrics") -> bool:
        """Tell whether a request gets that status."""
        try:
            return self.get(target).status == status
        except (OSError, http.client.HTTPException):
            return False

    def is_turned_away(self) -> bool:
        """Tell whether there is no answer at all, for want of the right certificate."""
        try:
            self.get()
        except (ssl.SSLError, ConnectionError):
            return True
        return False

    def peer(self) -> bytes:
        """Return the certificate of the server."""
        assert self._context is not None
        address = ("127.0.0.1", self.server.metrics_port)
        with (
            socket.create_connection(address, DEADLINE_S) as plain,
            self._context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
        ):
            return client.getpeercert(binary_form=True) or b""


class Guarded:
    """How to run a server behind a door, in each of the ways there are."""

    def __init__(self, directory: Path, where: str) -> None:
        self.directory, self.where = directory, where
        self.file = directory / "web.yml"

    @contextlib.contextmanager
    def serving(self, text: str, *arguments: str) -> Iterator[Server]:
        """Run it with that web configuration file until the block ends; do not wait."""
        self.file.write_text(text)
        door = f"--metrics-web-config={self.file}"
        if self.where != "export":
            options = (APP, f"--metrics-server={self.where}", door, *arguments)
            with gunicorn_prom(self.directory, *options, start=False) as server:
                server.launch()
                wait_for(lambda: is_listening(server.port), "the server")
                yield server
            return
        options = (APP, "--metrics-server=none", *arguments)
        with gunicorn_prom(self.directory / "server", *options, start=False) as served:
            served.launch()
            bind = "--metrics-bind=127.0.0.1:{server.metrics_port}"
            command = [sys.executable, "-m", "gunicorn_prom", "export", bind, door]
            exporter = Server(self.directory, [*command, str(served.state_directory)], {})
            exporter.port = served.port
            with running(exporter, start=False):
                exporter.launch()
                yield exporter


@pytest.fixture(params=["thread", "process", "export"])
def guarded(tmp_path: Path, request: pytest.FixtureRequest) -> Guarded:
    return Guarded(tmp_path, request.param)


# Who comes in.


def test_tls_and_a_password(guarded: Guarded, identities: Identities) -> None:
    """With the certificate and the password everything is told, without the password nothing.

    Probes get their bare status without it, and neither the log nor the metrics give it away.
    """
    with guarded.serving(tls_section(identities.server) + USERS) as server:
        known = Visitor(server, identities.ours, credentials=basic())
        wait_for(lambda: known.is_answered(target="/-/ready"), "readiness")
        assert request(server.port, "/").status == 200
        wait_for(lambda: known.scrape().total("gunicorn_http_requests_total") == 1, "the request")
        for credentials in ("", basic(password="wrong"), basic("nobody")):
            unknown = Visitor(server, identities.ours, credentials=credentials)
            for target in ("/metrics", "/", "/nowhere"):
                answer = unknown.get(target)
                assert (answer.status, answer.text) == (401, "Unauthorized\n")
                assert answer.headers["WWW-Authenticate"].startswith("Basic ")
            assert unknown.get("/-/healthy").status == 200
            assert unknown.get("/-/ready").text == "OK\n"
        assert known.get("/nowhere").status == 404
        assert known.get("/-/ready").text == "ready\n"
        assert Visitor(server, identities.strange, credentials=basic()).is_turned_away()
        assert Visitor(server, credentials=basic()).is_turned_away()
        assert_secret(server, known.get().text)


def assert_secret(server: Server, text: str) -> None:
    """Fail if a log or an answer has something in it that opens the door."""
    logs = [path.read_text() for path in server.directory.rglob("stderr")]
    for secret in (PASSWORD, HASH, HASH[7:29], basic(), "PRIVATE KEY"):
        assert not [told for told in (*logs, text) if secret in told]


def test_probes_are_told_no_reason(guarded: Guarded) -> None:
    """Without a password a probe that fails has the status alone, with it also why."""
    with guarded.serving(USERS) as server:
        known = Visitor(server, credentials=basic())
        wait_for(lambda: known.is_answered(target="/-/ready"), "readiness")
        for pid in workers_in(known.scrape()):
            os.kill(pid, signal.SIGSTOP)
        master = parent_of(workers_in(known.scrape())[0])
        try:
            os.kill(master, signal.SIGTERM)
            wait_for(lambda: known.is_answered(503, "/-/ready"), "the drain")
            assert known.get("/-/ready").text == "shutting down\n"
            assert Visitor(server).get("/-/ready").text == "Service Unavailable\n"
        finally:
            for pid in workers_in(known.scrape()):
                os.kill(pid, signal.SIGCONT)
        wait_for(lambda: not is_running(master), "the end")


def workers_in(metrics: Metrics) -> list[int]:
    """Return the pids of the workers that a scrape tells of."""
    return [int(labels["pid"]) for labels, _ in metrics.all("gunicorn_worker_info")]


def parent_of(pid: int) -> int:
    """Return the pid of the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_mutual_tls(guarded: Guarded, identities: Identities) -> None:
    """Only a client with a certificate of the authority comes in, also to the probes."""
    with guarded.serving(mutual_section(identities)) as server:
        known = Visitor(server, identities.ours, identities.client)
        wait_for(lambda: known.is_answered(target="/-/ready"), "readiness")
        assert known.scrape().one("gunicorn_workers_target") == 1
        assert Visitor(server, identities.ours).is_turned_away()
        assert Visitor(server, identities.ours, identities.stranger).is_turned_away()
        assert known.is_answered()
        assert "Traceback" not in server.log


def test_plain_gunicorn_has_a_door_too(tmp_path: Path, identities: Identities) -> None:
    """With the hooks in the file of Gunicorn, the setting beside them counts."""
    web_config = tmp_path / "web.yml"
    web_config.write_text(tls_section(identities.server) + USERS)
    (tmp_path / "gunicorn.conf.py").write_text(
        f"from gunicorn_prom.hooks import *\nmetrics_web_config = {str(web_config)!r}\n"
    )
    with plain_gunicorn(tmp_path, APP, start=False) as server:
        server.launch()
        known = Visitor(server, identities.ours, credentials=basic())
        wait_for(lambda: known.is_answered(target="/-/ready"), "readiness")
        assert Visitor(server, identities.ours).get().status == 401


def test_the_log_tells_the_scheme(guarded: Guarded, identities: Identities) -> None:
    """The address that is logged is the one to put into a browser."""
    with guarded.serving(tls_section(identities.server)) as server:
        url = f"Metrics at https://127.0.0.1:{server.metrics_port}/metrics"
        wait_for(lambda: url in server.log, "the address")


# Files that cannot be used.

BAD_FILES = {
    "unknown": ("tls: {}\n", "unknown key: tls"),
    "plain": ("basic_auth_users: {me: hunter2}\n", "the password of 'me'"),
    "missing": (tls_section((Path("a.pem"), Path("a.key"))), "cannot read .*a.pem"),
    "syntax": ("basic_auth_users: {me\n", "line 2"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("command", ["run", "export"])
def test_a_bad_file_is_told_at_start(tmp_path: Path, name: str, command: str) -> None:
    """It is told in one line, with exit code 2, before anything is bound or made."""
    text, message = BAD_FILES[name]
    file = tmp_path / "web.yml"
    file.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # It is looked at before the address is.
        bind = f"--metrics-bind=127.0.0.1:{taken.getsockname()[1]}"
        state = f"--metrics-state-dir={tmp_path / 'state'}"
        application = [APP] if command == "run" else []
        options = (bind, state, f"--metrics-web-config={file}", *application)
        ended = run_to_end(tmp_path, *options, command=[command])
    assert re.fullmatch(r"error: .*\n(hint: .*\n)?", ended.stderr), ended.stderr
    assert ended.stderr.startswith(f"error: {file}: ") or "cannot read" in ended.stderr
    assert re.search(message, ended.stderr)
    assert "hunter2" not in ended.stderr
    assert (ended.returncode, ended.stdout) == (2, "")
    assert not (tmp_path / "state").exists()


def test_a_bad_file_under_plain_gunicorn(tmp_path: Path) -> None:
    """There, too, it ends at start with one line that names the file, and no traceback."""
    web_config = tmp_path / "web.yml"
    web_config.write_text("basic_auth_users: {me: hunter2}\n")
    (tmp_path / "gunicorn.conf.py").write_text(
        f"from gunicorn_prom.hooks import *\nmetrics_web_config = {str(web_config)!r}\n"
    )
    with plain_gunicorn(tmp_path, APP, start=False) as server:
        ended = server.run_to_end()
    assert ended.returncode == 1
    assert f"{web_config}: the password of 'me'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr
    assert not list(server.state_directory.glob("*"))


@pytest.mark.parametrize(
    ("command", "module", "name"), [("run", "bcrypt", "bcrypt"), ("export", "yaml", "PyYAML")]
)
def test_a_missing_extra_is_told(tmp_path: Path, command: str, module: str, name: str) -> None:
    """Without the libraries the message says how to install them, with exit code 2."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{module}.py").write_text(f"raise ImportError({module!r})\n")
    (tmp_path / "web.yml").write_text(USERS)
    given = Server(tmp_path, [], {})
    path = os.pathsep.join((str(hidden), given._environ["PYTHONPATH"]))
    ended = run_to_end(
        tmp_path,
        f"--metrics-web-config={tmp_path / 'web.yml'}",
        *([APP] if command == "run" else []),
        command=[command],
        environ={"PYTHONPATH": path},
    )
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: ")
    assert f"needs {name}" in error
    assert hint == "hint: install it with: pip install 'gunicorn-prom[auth]'"
    assert (ended.returncode, ended.stdout) == (2, "")


# What changes while it runs.


def test_a_file_that_becomes_bad(guarded: Guarded, identities: Identities) -> None:
    """The last good one stays in force, which is said and counted once; then a good one counts."""
    with guarded.serving(tls_section(identities.server) + USERS) as server:
        known = Visitor(server, identities.ours, credentials=basic())
        wait_for(lambda: known.is_answered(target="/-/ready"), "readiness")
        guarded.file.write_text("basic_auth_users: {me: hunter2}\n")
        kept = "the last good configuration stays in force"
        wait_for(lambda: known.is_answered() and kept in server.log, "the refusal")
        for _ in range(3):
            assert Visitor(server, identities.ours).get().status == 401
            metrics = known.scrape()
        assert metrics.one("gunicorn_prom_errors_total", where="web_config") == 1
        other = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
        users = f"basic_auth_users:\n  {USER}: {other}\n"
        guarded.file.write_text(tls_section(identities.server) + users)
        renewed = Visitor(server, identities.ours, credentials=basic(password="other"))
        wait_for(renewed.is_answered, "the new password")
        assert known.get().status == 401
        assert server.log.count(kept) == 1
        assert renewed.scrape().one("gunicorn_prom_errors_total", where="web_config") == 1
        assert "hunter2" not in server.log


def test_a_renewed_certificate(guarded: Guarded, identities: Identities) -> None:
    """A certificate that is put in the place of the old one is shown to the next clients."""
    pair = (guarded.directory / "server.pem", guarded.directory / "server.key")
    for source, target in zip(identities.server, pair, strict=True):
        shutil.copy(source, target)
    with guarded.serving(tls_section(pair)) as server:
        known = Visitor(server, identities.ours)
        wait_for(lambda: known.is_answered(target="/-/ready"), "readiness")
        assert known.peer() == der_of(identities.server[0])
        for source, target in zip(identities.renewed, pair, strict=True):
            shutil.copy(source, target.with_suffix(".new"))
            target.with_suffix(".new").rename(target)
        wait_for(lambda: known.peer() == der_of(identities.renewed[0]), "the new certificate")
        assert known.scrape().total("gunicorn_prom_errors_total") == 0


def der_of(file: Path) -> bytes:
    """Return the first certificate of a file as it goes over the wire."""
    return ssl.PEM_cert_to_DER_cert(file.read_text())


def test_a_door_that_a_reload_brings(tmp_path: Path, identities: Identities) -> None:
    """HUP closes what was open, on the same socket, and a bad file then changes nothing."""
    file, web_config = tmp_path / "gunicorn.conf.py", tmp_path / "web.yml"
    file.write_text("")
    with gunicorn_prom(tmp_path, APP) as server:
        web_config.write_text("basic_auth_users: {me: hunter2}\n")
        file.write_text(f"metrics_web_config = {str(web_config)!r}\n")
        server.send_signal(signal.SIGHUP)
        server.wait_for_metrics(
            lambda m: m.one("gunicorn_prom_errors_total", where="server") == 1, "the error"
        )
        web_config.write_text(tls_section(identities.server) + USERS)
        server.send_signal(signal.SIGHUP)
        known = Visitor(server, identities.ours, credentials=basic())
        wait_for(known.is_answered, "the door")
        assert Visitor(server, identities.ours).get().status == 401
        assert known.scrape().one("gunicorn_reloads_total") == 2
        assert "hunter2" not in server.log


@pytest.mark.parametrize("where", ["thread", "process"])
def test_an_upgrade(tmp_path: Path, identities: Identities, where: str) -> None:
    """Over USR2 and TERM of the old master every scrape with TLS and password succeeds."""
    guarded, pidfile = Guarded(tmp_path, where), tmp_path / "pid"
    text = tls_section(identities.server) + USERS
    with guarded.serving(text, f"--pid={pidfile}") as server:
        known = Visitor(server, identities.ours, credentials=basic())
        wait_for(lambda: known.is_answered(target="/-/ready"), "readiness")
        assert request(server.port, "/").status == 200
        with scraping(known) as (totals, failures):
            server.send_signal(signal.SIGUSR2)
            following = pidfile.with_name("pid.2")
            successor = int(
                wait_for(lambda: following.exists() and following.read_text(), "a new master")
            )
            wait_for(lambda: len(workers_in(known.scrape())) == 2, "its worker")
            assert server.stop() == 0
            wait_for(
                lambda: [parent_of(pid) for pid in workers_in(known.scrape())] == [successor],
                "the new master alone",
            )
            assert request(server.port, "/").status == 200
            wait_for(
                lambda: known.scrape().total("gunicorn_http_requests_total") == 2, "the requests"
            )
        assert not failures
        assert totals == sorted(totals)
        os.kill(successor, signal.SIGTERM)
        wait_for(lambda: not is_running(successor), "the end of the next generation")
        wait_for(lambda: can_bind(server.metrics_port), "the metrics port", 1.0)
        assert not list(server.state_directory.iterdir())


@contextlib.contextmanager
def scraping(visitor: Visitor) -> Iterator[tuple[list[float], list[Exception | AssertionError]]]:
    """Scrape without a pause while the block runs; yield the totals and what went wrong."""
    totals: list[float] = []
    failures: list[Exception | AssertionError] = []
    is_over = threading.Event()

    def scrape() -> None:
        while not is_over.is_set():
            try:
                totals.append(visitor.scrape().total("gunicorn_http_requests_total"))
            except (OSError, http.client.HTTPException, AssertionError) as error:
                failures.append(error)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield totals, failures
    finally:
        is_over.set()
        thread.join()


# Prometheus itself.


def prometheus_config(server: Server, identities: Identities, password: Path) -> str:
    """Return what makes Prometheus scrape a server every second, with a password and without."""
    certificate, key = identities.client
    files = {"ca_file": identities.ours.file, "cert_file": certificate, "key_file": key}
    job = {
        "job_name": "turned_away",
        "scheme": "https",
        "tls_config": {name: str(file) for name, file in files.items()},
        "static_configs": [{"targets": [f"127.0.0.1:{server.metrics_port}"]}],
    }
    credentials = {"username": USER, "password_file": str(password)}
    guarded = {**job, "job_name": "guarded", "basic_auth": credentials}
    times = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    # What is JSON is YAML, too.
    return json.dumps({"global": times, "scrape_configs": [job, guarded]})


def test_prometheus_comes_in(tmp_path: Path, identities: Identities) -> None:
    """A real Prometheus with certificate and password has `up` 1, without the password 0."""
    program = find_program("prometheus", "prometheus")
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    guarded = Guarded(tmp_path, "thread")
    with guarded.serving(mutual_section(identities) + USERS) as server:
        known = Visitor(server, identities.ours, identities.client, basic())
        wait_for(lambda: known.is_answered(target="/-/ready"), "readiness")
        config = tmp_path / "prometheus.yml"
        config.write_text(prometheus_config(server, identities, password))
        port = free_port()
        command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with running(Server(tmp_path / "prometheus", command, {}), start=False) as prometheus:
            prometheus.launch()
            wait_for(lambda: query(port, "up") == {"guarded": 1, "turned_away": 0}, "both scrapes")
            assert query(port, "gunicorn_workers_target") == {"guarded": 1}
            assert prometheus.stop() == 0


def query(port: int, expression: str) -> dict[str, float]:
    """Ask Prometheus; return the values by job, none while it does not answer."""
    try:
        answer: Any = json.loads(request(port, f"/api/v1/query?query={expression}").text)
    except (OSError, ValueError):
        return {}
    results = answer.get("data", {}).get("result", [])
    return {result["metric"]["job"]: float(result["value"][1]) for result in results}

"""What a web configuration file may say, what it may not, and whose password is checked next."""

import builtins
import logging
import os
import select
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from gunicorn_prom.errors import InvalidSettingError, UsageError
from gunicorn_prom.exporter.authentication import (
    MAX_GOOD,
    MAX_KEPT,
    MAX_WAITING,
    MAX_WRONG,
    Check,
    Passwords,
    Users,
    credentials_in,
    source_of,
)
from gunicorn_prom.exporter.door import Door, validate
from gunicorn_prom.exporter.web_config import WebConfig, parse

# The salt is fixed: it is in the names of tests, which are to be the same in every process.
HASH = bcrypt.hashpw(b"secret", b"$2b$04$abcdefghijklmnopqrstuu").decode()
TLS = "tls_server_config: {cert_file: a.pem, key_file: a.key, "
VERIFIED = "client_auth_type: RequireAndVerifyClientCert"


def parsed(directory: Path, text: str) -> WebConfig:
    path = directory / "web.yml"
    path.write_text(textwrap.dedent(text))
    return parse(path)


# What can be had.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "---\n",
        "{}",
        "tls_server_config:\n",
        "tls_server_config: {}\nbasic_auth_users: {}\nhttp_server_config: {}\n",
        "tls_server_config: ~\nbasic_auth_users: null\nrate_limit: {}\n",
        "http_server_config: {http2: false}",
    ],
)
def test_a_file_without_a_wish_leaves_the_door_open(tmp_path: Path, text: str) -> None:
    """Neither TLS nor users is a valid wish, as with other exporters."""
    assert parsed(tmp_path, text) == WebConfig()


def test_every_key(tmp_path: Path) -> None:
    """Each key that is supported arrives where it belongs, relative paths beside the file."""
    config = parsed(
        tmp_path,
        f"""
        tls_server_config:
          cert_file: server.pem
          key_file: /etc/server.key
          client_ca_file: ca.pem
          client_auth_type: RequireAndVerifyClientCert
          client_allowed_sans: [prometheus.example, 10.0.0.1]
          min_version: TLS12
          max_version: TLS12
          cipher_suites:
            - TLS_AES_128_GCM_SHA256
            - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
          prefer_server_cipher_suites: false
          curve_preferences: [CurveP384]
        http_server_config:
          http2: true
          headers:
            X-Frame-Options: deny
            X-XSS-Protection:
            Strict-Transport-Security: max-age=60
        basic_auth_users:
          yes: {HASH}
          12: {HASH}
        """,
    )
    tls = config.tls
    assert tls is not None
    assert config.files() == [tmp_path / "server.pem", Path("/etc/server.key"), tmp_path / "ca.pem"]
    assert tls.is_client_certificate_required
    assert tls.allowed_sans == {"prometheus.example", "10.0.0.1"}
    assert (tls.min_version, tls.max_version) == ("TLS12", "TLS12")
    assert tls.ciphers == ("ECDHE-RSA-AES128-GCM-SHA256",)
    assert not tls.is_server_preferred
    assert tls.curve == "secp384r1"
    assert config.headers == {
        "X-Frame-Options": "deny",
        "Strict-Transport-Security": "max-age=60",
    }
    assert config.users == {"yes": HASH.encode(), "12": HASH.encode()}


def test_the_defaults(tmp_path: Path) -> None:
    """Certificate and key are enough: TLS 1.2 and later, for everybody."""
    tls = parsed(tmp_path, "tls_server_config: {cert: CERT, key: KEY}").tls
    assert tls is not None
    assert (tls.certificate.read(), tls.key.read()) == (b"CERT", b"KEY")
    assert (tls.min_version, tls.max_version) == ("TLS12", "TLS13")
    assert (tls.client_ca, tls.allowed_sans, tls.ciphers, tls.curve) == (None, None, None, None)
    assert tls.is_server_preferred


def test_ciphers_of_tls_13_alone_leave_tls_13(tmp_path: Path) -> None:
    """Who names no cipher of TLS 1.2 does not get any."""
    tls = parsed(tmp_path, TLS + "cipher_suites: [TLS_AES_128_GCM_SHA256]}").tls
    assert tls is not None
    assert (tls.min_version, tls.ciphers) == ("TLS13", None)


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2y$"])
def test_hashes_of_all_makes(tmp_path: Path, prefix: str) -> None:
    """What htpasswd, Python and others write is a hash."""
    hashed = prefix + HASH[4:]
    assert parsed(tmp_path, f"basic_auth_users: {{me: {hashed}}}").users == {"me": hashed.encode()}


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    """Neither key nor hash is in what a configuration looks like."""
    text = f"tls_server_config: {{cert: CERT, key: hunter2}}\nbasic_auth_users: {{me: {HASH}}}"
    shown = repr(parsed(tmp_path, text))
    assert "hunter2" not in shown
    assert HASH not in shown


# What cannot.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "this is not valid YAML in line 1"),
        ("a:\n\n\tb: 1", "this is not valid YAML in line 3"),
        ("basic_auth_users: {me: *hunter2}", "this is not valid YAML in line 1"),
        ("{[a]: b}", "this is not valid YAML in line 1"),
        ("\x01", "this is not valid YAML"),
        ("[" * 5000, "this is not valid YAML"),
        ("a list", "the file must be a mapping of keys to values"),
        ("tls_config: {}", "the file has an unknown key: tls_config"),
        ("basic_auth_users: {}\nbasic_auth_users: {}", "'basic_auth_users' is given twice"),
        ("tls_server_config: {certfile: x}", "tls_server_config has an unknown key: certfile"),
        ("tls_server_config: [x]", "tls_server_config must be a mapping"),
        ("tls_server_config: {key_file: x}", "has neither cert nor cert_file"),
        ("tls_server_config: {cert_file: x}", "has neither key nor key_file"),
        ("tls_server_config: {min_version: TLS13}", "has neither cert nor cert_file"),
        (TLS + "cert: x}", "tls_server_config has both cert and cert_file"),
        (TLS + "min_version: TLS10}", "min_version TLS10 is not supported"),
        (TLS + "max_version: TLS11}", "max_version TLS11 is not supported"),
        (TLS + "min_version: 1.2}", "min_version cannot be 1.2"),
        (TLS + "min_version: TLS13, max_version: TLS12}", "leaves no version of TLS"),
        (TLS + "client_auth_type: RequestClientCert}", "lets in any certificate, unverified"),
        (TLS + "client_auth_type: RequireAnyClientCert}", "lets in any certificate, unverified"),
        (TLS + "client_auth_type: Always}", "client_auth_type cannot be Always"),
        (TLS + VERIFIED + "}", "needs a client_ca_file"),
        (TLS + "client_ca_file: ca.pem}", "client_auth_type asks clients for no certificate"),
        (TLS + "client_allowed_sans: [x]}", "client_allowed_sans needs client_auth_type"),
        (TLS + "client_allowed_sans: []}", "client_allowed_sans names nobody"),
        (TLS + "client_allowed_sans: x}", "client_allowed_sans must be a list of strings"),
        (TLS + "cipher_suites: [RC4]}", "cipher_suites has an unknown cipher: RC4"),
        (TLS + "curve_preferences: [P256]}", "curve_preferences cannot be P256"),
        (TLS + "curve_preferences: [X25519, CurveP256]}", "can have one curve only"),
        (TLS + "prefer_server_cipher_suites: maybe}", "prefer_server_cipher_suites cannot be"),
        (TLS + "client_ca: [x]}", "client_ca must be a string"),
        ("http_server_config: {http3: true}", "http_server_config has an unknown key: http3"),
        ("http_server_config: {headers: {Server: x}}", "headers cannot be Server"),
        ("http_server_config: {headers: {X-Frame-Options: x}}", "X-Frame-Options cannot be x"),
        (
            'http_server_config: {headers: {X-XSS-Protection: "1\\r\\nSet-Cookie: x"}}',
            "X-XSS-Protection has a character",
        ),
        ("rate_limit: {interval: 1s, burst: 2}", "rate_limit is not supported"),
        ("basic_auth_users: {me: hunter2}", "the password of 'me' in basic_auth_users is no"),
        ("basic_auth_users: {me: }", "the password of 'me'"),
        ("basic_auth_users: {me: [x]}", "the password of 'me'"),
        (f"basic_auth_users: {{me: {HASH[:-1]}}}", "the password of 'me'"),
        (f"basic_auth_users: {{me: {HASH.replace('$04$', '$03$')}}}", "the password of 'me'"),
        (f"basic_auth_users: {{me: {HASH.replace('$04$', '$16$')}}}", "the bcrypt cost of 'me'"),
        ("basic_auth_users: [me]", "basic_auth_users must be a mapping"),
    ],
)
def test_what_cannot_be_had_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Each mistake is told in one line with the name of the file, and no secret."""
    with pytest.raises(InvalidSettingError) as refused:
        parsed(tmp_path, text)
    said = f"{refused.value} {refused.value.hint}"
    assert str(refused.value).startswith(f"{tmp_path / 'web.yml'}: ")
    assert message in said
    assert "\n" not in said
    assert "hunter2" not in said
    assert HASH[10:30] not in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The message names the file and the system's reason."""
    with pytest.raises(InvalidSettingError, match=r"cannot read .*web\.yml: no such file"):
        validate(tmp_path / "web.yml")


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """What can be read only once is refused: the second time it would open the door."""
    os.mkfifo(tmp_path / "web.yml")
    with pytest.raises(InvalidSettingError, match="it is not a regular file"):
        validate(tmp_path / "web.yml")


def test_an_empty_file_is_no_wish(tmp_path: Path) -> None:
    """At the start, too, it is more likely one that could not be written."""
    (tmp_path / "web.yml").touch()
    with pytest.raises(InvalidSettingError, match="is empty") as caught:
        validate(tmp_path / "web.yml")
    assert "{}" in caught.value.hint


def test_an_impossible_path(tmp_path: Path) -> None:
    """A path that no system can have is told like one that does not exist."""
    (tmp_path / "web.yml").write_text('tls_server_config: {cert_file: "a\\0b", key_file: x}')
    with pytest.raises(InvalidSettingError, match="cannot read"):
        validate(tmp_path / "web.yml")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "cannot read .*a.pem: no such file"),
        ({"a.pem": "x"}, "cannot read .*a.key: no such file"),
        ({"a.pem": "x", "a.key": "x"}, "a.pem has no certificate in PEM form"),
        ({"a.pem": "-----BEGIN CERTIFICATE-----", "a.key": "x"}, "a.key has no private key"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, files: dict[str, str], message: str) -> None:
    """A certificate or key that is missing or something else is told by its name."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "web.yml").write_text(TLS + "}")
    with pytest.raises(InvalidSettingError, match=message):
        validate(tmp_path / "web.yml")


@pytest.mark.parametrize(("module", "name"), [("yaml", "PyYAML"), ("bcrypt", "bcrypt")])
def test_a_missing_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    """Without the extra, the message says how to install it."""
    real_import = builtins.__import__

    def import_all_but(wanted: str, *arguments: Any, **options: Any) -> Any:
        if wanted == module:
            raise ImportError(wanted)
        return real_import(wanted, *arguments, **options)

    (tmp_path / "web.yml").write_text(f"basic_auth_users: {{me: {HASH}}}")
    monkeypatch.setattr(builtins, "__import__", import_all_but)
    with pytest.raises(UsageError, match=f"needs {name}") as refused:
        validate(tmp_path / "web.yml")
    assert refused.value.hint == "install it with: pip install 'gunicorn-prom[auth]'"


def test_the_scheme(tmp_path: Path) -> None:
    """Without a certificate, URLs are those of plain HTTP."""
    (tmp_path / "web.yml").write_text("{}")
    door = Door.open(tmp_path / "web.yml", logging.getLogger("test"))
    assert door.scheme == "http"
    door.close()


# Credentials.


@pytest.mark.parametrize(
    ("header", "credentials"),
    [
        ("Basic bWU6c2VjcmV0", (b"me", b"secret")),
        ("basic  bWU6c2VjcmV0 ", (b"me", b"secret")),
        ("Basic bWU6YTpi", (b"me", b"a:b")),
        ("Basic bWU6", (b"me", b"")),
        ("Basic bWU=", None),
        ("Basic bWU6c2VjcmV", None),
        ("Basic bWU6\xe9", None),
        ("Bearer bWU6c2VjcmV0", None),
        ("", None),
    ],
)
def test_credentials(header: str, credentials: tuple[bytes, bytes] | None) -> None:
    """User and password are what RFC 7617 says; anything else is none."""
    assert credentials_in(header) == credentials


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (("10.0.0.1", 1), "10.0.0.1"),
        (("::ffff:10.0.0.1", 1, 0, 0), "10.0.0.1"),
        (("2001:db8::1:2:3:4", 1, 0, 0), "2001:db8::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        ("", ""),
    ],
)
def test_sources(address: Any, source: str) -> None:
    """An address stands for itself; with IPv6, the network does."""
    assert source_of(address) == source


# Passwords.


class Clients:
    """Those who have their passwords checked.

    Attributes:
        answers: what they were told, by password, in the order of the answers.
    """

    def __init__(self, users: Users) -> None:
        self.passwords = Passwords()
        self.answers: dict[str, bool] = {}
        self._users = users

    def check(self, password: str, source: str = "", user: str = "me") -> Check:
        return Check(
            self._users,
            (user.encode(), password.encode()),
            source,
            lambda is_right: self.answers.update({password: is_right}),
        )

    def ask(self, password: str, source: str = "", user: str = "me") -> Check:
        check = self.check(password, source, user)
        self.passwords.ask(check)
        return check

    def collect(self, times: int = 1) -> None:
        """Wait for so many hashes."""
        for _ in range(times):
            select.select([self.passwords], [], [], 10)
            self.passwords.collect()


@pytest.fixture
def clients() -> Iterator[Clients]:
    clients = Clients(Users({"me": HASH.encode()}))
    yield clients
    clients.passwords.close()


def test_what_was_found_out_is_remembered(clients: Clients) -> None:
    """Right and wrong are known after one hash, for that user and password only."""
    for password in ("secret", "wrong"):
        clients.ask(password)
        clients.collect()
    assert clients.answers == {"secret": True, "wrong": False}
    assert clients.passwords.recall(clients.check("secret")) is True
    assert clients.passwords.recall(clients.check("wrong")) is False
    assert clients.passwords.recall(clients.check("secret", user="you")) is None
    assert clients.passwords.recall(clients.check("other")) is None


def test_an_unknown_user_costs_a_hash_of_the_same_price(clients: Clients) -> None:
    """Who does not exist is compared with a hash as costly as the others', in vain."""
    users = Users({"me": HASH.encode(), "you": HASH.replace("$04$", "$11$").encode()})
    hashed, is_known = users.hash_of(b"nobody")
    assert (hashed[:7], len(hashed), is_known) == (b"$2b$11$", 60, False)
    assert not bcrypt.checkpw(b"", hashed)  # and it can be compared with
    clients.ask("secret", user="nobody")
    clients.collect()
    assert clients.answers == {"secret": False}
    assert clients.passwords.hashes == 1


def test_a_new_hash_forgets_the_old_password() -> None:
    """What was right for a hash that the file no longer has is not known any more."""
    clients = Clients(Users({"me": HASH.encode()}))
    clients.ask("secret")
    clients.collect()
    other = bcrypt.hashpw(b"other", bcrypt.gensalt(4))
    clients._users = Users({"me": other})
    assert clients.passwords.recall(clients.check("secret")) is None
    clients._users = Users({"you": HASH.encode()})
    assert clients.passwords.recall(clients.check("secret")) is None
    clients.passwords.close()


@pytest.mark.parametrize("password", ["x" * 73, "a\0b", "\xff" * 80])
def test_odd_passwords_are_wrong(clients: Clients, password: str) -> None:
    """What bcrypt may refuse to look at is a wrong password."""
    clients.ask(password)
    clients.collect()
    assert clients.answers == {password: False}


def test_the_newest_is_next(clients: Clients) -> None:
    """After the hash that is going on comes the password that came in last."""
    for password in ("first", "second", "third"):
        clients.ask(password)
    clients.collect(3)
    assert list(clients.answers) == ["first", "third", "second"]


def test_sources_take_turns(clients: Clients) -> None:
    """Who asks for many does not keep another source waiting."""
    for number in range(5):
        clients.ask(f"guess {number}", "attacker")
    clients.ask("secret", "prometheus")
    clients.collect(3)
    assert list(clients.answers) == ["guess 0", "guess 4", "secret"]


def test_too_many_of_one_source_are_turned_away(clients: Clients) -> None:
    """When a hash is done, all but the newest few of a source are refused without one."""
    for number in range(MAX_KEPT + 3):
        clients.ask(f"guess {number}")
    clients.collect()
    assert clients.answers == {f"guess {number}": False for number in range(3)}
    assert clients.passwords.hashes == 2  # the second one has begun


def test_the_line_is_bounded(clients: Clients) -> None:
    """When it is full, the oldest of the source with the most has to leave at once."""
    clients.ask("running")
    clients.ask("secret", "prometheus")
    for number in range(MAX_WAITING):
        clients.ask(f"guess {number}", "attacker")
    assert clients.answers == {"guess 0": False}


def test_who_asks_for_the_same_is_answered_by_one_hash(clients: Clients) -> None:
    """Those who wait with a password that has been found out wait no longer."""
    for source in ("a", "b", "c"):
        clients.ask("secret", source)
    clients.collect()
    assert clients.passwords.hashes == 1
    assert clients.answers == {"secret": True}


def test_who_has_gone_costs_no_hash(clients: Clients) -> None:
    """A check that nobody waits for any more is not made."""
    clients.ask("first")
    clients.passwords.forget(clients.ask("second"))
    clients.collect()
    assert clients.passwords.hashes == 1
    assert clients.answers == {"first": False}


def test_memories_are_bounded(clients: Clients) -> None:
    """However many were found out, the latest of them are known, and right ones stay."""
    clients.ask("secret")
    clients.collect()
    for number in range(MAX_WRONG + 1):
        clients.passwords._remember(clients.check(f"wrong {number}"), is_good=False)
    assert clients.passwords.recall(clients.check("wrong 0")) is None
    assert clients.passwords.recall(clients.check("wrong 1")) is False
    assert clients.passwords.recall(clients.check("secret")) is True
    for number in range(MAX_GOOD):
        clients.passwords._remember(clients.check(f"good {number}"), is_good=True)
    assert clients.passwords.recall(clients.check("secret")) is None

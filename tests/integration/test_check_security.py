"""What `gunicorn-prom check` finds about who may read and who is believed."""

from pathlib import Path

import bcrypt
import pytest

from tests.checked import Found, assert_finds, assert_passes, checked
from tests.dated import dated_certificate
from tests.integration.test_door import Authority
from tests.real_parts import find_program
from tests.support import run_to_end

PUBLIC = "--metrics-bind=0.0.0.0:9464"
HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
USERS = f"basic_auth_users:\n  prometheus: {HASH}\n"
Pair = tuple[Path, Path]


class Certificates:
    """What servers may have; each is a pair of certificate and key.

    Attributes:
        authority: which has signed `good`.
        expired_authority: the file of an authority whose time is over.
    """

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory, "ours")
        self.good = self.authority.sign("server", "IP:127.0.0.1")
        self.other = self.authority.sign("other", "IP:127.0.0.1")
        self.expired = dated_certificate(directory / "old", "20200101000000Z", "20210101000000Z")
        self.future = dated_certificate(directory / "new", "20900101000000Z", "20910101000000Z")
        self.expired_authority = self.expired[0]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    find_program("openssl", "openssl")
    return Certificates(tmp_path_factory.mktemp("certificates"))


def web_config(directory: Path, text: str) -> str:
    """Write a web configuration file, and return the option that names it."""
    path = directory / "web.yml"
    path.write_text(text)
    return f"--metrics-web-config={path}"


def tls_section(pair: Pair, more: str = "") -> str:
    """Return the section of the web configuration file that encrypts."""
    return f"tls_server_config:\n  cert_file: {pair[0]}\n  key_file: {pair[1]}\n{more}"


def client_section(kind: str, authority: Path) -> str:
    """Return what asks clients for a certificate."""
    return f"  client_auth_type: {kind}\n  client_ca_file: {authority}\n"


# Metrics for everybody.


def test_metrics_on_a_public_address(tmp_path: Path) -> None:
    """GP009 finds metrics that anybody can read; on the loopback or with a password it passes."""
    for address in ("0.0.0.0:9464", "[::]:9464", ":9464", "192.0.2.1:9464"):
        detail = f"everybody who reaches {address} may read the metrics"
        expected = Found("warning", detail, "bind 127.0.0.1 or give --metrics-web-config")
        assert_finds(tmp_path, "GP009", f"--metrics-bind={address}", expected=expected)
    assert_passes(tmp_path, "GP009", PUBLIC, web_config(tmp_path, USERS))
    for address in ("127.0.0.1:9464", "[::1]:9464", "localhost:9464"):
        assert_passes(tmp_path, "GP009", f"--metrics-bind={address}")


def test_a_door_that_is_open(tmp_path: Path, certificates: Certificates) -> None:
    """GP009 finds a web configuration that lets everybody in, encrypted or not."""
    authority = certificates.authority.file
    lenient = client_section("VerifyClientCertIfGiven", authority)
    for text in ("{}", tls_section(certificates.good), tls_section(certificates.good, lenient)):
        expected = Found("warning", "everybody who reaches 0.0.0.0:9464")
        assert_finds(tmp_path, "GP009", PUBLIC, web_config(tmp_path, text), expected=expected)
    strict = client_section("RequireAndVerifyClientCert", authority)
    assert_passes(
        tmp_path, "GP009", PUBLIC, web_config(tmp_path, tls_section(certificates.good, strict))
    )


def test_where_nothing_can_be_said_of_readers(tmp_path: Path) -> None:
    """GP009 is skipped without a metrics server, and where GP010 has the word."""
    found = checked(tmp_path, "GP009", PUBLIC, "--metrics-server=none")
    assert found == [Found("skipped", "there is no metrics server")]
    found = checked(tmp_path, "GP009", PUBLIC, web_config(tmp_path, "nonsense: 1"))
    assert found == [Found("skipped", "the web configuration cannot be used, see GP010")]


# Certificates and hashes.


def test_a_certificate_out_of_date(tmp_path: Path, certificates: Certificates) -> None:
    """GP010 finds an expired certificate, and one whose time has not come, on both servers."""
    reasons = (
        (certificates.expired, "has expired on 2021-01-01 00:00 UTC"),
        (certificates.future, "is not valid before 2090-01-01 00:00 UTC"),
    )
    for pair, reason in reasons:
        hint = "give a certificate that is valid now"
        expected = Found("error", f"cert_file {pair[0]} {reason}", hint)
        option = web_config(tmp_path, tls_section(pair))
        assert_finds(tmp_path, "GP010", option, expected=expected)
        expected = Found("error", f"--certfile {pair[0]} {reason}", hint)
        assert_finds(tmp_path, "GP010", *own(pair), expected=expected)
    assert_passes(tmp_path, "GP010", web_config(tmp_path, tls_section(certificates.good)))
    assert_passes(tmp_path, "GP010", *own(certificates.good))


def own(pair: Pair) -> list[str]:
    """Return Gunicorn's own options for a certificate."""
    return [f"--certfile={pair[0]}", f"--keyfile={pair[1]}"]


def test_a_key_of_another_certificate(tmp_path: Path, certificates: Certificates) -> None:
    """GP010 finds a key that does not match, for which Gunicorn itself starts and then fails."""
    mixed = (certificates.good[0], certificates.other[1])
    detail = f"key_file {mixed[1]} is not the key of cert_file {mixed[0]}"
    option = web_config(tmp_path, tls_section(mixed))
    hint = "the key that belongs to it"
    assert_finds(tmp_path, "GP010", option, expected=Found("error", detail, hint))
    detail = f"--keyfile {mixed[1]} is not the key of --certfile {mixed[0]}"
    assert_finds(tmp_path, "GP010", *own(mixed), expected=Found("error", detail, hint))


def test_files_that_cannot_be_read(tmp_path: Path, certificates: Certificates) -> None:
    """GP010 finds what is missing, empty, or no certificate, with the remedy for each."""
    certificate, key = certificates.good
    missing = tmp_path / "missing.pem"
    cases = (
        ([f"--certfile={missing}", f"--keyfile={key}"], f"cannot read {missing}: no such file"),
        ([f"--certfile={certificate}"], f"--certfile {certificate} has no private key"),
        ([f"--certfile={key}", f"--keyfile={key}"], f"--certfile {key} has no certificate"),
        ([f"--keyfile={key}"], "--keyfile is given without --certfile"),
        ([*own(certificates.good), f"--ca-certs={key}"], f"--ca-certs {key} has no certificates"),
        ([web_config(tmp_path, "")], f"{tmp_path}/web.yml is empty"),
        ([f"--metrics-web-config={missing}"], f"cannot read {missing}: no such file"),
    )
    for options, detail in cases:
        (found,) = checked(tmp_path, "GP010", *options)
        assert found.status == "error"
        assert detail in found.detail
        assert found.hint
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert_passes(tmp_path, "GP010", f"--certfile={both}")


def test_an_authority_out_of_date(tmp_path: Path, certificates: Certificates) -> None:
    """GP010 finds authorities that are all expired; one that is not is enough."""
    old, options = certificates.expired_authority, own(certificates.good)
    expected = Found("error", f"--ca-certs {old} has expired on 2021-01-01")
    assert_finds(tmp_path, "GP010", *options, f"--ca-certs={old}", expected=expected)
    both = tmp_path / "both.pem"
    both.write_bytes(old.read_bytes() + certificates.authority.file.read_bytes())
    assert_passes(tmp_path, "GP010", *options, f"--ca-certs={both}")


def test_a_password_that_is_no_hash(tmp_path: Path) -> None:
    """GP010 finds a password in plain text, does not repeat it, and says how to hash it."""
    option = web_config(tmp_path, "basic_auth_users:\n  prometheus: correct horse\n")
    (found,) = checked(tmp_path, "GP010", option)
    assert found.status == "error"
    assert "the password of 'prometheus' in basic_auth_users is no bcrypt hash" in found.detail
    assert "htpasswd -nBC 10 USER" in found.hint
    assert "correct horse" not in found.detail + found.hint
    # As `run` says it.
    assert (
        f"error: {found.detail}\nhint: {found.hint}\n"
        in run_to_end(tmp_path, "behave:app", option).stderr
    )
    assert_passes(tmp_path, "GP010", option, "--metrics-server=none")
    assert_passes(tmp_path, "GP010", web_config(tmp_path, USERS))


def test_both_servers_at_once(tmp_path: Path, certificates: Certificates) -> None:
    """GP010 tells of the application's certificate although that of the metrics is broken too."""
    option = web_config(tmp_path, tls_section(certificates.expired))
    found = checked(tmp_path, "GP010", option, *own(certificates.expired))
    assert [problem.detail.split()[0] for problem in found] == ["cert_file", "--certfile"]


def test_without_certificate_and_password(tmp_path: Path) -> None:
    """GP010 is skipped where there is nothing of that kind."""
    found = checked(tmp_path, "GP010")
    assert found == [Found("skipped", "there is neither a certificate nor a password")]


# Proxies.


def test_everybody_is_believed(tmp_path: Path) -> None:
    """GP029 finds `*` on a public address; a named proxy, the loopback or a unix socket passes."""
    public, everybody = "--bind=0.0.0.0:8000", "--forwarded-allow-ips=*"
    expected = Found(
        "warning",
        "forwarded_allow_ips is *: every client of 0.0.0.0:8000 is believed as a proxy",
        "name your proxies with --forwarded-allow-ips",
    )
    assert_finds(tmp_path, "GP029", public, everybody, expected=expected)
    environ = {"FORWARDED_ALLOW_IPS": "*"}
    assert_finds(tmp_path, "GP029", public, expected=expected, environ=environ)
    assert_passes(tmp_path, "GP029", public, "--forwarded-allow-ips=10.0.0.7")
    assert_passes(tmp_path, "GP029", "--bind=127.0.0.1:8000", everybody)
    assert_passes(tmp_path, "GP029", f"--bind=unix:{tmp_path}/socket", everybody)

"""The web configuration file of Prometheus exporters, as far as it can be served here.

What cannot be had is an error, never left out: a file that asks for more protection
than it gets would be worse than none.

Source: docs/web-configuration.md and web/tls_config.go of prometheus/exporter-toolkit.
"""

import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gunicorn_prom.errors import InvalidSettingError, UsageError

__all__ = ["Pem", "TlsSettings", "WebConfig", "missing_extra", "parse"]

SECTIONS = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
TLS_KEYS = (
    "cert",
    "key",
    "client_ca",
    "cert_file",
    "key_file",
    "client_ca_file",
    "client_auth_type",
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
)
NO_CERTIFICATE = "NoClientCert"
VERIFIED_IF_GIVEN = "VerifyClientCertIfGiven"
VERIFIED = "RequireAndVerifyClientCert"
CLIENT_AUTH_TYPES = (NO_CERTIFICATE, VERIFIED_IF_GIVEN, VERIFIED)
UNVERIFIED_TYPES = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
VERSIONS = ("TLS12", "TLS13")
OLD_VERSIONS = ("TLS10", "TLS11")
# What Go's tls.CipherSuites() lists up to TLS 1.2, under OpenSSL's names.
CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
}
# Listed by Go as well, but neither there nor here to be chosen from.
TLS13_CIPHERS = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
)
CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
# The headers that may be added, and the values of those that are not free.
HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
BCRYPT_HASH = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
MIN_COST = 4
# Two seconds of work; each further step doubles it, and a scrape gives up after ten.
MAX_COST = 15
NOTHING = ("", "~", "null")


@dataclass(frozen=True)
class Pem:
    """Certificates or a key, in a file or in the configuration itself.

    Attributes:
        name: what to call it in a message.
        file: None when it is written in the configuration.
    """

    name: str
    file: Path | None
    text: str = field(default="", repr=False)

    def read(self) -> bytes:
        """Return the content.

        Raises:
            InvalidSettingError: it cannot be read.
        """
        return self.text.encode(errors="replace") if self.file is None else _read(self.file)


@dataclass(frozen=True)
class TlsSettings:
    """How connections are encrypted, and which certificates clients must have.

    Attributes:
        client_ca: None when clients are asked for no certificate.
        is_client_certificate_required: or else only verified when there is one.
        allowed_sans: of which a client's certificate must have one; None for any.
        ciphers: OpenSSL's names, up to TLS 1.2; None for OpenSSL's own choice.
        curve: OpenSSL's name; None for OpenSSL's own choice.
    """

    certificate: Pem
    key: Pem
    client_ca: Pem | None = None
    is_client_certificate_required: bool = False
    allowed_sans: frozenset[str] | None = None
    min_version: str = "TLS12"
    max_version: str = "TLS13"
    ciphers: tuple[str, ...] | None = None
    is_server_preferred: bool = True
    curve: str | None = None


@dataclass(frozen=True)
class WebConfig:
    """What a web configuration file asks for.

    Attributes:
        tls: None for plain HTTP.
        users: bcrypt hashes by user; empty when everybody may come in.
        headers: to be added to every answer.
    """

    tls: TlsSettings | None = None
    users: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> list[Path]:
        """Return the files that are read besides the configuration itself."""
        if self.tls is None:
            return []
        pems = (self.tls.certificate, self.tls.key, self.tls.client_ca)
        return [pem.file for pem in pems if pem is not None and pem.file is not None]


def parse(path: Path) -> WebConfig:
    """Read the web configuration file at `path`, but not the files that it names.

    Raises:
        InvalidSettingError: it cannot be read or asks for what cannot be had.
        UsageError: PyYAML is not installed.
    """
    content = _read(path)
    try:
        return _configuration(_load_yaml(content), path.parent)
    except InvalidSettingError as error:
        raise InvalidSettingError(f"{path}: {error}", error.hint) from None


def missing_extra(module: str) -> UsageError:
    """Return the error that says that `module` is not installed."""
    return UsageError(
        f"--metrics-web-config needs {module}, which is not installed",
        "install it with: pip install 'gunicorn-prom[auth]'",
    )


def _read(path: Path) -> bytes:
    try:
        # A pipe could be read only once, and would then say that no password is wanted.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidSettingError(f"cannot read {path}: it is not a regular file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InvalidSettingError(
            f"cannot read {path}: {reason}",
            "the user that starts the server must be able to read it",
        ) from error


def _load_yaml(content: bytes) -> Any:
    try:
        import yaml
    except ImportError:
        raise missing_extra("PyYAML") from None

    # Strings only: YAML would make a user out of `yes` that is called True.
    class Loader(yaml.BaseLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            if not all(isinstance(name, str) for name in names):
                raise _bad_yaml(node.start_mark.line)
            for name in names:
                if names.count(name) > 1:
                    raise InvalidSettingError(f"the key {name!r} is given twice")
            return super().construct_mapping(node, deep=True)

    try:
        return yaml.load(content, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise _bad_yaml(None if mark is None else mark.line) from None
    except (yaml.YAMLError, RecursionError):
        raise _bad_yaml(None) from None


def _bad_yaml(line: int | None) -> InvalidSettingError:
    # PyYAML's own message quotes the file, and with it perhaps a password.
    where = "" if line is None else f" in line {line + 1}"
    return InvalidSettingError(f"this is not valid YAML{where}", "docs/security.md has an example")


def _configuration(value: Any, directory: Path) -> WebConfig:
    given = _section(value, "the file", SECTIONS)
    if not _is_empty(given.get("rate_limit")):
        raise InvalidSettingError(
            "rate_limit is not supported",
            "leave it out: connections and password checks are bounded without it",
        )
    return WebConfig(
        tls=_tls(given.get("tls_server_config"), directory),
        users=_users(given.get("basic_auth_users")),
        headers=_headers(given.get("http_server_config")),
    )


def _tls(value: Any, directory: Path) -> TlsSettings | None:
    given = _section(value, "tls_server_config", TLS_KEYS)
    if all(_is_empty(item) for item in given.values()):
        return None
    certificate = _pem(given, "cert", directory)
    key = _pem(given, "key", directory)
    if certificate is None or key is None:
        absent = "cert" if certificate is None else "key"
        raise InvalidSettingError(
            f"tls_server_config has neither {absent} nor {absent}_file",
            "without a certificate and its key nothing can be encrypted",
        )
    client_ca, is_required = _client_authentication(given, directory)
    min_version, max_version, ciphers = _protocol(given)
    return TlsSettings(
        certificate=certificate,
        key=key,
        client_ca=client_ca,
        is_client_certificate_required=is_required,
        allowed_sans=_allowed_sans(given, is_required=is_required),
        min_version=min_version,
        max_version=max_version,
        ciphers=ciphers,
        is_server_preferred=_boolean(given, "prefer_server_cipher_suites", default=True),
        curve=_curve(given),
    )


def _pem(given: Mapping[str, Any], name: str, directory: Path) -> Pem | None:
    text, file = _string(given, name), _string(given, f"{name}_file")
    if text and file:
        raise InvalidSettingError(f"tls_server_config has both {name} and {name}_file")
    if file:
        return Pem(f"{name}_file {directory / file}", directory / file)
    return Pem(name, None, text) if text else None


def _client_authentication(given: Mapping[str, Any], directory: Path) -> tuple[Pem | None, bool]:
    """Return the authority of clients' certificates, and whether they must have one."""
    client_ca = _pem(given, "client_ca", directory)
    kind = _string(given, "client_auth_type") or NO_CERTIFICATE
    if kind in UNVERIFIED_TYPES:
        raise InvalidSettingError(
            f"client_auth_type {kind} is not supported: it lets in any certificate, unverified",
            f"use {VERIFIED} with a client_ca_file",
        )
    if kind not in CLIENT_AUTH_TYPES:
        raise _not_one_of("client_auth_type", kind, CLIENT_AUTH_TYPES)
    if kind == NO_CERTIFICATE and client_ca is not None:
        raise InvalidSettingError(
            "client_ca_file is given, but client_auth_type asks clients for no certificate",
            f"set client_auth_type to {VERIFIED}",
        )
    if kind != NO_CERTIFICATE and client_ca is None:
        raise InvalidSettingError(
            f"client_auth_type {kind} needs a client_ca_file",
            "it holds the certificates of the authorities that clients' are verified with",
        )
    return client_ca, kind == VERIFIED


def _allowed_sans(given: Mapping[str, Any], *, is_required: bool) -> frozenset[str] | None:
    names = _strings(given, "client_allowed_sans")
    if names is None:
        return None
    if not names:
        raise InvalidSettingError("client_allowed_sans names nobody")
    if not is_required:
        raise InvalidSettingError(f"client_allowed_sans needs client_auth_type {VERIFIED}")
    return frozenset(names)


def _protocol(given: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...] | None]:
    """Return the lowest and highest version, and the ciphers."""
    low, high = _version(given, "min_version", "TLS12"), _version(given, "max_version", "TLS13")
    ciphers = _ciphers(given)
    if ciphers == ():
        # Only TLS 1.3's are wanted, which leaves nothing for TLS 1.2.
        low, ciphers = "TLS13", None
    if low > high:
        raise InvalidSettingError("tls_server_config leaves no version of TLS to speak")
    return low, high, ciphers


def _version(given: Mapping[str, Any], key: str, default: str) -> str:
    version = _string(given, key) or default
    if version in OLD_VERSIONS:
        raise InvalidSettingError(
            f"{key} {version} is not supported: OpenSSL no longer speaks it as it is set up",
            "TLS12 is the oldest that can be had",
        )
    if version not in VERSIONS:
        raise _not_one_of(key, version, VERSIONS)
    return version


def _ciphers(given: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = _strings(given, "cipher_suites")
    if not names:
        return None
    for name in names:
        if name not in CIPHERS and name not in TLS13_CIPHERS:
            raise InvalidSettingError(
                f"cipher_suites has an unknown cipher: {name}",
                "the names are those of Go's tls.CipherSuites()",
            )
    return tuple(CIPHERS[name] for name in names if name in CIPHERS)


def _curve(given: Mapping[str, Any]) -> str | None:
    names = _strings(given, "curve_preferences")
    if not names:
        return None
    for name in names:
        if name not in CURVES:
            raise _not_one_of("curve_preferences", name, CURVES)
    if len(names) > 1:
        raise InvalidSettingError(
            "curve_preferences can have one curve only: Python cannot hand OpenSSL a list",
            "name one, or leave it out for OpenSSL's own order",
        )
    return CURVES[names[0]]


def _users(value: Any) -> dict[str, bytes]:
    given = _mapping(value, "basic_auth_users")
    for user, hashed in given.items():
        match = BCRYPT_HASH.fullmatch(hashed) if isinstance(hashed, str) else None
        if match is None or int(match[1]) < MIN_COST:
            raise InvalidSettingError(
                f"the password of {user!r} in basic_auth_users is no bcrypt hash",
                "make one with: htpasswd -nBC 10 USER",
            )
        if int(match[1]) > MAX_COST:
            raise InvalidSettingError(
                f"the bcrypt cost of {user!r} in basic_auth_users is above {MAX_COST}, "
                "which takes longer than a scrape may",
                "10 to 12 are usual: htpasswd -nBC 10 USER",
            )
    return {user: hashed.encode() for user, hashed in given.items()}


def _headers(value: Any) -> dict[str, str]:
    given = _section(value, "http_server_config", ("http2", "headers"))
    # HTTP/1.1 is spoken either way, as with a client that knows nothing else.
    _boolean(given, "http2", default=True)
    headers = _mapping(given.get("headers"), "headers")
    for name in headers:
        if name not in HEADERS:
            raise _not_one_of("headers", name, HEADERS)
        _check_header(name, _string(headers, name))
    return {name: text for name, text in headers.items() if text}


def _check_header(name: str, text: str) -> None:
    if text and HEADERS[name] and text not in HEADERS[name]:
        raise _not_one_of(name, text, HEADERS[name])
    if not all(" " <= character <= "~" for character in text):
        raise InvalidSettingError(f"{name} has a character that a header cannot have")


def _section(value: Any, name: str, keys: Collection[str]) -> dict[str, Any]:
    given = _mapping(value, name)
    for key in given:
        if key not in keys:
            raise InvalidSettingError(
                f"{name} has an unknown key: {key}", f"it can have {', '.join(keys)}"
            )
    return given


def _mapping(value: Any, name: str) -> dict[str, Any]:
    if _is_empty(value):
        return {}
    if not isinstance(value, dict):
        raise InvalidSettingError(f"{name} must be a mapping of keys to values")
    return value


def _strings(given: Mapping[str, Any], key: str) -> list[str] | None:
    """Return a list of strings; None when there is none."""
    value = given.get(key)
    if value is None or value in NOTHING:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidSettingError(f"{key} must be a list of strings")
    return value


def _string(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    if _is_empty(value):
        return ""
    if not isinstance(value, str):
        raise InvalidSettingError(f"{key} must be a string")
    return value


def _boolean(given: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = _string(given, key).lower()
    if value and value not in ("true", "false"):
        raise _not_one_of(key, value, ("true", "false"))
    return value == "true" if value else default


def _is_empty(value: Any) -> bool:
    return value is None or value in NOTHING or value == {}


def _not_one_of(key: str, value: str, allowed: Collection[str]) -> InvalidSettingError:
    return InvalidSettingError(f"{key} cannot be {value}", f"it can be {', '.join(allowed)}")

"""TLS for the metrics server, out of what the web configuration file asks for."""

import ipaddress
import os
import posix
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gunicorn_prom.errors import InvalidSettingError
from gunicorn_prom.exporter.web_config import Pem, TlsSettings

__all__ = ["make_context", "names_of"]

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CERTIFICATE = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")
KEY = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----")
ENCRYPTED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.M)


def make_context(settings: TlsSettings) -> ssl.SSLContext:
    """Return the context that connections are accepted with.

    Raises:
        InvalidSettingError: a certificate or key cannot be read or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_protocol(context, settings)
    _load_certificate(context, settings.certificate, settings.key)
    if settings.client_ca is not None:
        _verify_clients(context, settings.client_ca)
        is_required = settings.is_client_certificate_required
        context.verify_mode = ssl.CERT_REQUIRED if is_required else ssl.CERT_OPTIONAL
    return context


def names_of(client: ssl.SSLSocket) -> set[str]:
    """Return the alternative names in the certificate of a client, written as Go does."""
    certificate: Any = client.getpeercert() or {}
    return {_written(kind, name) for kind, name in certificate.get("subjectAltName", ())}


def _written(kind: str, name: str) -> str:
    # OpenSSL spells IPv6 addresses out.
    return str(ipaddress.ip_address(name.strip())) if kind == "IP Address" else name


def _set_protocol(context: ssl.SSLContext, settings: TlsSettings) -> None:
    context.minimum_version = VERSIONS[settings.min_version]
    context.maximum_version = VERSIONS[settings.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Tickets of TLS 1.3: a scrape every few seconds gains nothing by resumption, and
    # without it each client's certificate is verified anew.
    context.num_tickets = 0
    if not settings.is_server_preferred:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    try:
        if settings.ciphers is not None:
            context.set_ciphers(":".join(settings.ciphers))
        if settings.curve is not None:
            context.set_ecdh_curve(settings.curve)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSettingError(
            "OpenSSL as it is set up here has none of the ciphers or curves that are asked for",
            "leave cipher_suites and curve_preferences out",
        ) from error


def _load_certificate(context: ssl.SSLContext, certificate: Pem, key: Pem) -> None:
    certificate_pem, key_pem = certificate.read(), key.read()
    if not CERTIFICATE.search(certificate_pem):
        raise InvalidSettingError(f"{certificate.name} has no certificate in PEM form")
    if ENCRYPTED.search(key_pem):
        raise InvalidSettingError(
            f"{key.name} is protected by a passphrase, which nobody is there to type",
            "decrypt it with: openssl pkey -in KEY -out NEW",
        )
    if not KEY.search(key_pem):
        raise InvalidSettingError(f"{key.name} has no private key in PEM form")
    try:
        with _as_file(certificate_pem) as certificate_file, _as_file(key_pem) as key_file:
            context.load_cert_chain(certificate_file, key_file, password=b"")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidSettingError(f"{key.name} is not the key of {certificate.name}") from None
        raise InvalidSettingError(
            f"OpenSSL cannot use {certificate.name} with {key.name}: {_reason(error)}"
        ) from None


def _verify_clients(context: ssl.SSLContext, authority: Pem) -> None:
    # As in Go, whatever the file holds is trusted, an intermediate authority too.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        with _as_file(authority.read()) as file:
            context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise InvalidSettingError(
            f"{authority.name} has no certificates of authorities in PEM form: {_reason(error)}"
        ) from None


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield the path of a file in memory: `ssl` takes no key that is not in a file.

    Files are passed on in this way as well, so that what was looked at is what is used.
    """
    descriptor = os.memfd_create("gunicorn-prom")
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        posix.close(descriptor)


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "it says no more").replace("_", " ").lower()

"""Checks of who may read and be believed."""

import os
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gunicorn_prom.checks.addresses import is_reachable, reachable_binds
from gunicorn_prom.checks.certificates import validities
from gunicorn_prom.checks.declare import Problem, Skip, check
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.errors import InvalidSettingError, UsageError
from gunicorn_prom.exporter.door import validate
from gunicorn_prom.exporter.tls import make_context
from gunicorn_prom.exporter.web_config import Pem, TlsSettings, WebConfig, parse
from gunicorn_prom.settings import parse_bind

__all__ = ["believes_everybody", "certificates", "open_metrics"]

EVERYBODY = frozenset(("*", "0.0.0.0/0", "::/0"))


@check(
    "GP009",
    "security",
    "warning",
    title="not everybody may read the metrics",
    hint="bind 127.0.0.1 or give --metrics-web-config",
)
def open_metrics(setup: Setup) -> Iterator[Problem]:
    """Find metrics on an address that other machines reach, without password or certificate.

    Whoever reaches the port reads how much is served, which routes there are, which versions
    run, and when the server is overloaded.

    Bind the loopback with `--metrics-bind 127.0.0.1:9464` and let Prometheus or a sidecar scrape
    it there, or ask for a password or a client certificate with `--metrics-web-config`, see
    docs/security.md. Where only Prometheus can reach the port, as in a container whose port is
    not published or behind a network policy, pass `--ignore GP009`.
    """
    cfg = setup.cfg
    if cfg.metrics_server == "none":
        raise Skip("there is no metrics server")
    if not is_reachable(parse_bind(cfg.metrics_bind)[0]):
        return
    try:
        config = parse(Path(cfg.metrics_web_config)) if cfg.metrics_web_config else WebConfig()
    except UsageError:
        raise Skip("the web configuration cannot be used, see GP010") from None
    if not _asks_for_something(config):
        yield Problem(f"everybody who reaches {cfg.metrics_bind} may read the metrics")


def _asks_for_something(config: WebConfig) -> bool:
    """Tell whether a client must show a password or a certificate."""
    return bool(config.users) or (
        config.tls is not None and config.tls.is_client_certificate_required
    )


@check(
    "GP010",
    "security",
    "error",
    title="certificates, keys and password hashes can be used",
    hint="give a certificate that is valid now, and the key that belongs to it",
)
def certificates(setup: Setup) -> Iterator[Problem]:
    """Find a certificate that is expired, unreadable or not that of its key, or no bcrypt hash.

    It looks at what `--metrics-web-config`, `--certfile`, `--keyfile` and `--ca-certs` name. With
    an expired certificate no client connects. With a file that cannot be used the server does not
    start or, where it is one of Gunicorn's own, fails at every connection.

    Renew the certificate, and let the file hold it first and its authorities behind. Compare
    `openssl x509 -pubkey -noout -in CERT` with `openssl pkey -pubout -in KEY`: they must be the
    same. Make a hash with `htpasswd -nBC 10 USER`. One that is about to expire is no error.
    """
    cfg = setup.cfg
    if not (cfg.metrics_web_config or cfg.certfile or cfg.keyfile):
        raise Skip("there is neither a certificate nor a password")
    for look in (_metrics_problems, _gunicorns_problems):
        try:
            yield from look(cfg)
        except UsageError as error:
            yield Problem(str(error), error.hint)


def _metrics_problems(cfg: Any) -> Iterator[Problem]:
    if cfg.metrics_web_config and cfg.metrics_server != "none":
        path = Path(cfg.metrics_web_config)
        validate(path)
        config = parse(path)
        if config.tls is not None:
            yield from _dates(config.tls)


def _gunicorns_problems(cfg: Any) -> Iterator[Problem]:
    if not cfg.certfile and not cfg.keyfile:
        return
    hook = cfg.settings.get("ssl_context")
    if hook is not None and hook.get() is not hook.default:
        return  # the hook may do what it likes with them
    if not cfg.certfile:
        raise InvalidSettingError("--keyfile is given without --certfile", "give both")
    certificate = _pem("--certfile", cfg.certfile)
    settings = TlsSettings(
        certificate=certificate,
        # Which may be in the same file.
        key=_pem("--keyfile", cfg.keyfile) if cfg.keyfile else certificate,
        client_ca=_pem("--ca-certs", cfg.ca_certs) if cfg.ca_certs else None,
        is_client_certificate_required=cfg.cert_reqs == ssl.CERT_REQUIRED,
    )
    make_context(settings)
    yield from _dates(settings)
    for option, file in (("--certfile", cfg.certfile), ("--keyfile", cfg.keyfile)):
        if file and not _is_readable_for(Path(file), cfg.uid, cfg.gid):
            yield Problem(
                f"{option} {file}: the workers run as user {cfg.uid} and cannot read it",
                f"chgrp {cfg.gid} {file} && chmod 640 {file}",
            )


def _is_readable_for(path: Path, uid: int, gid: int) -> bool:
    """Tell whether a user and group other than ours may read a file, by its mode alone."""
    if uid in (0, os.geteuid()):
        return True
    status = path.stat()
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IRUSR)
    return bool(status.st_mode & (stat.S_IRGRP if status.st_gid == gid else stat.S_IROTH))


def _pem(option: str, file: str) -> Pem:
    return Pem(f"{option} {file}", Path(file))


def _dates(settings: TlsSettings) -> Iterator[Problem]:
    """Yield what has expired: the server's own certificate, or all of the authorities."""
    now = datetime.now(UTC)
    problem = validities(settings.certificate.read())[0].problem(now)
    if problem:
        yield Problem(f"{settings.certificate.name} {problem}")
    if settings.client_ca is not None:
        # In a bundle of many an expired one is nothing unusual.
        problems = [found.problem(now) for found in validities(settings.client_ca.read())]
        if problems and all(problems):
            yield Problem(f"{settings.client_ca.name} {problems[0]}")


@check(
    "GP029",
    "security",
    "warning",
    title="only your proxies are believed",
    hint="name your proxies with --forwarded-allow-ips",
)
def believes_everybody(setup: Setup) -> Iterator[Problem]:
    """Find `forwarded_allow_ips = "*"` on an address that other machines reach.

    Any client can then pass its request off as https by a header, and choose SCRIPT_NAME and
    PATH_INFO, on which applications decide about redirects, cookies and access.

    Name the addresses of your proxies with `--forwarded-allow-ips 10.0.0.7,10.0.0.8`, from
    Gunicorn 25 on also networks like `10.0.0.0/8`, or bind the loopback or a unix socket. The
    environment variable FORWARDED_ALLOW_IPS sets it as well. Where nobody but the proxy reaches
    the port, pass `--ignore GP029`.
    """
    everybody = EVERYBODY.intersection(setup.cfg.forwarded_allow_ips)
    addresses = reachable_binds(setup.cfg)
    if everybody and addresses:
        yield Problem(
            f"forwarded_allow_ips is {', '.join(sorted(everybody))}: every client of "
            f"{', '.join(addresses)} is believed as a proxy"
        )

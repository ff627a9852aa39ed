"""What `gunicorn-prom emit` makes of a configuration, made in this process."""

from pathlib import Path

import pytest

from gunicorn_prom.cli.reading import ReadConfiguration
from gunicorn_prom.fleet import files_of
from gunicorn_prom.fleet.plan import Plan, plan_of
from tests.elsewhere import be_in

# A configuration of each sort that a kind has to follow, by name.
ARGUMENTS = {
    "default": ["shop.wsgi:app"],
    "gthread": ["shop:app", "--worker-type=gthread", "--threads=4", "-w3", "-b:5000"],
    "unix": ["shop:app", "--bind=unix:/run/a%Zb.sock", "-b=[fe80::1%lo]:8000"],
    "beside": ["shop:app", "--bind=unix:@shop.sock", "--bind=localhost:8000"],
    "tls": [
        "shop:app",
        *("--bind=0.0.0.0:443", "--certfile=tls.crt", "--keyfile=tls.key", "--ca-certs=tls.crt"),
        *("--metrics-web-config=password.yml", "--metrics-bind=0.0.0.0:9999"),
        "--metrics-path=/internal/metrics",
    ],
    "certificate": [
        "shop:app",
        *("--metrics-web-config=certificate.yml", "--metrics-bind=[::]:9999"),
        *("--bind=[::1]:80", "--bind=127.0.0.1:81"),
    ],
    "gevent": ["shop:app", "--worker-type=gevent", "-w4", "--max-worker-memory=150MB"],
    "asgi": ["shop:app", "--worker-type=asgi", "--access-logformat", '%(h)s "%(r)s" $(x) $y'],
    "none": ["shop:app", "--metrics-server=none", "--graceful-timeout=90"],
    "named": ["shop:app", f"--name=2048-{'x' * 40}"],
    "nothing": [],
}
PASSWORD = """\
tls_server_config:
  cert_file: tls.crt
  key_file: tls.key
basic_auth_users:
  prometheus: $2b$10$oJV1KYTOsakF/fubCLN.XOAK8W7pSyTrhm2u259yrfZBertbZ/2Tm
"""
CERTIFICATE = """\
tls_server_config:
  cert_file: tls.crt
  key_file: tls.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: tls.crt
"""


def enter(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in a directory with the web configurations, with no variable that sets anything."""
    be_in(directory, monkeypatch)
    (directory / "password.yml").write_text(PASSWORD)
    (directory / "certificate.yml").write_text(CERTIFICATE)


def plan(*arguments: str) -> Plan:
    """Return the plan of `emit KIND ARGUMENTS`."""
    asked = ReadConfiguration(list(arguments), "emit", needs_application=False, needs_worker=False)
    return plan_of(asked)


def emit(kind: str, *arguments: str) -> dict[str, str]:
    """Return the files of `emit KIND ARGUMENTS`, by name."""
    return {file.name: file.text for file in files_of(kind, plan(*arguments))}


def write(directory: Path, kind: str, *arguments: str) -> list[Path]:
    """Write the files of `emit KIND ARGUMENTS` and return their paths."""
    paths = []
    for name, text in emit(kind, *arguments).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        paths.append(path)
    return paths

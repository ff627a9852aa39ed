"""Certificates that are valid from one given time to another."""

import subprocess
from pathlib import Path

__all__ = ["dated_certificate"]

# `openssl req -x509` takes no dates in OpenSSL 3.0, `openssl ca` does.
CONFIGURATION = """\
[ca]
default_ca = here
[here]
database = {directory}/index
new_certs_dir = {directory}
default_md = sha256
policy = any
rand_serial = yes
[any]
commonName = supplied
"""
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def dated_certificate(directory: Path, begin: str, end: str) -> tuple[Path, Path]:
    """Return the files of a new self-signed certificate and its key.

    Args:
        directory: a new or empty one.
        begin: of its validity, as YYYYMMDDHHMMSSZ.
        end: likewise.
    """
    directory.mkdir(exist_ok=True)
    names = ("certificate.pem", "key.pem", "request.pem", "ca.conf", "index")
    certificate, key, request, configuration, index = (directory / name for name in names)
    configuration.write_text(CONFIGURATION.format(directory=directory))
    index.touch()
    _openssl("req", *NEW_KEY, "-subj", "/CN=dated", "-keyout", key, "-out", request)
    dates = ("-startdate", begin, "-enddate", end)
    files = ("-config", configuration, "-keyfile", key, "-in", request, "-out", certificate)
    _openssl("ca", "-batch", "-selfsign", "-notext", *dates, *files)
    return certificate, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)

"""Which addresses Gunicorn is about to bind, which of them cannot be had, and who has them."""

import errno
import os
import socket
from pathlib import Path

import pytest

from gunicorn_prom import ports
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.errors import BindError, UsageError
from gunicorn_prom.exporter.listener import try_bind
from tests.elsewhere import be_in


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty directory."""
    be_in(tmp_path, monkeypatch)


def gathered(*arguments: str) -> Configuration:
    return Configuration(list(arguments), needs_application=False)


@pytest.mark.parametrize(
    ("bind", "metrics_bind", "is_refused"),
    [
        ("127.0.0.1:9464", "127.0.0.1:9464", True),
        ("0.0.0.0:9464", "127.0.0.1:9464", True),
        (":9464", "127.0.0.1:9464", True),
        ("[::]:9464", "127.0.0.1:9464", True),
        ("127.0.0.1:9464", "[::]:9464", True),
        ("[::1]:9464", "0.0.0.0:9464", False),
        ("0.0.0.0:9464", "[::1]:9464", False),
        ("127.0.0.2:9464", "127.0.0.1:9464", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_two_addresses_on_one_port(bind: str, metrics_bind: str, is_refused: bool) -> None:
    """They are an error only where the kernel would not give out both."""
    arguments = [f"--bind={bind}", f"--metrics-bind={metrics_bind}"]
    if not is_refused:
        gathered(*arguments)
        return
    with pytest.raises(UsageError, match="both ask for port 9464"):
        gathered(*arguments)


@pytest.mark.parametrize(
    "environ", [{"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}, {"GUNICORN_PID": "41"}]
)
def test_no_address_is_bound_beside_inherited_sockets(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    """Of systemd and of USR2, over reloads too, until those are given another address."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    Path("gunicorn.conf.py").write_text("bind = '127.0.0.1:9464'\n")
    configuration = gathered()
    assert configuration.addresses_to_bind() == []
    for name in environ:
        monkeypatch.delenv(name)
    configuration.reload()
    assert configuration.addresses_to_bind() == []
    Path("gunicorn.conf.py").write_text("bind = '127.0.0.1:18001'\n")
    configuration.reload()
    assert configuration.addresses_to_bind() == [("127.0.0.1", 18001)]


def test_a_socket_is_ours_whoever_keeps_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The systemd that has passed it on is no other process that has the address."""
    row = f"0: 0100007F:1F40 00000000:0000 0A {'0 ' * 5}77\n"
    for place in ("net", "1/fd", "self/fd"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "net/tcp").write_text(f"header\n{row}")
    (tmp_path / "1/comm").write_text("systemd\n")
    (tmp_path / "1/cmdline").write_text("/sbin/init")
    (tmp_path / "1/fd/30").symlink_to("socket:[77]")
    monkeypatch.setattr(ports, "PROC", tmp_path)
    address, taken = ("127.0.0.1", 8000), OSError(errno.EADDRINUSE, "")
    assert "another --bind has it" not in str(ports.bind_error(address, taken))
    (tmp_path / "self/fd/3").symlink_to("socket:[77]")
    assert "another --bind has it" in str(ports.bind_error(address, taken))


def test_an_abstract_socket_is_bound_for_real() -> None:
    """Its name may take all of the kernel's room, and who has it is in the way."""
    name = "\0" + str(os.getpid()).rjust(107, "x")
    try_bind(name)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(name)
        other.listen()
        with pytest.raises(OSError, match="in use"):
            try_bind(name)


def test_a_directory_that_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is waited for once, and then told as it is written."""
    monkeypatch.setattr(ports, "PATIENCE_S", 0.2)
    path = str(tmp_path / "No" / "app.sock")
    with pytest.raises(OSError, match="no directory") as error:
        try_bind(path)
    reason = f"cannot bind unix:{path}: there is no directory {tmp_path}/No"
    with pytest.raises(BindError, match=reason):
        ports.wait_for(path, error.value)
    assert capsys.readouterr().err == f"warning: {reason}; trying for 0.2 s\n"

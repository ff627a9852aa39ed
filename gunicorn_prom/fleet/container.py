"""How a server runs in a container, whichever engine runs that."""

import os
from collections.abc import Collection
from itertools import chain, count

from gunicorn_prom import __version__
from gunicorn_prom.errors import UsageError
from gunicorn_prom.fleet.plan import OWN_STREAM, Bind, Plan

__all__ = [
    "FIRST_FREE_PORT",
    "MARGIN_S",
    "SHARED_MEMORY_DIR",
    "STREAMS",
    "TLS_DIR",
    "USER_ID",
    "WEB_DIR",
    "arguments",
    "command",
    "health_program",
    "inner_port",
    "listeners",
    "metrics_bind",
    "refuse_what_cannot_run",
    "requirement",
    "surroundings",
    "tls_files",
    "written",
]

USER_ID = 10001
# On tmpfs in every container.
SHARED_MEMORY_DIR = "/dev/shm"
TLS_DIR = "/etc/gunicorn-prom/tls"
WEB_DIR = "/etc/gunicorn-prom/web"
# The container's own log, and not files.
STREAMS = ("/dev/stdout", "/dev/stderr")
DEFAULT_PORTS = (8000, 8001)
DEFAULT_METRICS_PORT = 9464
# Below, a user that is not root may not listen everywhere.
FIRST_FREE_PORT, ABOVE = 1024, 8000
# What a server has after its graceful timeout, before it is killed.
MARGIN_S = 5

PLAIN = "server = http.client.HTTPConnection('{host}', {port}, timeout=2)"
ENCRYPTED = (
    "context = ssl._create_unverified_context()",
    "server = http.client.HTTPSConnection('{host}', {port}, timeout=2, context=context)",
)
ASKED = (
    "server.request('GET', '/-/healthy')",
    "raise SystemExit(server.getresponse().status != 200)",
)
# Without a certificate nothing can be asked, but what accepts at all has a master.
CONNECTED = ("import socket", "socket.create_connection(('{host}', {port}), timeout=2).close()")


def listeners(plan: Plan) -> tuple[Bind, ...]:
    """Return where the application listens in a container: where others reach it.

    Nobody else reaches the container's loopback and its unix sockets. All of IPv6 is all of IPv4,
    too, so a port has one of them.
    """
    hosts: dict[int, str] = {}
    for bind in plan.binds:
        if bind.port:
            port = inner_port(bind.port)
            hosts[port] = _every(bind.host + hosts.get(port, ""))
    default = next(port for port in DEFAULT_PORTS if port != plan.metrics_port)
    hosts = hosts or {default: "0.0.0.0"}
    return tuple(Bind(host, port) for port, host in hosts.items())


def metrics_bind(plan: Plan) -> Bind:
    """Return where the metrics server listens in a container, beside the application.

    Ports that differ on a host may be the same in a container, and so may addresses.
    """
    taken = {0, *(bind.port for bind in listeners(plan))}
    ports = chain([inner_port(plan.metrics_port)], count(DEFAULT_METRICS_PORT))
    return Bind(_every(plan.metrics_host), next(port for port in ports if port not in taken))


def _every(host: str) -> str:
    return "::" if ":" in host else "0.0.0.0"


def inner_port(port: int) -> int:
    """Return where a container listens for what is `port` on a host: a user may listen there."""
    return port + ABOVE if 0 < port < FIRST_FREE_PORT else port


def arguments(plan: Plan, state_dir: str) -> list[str]:
    """Return what follows `gunicorn-prom run`.

    Args:
        state_dir: a directory on tmpfs that may be written to.
    """
    return [*command(plan), *surroundings(plan, state_dir)]


def command(plan: Plan) -> list[str]:
    """Return the application with those of its options that are the same everywhere."""
    found = [plan.application] if plan.application else []
    if plan.config_file:
        found.append(f"--config={plan.config_file}")
    return [*found, *plan.arguments]


def surroundings(plan: Plan, state_dir: str) -> list[str]:
    """Return the options by which it fits a container: addresses, directories, user, files, logs.

    Args:
        state_dir: a directory on tmpfs that may be written to.
    """
    found = [f"--bind={bind}" for bind in listeners(plan)]
    if plan.chdir and not os.path.isabs(plan.chdir):  # what lies elsewhere is in no image
        found.append(f"--chdir={plan.chdir}")
    # Whom the file names cannot be had in a container, where nobody is root.
    found += [f"--user={USER_ID}"] if plan.user else []
    found += [f"--group={USER_ID}"] if plan.group else []
    if plan.is_tls:
        found += [f"--certfile={TLS_DIR}/tls.crt", f"--keyfile={TLS_DIR}/tls.key"]
    if plan.client_ca:
        found.append(f"--ca-certs={TLS_DIR}/ca.crt")
    if plan.has_metrics:
        found.append(f"--metrics-bind={metrics_bind(plan)}")
    if plan.has_metrics and plan.has_web_config:
        found.append(f"--metrics-web-config={WEB_DIR}/web.yml")
    return found + written(plan, state_dir, STREAMS)


def written(plan: Plan, state_dir: str, kept_logs: Collection[str] = ()) -> list[str]:
    """Return the options by which all that the server writes lies in one directory.

    Its logs go to its own streams.

    Args:
        state_dir: that directory, on tmpfs.
        kept_logs: paths at which a log may stay.
    """
    found = [f"--metrics-state-dir={state_dir}", f"--worker-tmp-dir={state_dir}"]
    if plan.has_control_socket:
        found.append(f"--control-socket={state_dir}/gunicorn.ctl")
    if plan.has_pid_file:
        found.append(f"--pid={state_dir}/gunicorn.pid")
    for option, path in plan.log_files.items():
        found.append(f"{option}={path if path in kept_logs else OWN_STREAM}")
    return found


def tls_files(plan: Plan) -> list[str]:
    """Return what must be in TLS_DIR where the application speaks TLS."""
    return ["tls.crt", "tls.key", *(["ca.crt"] if plan.client_ca else [])]


def health_program(plan: Plan) -> list[str]:
    """Return the statements of a program that fails where the server is not healthy.

    It is for `python -IS -c`: isolated, so that no module of the application takes the place of
    one used here, and by http.client, for urllib would go through a proxy.
    """
    bind = metrics_bind(plan)
    if plan.metrics_wants_certificate:
        lines: tuple[str, ...] = CONNECTED
    elif plan.metrics_is_tls:
        lines = ("import http.client, ssl", *ENCRYPTED, *ASKED)
    else:
        lines = ("import http.client", PLAIN, *ASKED)
    host = "::1" if ":" in bind.host else "127.0.0.1"
    return [line.format(host=host, port=bind.port) for line in lines]


def requirement(plan: Plan) -> str:
    """Return what pip is to install besides the application: this version, with its extras."""
    extras = f"[{','.join(plan.extras)}]" if plan.extras else ""
    return f"gunicorn-prom{extras}=={__version__}"


def refuse_what_cannot_run(plan: Plan) -> None:
    """See that the server stays with who has started it, and that its workers can boot there.

    Raises:
        UsageError: it does not, or they cannot.
    """
    if plan.is_daemon:
        raise UsageError(
            "with --daemon the server leaves its container or unit, which then ends",
            "leave --daemon out, also in the configuration file",
        )
    if plan.has_initgroups:
        raise UsageError(
            "with --initgroups no worker boots in a container or unit, for nobody is root there",
            "leave it out, also in the configuration file; the engine and systemd give groups",
        )

"""What the files for the fleet are made from: the user's own configuration."""

import argparse
import grp
import os
import pwd
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn_prom import workers
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.effective import Effective, effective
from gunicorn_prom.exporter.web_config import WebConfig, parse
from gunicorn_prom.masking import masked
from gunicorn_prom.settings import parse_bind

__all__ = ["DEFAULT_SLO", "OWN_STREAM", "Bind", "File", "Plan", "plan_of"]

DEFAULT_SLO = 99.9
GIVEN = ("command line", "environment", "GUNICORN_CMD_ARGS")
# What stands in a plan by itself, or means nothing to whom the files are for.
ELSEWHERE = (
    "bind", "check_config", "config", "daemon", "group", "metrics_state_dir", "pidfile",
    "print_config", "user", "wsgi_app",
)  # fmt: skip
# What differs between this host and a container.
OF_THE_HOST = (
    "ca_certs", "certfile", "chdir", "control_socket", "keyfile", "metrics_bind",
    "metrics_web_config", "worker_tmp_dir",
)  # fmt: skip
# Logs that are files only where somebody keeps these; "-" is Gunicorn's word for its own streams.
LOGS = ("accesslog", "errorlog")
OWN_STREAM, NOWHERE = "-", "/dev/null"
REQUIREMENTS = ("requirements.txt", "pyproject.toml")
DEFAULT_CONFIG_FILE = "gunicorn.conf.py"
MAX_NAME_LENGTH = 40
# What YAML takes for something else than a name, and what the services and containers beside the
# application are called.
TAKEN_NAMES = {
    "on", "off", "yes", "no", "y", "n", "true", "false", "null",
    "prometheus", "alertmanager", "grafana", "metrics",
}  # fmt: skip


class File(NamedTuple):
    """A file that is emitted.

    Attributes:
        name: relative, it may have directories.
        text: with a newline at its end.
    """

    name: str
    text: str


class Bind(NamedTuple):
    """Where the application listens.

    Attributes:
        host: or address; "" for a unix socket.
        port: 0 for a unix socket, and for whichever is free.
        path: of a unix socket, else "".
    """

    host: str
    port: int
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this host reaches it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    def __str__(self) -> str:
        """Write it as `--bind` takes it."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_BIND = Bind("127.0.0.1", 8000)


@dataclass(frozen=True)
class Plan:
    """What is to be known of a server and of how it is run.

    Attributes:
        application: as `run` takes it, `app:app` where none was named.
        is_application_named: or else `application` stands for one.
        job: the label `job` in Prometheus and the name of the objects, a label of DNS that
            begins with a letter.
        worker_type: "" for a class of the user's own.
        workers: to have room for: one where there are none at first.
        threads: of each worker.
        binds: where the application listens; never empty.
        is_tls: whether the application itself speaks TLS.
        client_ca: whether it asks clients for certificates of an authority that is named.
        has_metrics: False with `--metrics-server none`, when `gunicorn-prom export` serves them.
        metrics_host: as configured; 0.0.0.0 for all of IPv4.
        metrics_port: 0 for whichever is free.
        metrics_is_tls: by the web configuration, as all that follows.
        metrics_wants_certificate: whether a client must have one.
        metrics_wants_password: whether a client must have one.
        has_web_config: whether there is such a file at all.
        max_worker_memory_bytes: None for no limit.
        config_file: relative to `directory` where it lies in it, "" for none or for
            `gunicorn.conf.py` there, which is found without being named.
        arguments: the options that `run` needs besides the file, as given on the command line and
            in the environment, without secrets and without what a container decides itself:
            addresses, files of certificates, the state directory.
        host_arguments: those of the latter that hold where the server runs on this host.
        chdir: where the configuration leads the server from `directory`: relative where it lies
            in that, "" where it stays.
        host_claims: settings of the configuration file that are refused where what they name is
            not: a whole path to change to, names of a user and a group.
        files: that the server reads besides, whole paths: certificates, keys, the web configuration
            and what that names.
        left_out: options that were given there and may be secret, so they are not shown.
        log_files: where logs are written, by option, wherever it is configured; a log that goes to
            the server's own stream, or nowhere, is not here but with the other arguments.
        extras: of gunicorn-prom that the server needs.
        python_version: like 3.13.
        has_control_socket: whether this Gunicorn has one.
        has_pid_file: whether one is configured.
        directory: in which the command was called; the configuration may lead to another.
        program: the command that is gunicorn-prom on this host, as its words.
        requirements: of the application: `requirements.txt`, `pyproject.toml` or "".
        user: "" where none was given.
        group: likewise.
        has_initgroups: whether workers take all groups of their user, which only root can.
        backlog: of each listener.
        is_daemon: whether the server leaves who has started it.
        slo: percentage of requests that shall succeed.
    """

    application: str
    is_application_named: bool
    job: str
    worker_type: str
    workers: int
    threads: int
    graceful_timeout_s: int
    binds: tuple[Bind, ...]
    is_tls: bool
    client_ca: bool
    has_metrics: bool
    metrics_host: str
    metrics_port: int
    metrics_path: str
    metrics_is_tls: bool
    metrics_wants_certificate: bool
    metrics_wants_password: bool
    has_web_config: bool
    max_worker_memory_bytes: int | None
    config_file: str
    arguments: tuple[str, ...]
    host_arguments: tuple[str, ...]
    chdir: str
    host_claims: dict[str, str]
    files: tuple[str, ...]
    left_out: tuple[str, ...]
    log_files: dict[str, str]
    extras: tuple[str, ...]
    python_version: str
    has_control_socket: bool
    has_pid_file: bool
    directory: str
    program: tuple[str, ...]
    requirements: str
    user: str
    group: str
    has_initgroups: bool
    backlog: int
    is_daemon: bool
    slo: float = DEFAULT_SLO


def plan_of(configuration: Configuration, slo: float = DEFAULT_SLO) -> Plan:
    """Return the plan of a server that has this configuration.

    Args:
        slo: percentage of requests that shall succeed.

    Raises:
        UsageError: the web configuration file cannot be used.
    """
    cfg: Any = configuration.cfg
    settings = {entry.name: entry for entry in effective(configuration)}
    web = parse(Path(cfg.metrics_web_config)) if cfg.metrics_web_config else None
    metrics_host, metrics_port = parse_bind(cfg.metrics_bind)
    worker_type = settings["worker_type"].value or ""
    given = [entry for entry in settings.values() if _is_given(entry)]
    secret = [entry for entry in given if _is_secret(entry)]
    log_files = [settings[name] for name in LOGS if _is_log_file(settings[name].value)]
    shown = [entry for entry in given if entry not in [*secret, *log_files]]
    application = "" if cfg.paste else configuration.app_uri or "app:app"
    tls = web.tls if web else None
    directory = cfg.settings["chdir"].default  # where the command was called
    return Plan(
        application=application,
        is_application_named=bool(cfg.paste or configuration.app_uri),
        job=_job(cfg.settings["proc_name"].get() or application.partition(".")[0]),
        worker_type=worker_type,
        workers=max(cfg.workers, 1),
        threads=cfg.threads,
        graceful_timeout_s=cfg.graceful_timeout,
        binds=_binds(cfg.address),
        is_tls=bool(cfg.certfile),
        client_ca=bool(cfg.ca_certs),
        has_metrics=cfg.metrics_server != "none",
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        metrics_path=cfg.metrics_path,
        metrics_is_tls=tls is not None,
        metrics_wants_certificate=bool(tls and tls.is_client_certificate_required),
        metrics_wants_password=bool(web and web.users),
        has_web_config=web is not None,
        max_worker_memory_bytes=cfg.max_worker_memory,
        config_file=_config_file(configuration, directory),
        arguments=_options(entry for entry in shown if entry.name not in OF_THE_HOST),
        host_arguments=_options(entry for entry in shown if entry.name in OF_THE_HOST),
        chdir="" if cfg.chdir == directory else _seen_from(directory, cfg.chdir),
        host_claims=dict(_host_claims(configuration.file_variables)),
        files=tuple(_files(cfg, web)),
        left_out=tuple(_option(entry) for entry in secret),
        log_files={_option(entry): entry.value for entry in log_files},
        extras=_extras(worker_type, web),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        has_control_socket="control_socket" in cfg.settings,
        has_pid_file=bool(cfg.pidfile),
        directory=directory,
        program=_program(),
        requirements=next((name for name in REQUIREMENTS if Path(directory, name).is_file()), ""),
        user=_name(settings["user"], lambda uid: pwd.getpwuid(uid).pw_name),
        group=_name(settings["group"], lambda gid: grp.getgrgid(gid).gr_name),
        has_initgroups=cfg.initgroups,
        backlog=cfg.backlog,
        is_daemon=cfg.daemon,
        slo=slo,
    )


def _program() -> tuple[str, ...]:
    script = Path(sys.executable).with_name("gunicorn-prom")
    return (str(script),) if script.is_file() else (sys.executable, "-m", "gunicorn_prom")


def _job(name: str) -> str:
    """Return a name that a Service of Kubernetes may have, and that nothing else has.

    Source: RFC 1035, 2.3.1.
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.partition(":")[0].lower()).strip("-")
    if words in TAKEN_NAMES or words[:1].isdigit():
        words = f"app-{words}"
    return words[:MAX_NAME_LENGTH].rstrip("-") or "app"


def _binds(addresses: list[Any]) -> tuple[Bind, ...]:
    # What is inherited as a descriptor has no address.
    return tuple(_bind(a) for a in addresses if not isinstance(a, int)) or (DEFAULT_BIND,)


def _bind(address: Any) -> Bind:
    if isinstance(address, tuple):
        return Bind(address[0] or "0.0.0.0", address[1])
    # Gunicorn binds it in the directory to which it has changed, as it has by now.
    return Bind("", 0, os.path.abspath(str(address).removeprefix("unix:")))


def _config_file(configuration: Configuration, directory: str) -> str:
    file = (configuration.config_file or "").removeprefix("file:")
    if not file or file.startswith("python:"):
        return file
    path = _seen_from(directory, file)
    return "" if path == DEFAULT_CONFIG_FILE else path


def _seen_from(directory: str, name: str) -> str:
    """Return a path relative to the directory where it lies in it, else the whole path."""
    path = Path(directory, name)
    path = Path(os.path.realpath(path.parent), path.name)
    real_directory = os.path.realpath(directory)
    return str(path.relative_to(real_directory) if path.is_relative_to(real_directory) else path)


def _extras(worker_type: str, web: WebConfig | None) -> tuple[str, ...]:
    known = workers.REGISTRY.get(worker_type)
    extras = [known.extra or known.name] if known and known.library else []
    return (*extras, "auth") if web else tuple(extras)


def _host_claims(variables: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("chdir", "user", "group"):
        value = variables.get(name)
        is_of_here = str(value).startswith("/") if name == "chdir" else not str(value).isdigit()
        if isinstance(value, str) and is_of_here:
            yield name, value


def _files(cfg: Any, web: WebConfig | None) -> Iterator[str]:
    names = [cfg.certfile, cfg.keyfile, cfg.ca_certs, cfg.metrics_web_config]
    # The server reads them from the directory to which it has changed, as it has by now.
    yield from (os.path.abspath(name) for name in names if name)
    yield from (os.path.abspath(file) for file in (web.files() if web else ()))


def _name(entry: Effective, look_up: Callable[[int], str]) -> str:
    """Return the name of a user or group, for the number is this machine's; "" for the default."""
    if entry.origin.source == "default":
        return ""
    with suppress(KeyError):
        return look_up(entry.value)
    return str(entry.value)


def _is_given(entry: Effective) -> bool:
    is_left_alone = entry.name in ELSEWHERE or not entry.setting.cli
    return entry.origin.source in GIVEN and not is_left_alone


def _is_secret(entry: Effective) -> bool:
    value = list(entry.value) if isinstance(entry.value, tuple) else entry.value
    return bool(masked(value) != value)


def _is_log_file(path: str | None) -> bool:
    return path not in (None, OWN_STREAM, NOWHERE)


def _option(entry: Effective) -> str:
    options: list[str] = list(entry.setting.cli or ())  # one at least, see `_is_given`
    return next((name for name in options if name.startswith("--")), options[0])


def _options(entries: Iterable[Effective]) -> tuple[str, ...]:
    return tuple(option for entry in entries for option in _written(entry))


def _written(entry: Effective) -> list[str]:
    """Return a setting as the options that give it its value."""
    setting: Any = entry.setting
    option, value, action = _option(entry), entry.value, setting.action
    if action is argparse.BooleanOptionalAction:
        return [option if value else f"--no-{option.removeprefix('--')}"]
    if action not in (None, "store", "append"):
        is_on = not value if setting.const is False else value
        return [option] if is_on else []
    if action == "append":
        return [f"{option}={part}" for part in value]
    if entry.name == "statsd_host":
        host, port = value if isinstance(value, tuple) else (f"unix://{value}", "")
        named = f"[{host}]" if ":" in host and port else host
        value = f"{named}:{port}" if port else host
    if isinstance(value, (list, tuple)):
        value = ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return [f"{option}={value}"]

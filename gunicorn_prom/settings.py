"""Our own options, each declared once as a Gunicorn setting.

Importing this module registers them with Gunicorn: wherever a configuration is made
from then on, they can stand in a file, in GUNICORN_CMD_ARGS and on the command line. Into
one that was made before they come by `own_settings.py`. `environment()` names the variable of
each.
"""

import argparse
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn import config

from gunicorn_prom.workers import WORKER_TYPES

__all__ = [
    "DEFAULT_BUCKETS",
    "MAX_PORT",
    "OWN_NAMES",
    "OWN_SETTINGS",
    "SECTION",
    "add_own_settings",
    "environment",
    "is_switched_off",
    "name_of",
    "parse_bind",
    "switches_of",
]

SECTION = "Prometheus Metrics"

# OpenTelemetry's buckets for HTTP, and two more for applications that are only
# bounded by Gunicorn's timeout. Seconds.
DEFAULT_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
)  # fmt: skip
MAX_BUCKETS = 64

SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt]?i?b?)", re.IGNORECASE | re.ASCII)
UNITS = {
    prefix + unit: base**power
    for power, prefix in enumerate(("", "k", "m", "g", "t"))
    for unit, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}

# What every client writes as it is: no segment of dots alone, which some take away.
PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+/?")
TAKEN_PATHS = re.compile(r"/-/.*|/status\.json")

# What people write into an environment variable; Gunicorn itself takes the first of each.
ON, OFF = frozenset(("true", "1", "yes", "on")), frozenset(("false", "0", "no", "off"))

METRICS_SERVERS = ("auto", "thread", "process", "none")
MAX_PORT = 65535


class _Own:
    """Beside `config.Setting` among the bases of each of our settings."""

    def add_option(self, parser: argparse.ArgumentParser) -> None:
        """Add the option to Gunicorn's command line, where what Gunicorn takes stays what it is.

        An abbreviation of one of its options must not become ambiguous by ours: the reload of
        a server that was started so would end it. argparse has no public way to say so.
        """
        super().add_option(parser)  # type: ignore[misc]  # that of config.Setting
        if "_get_option_tuples" in vars(parser):
            return
        find = parser._get_option_tuples

        def theirs_first(option_string: str) -> Any:
            found = find(option_string)
            return [match for match in found if match[0].dest not in OWN_NAMES] or found

        parser._get_option_tuples = theirs_first  # type: ignore[method-assign]


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str | None]:
    def validate(value: Any) -> str | None:
        if value is None:
            return None
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return str(value)

    return validate


def parse_bind(value: str) -> tuple[str, int]:
    """Split `HOST:PORT`, `[IPV6]:PORT` or `:PORT` (every IPv4 address).

    Raises:
        ValueError: it is none of these, or the port is not 0 to 65535.
    """
    host, colon, port = value.strip().rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError(f"{value!r} is not HOST:PORT")
    if int(port) > MAX_PORT:
        raise ValueError(f"port {port} is not in 0 to {MAX_PORT}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{value!r}: write an IPv6 address as [{host}]:{port}")
    return host or "0.0.0.0", int(port)


def _validate_bind(value: Any) -> str:
    text = config.validate_string(value) or ""
    parse_bind(text)
    return text


def _validate_file(value: Any) -> str | None:
    return config.validate_string(value) or None


def _validate_path(value: Any) -> str:
    path = config.validate_string(value) or ""
    if TAKEN_PATHS.fullmatch(path):
        raise ValueError(f"{value!r} is taken: choose one like /metrics")
    if not PATH.fullmatch(path):
        raise ValueError(
            f"{value!r} is no path: write one like /metrics, of letters, digits and . _ ~ - /"
        )
    return path


def _validate_switch(value: Any) -> bool | None:
    word = value.strip().lower() if isinstance(value, str) else ""
    is_on: bool | None = word in ON if word in ON | OFF else config.validate_bool(value)
    return is_on


def _validate_buckets(value: Any) -> tuple[float, ...]:
    parts: Iterable[Any] = value.split(",") if isinstance(value, str) else value
    try:
        bounds = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a comma separated list of seconds") from None
    if bounds and bounds[-1] == math.inf:
        bounds = bounds[:-1]
    increasing = all(low < high for low, high in itertools.pairwise(bounds))
    if not bounds or not increasing or bounds[0] <= 0 or not math.isfinite(bounds[-1]):
        raise ValueError("buckets must be positive seconds, strictly increasing")
    if len(bounds) > MAX_BUCKETS:
        raise ValueError(f"{len(bounds)} buckets are more than {MAX_BUCKETS}")
    return bounds


def _validate_size(value: Any) -> int | None:
    """Return the bytes that `150MB`, `2GiB` or a plain number of bytes means."""
    if value is None or value == "":
        return None
    match = SIZE.fullmatch(str(value).strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{value!r} is no size: write it like 150MB or 2GiB")
    factor: int = UNITS[match[2].lower()]
    return round(float(match[1]) * factor)


class WorkerType(_Own, config.Setting):
    name = "worker_type"
    section = SECTION
    cli = ["--worker-type"]  # noqa: RUF012  # as Gunicorn declares its own
    meta = "TYPE"
    validator = _one_of(WORKER_TYPES)
    default = None
    desc = """\
        sync, gthread, gevent, gevent_pywsgi, eventlet, tornado, asgi or uvicorn workers.

        The last two are for ASGI.

        Without it the worker class decides (`-k`), and without that `sync`, or
        `gthread` when there is more than one thread.
        """


class MetricsBind(_Own, config.Setting):
    name = "metrics_bind"
    section = SECTION
    cli = ["--metrics-bind"]  # noqa: RUF012  # as Gunicorn declares its own
    meta = "ADDRESS"
    validator = _validate_bind
    default = "127.0.0.1:9464"
    desc = """\
        The address of the metrics server, as HOST:PORT.

        Port 0 takes a free one; the address really bound is logged.
        """


class MetricsPath(_Own, config.Setting):
    name = "metrics_path"
    section = SECTION
    cli = ["--metrics-path"]  # noqa: RUF012  # as Gunicorn declares its own
    meta = "PATH"
    validator = _validate_path
    default = "/metrics"
    desc = "The path under which the metrics are served."


class MetricsServer(_Own, config.Setting):
    name = "metrics_server"
    section = SECTION
    cli = ["--metrics-server"]  # noqa: RUF012  # as Gunicorn declares its own
    meta = "WHERE"
    validator = _one_of(METRICS_SERVERS)
    default = "auto"
    desc = """\
        Where the metrics server runs: auto, thread, process or none.

        `thread` is a thread of the master, `process` a process of its own,
        `none` leaves it out. `auto` takes the thread unless gevent or eventlet
        has patched anything in the master: there a thread would starve, or take
        the master along. So `thread` becomes a process there, too, with a warning.
        """


class MetricsStateDir(_Own, config.Setting):
    name = "metrics_state_dir"
    section = SECTION
    cli = ["--metrics-state-dir"]  # noqa: RUF012  # as Gunicorn declares its own
    meta = "DIR"
    validator = config.validate_string
    default = None
    desc = """\
        The directory in which the scoreboard lives, best on tmpfs.

        Without it $XDG_RUNTIME_DIR/gunicorn-prom where that exists, else
        gunicorn-prom-UID in /dev/shm or in the directory for temporary files.
        """


class MetricsBuckets(_Own, config.Setting):
    name = "metrics_buckets"
    section = SECTION
    cli = ["--metrics-buckets"]  # noqa: RUF012  # as Gunicorn declares its own
    meta = "SECONDS"
    validator = _validate_buckets
    default = DEFAULT_BUCKETS
    desc = """\
        The upper bounds of the duration histograms, comma separated seconds.

        They must increase strictly. OpenTelemetry's HTTP buckets, and 30 and 60.
        """


class MetricsWebConfig(_Own, config.Setting):
    name = "metrics_web_config"
    section = SECTION
    cli = ["--metrics-web-config"]  # noqa: RUF012  # as Gunicorn declares its own
    meta = "FILE"
    validator = _validate_file
    default = None
    desc = """\
        TLS and passwords of the metrics server, as a web configuration file.

        The file is that of Prometheus's own exporters (exporter-toolkit). It and what it
        names are read again when they change. Needs `pip install 'gunicorn-prom[auth]'`.
        """


class AppMetrics(_Own, config.Setting):
    name = "app_metrics"
    section = SECTION
    cli = ["--app-metrics"]  # noqa: RUF012  # as Gunicorn declares its own
    validator = _validate_switch
    action = argparse.BooleanOptionalAction  # type: ignore[assignment]  # argparse takes a class
    default = True
    desc = """\
        Serve the application's own prometheus_client metrics on the same endpoint.

        PROMETHEUS_MULTIPROC_DIR is set to a fresh directory for it, unless it is set
        already. `--no-app-metrics` leaves the application alone.
        """


class RouteLabels(_Own, config.Setting):
    name = "route_labels"
    section = SECTION
    cli = ["--route-labels"]  # noqa: RUF012  # as Gunicorn declares its own
    validator = _validate_switch
    action = argparse.BooleanOptionalAction  # type: ignore[assignment]  # argparse takes a class
    default = True
    desc = """\
        Count requests also by the route that the framework found for them.

        Flask, Django, Starlette, FastAPI, Falcon and Bottle tell it by themselves, anything
        else by `gunicorn_prom.route` in the WSGI environ or the ASGI scope.
        """


class TimeoutAutopsy(_Own, config.Setting):
    name = "timeout_autopsy"
    section = SECTION
    cli = ["--timeout-autopsy"]  # noqa: RUF012  # as Gunicorn declares its own
    validator = _validate_switch
    action = argparse.BooleanOptionalAction  # type: ignore[assignment]  # argparse takes a class
    default = True
    desc = """\
        Log what a worker was doing when it timed out: the request and the stacks of its threads.

        The request is told by method and path; its query is never logged.
        """


class MaxWorkerMemory(_Own, config.Setting):
    name = "max_worker_memory"
    section = SECTION
    cli = ["--max-worker-memory"]  # noqa: RUF012  # as Gunicorn declares its own
    meta = "SIZE"
    validator = _validate_size
    default = None
    desc = """\
        Replace a worker whose memory has grown past this size: 150MB, 2GiB.

        It finishes what it has and goes, as at max_requests. What counts is resident memory,
        shared pages included. The size of each worker is up to a tenth less, by chance, so
        that they do not all go at once.
        """


class GCFreeze(_Own, config.Setting):
    name = "gc_freeze"
    section = SECTION
    cli = ["--gc-freeze"]  # noqa: RUF012  # as Gunicorn declares its own
    validator = _validate_switch
    action = argparse.BooleanOptionalAction  # type: ignore[assignment]  # argparse takes a class
    default = True
    desc = """\
        Keep the garbage collector away from what is there before the first worker is forked.

        A collection in a worker would write to all of it, and so copy what workers share.
        With `--preload` that is the application.
        """


class Preflight(_Own, config.Setting):
    name = "preflight"
    section = SECTION
    cli = ["--preflight"]  # noqa: RUF012  # as Gunicorn declares its own
    validator = _validate_switch
    action = argparse.BooleanOptionalAction  # type: ignore[assignment]  # argparse takes a class
    default = True
    desc = """\
        Tell before the launch, in one line, when an address cannot be had and who has it.

        Whoever has it may just be ending, so the launch waits for it as long as Gunicorn would
        try: 5 seconds. Sockets that are inherited are left alone. Files and directories that the
        settings name must be there as well.
        """


OWN_SETTINGS: tuple[type[config.Setting], ...] = (
    WorkerType,
    MetricsBind,
    MetricsPath,
    MetricsServer,
    MetricsStateDir,
    MetricsBuckets,
    MetricsWebConfig,
    AppMetrics,
    RouteLabels,
    TimeoutAutopsy,
    MaxWorkerMemory,
    GCFreeze,
    Preflight,
)


def name_of(setting: type[config.Setting]) -> str:
    """Return the name of one of our settings."""
    assert setting.name is not None  # each declares one
    return setting.name


OWN_NAMES = tuple(map(name_of, OWN_SETTINGS))


def environment(name: str) -> str:
    """Name the environment variable of our setting `name`."""
    return f"GUNICORN_PROM_{name.upper()}"


def add_own_settings(cfg: config.Config) -> None:
    """Give `cfg` our settings where it was made before this module was imported.

    That is so under plain Gunicorn, which has its configuration object before
    it reads the file that imports us.
    """
    for setting in OWN_SETTINGS:
        cfg.settings.setdefault(name_of(setting), setting())


def is_switched_off(name: str) -> bool:
    """Tell whether our flag `name` is off by the environment or the command line.

    That is known before the configuration is read. What the configuration file says is
    not asked.
    """
    # The last one on the command line counts, and before it the environment.
    switches = switches_of(name)
    if switches:
        return switches[-1].startswith("--no-")
    return os.environ.get(environment(name), "").strip().lower() in OFF


def switches_of(name: str) -> list[str]:
    """Return where the command line gives our setting `name`, in full."""
    option = name.replace("_", "-")
    words = (word.partition("=")[0] for word in sys.argv)
    return [word for word in words if word in (f"--{option}", f"--no-{option}")]

"""What each option takes, as far as a shell can propose it: the completions are made of it."""

import argparse
from collections.abc import Iterable
from typing import Any, NamedTuple

from gunicorn import config, glogging, reloader, workers

from gunicorn_prom import settings
from gunicorn_prom.checks import CHECKS
from gunicorn_prom.checks.declare import GROUPS
from gunicorn_prom.cli.help import of_settings
from gunicorn_prom.cli.options import Declared
from gunicorn_prom.cli.top_workers import SORT_KEYS
from gunicorn_prom.fleet import KINDS
from gunicorn_prom.workers import WORKER_TYPES

__all__ = ["FREE", "Option", "Values", "of_declared", "of_gunicorn", "of_kinds", "values_of"]


class Values(NamedTuple):
    """What may stand after an option, or without one.

    Attributes:
        kind: words, files, directories, users, groups, modules, free (nothing is proposed), or
            unknown: nobody has said what a new option takes.
        words: with the meaning of each, "" where it says itself.
        is_list: whether several may stand there, with commas between.
    """

    kind: str
    words: dict[str, str] = {}  # noqa: RUF012  # never changed
    is_list: bool = False

    @property
    def is_described(self) -> bool:
        """Whether a word has a meaning that it does not say itself."""
        return any(self.words.values())


class Option(NamedTuple):
    """An option of a command.

    Attributes:
        values: None for a flag.
        metavar: the name of the value in help.
        repeats: whether it may be given more than once.
        needs_value: whether it may not stand alone.
        opposite: the options that say the contrary.
    """

    names: tuple[str, ...]
    help: str
    values: Values | None = None
    metavar: str = ""
    repeats: bool = False
    needs_value: bool = True
    opposite: tuple[str, ...] = ()


def _words(*words: str, is_list: bool = False) -> Values:
    return Values("words", dict.fromkeys(words, ""), is_list)


FREE, FILES, DIRECTORIES = Values("free"), Values("files"), Values("directories")
UNKNOWN = Values("unknown")
CHECK_IDS = {check.id: check.title for check in CHECKS.values()}
CHECKS_AND_GROUPS = CHECK_IDS | {group: f"All checks of the group {group}" for group in GROUPS}

# By the name of the setting or of the option: what its declaration does not tell. The task that
# makes the completions fails when an option of a new Gunicorn is missing.
VALUES = {
    "access_log_format": FREE,
    "asgi_lifespan": _words("auto", "on", "off"),
    "asgi_loop": _words("auto", "asyncio", "uvloop"),
    "bind": FREE,
    "cert_reqs": _words("0", "1", "2"),
    "chdir": DIRECTORIES,
    "ciphers": FREE,
    "config": FILES,
    "control_socket": FILES,
    "dirty_apps": FREE,
    "dogstatsd_tags": FREE,
    "explain": Values("words", CHECK_IDS),
    "filter_": FREE,
    "forwarded_allow_ips": FREE,
    "forwarder_headers": FREE,
    "group": Values("groups"),
    "header_map": _words("drop", "refuse", "dangerous"),
    "http2_cleartext": _words("off", "prior-knowledge", "upgrade", "both"),
    "http_parser": _words("auto", "fast", "python"),
    "http_protocols": _words("h1", "h2", is_list=True),
    "ignore": Values("words", CHECKS_AND_GROUPS, is_list=True),
    "interval": FREE,
    "live": FREE,
    "logger_class": FREE,
    "loglevel": _words(*glogging.Logger.LOG_LEVELS),
    "metrics_bind": FREE,
    "max_worker_memory": FREE,
    "metrics_buckets": FREE,
    "metrics_path": FREE,
    "metrics_server": _words(*settings.METRICS_SERVERS),
    "output": DIRECTORIES,
    "only": Values("words", CHECKS_AND_GROUPS, is_list=True),
    "paste": FILES,
    "proc_name": FREE,
    "protocol": _words("http", "uwsgi"),
    "proxy_allow_ips": FREE,
    "proxy_protocol": _words("auto", "v1", "v2", "off"),
    "pythonpath": DIRECTORIES,
    "raw_env": FREE,
    "raw_paste_global_conf": FREE,
    "reload_engine": _words(*reloader.reloader_engines),
    "root_path": FREE,
    "server": FREE,
    "slo": FREE,
    "sort": Values("words", {key: column.meaning for key, column in SORT_KEYS.items()}),
    "ssl_version": FREE,
    "statsd_host": FREE,
    "statsd_prefix": FREE,
    "syslog_addr": FREE,
    "syslog_facility": _words(*glogging.SYSLOG_FACILITIES),
    "syslog_prefix": FREE,
    "url": FREE,
    "user": Values("users"),
    "username": FREE,
    "uwsgi_allow_ips": FREE,
    "worker_class": _words(*workers.SUPPORTED_WORKERS),
    "worker_type": _words(*WORKER_TYPES),
}
BY_METAVAR = {"DIR": DIRECTORIES, "FILE": FILES, "FILES": FILES, "INT": FREE}


def values_of(name: str, metavar: str | None, choices: Iterable[str] = ()) -> Values:
    """Return what an option takes.

    Args:
        name: of the setting or, with underscores, of the option.
        metavar: what help calls the value.
        choices: all that it takes, where that is declared.
    """
    words = _words(*choices)
    return words if words.words else VALUES.get(name) or BY_METAVAR.get(metavar or "", UNKNOWN)


def of_declared(options: Iterable[Declared]) -> list[Option]:
    """Return a command's own options, as argparse has them."""
    return [_of_declared(names, keywords) for names, keywords in options]


def _of_declared(names: tuple[str, ...], keywords: dict[str, Any]) -> Option:
    if keywords.get("action") == "store_true":
        return Option(names, keywords["help"])
    name = names[-1].removeprefix("--").replace("-", "_")
    choices = keywords.get("choices", ())
    metavar = keywords.get("metavar", name.upper())
    repeats = keywords.get("action") == "append"
    values = values_of(name, metavar, choices)
    return Option(names, keywords["help"], values, metavar, repeats)


def of_kinds() -> Values:
    """Return what `emit` takes: the kinds of files."""
    return Values("words", {kind.name: kind.about for kind in KINDS.values()})


def of_gunicorn() -> list[Option]:
    """Return the options of all settings of the installed Gunicorn, ours first."""
    rows = [row for section in of_settings() for row in section.rows]
    by_name = {name: setting for setting in config.KNOWN_SETTINGS for name in setting.cli or ()}
    found = []
    for names, text, _ in rows:
        found += _of_setting(by_name[names.split()[0].rstrip(",")], text)
    return found


def _of_setting(setting: Any, text: str) -> list[Option]:
    names = tuple(setting.cli)
    if setting.action is argparse.BooleanOptionalAction:
        contrary = tuple(f"--no{name[1:]}" for name in names)
        turn_off = Option(contrary, f"Turn off {names[-1]}.", opposite=names)
        return [Option(names, text, opposite=contrary), turn_off]
    if setting.action not in (None, "store", "append"):
        return [Option(names, text)]
    values = values_of(setting.name, setting.meta)
    metavar = setting.meta or "VALUE"
    repeats = setting.action == "append"
    return [Option(names, text, values, metavar, repeats, needs_value=setting.nargs != "?")]

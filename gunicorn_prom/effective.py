"""What a configuration comes to: the value of every setting that holds, and where it is from."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from gunicorn import config

from gunicorn_prom import workers
from gunicorn_prom.configuration import GUNICORNS_ENVIRONMENT, Configuration, Origin
from gunicorn_prom.errors import StateError
from gunicorn_prom.settings import OWN_SETTINGS, SECTION, environment, name_of
from gunicorn_prom.state import default_root

__all__ = ["Effective", "effective"]

OWN_NAMES = frozenset(map(name_of, OWN_SETTINGS))
# Gunicorn's own default where it would take it from the environment.
WITHOUT_ENVIRONMENT: dict[str, Any] = {
    "workers": 1,
    "bind": ["127.0.0.1:8000"],
    "forwarded_allow_ips": ["127.0.0.1", "::1"],
}
# Of which the default is a path in the directory that the variable names.
IN_RUNTIME_DIRECTORY = ("control_socket", "metrics_state_dir")
RUNTIME_DIRECTORY = "XDG_RUNTIME_DIR"
DEFAULT = Origin("default")


class Effective(NamedTuple):
    """A setting as it holds.

    Attributes:
        setting: its declaration.
        value: what holds; a hook as the file has it, None where nothing is to be called.
        default: what would hold if it were given nowhere.
        origin: where the value is from.
        environment: the variable that sets it, "" for none.
    """

    setting: config.Setting
    value: Any
    default: Any
    origin: Origin
    environment: str

    @property
    def name(self) -> str:
        """The name under which it stands in a configuration file."""
        return str(self.setting.name)


def effective(configuration: Configuration) -> list[Effective]:
    """Return every setting as it holds: ours, then Gunicorn's, by section."""
    known = configuration.cfg.settings.values()
    sections = dict.fromkeys([SECTION, *(setting.section for setting in known)])
    in_order = sorted(known, key=lambda setting: list(sections).index(setting.section))
    return [_effective(configuration, setting) for setting in in_order]


def _effective(configuration: Configuration, setting: config.Setting) -> Effective:
    name = str(setting.name)
    value, origin = _DERIVED.get(name, _as_it_stands)(configuration, name)
    variable = environment(name) if name in OWN_NAMES else GUNICORNS_ENVIRONMENT.get(name, "")
    return Effective(setting, value, _default(setting), origin, variable)


def _default(setting: config.Setting) -> Any:
    name = str(setting.name)
    match name:
        case "worker_type":
            return "sync"
        case "metrics_state_dir":
            return _state_directory()
        case "sendfile":
            return True
    if callable(setting.default):
        return None
    return WITHOUT_ENVIRONMENT.get(name, type(setting)().get())


def _state_directory() -> str | None:
    try:
        return str(default_root())
    except StateError:
        return None


def _as_it_stands(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    setting, origin = configuration.cfg.settings[name], configuration.origin(name)
    value = setting.get()
    if callable(setting.default):
        # Gunicorn wraps some.
        value = configuration.file_variables.get(name) if origin != DEFAULT else None
    return value, _by_directory(name, value, origin)


def _by_directory(name: str, value: Any, origin: Origin) -> Origin:
    directory = os.environ.get(RUNTIME_DIRECTORY)
    is_in_it = name in IN_RUNTIME_DIRECTORY and directory and str(value).startswith(directory)
    return Origin("default", RUNTIME_DIRECTORY) if is_in_it and origin == DEFAULT else origin


def _worker_class(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    cfg = configuration.cfg
    given, origin = cfg.settings["worker_class"].get(), configuration.origin("worker_class")
    if isinstance(given, str) and cfg.worker_class_str != given:
        return cfg.worker_class_str, Origin("derived", "threads")
    if cfg.worker_type and configuration.origin("worker_type").rank > origin.rank:
        return given, Origin("derived", "worker_type")
    return given, origin


def _worker_type(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    worker_class, origin = _worker_class(configuration, name)
    worker_type = workers.type_of(worker_class)
    if worker_type and worker_type == configuration.cfg.worker_type:
        return worker_type, configuration.origin("worker_type")
    if origin in (DEFAULT, Origin("derived", "threads")):
        return worker_type, origin
    return worker_type, Origin("derived", "worker_class")


def _logger_class(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    # gunicorn.config.Config.logger_class, without loading it.
    value, origin = _as_it_stands(configuration, name)
    default = configuration.cfg.settings[name].default
    if value in ("simple", default) and configuration.cfg.statsd_host is not None:
        return "gunicorn.instrument.statsd.Statsd", Origin("derived", "statsd_host")
    return value, origin


def _application(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    value, origin = _as_it_stands(configuration, name)
    if configuration.app_uri in (None, value) or configuration.cfg.paste:
        return value, origin
    return configuration.app_uri, Origin("command line")


def _of_the_application(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    value, origin = _as_it_stands(configuration, name)
    if origin == DEFAULT and value != configuration.cfg.settings[name].default:
        origin = Origin("derived", "paste" if configuration.cfg.paste else "wsgi_app")
    return value, origin


def _config(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    # What was read, and not where Gunicorn has looked in vain.
    return configuration.config_file, configuration.origin(name)


def _sendfile(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    return configuration.cfg.sendfile, configuration.origin(name)


def _metrics_state_dir(configuration: Configuration, name: str) -> tuple[Any, Origin]:
    value, origin = configuration.cfg.metrics_state_dir, configuration.origin(name)
    value = value or _state_directory()
    return value, _by_directory(name, value, origin)


_DERIVED: dict[str, Callable[[Configuration, str], tuple[Any, Origin]]] = {
    "worker_class": _worker_class,
    "worker_type": _worker_type,
    "logger_class": _logger_class,
    "config": _config,
    "wsgi_app": _application,
    "default_proc_name": _of_the_application,
    "logconfig": _of_the_application,
    "sendfile": _sendfile,
    "metrics_state_dir": _metrics_state_dir,
}

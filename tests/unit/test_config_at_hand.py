"""The settings of a worker as attributes: what Gunicorn asks for, it still gets."""

import copy
from typing import Any

import pytest
from gunicorn.config import Config

from gunicorn_prom.instrument.config import keep_settings_at_hand


@pytest.fixture
def cfg() -> Config:
    """Return the configuration of a worker."""
    found = Config()
    found.set("bind", ["127.0.0.1:1"])
    found.set("threads", 3)
    keep_settings_at_hand(found)
    return found


def test_every_setting_is_what_it_was(cfg: Config) -> None:
    """Those that the class computes from others are still computed."""
    other = Config()
    other.set("bind", ["127.0.0.1:1"])
    other.set("threads", 3)
    # Python makes a new bound method of it each time.
    names = [name for name in other.settings if name != "worker_class"]
    assert {name: getattr(cfg, name) for name in names} == {
        name: getattr(other, name) for name in names
    }
    assert (cfg.worker_class_str, cfg.address) == ("gthread", other.address)


@pytest.mark.parametrize(
    ("name", "value"), [("keepalive", 7), ("threads", 1), ("bind", ["[::1]:2"])]
)
def test_what_is_set_later_is_seen(cfg: Config, name: str, value: Any) -> None:
    """A hook of the user's may set something while the worker serves."""
    cfg.set(name, value)
    assert getattr(cfg, name) == cfg.settings[name].get() == value


def test_a_copy_is_a_copy(cfg: Config) -> None:
    """What is set in a copy is set there, and nowhere else."""
    other = copy.deepcopy(cfg)
    other.set("keepalive", 99)
    assert (other.keepalive, cfg.keepalive) == (99, 2)


def test_what_is_no_setting_is_still_none(cfg: Config) -> None:
    """Whoever tries whether this Gunicorn has a setting learns that it has not."""
    assert not hasattr(cfg, "no_setting")
    with pytest.raises(AttributeError, match="no_setting"):
        cfg.set("no_setting", 1)
    with pytest.raises(AttributeError, match="Invalid access"):
        cfg.keepalive = 1

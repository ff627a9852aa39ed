"""The configuration of a worker, as Python finds a setting in it at once."""

from typing import Any

from gunicorn.config import Config

__all__ = ["keep_settings_at_hand"]


def keep_settings_at_hand(cfg: Config) -> None:
    """Make the settings of `cfg` attributes of its own; those set later as well.

    Gunicorn's WSGI workers ask for some twenty in every request. Each time Python fails to
    find an attribute, and makes an exception of that, before it comes to
    `Config.__getattr__`: a quarter of all the instructions of a short request.
    """
    # What the class has, properties for instance, is found first in any case.
    names = [name for name in cfg.settings if not hasattr(type(cfg), name)]
    attributes, set_setting = vars(cfg), cfg.set

    def set_both(name: str, value: Any) -> None:
        set_setting(name, value)
        if name in names:
            attributes[name] = cfg.settings[name].get()

    attributes.update({name: cfg.settings[name].get() for name in names}, set=set_both)

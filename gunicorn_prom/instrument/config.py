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
    base = type(cfg)
    # What the class has, properties for instance, is found first in any case.
    found = {name: s.get() for name, s in cfg.settings.items() if not hasattr(base, name)}
    cfg.__class__ = type(base.__name__, (_AtHand, base), {})
    vars(cfg).update(found)


class _AtHand:
    """What `set` does besides, in front of Gunicorn's own class."""

    settings: Any

    def set(self, name: str, value: Any) -> None:
        """Set a setting, and the attribute.

        Raises:
            AttributeError: there is no such setting.
        """
        super().set(name, value)  # type: ignore[misc]  # Gunicorn's class comes behind
        if name in vars(self):
            vars(self)[name] = self.settings[name].get()

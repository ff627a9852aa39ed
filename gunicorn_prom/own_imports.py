"""Modules that we import and Gunicorn does not, kept apart from the application's.

Gunicorn puts the directory of the application before everything else on the import path, and
an application may have a `resource.py`. It must not be what we get for the standard module of
that name; nor must the standard module, because we have imported it, be what the application
gets.
"""

import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from typing import Any

__all__ = ["apart_from", "make_way", "places_of"]


def places_of(cfg: Any) -> list[str]:
    """Return the directories that Gunicorn puts before the others on the import path."""
    further = (cfg.pythonpath or "").split(",")
    return [os.path.abspath(place) for place in (cfg.chdir, *further) if place]


@contextmanager
def apart_from(places: Collection[str]) -> Iterator[None]:
    """Import what is ours in a block, as if these directories were not on the import path."""
    path = sys.path[:]
    theirs = {
        name: sys.modules.pop(name)
        for name in sys.stdlib_module_names & sys.modules.keys()
        if os.path.dirname(getattr(sys.modules[name], "__file__", None) or "") in places
    }
    before = set(sys.modules)
    sys.path[:] = [place for place in path if place and os.path.abspath(place) not in places]
    try:
        yield
    finally:
        sys.path[:] = path
        make_way(places, set(sys.modules) - before)
        sys.modules.update(theirs)


def make_way(places: Collection[str], names: Collection[str]) -> None:
    """Forget those of our modules in whose place the application has one, for it to import.

    Whoever has imported them keeps them.

    Args:
        names: of modules that would not be there without us.
    """
    for top in {name.partition(".")[0] for name in names} - {__package__}:
        if top not in sys.builtin_module_names and _is_in(top, places):
            for name in [name for name in sys.modules if name.partition(".")[0] == top]:
                if name in names:
                    del sys.modules[name]


def _is_in(name: str, places: Collection[str]) -> bool:
    """Tell whether the application has a module of that name which is not the one we have."""
    spec = PathFinder.find_spec(name, list(places))
    ours = getattr(sys.modules.get(name), "__spec__", None)
    # A directory without a module in it would be found last.
    return (
        spec is not None and spec.origin is not None and spec.origin != getattr(ours, "origin", 0)
    )

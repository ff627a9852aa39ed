"""The shell completions of gunicorn-prom: static text, so that TAB starts no Python."""

from scripts.completions.bash import bash
from scripts.completions.fish import fish
from scripts.completions.zsh import zsh

__all__ = ["bash", "fish", "zsh"]

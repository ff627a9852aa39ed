"""The keys of `top`: read from the terminal, and what each changes of the view."""

import codecs
import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from gunicorn_prom.cli.top_view import Frame, View

__all__ = ["Keyboard", "press"]

# How long the rest of an escape sequence may be on its way.
SEQUENCE_S = 0.05
READ_BYTES = 1024
ESCAPE = "\x1b"
SEQUENCES = {
    "[A": "up",
    "OA": "up",
    "[B": "down",
    "OB": "down",
    "[5~": "page up",
    "[6~": "page down",
    "[H": "home",
    "OH": "home",
    "[1~": "home",
    "[F": "end",
    "OF": "end",
    "[4~": "end",
}
NAMES = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x15": "clear"}


class Keyboard:
    """The keys that are pressed on standard input, one by one while it is `open`.

    Attributes:
        descriptor: to be read when a key was pressed, None where there is no keyboard.
    """

    def __init__(self) -> None:
        is_there = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
        self.descriptor = sys.stdin.fileno() if is_there else None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Have each key at once and unseen in the block; Ctrl-C stays a signal."""
        if self.descriptor is None:
            yield
            return
        before = termios.tcgetattr(self.descriptor)
        try:
            tty.setcbreak(self.descriptor, termios.TCSANOW)
            yield
        finally:
            # Without what was typed and not read: it was not meant for the shell.
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.descriptor, termios.TCSAFLUSH, before)

    def read(self) -> list[str]:
        """Return the names of the keys that were pressed; the terminal must be readable.

        Raises:
            EOFError: the terminal is gone.
        """
        assert self.descriptor is not None  # or nobody would know that it is readable
        pressed = os.read(self.descriptor, READ_BYTES)
        if not pressed:
            raise EOFError
        if pressed.endswith(b"\x1b") and select.select([self.descriptor], [], [], SEQUENCE_S)[0]:
            pressed += os.read(self.descriptor, READ_BYTES)
        return list(_named(self._decoder.decode(pressed)))


def _named(pressed: str) -> Iterator[str]:
    while pressed:
        sequence, pressed = _split(pressed)
        if len(sequence) == 1:
            name = "escape" if sequence == ESCAPE else NAMES.get(sequence, sequence)
        else:
            name = SEQUENCES.get(sequence[1:], "")
        if name:
            yield name


def _split(pressed: str) -> tuple[str, str]:
    """Return the first key of the text, with its whole escape sequence, and the rest."""
    if not pressed.startswith((ESCAPE + "[", ESCAPE + "O")):
        return pressed[:1], pressed[1:]
    for end, character in enumerate(pressed[2:], start=3):
        # Source: ECMA-48, 5.4, the final byte of a control sequence.
        if "@" <= character <= "~":
            return pressed[:end], pressed[end:]
    return pressed, ""


def press(view: View, key: str, frame: Frame) -> View | None:
    """Return the view after a key was pressed before that frame, None when it is to end."""
    if view.is_filtering:
        return _filter(view, key)
    if view.is_help:
        return replace(view, is_help=False)
    steps = {"up": -1, "down": 1, "page up": -frame.page, "page down": frame.page}
    steps |= {"home": -frame.last_offset, "end": frame.last_offset}
    if key in steps:
        offset = min(view.offset, frame.last_offset) + steps[key]
        return replace(view, offset=max(0, min(offset, frame.last_offset)))
    if key == "s":
        return _sort_by_next(view, frame.columns)
    change = CHANGES.get(key)
    return view if change is None else change(view)


def _sort_by_next(view: View, columns: Sequence[str]) -> View:
    if not columns:
        return view
    # That of the generations is not shown any more when an upgrade is over.
    place = columns.index(view.sort) if view.sort in columns else -1
    following = columns[(place + 1) % len(columns)]
    return replace(view, sort=following, is_reversed=False, offset=0)


CHANGES: dict[str, Callable[[View], View | None]] = {
    "q": lambda view: None,
    "p": lambda view: replace(view, is_paused=not view.is_paused),
    " ": lambda view: replace(view, is_paused=not view.is_paused),
    "S": lambda view: replace(view, is_reversed=not view.is_reversed, offset=0),
    "/": lambda view: replace(view, is_filtering=True),
    "escape": lambda view: replace(view, filter="", offset=0),
    "?": lambda view: replace(view, is_help=True),
}


def _filter(view: View, key: str) -> View:
    match key:
        case "enter":
            return replace(view, is_filtering=False)
        case "escape":
            return replace(view, is_filtering=False, filter="", offset=0)
        case "backspace":
            return replace(view, filter=view.filter[:-1], offset=0)
        case "clear":
            return replace(view, filter="", offset=0)
    if len(key) == 1 and key.isprintable():
        return replace(view, filter=view.filter + key, offset=0)
    return view

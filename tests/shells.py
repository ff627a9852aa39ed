"""Interactive shells on terminals of their own: keys go in, the screen and the line come out."""

import contextlib
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from fcntl import ioctl
from pathlib import Path

from tests.support import DEADLINE_S, POLL_S, ROOT

ESCAPE_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>()][0B]?)")
ROWS, COLUMNS = 60, 200
# The key that makes the shell write its line to a file and begin a new one. It is one that the
# terminal does not take for itself while the shell is not reading yet.
TELL_LINE = "\x18\x01"
TAB = "\t"


class Shell:
    """A shell that reads keys from a terminal.

    Attributes:
        screen: all that it has written, without escape sequences.
    """

    def __init__(self, command: Sequence[str], directory: Path, environ: dict[str, str]) -> None:
        self._line_file = directory / "line"
        self.screen = ""
        self._terminal, inside = pty.openpty()
        ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            cwd=directory,
            env=os.environ | environ,
        )
        os.close(inside)

    def press(self, keys: str) -> None:
        """Type the keys."""
        os.write(self._terminal, keys.encode())

    def run(self, command: str, expected: str = "ran") -> None:
        """Run a command and wait for what it prints."""
        # What is typed appears on the screen as well, so it must not be what is waited for.
        self.press(f"{command} && echo r''an\r" if expected == "ran" else f"{command}\r")
        self.wait_for(expected)
        self.screen = ""

    def wait_for(self, *texts: str) -> None:
        """Wait until all the texts are on the screen."""
        end = time.monotonic() + DEADLINE_S
        while not all(text in self.screen for text in texts):
            assert time.monotonic() < end, f"no {texts} on the screen:\n{self.screen}"
            self._read()

    def line(self) -> str:
        """Return the command line that is being edited, and begin a new one.

        The keys are worked on in their order, so it is what the keys before have made of it.
        """
        self._line_file.unlink(missing_ok=True)
        self.press(TELL_LINE)
        end = time.monotonic() + DEADLINE_S
        while not self._line_file.exists() or not self._line_file.read_text().endswith("\n"):
            assert time.monotonic() < end, f"the shell does not answer:\n{self.screen}"
            self._read()
        return self._line_file.read_text().removesuffix("\n")

    def end(self) -> None:
        """End the shell."""
        self._process.kill()
        self._process.wait(DEADLINE_S)
        os.close(self._terminal)

    def _read(self) -> None:
        readable, _, _ = select.select([self._terminal], [], [], POLL_S)
        if readable:
            text = os.read(self._terminal, 65536).decode(errors="replace")
            self.screen = ESCAPE_SEQUENCE.sub("", self.screen + text)


@contextlib.contextmanager
def shell(
    command: Sequence[str], directory: Path, environ: dict[str, str] | None = None
) -> Iterator[Shell]:
    """Run an interactive shell, with a HOME of its own, until the block ends."""
    home = directory / "home"
    home.mkdir(exist_ok=True)
    own = {"HOME": str(home), "TERM": "vt100", "PS1": "> ", "LC_ALL": "C.UTF-8"}
    running = Shell(command, directory, own | (environ or {}))
    try:
        yield running
    finally:
        running.end()


@contextlib.contextmanager
def bash(
    directory: Path, *arguments: str, environ: dict[str, str] | None = None
) -> Iterator[Shell]:
    """Run bash, with the options of the command line, until the block ends."""
    with shell(["bash", *arguments, "-i"], directory, environ) as running:
        tell = r"""'"\C-x\C-a": printf "%s\n" "$READLINE_LINE" >line; READLINE_LINE='"""
        running.run(f"bind -x {tell}")
        running.run("bind 'set show-all-if-ambiguous on'")
        yield running


@contextlib.contextmanager
def zsh(directory: Path, environ: dict[str, str] | None = None) -> Iterator[Shell]:
    """Run zsh, which reads no configuration, until the block ends."""
    with shell(["zsh", "-f", "-i"], directory, environ) as running:
        running.run("tell-line() { print -r -- $BUFFER >line; BUFFER= }; zle -N tell-line")
        running.run("bindkey -e; bindkey '^X^A' tell-line; PROMPT='> '; unsetopt auto_remove_slash")
        yield running


def program(*arguments: str) -> str:
    """Return a command line that runs gunicorn-prom from here."""
    return shlex.join(
        ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "gunicorn_prom", *arguments]
    )

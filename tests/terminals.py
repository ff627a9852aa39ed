"""A real terminal: a shell in tmux, whose screen is looked at as a person sees it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.real_parts import find_program
from tests.support import DEADLINE_S, wait_for

PROMPT = "ready> "


class Terminal:
    """A shell in a terminal of its own.

    Args:
        directory: where it runs, and where its socket is.
    """

    def __init__(self, directory: Path, width: int, height: int, environ: dict[str, str]) -> None:
        self._program = find_program("tmux", "tmux")
        self._socket = directory / "tmux"
        self._environ = {name: value for name, value in os.environ.items() if name != "TMUX"}
        self._environ |= {"LC_ALL": "C.UTF-8", **environ}
        size = ("-x", str(width), "-y", str(height), "-c", str(directory))
        # tmux runs it by a shell that would keep the prompt for itself.
        shell = f"exec env 'PS1={PROMPT}' bash --norc --noprofile"
        self._tmux("-f", os.devnull, "new-session", "-d", *size, shell)

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            [self._program, "-u", "-S", str(self._socket), *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env=self._environ,
        ).stdout

    def press(self, *keys: str) -> None:
        """Press keys by the names that tmux gives them."""
        self._tmux("send-keys", *keys)

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._tmux("send-keys", "-l", text)

    def run(self, command: str) -> None:
        """Type a command and press Enter."""
        self.type(command)
        self.press("Enter")

    def resize(self, width: int, height: int) -> None:
        """Change the size as a person does who drags a corner."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self, *, with_colours: bool = False) -> str:
        """Return what is to be seen."""
        return self._tmux("capture-pane", "-p", *(("-e",) if with_colours else ()))

    def tell(self, variable: str) -> str:
        """Return what tmux knows of the terminal, such as `alternate_on`."""
        return self._tmux("display-message", "-p", f"#{{{variable}}}").strip()

    def wait_for(self, *texts: str) -> str:
        """Wait until all the texts are on the screen, and return that."""
        seen = ""

        def is_there() -> bool:
            nonlocal seen
            seen = self.screen()
            return all(text in seen for text in texts)

        try:
            wait_for(is_there, f"{texts} on the screen")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{seen}") from None
        return seen

    def end(self) -> None:
        """End the shell and the terminal."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")


@contextlib.contextmanager
def terminal(
    directory: Path, width: int, height: int, environ: dict[str, str] | None = None
) -> Iterator[Terminal]:
    """Run a shell in a terminal of that size until the block ends."""
    directory.mkdir(exist_ok=True)
    shown = Terminal(directory, width, height, environ or {})
    try:
        shown.wait_for(PROMPT.strip())
        yield shown
    finally:
        shown.end()

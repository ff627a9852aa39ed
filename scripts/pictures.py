"""Make the pictures of the documentation: each command in a terminal of its own, as SVG.

`python -m scripts.pictures`, from the project root. The commands really run.
"""

import fcntl
import io
import math
import os
import pty
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from scripts.clients import clients

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "pictures"
ROWS = 400
READ_BYTES = 65536
OVERRIDES = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")

GOOD = ("app:app", "--chdir", str(ROOT / "examples" / "flask"), "--workers=2")
# No such module, a misspelt setting, workers that go all at once, a public address without a
# password.
BROKEN = """\
time_out = 60
workers = 4
max_requests = 1000
metrics_bind = "0.0.0.0:9464"
"""
COMMANDS = {
    "run-help": ("run", "--help"),
    "check-good": ("check", *GOOD, "-v"),
    "check-broken": ("check", "shop.wsgi:app"),
    "settings-changed": ("settings", "shop.wsgi:app", "--changed"),
}
WIDTHS = (80, 120)
TOP_HEIGHT = 26
# Long enough for the curves to have a shape.
LOAD_S = 150.0
LOAD_OF_TOP = 12


def main() -> None:
    """Run every command at every width and write its picture."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        for title, arguments in COMMANDS.items():
            directory = Path(name, title)
            directory.mkdir()
            if arguments[1] == "shop.wsgi:app":
                (directory / "gunicorn.conf.py").write_text(BROKEN)
            for width in WIDTHS:
                seen = run_in_terminal(["-m", "gunicorn_prom", *arguments], directory, width)
                # The same picture wherever it is made.
                for place, shown in ((ROOT, "~/gunicorn-prom"), (directory, "/srv/shop")):
                    seen = seen.replace(str(place), shown)
                picture = draw(seen, arguments, width)
                (PICTURES / f"{title}-{width}.svg").write_text(picture)
        draw_top(Path(name, "top"))


def draw_top(directory: Path) -> None:
    """Write the pictures of `top`, of a server that has had work for a while."""
    # The tests know how to start a server and how to look at a live screen.
    from tests.support import gunicorn_prom
    from tests.terminals import terminal

    directory.mkdir()
    options = ("--workers=6", "--worker-type=gthread", "--threads=2")

    def ask(number: int, is_over: threading.Event) -> None:
        # Now more of them and now fewer.
        wave = (1 + math.sin(time.monotonic() / 12)) / 2 * LOAD_OF_TOP
        if number > wave:
            is_over.wait(1.0)
        else:
            server.get("/500" if time.monotonic() % 20 < 0.2 else f"/sleep/0.0{number % 8 + 1}")

    with (
        gunicorn_prom(directory, "behave:app", *options) as server,
        clients(LOAD_OF_TOP, ask),
    ):
        time.sleep(LOAD_S)
        for width in WIDTHS:
            with terminal(directory / f"top-{width}", width, TOP_HEIGHT) as screen:
                program = [sys.executable, "-m", "gunicorn_prom", "top", "--sort=busy"]
                state = f"--state-dir={server.state_directory}"
                screen.run(shlex.join(["env", f"PYTHONPATH={ROOT}", *program, state]))
                screen.wait_for("workers 6 of 6")
                seen = screen.screen(with_colours=True).rstrip()
                screen.press("q")
            address = f"127.0.0.1:{server.metrics_port}"
            seen = seen.replace(address, "127.0.0.1:9464").replace(str(server.port), "8000")
            (PICTURES / f"top-{width}.svg").write_text(draw(seen, ("top",), width))


def run_in_terminal(arguments: list[str], directory: Path, width: int) -> str:
    """Run Python with `arguments` in a terminal so wide; return all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, width, 0, 0))
    # They would stand above the terminal itself.
    inherited = {name: value for name, value in os.environ.items() if name not in OVERRIDES}
    own = {"TERM": "xterm-256color", "HOME": str(directory), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=directory,
        env=inherited | own,
        start_new_session=True,
    )
    os.close(theirs)
    written = b""
    # The kernel says EIO when nobody has the terminal open any more.
    try:
        while part := os.read(ours, READ_BYTES):
            written += part
    except OSError:
        pass
    os.close(ours)
    process.wait()
    return written.decode().replace("\r\n", "\n")


def draw(seen: str, arguments: tuple[str, ...], width: int) -> str:
    """Return the picture of a terminal in which that was seen."""
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text.from_ansi(seen), soft_wrap=True)
    shown = " ".join(arguments).replace(str(ROOT), "~/gunicorn-prom")
    return console.export_svg(title=f"gunicorn-prom {shown}")


if __name__ == "__main__":
    main()

"""Make the pictures of the documentation: each command in a terminal of its own, as SVG.

`python -m scripts.pictures`, from the project root. The commands really run.
"""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

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

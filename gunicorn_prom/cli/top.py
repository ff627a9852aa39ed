"""`gunicorn-prom top`: a running server, live in the terminal."""

import contextlib
import errno
import getpass
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from gunicorn_prom.cli.output import is_unicode_shown, written
from gunicorn_prom.cli.top_client import Access, Source, normalized
from gunicorn_prom.cli.top_keys import Keyboard, press
from gunicorn_prom.cli.top_view import Frame, View, frame
from gunicorn_prom.cli.top_workers import SORT_KEYS
from gunicorn_prom.errors import GunicornPromError, UsageError, fail
from gunicorn_prom.settings import environment

__all__ = ["top"]

PASSWORD = environment("password")
DEFAULT_INTERVAL_S, MIN_INTERVAL_S, MAX_INTERVAL_S = 2, 0.2, 3600
# Where stdout is no terminal: all columns.
PIPED_WIDTH = 160
# Of a terminal that does not know its size, as a serial line.
UNKNOWN_SIZE = (80, 24)
# What ends a program at once, whatever it has made of the terminal.
ENDING_SIGNALS = (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
Result = dict[str, Any] | Exception


class Form(StrEnum):
    """How the state is written."""

    text = "text"
    json = "json"


def top(  # noqa: PLR0913  # the options of the command
    *,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The metrics server, http://HOST:PORT. Without it: the one that runs here.",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            "--state-dir",
            envvar=environment("metrics_state_dir"),
            metavar="DIR",
            help="The --metrics-state-dir of the server that is looked for.",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which server, of a sidecar that has several."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and exit.")] = False,
    form: Annotated[
        Form,
        typer.Option("--format", help="text, or json: the document of the server as it is, once."),
    ] = Form.text,
    interval: Annotated[
        str,
        typer.Option(
            metavar="SECONDS", help=f"How often it is asked, {MIN_INTERVAL_S} to {MAX_INTERVAL_S}."
        ),
    ] = str(DEFAULT_INTERVAL_S),
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help=f"By what the workers are sorted: {', '.join(SORT_KEYS)}. "
            "With a dash before it the other way round.",
        ),
    ] = "id",
    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="TEXT",
            help="Only workers in whose id, pid, state or oldest request this is.",
        ),
    ] = "",
    username: Annotated[
        str | None,
        typer.Option(
            "--user", metavar="NAME", help=f"Who asks; the password from {PASSWORD} or typed."
        ),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The password is the first line of this file."),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Trust the authorities in this file, not the machine's."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Trust any certificate of the server.")
    ] = False,
    cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The certificate to show, if the server wants one."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The key of --cert, if it is not in the same file."),
    ] = None,
) -> None:
    """Show a running server live: workers, rates, latency, saturation.

    Where stdout is no terminal it is shown once.
    """
    _end_in_order()
    try:
        if key is not None and cert is None:
            raise UsageError("--key without --cert", "name the certificate, too")
        interval_s = _seconds(interval)
        view = View(**_order(sort), filter=filter_, is_unicode=is_unicode_shown())
        checked = None if url is None else normalized(url)
        password = _password(username, password_file)
        access = Access(username, password, ca_file, insecure, cert, key)
        source = Source(checked, state_dir, access, server)
        document = source.fetch()
        if form is Form.json:
            with written():
                print(json.dumps(document, indent=2))
        elif once or not _is_live():
            _print(document, replace(view, url=source.url))
        else:
            _Screen(source, document, view, interval_s).watch()
    except GunicornPromError as error:
        fail(error)


def _end_in_order() -> None:
    """Have signals end us in the usual way, which gives the terminal back as it was."""
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has reasons
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))


def _seconds(interval: str) -> float:
    # Typer's words for what is no number are those of its validator, and of its version.
    with contextlib.suppress(ValueError):
        if MIN_INTERVAL_S <= float(interval) <= MAX_INTERVAL_S:
            return float(interval)
    limits = f"{MIN_INTERVAL_S} to {MAX_INTERVAL_S}"
    message = f"invalid --interval: {interval!r} is not a number of seconds from {limits}"
    raise UsageError(message, f"write it like {DEFAULT_INTERVAL_S}")


def _order(sort: str) -> dict[str, Any]:
    name = sort.removeprefix("-")
    if name not in SORT_KEYS:
        close = get_close_matches(name, SORT_KEYS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"it can be {', '.join(SORT_KEYS)}"
        raise UsageError(f"invalid --sort: there is no column {name}", hint)
    return {"sort": name, "is_reversed": sort != name}


def _password(user: str | None, file: Path | None) -> str:
    """Return the password; it never stands on the command line, where everybody sees it."""
    if file is not None and user is None:
        raise UsageError("--password-file without --user", "say whose password it is")
    if user is None:
        return ""
    if file is not None:
        try:
            return file.read_text("utf-8").partition("\n")[0].removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is no text"
            message = f"cannot read --password-file {file}: {said}"
            raise UsageError(message, "its first line is the password, in UTF-8") from error
    if PASSWORD in os.environ:
        return os.environ[PASSWORD]
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            f"there is no password for {user}", f"give --password-file, or set {PASSWORD}"
        )
    return getpass.getpass(f"Password of {user}: ")


def _is_live() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def _print(document: dict[str, Any], view: View) -> None:
    width = shutil.get_terminal_size((PIPED_WIDTH, 0)).columns
    console = Console(highlight=False, width=width)
    # At the end of a capture Rich writes, if only an empty text.
    with written():
        with console.capture() as captured:
            for line in frame(document, view, width, None).lines:
                line.rstrip()
                console.print(line, soft_wrap=True)
        print(captured.get(), end="")


class _Screen:
    """The live view: a thread asks the server, this one draws and reads keys."""

    def __init__(
        self, source: Source, document: dict[str, Any], view: View, interval_s: float
    ) -> None:
        self._source = source
        self._document = document
        self._view: View | None = replace(view, url=source.url)
        self._interval_s = interval_s
        self._answered_at = time.time()
        self._console = Console(highlight=False)
        self._keyboard = Keyboard()
        self._frame = Frame([])
        self._results: list[Result] = []
        self._wakeup, self._waker = os.pipe()
        self._is_suspended = False

    def watch(self) -> None:
        """Show it until the user quits; leave the terminal as it was.

        Raises:
            SystemExit: by a signal, or the terminal is gone.
        """
        threading.Thread(target=self._ask, daemon=True).start()
        try:
            self._watch()
        except (OSError, EOFError) as error:
            if isinstance(error, OSError) and error.errno != errno.EIO:
                raise
            # The terminal is gone, and nohup or a shell has SIGHUP ignored.
            raise SystemExit(128 + signal.SIGHUP) from error

    def _watch(self) -> None:
        with self._signals():
            while self._view is not None:
                # The terminal is ours until we end, or are stopped by Ctrl-Z.
                with self._keyboard.open(), self._shown() as live:
                    self._turn(live)
                if self._is_suspended:
                    self._is_suspended = False
                    self._stop()

    def _shown(self) -> Live:
        return Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Have signals wake us up."""
        os.set_blocking(self._waker, False)
        handlers: dict[int, Callable[[int, Any], None]] = {
            signal.SIGWINCH: lambda _number, _frame: None,
            signal.SIGTSTP: lambda _number, _frame: self._suspend(),
        }
        before = {number: signal.signal(number, handle) for number, handle in handlers.items()}
        waker = signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(waker)
            for number, handle in before.items():
                signal.signal(number, handle)

    def _suspend(self) -> None:
        self._is_suspended = True

    def _stop(self) -> None:
        """Stop until somebody continues us; where no shell could do so the kernel ignores it.

        Source: POSIX, 2.4.3, SIGTSTP and orphaned process groups.
        """
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)

    def _ask(self) -> None:
        """Ask the server again and again, in a thread of its own."""
        while True:
            time.sleep(self._interval_s)
            try:
                self._results.append(self._source.fetch())
            except Exception as error:
                self._results.append(error)
            with contextlib.suppress(BlockingIOError):  # then it is awake
                os.write(self._waker, b"\0")

    def _turn(self, live: Live) -> None:
        """Draw whenever something has changed, until it is over or suspended."""
        descriptors = [self._wakeup]
        if self._keyboard.descriptor is not None:
            descriptors.append(self._keyboard.descriptor)
        while self._view is not None and not self._is_suspended:
            self._draw(live)
            readable, _, _ = select.select(descriptors, [], [])
            if self._wakeup in readable:
                os.read(self._wakeup, 1024)
                self._take_results()
            if self._keyboard.descriptor in readable:
                self._take_keys()

    def _lay_out(self) -> None:
        # Of the terminal itself: COLUMNS would be that of the time when it was exported.
        width, height = os.get_terminal_size(sys.stdout.fileno())
        width, height = width or UNKNOWN_SIZE[0], height or UNKNOWN_SIZE[1]
        self._console.size = ConsoleDimensions(width, height)
        if self._view is not None:
            self._frame = frame(self._document, self._view, width, height)

    def _draw(self, live: Live) -> None:
        self._lay_out()
        picture = Text("\n", no_wrap=True, overflow="crop").join(self._frame.lines)
        live.update(picture, refresh=True)

    def _take_results(self) -> None:
        while self._results and self._view is not None:
            result = self._results.pop(0)
            if isinstance(result, GunicornPromError):
                since = time.strftime("%H:%M:%S", time.localtime(self._answered_at))
                reason = getattr(result, "reason", result)
                self._view = replace(self._view, silence=f"since {since}: {reason}")
            elif isinstance(result, Exception):
                raise result
            else:
                self._answered_at = time.time()
                self._view = replace(self._view, silence="", url=self._source.url)
                if not self._view.is_paused:
                    self._document = result

    def _take_keys(self) -> None:
        for key in self._keyboard.read():
            if self._view is not None:
                self._view = press(self._view, key, self._frame)
                # How far the next key can scroll follows from what this one has changed.
                self._lay_out()

"""A reader who does all that a page says, in the order of the page.

The reader sits in /srv/shop, where there is a Flask application `app:app` until the page has
another. Ports and directories are others than on the page, so that nothing of the machine is in
the way; what the reader sees has those of the page again.
"""

import contextlib
import http.client
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.pages import Block, Command, blocks_of
from tests.real_parts import find_program
from tests.support import DEADLINE_S, ROOT, free_port, wait_for

HOME_OF_THE_READER = "/srv/shop"
PORT, METRICS_PORT = "8000", "9464"
PORTS = (PORT, METRICS_PORT, "8001", "8125", "9090", "9091", "9093", "9200", "9465", "9466")
PLACES = re.compile(r"(?<![\w./~-])/(?=(?:srv|run|etc/systemd|etc/prometheus)/)")
ASSIGNMENTS = re.compile(r"^(?:[A-Z_]+=(?:'[^']*'|\"[^\"]*\"|\S*) +)*")
SERVERS = re.compile(r"gunicorn-prom (?:run|export)\b|gunicorn |docker run |prometheus |python -u ")
ONE_OF_US = re.compile(r"gunicorn(?:-prom (?:run|export|check))? ")
METRICS_AT = re.compile(r"Metrics at http://([\d.]+):(\d+)/")
BIND = re.compile(r"--bind[ =]\S+")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
# What was answered is counted a moment later, so it is looked at until it is there.
LOOKS = re.compile(r"/metrics|/status\.json|^grep |gunicorn-prom top")
LOOK_DEADLINE_S = 10.0
# An engine may have to build.
COMMAND_DEADLINE_S = 200.0

IN_AN_ENGINE = "in an engine"
PIP = f"""#!{sys.executable}
\"\"\"Tells whether what is to be installed is here already: the tests install nothing.\"\"\"
import re, sys
from importlib.metadata import metadata

assert sys.argv[1] == "install", sys.argv
for wanted in [argument for argument in sys.argv[2:] if not argument.startswith("-")]:
    name, extras = re.fullmatch(r"([\\w.-]+)(?:\\[([\\w,-]+)\\])?", wanted).groups()
    known = metadata(name).get_all("Provides-Extra") or []
    unknown = set(extras.split(",") if extras else ()) - set(known)
    assert not unknown, f"{{name}} has no extras {{unknown}}"
"""


@dataclass(frozen=True)
class Engine:
    """A Docker engine that touches no network: containers have that of the machine.

    Attributes:
        client: the program, which is given the environment of the test that started the engine.
        build_arguments: for every build.
    """

    client: str
    environment: dict[str, str]
    build_arguments: tuple[str, ...]

    def program(self, port: str, metrics_port: str) -> str:
        """Return a `docker` for the reader, whose containers listen on other ports."""
        arguments = (
            f"--bind=127.0.0.1:{port}",
            "--worker-tmp-dir=/dev/shm",
            "--control-socket=/dev/shm/gunicorn.ctl",
        )
        own = {
            "run": (
                "--network=host",
                f"--env=GUNICORN_CMD_ARGS={' '.join(arguments)}",
                f"--env=GUNICORN_PROM_METRICS_BIND=127.0.0.1:{metrics_port}",
            ),
            "build": ("--network=host", *(f"--build-arg={a}" for a in self.build_arguments)),
        }
        return f"""#!{sys.executable}
import os, re, sys
command, given = sys.argv[1], " ".join(sys.argv[2:])
given = re.sub(r"--publish \\S+ ", "", given).split()
own = {own!r}.get(command, ())
environment = os.environ | {self.environment!r}
os.execve({self.client!r}, ["docker", command, *own, *given], environment)
"""


class Walkthrough:
    """Run the commands of one page in a directory of their own."""

    def __init__(self, directory: Path, engine: Engine | None = None) -> None:
        self._root, self._engine = directory, engine
        self._here = directory / HOME_OF_THE_READER[1:]
        self._here.mkdir(parents=True)
        (directory / "run" / "user").mkdir(parents=True, mode=0o700)
        shutil.copy(ROOT / "examples" / "flask" / "app.py", self._here)
        shutil.copy(ROOT / "examples" / "flask" / "README.md", self._here)
        self._here.with_name("gunicorn-prom").symlink_to(ROOT)
        self._ports = {port: str(free_port()) for port in PORTS}
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._environ = self._make_environ()

    def _make_environ(self) -> dict[str, str]:
        home, programs = self._root / "home", self._root / "bin"
        home.mkdir()
        programs.mkdir()
        (home / ".curlrc").write_text("silent\nshow-error\n")
        write_program(programs / "pip", PIP)
        if self._engine is not None:
            port, metrics_port = self._ports[PORT], self._ports[METRICS_PORT]
            docker = self._engine.program(port, metrics_port)
            write_program(programs / "docker", docker)
        path = (str(programs), str(Path(sys.executable).parent), os.environ["PATH"])
        return {
            "PATH": os.pathsep.join(path),
            "HOME": str(home),
            "XDG_RUNTIME_DIR": str(self._root / "run" / "user"),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "100",
        }

    def follow(self, page: Path) -> None:
        """Do what the page says, and fail where something else comes of it."""
        try:
            for block in blocks_of(page):
                self._follow_block(page, block)
        finally:
            self._stop_all()

    def _follow_block(self, page: Path, block: Block) -> None:
        if block.language != "console":
            if block.title:
                self._write(block)
            return
        is_left_out = block.note == IN_AN_ENGINE and self._engine is None
        if is_left_out or block.note.startswith("not run: "):
            return
        for program, package in re.findall(r"needs ([\w-]+), ([\w-]+)", block.note):
            find_program(program, package)
        if "curl" in block.text:
            find_program("curl", "curl")
        commands = list(block.commands())
        expected_code = re.search(r"exits with (\d+)", block.note)
        for command in commands:
            code = int(expected_code[1]) if expected_code and command is commands[-1] else 0
            with _named(page, command):
                self._run(command, code, "numbers vary" in block.note)

    def _write(self, block: Block) -> None:
        path = self._here / self._hidden(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._hidden(block.text))

    def _hidden(self, text: str) -> str:
        """Return what stands on the page with the ports and directories that there are."""
        for shown, real in self._ports.items():
            text = re.sub(rf"\b{shown}\b", real, text)
        return PLACES.sub(f"{self._root}/", text)

    def _shown(self, text: str) -> str:
        """Return the output with the ports and directories of the page."""
        for shown, real in self._ports.items():
            text = re.sub(rf"\b{real}\b", shown, text)
        return text.replace(str(self._root), "")

    def _run(self, command: Command, code: int, do_numbers_vary: bool) -> None:
        typed = ASSIGNMENTS.sub("", command.typed)
        if SERVERS.match(typed) and not re.search(r"--help|--version|--check-config", typed):
            self._serve(command, " ".join((*typed.split()[:2], *BIND.findall(typed))))
            return
        if typed.startswith("gunicorn-prom check") and "--live" not in typed:
            self._stop_all()  # it is for before the launch
        deadline_s = LOOK_DEADLINE_S if LOOKS.search(command.typed) else 0.0
        seen: list[str] = []

        def is_as_said() -> bool:
            finished = self._finish(command.typed)
            seen[:] = [self._shown(finished.stdout)]
            is_right = not command.output or is_like(
                command.output, seen[0], do_numbers_vary=do_numbers_vary
            )
            return finished.returncode == code and is_right

        with contextlib.suppress(AssertionError):
            wait_for(is_as_said, "the output", deadline_s)
            return
        text = textwrap.indent(seen[0], "    ")
        raise AssertionError(f"it said\n{text}{self._logs()}")

    def _finish(self, typed: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; a `cd` holds for the next ones."""
        place = self._root / "place"
        script = f"{self._hidden(typed)}\ncode=$?\npwd > {place}\nexit $code"
        finished = subprocess.run(
            ["bash", "-c", script],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_DEADLINE_S,
            env=self._environ | self._addresses(typed),
            cwd=self._here,
        )
        self._here = Path(place.read_text().strip())
        return finished

    def _addresses(self, typed: str) -> dict[str, str]:
        """Return the environment that moves a server which the page leaves at its defaults."""
        if not ONE_OF_US.match(ASSIGNMENTS.sub("", typed)):
            return {}
        said = typed + "".join(path.read_text() for path in self._here.glob("*conf*.py"))
        environ = {}
        if not re.search(r"metrics[-_]bind|METRICS_BIND", said):
            environ["GUNICORN_PROM_METRICS_BIND"] = f"127.0.0.1:{self._ports[METRICS_PORT]}"
        if not re.search(r"(?<![\w-])(--)?bind\b| -b ", said):
            environ["GUNICORN_CMD_ARGS"] = f"--bind=127.0.0.1:{self._ports[PORT]}"
        return environ

    def _serve(self, command: Command, name: str) -> None:
        """Start a server that stays until the page starts the next one of its kind."""
        self._stop(name)
        log = self._log(name)
        with log.open("wb") as output:
            server = self._servers[name] = subprocess.Popen(
                ["bash", "-c", self._hidden(command.typed)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ | self._addresses(command.typed),
                cwd=self._here,
                start_new_session=True,
            )

        def is_there() -> bool:
            text = log.read_text(errors="replace")
            assert server.poll() is None, f"it ended{self._logs()}"
            return is_answering(text, server) and is_like(
                command.output, self._shown(text), do_numbers_vary=True, may_go_on=True
            )

        try:
            wait_for(is_there, f"`{command.typed}`")
        except AssertionError as error:
            raise AssertionError(f"{error}{self._logs()}") from None

    def _log(self, name: str) -> Path:
        return self._root / (re.sub(r"\W", "-", name) + ".log")

    def _logs(self) -> str:
        texts = [
            f"\n--- {name}\n{self._shown(self._log(name).read_text(errors='replace'))}"
            for name in self._servers
        ]
        return "".join(texts)

    def _stop_all(self) -> None:
        for name in list(self._servers):
            self._stop(name)

    def _stop(self, name: str) -> None:
        server = self._servers.pop(name, None)
        if server is None:
            return
        server.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(DEADLINE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait(DEADLINE_S)


def write_program(path: Path, text: str) -> None:
    """Write a program that its owner may execute."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@contextlib.contextmanager
def _named(page: Path, command: Command) -> Iterator[None]:
    problem = None
    try:
        yield
    except (AssertionError, pytest.fail.Exception, subprocess.TimeoutExpired) as error:
        problem = f"{os.path.relpath(page, ROOT)}:{command.line}\n  $ {command.typed}\n{error}"
    if problem:
        raise pytest.fail.Exception(problem, pytrace=False) from None


def is_answering(log: str, server: subprocess.Popen[bytes]) -> bool:
    """Tell by its log, and by asking it, whether a server is there for its clients."""
    typed = str(server.args)
    if "gunicorn" not in typed and "docker" not in typed:
        shell = psutil.Process(server.pid)
        return any(process.net_connections() for process in (shell, *shell.children()))
    served = METRICS_AT.search(log)
    if served is None:
        return "Listening at" in log
    try:
        connection = http.client.HTTPConnection(served[1], int(served[2]), timeout=DEADLINE_S)
        connection.request("GET", "/-/ready")
        status = connection.getresponse().status
        connection.close()
    except (OSError, http.client.HTTPException):  # by TLS
        return True
    return status == 200 or "gunicorn-prom export" in typed


def is_like(
    expected: str, actual: str, *, do_numbers_vary: bool = False, may_go_on: bool = False
) -> bool:
    """Tell whether a reader would find the output to be that of the page.

    Args:
        expected: where it has `...` there may be anything; on a line of its own, any lines.
        actual: the output.
        do_numbers_vary: whether any number does where there is one.
        may_go_on: whether more lines may follow.
    """
    # Columns are as wide as the port in them.
    expected, actual = (re.sub(" +", " ", text) for text in (expected, actual))
    if do_numbers_vary:
        expected, actual = (NUMBER.sub("0", text) for text in (expected, actual))
    lines = [
        r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line).replace(r"\.\.\.", ".*") + "\n"
        for line in map(str.rstrip, expected.splitlines())
    ]
    written = "".join(f"{line.rstrip()}\n" for line in actual.splitlines())
    pattern = "".join(lines) + (r"(?:.*\n)*" if may_go_on else r"\s*")
    return re.fullmatch(pattern, written) is not None

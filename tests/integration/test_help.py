"""What the command line says of itself."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gunicorn import config

from scripts.pictures import run_in_terminal
from tests.support import run_to_end

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_help_of_run_names_every_option(tmp_path: Path, width: int) -> None:
    """On a terminal of any width no option is cut short, and no line is too long."""
    seen = run_in_terminal(["-m", "gunicorn_prom", "run", "--help"], tmp_path, width)
    lines = ESCAPES.sub("", seen).splitlines()
    assert max(map(len, lines)) <= width
    # What the frame and the folding put between the parts of a name is taken out.
    text = re.sub(r"[\s│]", "", "".join(lines))
    options = [option for setting in config.KNOWN_SETTINGS for option in setting.cli or ()]
    assert len(options) > 50
    if width >= 80:
        assert [option for option in options if option not in text] == []


def test_our_own_options_come_first(tmp_path: Path) -> None:
    """Then those of Gunicorn by section, each section once."""
    ended = run_to_end(tmp_path, "--help", command=("run",))
    titles = re.findall(r"^(\S.*):$", ended.stdout, re.MULTILINE)
    assert titles[:3] == ["Prometheus Metrics", "Config File", "Server Socket"]
    assert len(titles) == len(set(titles))
    assert ended.returncode == 0


def test_piped_help_is_plain(tmp_path: Path) -> None:
    """No frame, no colour, variable and default of each of our own options."""
    ended = run_to_end(tmp_path, "--help", command=("run",))
    assert "│" not in ended.stdout
    assert "\x1b" not in ended.stdout
    assert "[env: GUNICORN_PROM_METRICS_BIND] [default: 127.0.0.1:9464]" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["exprot"], "no such command 'exprot'", "did you mean 'export'?"),
        (["nothing"], "no such command 'nothing'", "see `gunicorn-prom --help`"),
        (["export", "--metrics-bnid=x"], "no such option: --metrics-bnid", "--metrics-bind?"),
        (["run", "a:b", "--wrokers=3"], "unrecognized arguments: --wrokers=3", "--workers?"),
        (["check", "a:b", "--onyl=app"], "unrecognized arguments: --onyl=app", "--only?"),
        (["check", "--only=nothing"], "there is no check nothing", "--list`"),
        (["check", "--format=xml"], "argument --format: invalid choice: 'xml'", "check --help`"),
        (["settings", "--chnaged"], "unrecognized arguments: --chnaged", "--changed?"),
        (["metrics", "--format=x"], "invalid --format: 'x' is not one of ", "metrics --help`"),
    ],
)
def test_what_is_misspelt_gets_a_hint(
    tmp_path: Path, arguments: list[str], error: str, hint: str
) -> None:
    """A wrong command line is one sentence and a hint on stderr, and exit code 2."""
    ended = run_to_end(tmp_path, *arguments, command=())
    said, hinted = ended.stderr.splitlines()
    assert said.startswith(f"error: {error}")
    assert hinted.startswith("hint: ")
    assert hinted.endswith(hint)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_no_command_shows_what_there_is(tmp_path: Path) -> None:
    """Without a command the help names all of them, and the exit code is 2."""
    ended = run_to_end(tmp_path, command=())
    assert ended.returncode == 2
    for command in ("run", "check", "settings", "metrics", "export", "top"):
        assert re.search(rf"^  {command}\b", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", [(), ("run",), ("check",), ("settings",), ("metrics",)])
def test_the_console_script_and_the_module_are_one(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    """`python -m gunicorn_prom` says what `gunicorn-prom` says."""
    script = Path(sys.executable).with_name("gunicorn-prom")
    assert os.access(script, os.X_OK)
    by_module = run_in_terminal(["-m", "gunicorn_prom", *command, "--help"], tmp_path, 80)
    assert run_in_terminal([str(script), *command, "--help"], tmp_path, 80) == by_module


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("--help",),
        ("--version",),
        ("--show-completion", "bash"),
        *((name, "--help") for name in ("run", "check", "settings", "emit", "export", "top")),
    ],
    ids=" ".join,
)
def test_help_into_what_is_full_or_closed(tmp_path: Path, command: tuple[str, ...]) -> None:
    """A disk without room is an error in one line, a reader that has gone is none."""

    def ended(redirection: str) -> subprocess.CompletedProcess[str]:
        shell = ("bash", "-c", f'"$@" {redirection}', "bash")
        # As it is for a user: what is written waits until there is enough of it.
        environ = {"PYTHONUNBUFFERED": ""}
        return run_to_end(tmp_path, prefix=shell, command=command, environ=environ)

    full = ended(">/dev/full")
    assert full.stderr == "error: cannot write to stdout: No space left on device\n"
    assert full.returncode == 1
    assert ended("| sleep 0").stderr == ""

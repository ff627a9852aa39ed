"""How `gunicorn-prom check` reports: to a person, to a program, to GitHub."""

import fcntl
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gunicorn_prom.checks import CHECKS, runner
from gunicorn_prom.checks.declare import Check
from gunicorn_prom.checks.runner import run
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.cli.report import FORMATS, explain, report
from gunicorn_prom.configuration import Configuration
from tests.support import APPS, ROOT, free_port, run_to_end
from tests.unit import test_check_runner as kinds

APP = "behave:app"
SCHEMA = json.loads((ROOT / "docs" / "check-schema.json").read_text())
KEYS = ["id", "group", "title", "status", "detail", "hint", "url", "duration_ms"]
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
ALL_KINDS = (kinds.well, kinds.twice, kinds.elsewhere, kinds.broken, kinds.hangs, kinds.remark)
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
HINT = CHECKS["GP018"].hint
NO_TIMEOUT = "timeout is 0: workers that hang are never restarted"


def check(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `gunicorn-prom check ARGUMENTS` to its end, with pipes."""
    return run_to_end(directory, *arguments, command=("check",), environ=environ)


def only_no_timeout(*arguments: str) -> tuple[str, ...]:
    """Return the arguments with which one check finds one thing."""
    return (APP, "--only=GP018", "--timeout=0", *arguments)


# By keyword: whether a value is as it says. No other keywords are in the schema.
KEYWORDS: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda value, said: isinstance(value, TYPES[said]) and not isinstance(value, bool),
    "const": lambda value, said: value == said,
    "enum": lambda value, said: value in said,
    "pattern": lambda value, said: re.search(said, value) is not None,
    "minimum": lambda value, said: value >= said,
    "required": lambda value, said: set(said) <= value.keys(),
}
REMARKS = {"$schema", "title", "description"}
NESTED = {"properties", "items", "additionalProperties"}


def assert_conforms(value: Any, schema: dict[str, Any], path: str = "$") -> None:
    """Fail unless `value` is as `schema` says.

    Source: https://json-schema.org/draft/2020-12/json-schema-validation
    """
    assert schema.keys() <= KEYWORDS.keys() | REMARKS | NESTED
    for keyword in schema.keys() & KEYWORDS.keys():
        said = schema[keyword]
        assert KEYWORDS[keyword](value, said), f"{path}: {keyword} {said}: {value!r}"
    if "properties" in schema:
        assert schema["additionalProperties"] is False
        assert value.keys() <= schema["properties"].keys(), path
        for name in value:
            assert_conforms(value[name], schema["properties"][name], f"{path}.{name}")
    if "items" in schema:
        for number, item in enumerate(value):
            assert_conforms(item, schema["items"], f"{path}[{number}]")


@pytest.fixture
def every_kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """Return a set-up in which a check that hangs is given up soon."""
    monkeypatch.setattr(runner, "LIMIT_S", 0.2)
    kinds.never.clear()
    yield Setup(Configuration([], "check", needs_application=False))
    kinds.never.set()


def reported(
    form: str,
    setup: Setup,
    capsys: pytest.CaptureFixture[str],
    *checks: Check,
    verbose: bool = False,
) -> str:
    """Return what a report says of real checks."""
    results = report(run(checks, setup), form, verbose=verbose)
    assert {result.check for result in results} == set(checks)
    return capsys.readouterr().out


# JSON


def test_every_kind_of_result_conforms(
    every_kind: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ok, warning, error, skipped, broken and hung: all of them are as the schema says."""
    document = json.loads(reported("json", every_kind, capsys, *ALL_KINDS))
    assert_conforms(document, SCHEMA)
    assert document["summary"] == {"ok": 1, "warning": 3, "error": 4, "skipped": 1}
    assert [entry["id"] for entry in document["checks"]] == [
        *("GP901", "GP902", "GP902", "GP903", "GP904", "GP904", "GP906", "GP906", "GP907"),
    ]


def test_a_real_report_conforms(tmp_path: Path) -> None:
    """All checks of a set-up with an error in it, with every entry's keys in the same order."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        bind = f"--bind=127.0.0.1:{holder.getsockname()[1]}"
        ended = check(tmp_path, APP, bind, "--timeout=0", "--format=json")
    document = json.loads(ended.stdout)
    assert_conforms(document, SCHEMA)
    assert ended.returncode == 1
    assert list(document) == ["version", "summary", "checks"]
    assert all(list(entry) == KEYS for entry in document["checks"])
    statuses = {entry["id"]: entry["status"] for entry in document["checks"]}
    assert statuses["GP006"] == "error"
    assert statuses["GP018"] == "warning"
    assert statuses.keys() == {one.id for one in CHECKS.values() if one.group != "live"}


def test_the_schema_refuses_what_is_wrong() -> None:
    """Not everything conforms: a missing key, another one, another status, another type."""
    entry = dict.fromkeys(KEYS, "") | {"id": "GP001", "group": "app", "duration_ms": 1}
    for wrong in (
        {"status": "fine"},
        {"status": "ok", "more": 1},
        {"status": "ok", "id": "GP1"},
        {"status": "ok", "duration_ms": -1},
        {"status": "ok", "detail": None},
    ):
        with pytest.raises(AssertionError):
            assert_conforms(entry | wrong, SCHEMA["properties"]["checks"]["items"])
    assert_conforms(entry | {"status": "ok"}, SCHEMA["properties"]["checks"]["items"])


# Text


def test_the_plain_text(
    every_kind: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong has its mark, its status, its id and its hint, and the end counts."""
    monkeypatch.setenv("LC_ALL", "en_US.UTF-8")
    text = reported("text", every_kind, capsys, kinds.well, kinds.twice, kinds.remark)
    assert (
        text
        == """\
Configuration
  ✗ error    GP902  the first
                    hint: mend it
  ✗ error    GP902  the second
                    hint: mend this one
  ! warning  GP907  something small
                    hint: think about it

2 errors, 1 warning, 1 ok
see gunicorn-prom check --explain GP902
"""
    )


def test_the_verbose_text(
    every_kind: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is ok is shown with what is right, what was skipped with the reason; in ASCII."""
    monkeypatch.setenv("LC_ALL", "C")
    text = reported("text", every_kind, capsys, kinds.well, kinds.elsewhere, verbose=True)
    assert (
        text
        == """\
Configuration
  + ok       GP901  all is well
  - skipped  GP903  not here

1 ok, 1 skipped
"""
    )


def test_when_all_is_well(every_kind: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    """There is one line."""
    assert reported("text", every_kind, capsys, kinds.well) == "1 ok\n"


def test_piped_text_is_plain(tmp_path: Path) -> None:
    """It has no colours, and no line is broken."""
    ended = check(tmp_path, *only_no_timeout(), TERM="xterm-256color", COLUMNS="40", LC_ALL="C")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[1] == f"  ! warning  GP018  {NO_TIMEOUT}"
    assert ended.stdout.isascii()


def test_a_stdout_that_knows_few_characters(tmp_path: Path) -> None:
    """What it cannot have is escaped, and nothing breaks."""
    name = "größe:app"
    ended = check(tmp_path, name, "--only=GP001", PYTHONIOENCODING="ascii", LC_ALL="en_US.UTF-8")
    assert ended.returncode == 1
    assert "gr\\xf6\\xdfe" in ended.stdout


# Terminals


def on_terminal(directory: Path, columns: int, *arguments: str, **environ: str) -> list[str]:
    """Return the lines that `gunicorn-prom check ARGUMENTS` shows on a terminal so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "gunicorn_prom", "check", *arguments]
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    paths = {"HOME": str(directory), "PYTHONPATH": os.pathsep.join((str(ROOT), str(APPS)))}
    terminal = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, env=inherited | paths | terminal | environ,
        cwd=directory,
    ):  # fmt: skip
        os.close(theirs)
        shown = b""
        while data := _read(ours):
            shown += data
    os.close(ours)
    return shown.decode().replace("\r\n", "\n").splitlines()


def hanging(text: str, *, columns: int, indent: int) -> list[str]:
    """Return a text in lines that all begin in the same column."""
    lines = textwrap.wrap(text, columns - indent, break_on_hyphens=False)
    return [f"{'':>{indent}}{line}" for line in lines]


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # how Linux tells that nobody has the other end any more
        return b""


def test_a_terminal_of_80_columns(tmp_path: Path) -> None:
    """It is coloured, and what does not fit goes on below where it began."""
    lines = on_terminal(tmp_path, 80, *only_no_timeout())
    assert ESCAPE.search("\n".join(lines))
    assert [ESCAPE.sub("", line) for line in lines] == [
        "Configuration",
        f"  ! warning  GP018  {NO_TIMEOUT}",
        *hanging(f"hint: {HINT}", columns=80, indent=20),
        "",
        "1 warning",
        "see gunicorn-prom check --explain GP018",
    ]


def test_a_terminal_of_40_columns(tmp_path: Path) -> None:
    """There is room for the words, for they begin on a line of their own."""
    lines = on_terminal(tmp_path, 40, *only_no_timeout())
    assert [ESCAPE.sub("", line) for line in lines[:-2]] == [
        "Configuration",
        "  ! warning  GP018",
        "    timeout is 0: workers that hang are",
        "    never restarted",
        *hanging(f"hint: {HINT}", columns=40, indent=4),
        "",
    ]


@pytest.mark.parametrize("arguments", [("--list",), ("--explain=GP018",)])
def test_texts_fit_a_narrow_terminal(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """No line is longer than the terminal, and no option is broken at its hyphens."""
    lines = on_terminal(tmp_path, 40, *arguments)
    assert lines
    assert all(len(line) <= 40 for line in lines)
    assert not any(re.search(r"(^|\s)-{1,2}$", line) for line in lines)


@pytest.mark.parametrize(
    "environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=lambda environ: next(iter(environ))
)
def test_no_colour(tmp_path: Path, environ: dict[str, str]) -> None:
    """Where colour is not wanted the same text is there without, as wide as the terminal."""
    lines = on_terminal(tmp_path, 40, *only_no_timeout(), **environ)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", "\n".join(lines))
    plain = [ESCAPE.sub("", line) for line in on_terminal(tmp_path, 40, *only_no_timeout())]
    assert [ESCAPE.sub("", line) for line in lines] == plain


def test_a_terminal_of_the_c_locale(tmp_path: Path) -> None:
    """It is given nothing but ASCII."""
    lines = on_terminal(tmp_path, 80, APP, "--verbose", LC_ALL="", LANG="C")
    assert "\n".join(lines).isascii()


# GitHub


def test_github(every_kind: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    """Problems are annotations, with what would end them escaped; then comes the summary."""
    text = reported("github", every_kind, capsys, kinds.well, kinds.twice, kinds.remark)
    assert (
        text
        == """\
::error title=gunicorn-prom GP902::the first (hint: mend it)
::error title=gunicorn-prom GP902::the second (hint: mend this one)
::warning title=gunicorn-prom GP907::something small (hint: think about it)
2 errors, 1 warning, 1 ok
"""
    )


def test_github_of_the_command(tmp_path: Path) -> None:
    """A line that begins with two colons is all that GitHub looks for."""
    ended = check(tmp_path, *only_no_timeout("--format=github"))
    assert ended.stdout.splitlines()[0].startswith(
        f"::warning title=gunicorn-prom GP018::{NO_TIMEOUT} (hint: "
    )
    assert ended.returncode == 0


# Nobody reads


def redirected(directory: Path, redirection: str, *arguments: str) -> tuple[int, str]:
    """Return exit code and stderr of the command with its stdout redirected by a shell."""
    words = [sys.executable, "-m", "gunicorn_prom", "check", *arguments]
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}; exit "${{PIPESTATUS[0]}}"', "bash", *words],
        check=False,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        cwd=directory,
        env={**os.environ, "HOME": str(directory), "PYTHONPATH": f"{ROOT}:{APPS}"},
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("redirection", ["| head -n0", "| sleep 0", ">&-"])
def test_a_stdout_that_nobody_reads(tmp_path: Path, form: str, redirection: str) -> None:
    """It is no error: the exit code tells what was found, and stderr stays empty."""
    arguments = only_no_timeout(f"--format={form}", "--strict")
    assert redirected(tmp_path, redirection, *arguments) == (3, "")
    assert redirected(tmp_path, redirection, "--list") == (0, "")


def test_a_stdout_that_is_full(tmp_path: Path) -> None:
    """It is an error in one line."""
    expected = (1, "error: cannot write to stdout: No space left on device\n")
    assert redirected(tmp_path, ">/dev/full", *only_no_timeout()) == expected
    assert redirected(tmp_path, ">/dev/full", "--list") == expected


# What is asked for


def test_list(tmp_path: Path) -> None:
    """Each check has a line with id, group, severity and title, by group."""
    ended = check(tmp_path, "--list")
    lines = ended.stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == list(CHECKS)
    (line,) = [line for line in lines if line.startswith("GP018")]
    assert line.split(maxsplit=3) == ["GP018", "config", "warning", CHECKS["GP018"].title]
    live = check(tmp_path, "--list", "--only=live").stdout.splitlines()
    assert [line.split()[0] for line in live] == ["GP034", "GP035", "GP036", "GP037", "GP038"]


@pytest.mark.parametrize("name", list(CHECKS))
def test_explain(name: str) -> None:
    """What, why, how to mend it and how to silence it are there for every check."""
    said = " ".join(explain(CHECKS[name]).split())
    declared = CHECKS[name]
    for part in (declared.title, declared.what, declared.why, declared.fix, declared.hint):
        assert part in said
    assert f"gunicorn-prom check --ignore {name}" in said


def test_explain_in_small_letters(tmp_path: Path) -> None:
    """An id may be typed in small letters."""
    ended = check(tmp_path, "--explain", "gp018")
    assert ended.returncode == 0
    assert ended.stdout == check(tmp_path, "--explain=GP018").stdout


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("--explain=GP18",), "there is no check GP18", "did you mean GP018?"),
        (("--only=GP018,hots",), "there is no check hots", "did you mean host?"),
        (("--ignore=gp9999",), "there is no check gp9999", ""),
        (("--explain=xyz",), "there is no check xyz", "see `gunicorn-prom check --list`"),
        (
            ("--only=GP035,GP036",),
            "no running server to examine for GP035, GP036",
            "--live http://HOST:PORT",
        ),
        (("--format=yaml",), "argument --format: invalid choice: ", ""),
    ],
)
def test_usage(tmp_path: Path, arguments: tuple[str, ...], error: str, hint: str) -> None:
    """A mistake is one line on stderr with what was meant, and exit code 2."""
    ended = check(tmp_path, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error: {error}")
    assert hint in ended.stderr.splitlines()[1]


def chosen(directory: Path, *arguments: str) -> set[str]:
    """Return the ids of the checks that are made."""
    ended = check(directory, APP, "--format=json", *arguments)
    return {entry["id"] for entry in json.loads(ended.stdout)["checks"]}


def test_only_and_ignore(tmp_path: Path) -> None:
    """Ids and groups, in any letters, together and several times; what is ignored is left out."""
    config = {one.id for one in CHECKS.values() if one.group == "config"}
    assert chosen(tmp_path, "--only=config") == config
    assert chosen(tmp_path, "--only=gp018, GP005") == {"GP005", "GP018"}
    assert chosen(tmp_path, "--only=GP018", "--only=GP005") == {"GP005", "GP018"}
    assert chosen(tmp_path, "--only=config", "--ignore=GP018") == config - {"GP018"}
    ended = check(tmp_path, APP, "--only=GP018", "--ignore=config")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: no check is left by --only and --ignore\n")
    assert check(tmp_path, APP, "--only=").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        ((), 0),
        (("--strict",), 3),
        (("--fail-level=warning",), 1),
        (("--fail-level=warning", "--strict"), 1),
        (("--fail-level=none",), 0),
    ],
)
def test_exit_codes_of_a_warning(
    tmp_path: Path, arguments: tuple[str, ...], exit_code: int
) -> None:
    """A warning fails only where that is asked for."""
    assert check(tmp_path, *only_no_timeout(*arguments)).returncode == exit_code


@pytest.mark.parametrize(
    ("arguments", "exit_code"), [((), 1), (("--strict",), 1), (("--fail-level=none",), 0)]
)
def test_exit_codes_of_an_error(tmp_path: Path, arguments: tuple[str, ...], exit_code: int) -> None:
    """An error fails unless nothing is to."""
    live = (f"--live=http://127.0.0.1:{free_port()}", "--only=GP036")
    assert check(tmp_path, *live, *arguments).returncode == exit_code


def test_what_the_configuration_prints_is_no_report(tmp_path: Path) -> None:
    """The document is whole whatever the file writes to stdout, and it finds what `run` sets."""
    (tmp_path / "conf.py").write_text(
        "import os\nprint('{}')\nos.write(1, b'{}')\nos.environ['PROMETHEUS_MULTIPROC_DIR']\n"
    )
    ended = check(tmp_path, APP, "--config=conf.py", "--only=GP018", "--format=json")
    assert json.loads(ended.stdout)["summary"]["ok"] == 1
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    ended = check(tmp_path, APP, "--config=ends.py")
    error = "error: the configuration file ends.py ends the process with 0"
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (2, error)


def test_a_thread_of_the_configuration_keeps_nobody(tmp_path: Path) -> None:
    """The command ends when it has reported."""
    (tmp_path / "conf.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    )
    assert check(tmp_path, APP, "--config=conf.py", "--only=GP018").returncode == 0


def test_a_hook_may_be_what_the_application_needs(tmp_path: Path) -> None:
    """GP001 is only a warning where hooks run before the import that the check does not call."""
    (tmp_path / "needy.py").write_text("import os\nos.environ['WORKER']\n")
    (tmp_path / "conf.py").write_text("def post_fork(server, worker):\n    pass\n")
    options = ("needy:app", "--only=GP001", "--format=json")
    statuses = [
        json.loads(check(tmp_path, *options, *more).stdout)["checks"][0]["status"]
        for more in ((), ("--config=conf.py",))
    ]
    assert statuses == ["error", "warning"]

"""Completion in real shells: bash, zsh and fish propose every option and its values."""

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from gunicorn.config import KNOWN_SETTINGS, Config

from gunicorn_prom.checks import CHECKS
from gunicorn_prom.checks.declare import GROUPS
from gunicorn_prom.cli.values import of_gunicorn, values_of
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.workers import WORKER_TYPES
from scripts import generate
from tests import shells
from tests.real_parts import find_program, unavailable
from tests.support import DEADLINE_S, ROOT

real_parts = pytest.mark.real_parts

COMPLETIONS = ROOT / "completions"
BASH_FILE = COMPLETIONS / "gunicorn-prom.bash"
FISH_FILE = COMPLETIONS / "gunicorn-prom.fish"
BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
BUILD_TIMEOUT_S = 100.0
COMMANDS = {"run", "check", "settings", "metrics", "export", "top", "emit"}

# What is typed after the program's name, and what stands there after TAB.
CASES = {
    "me": "metrics",
    "--vers": "--version",
    "run --worker-ty": "run --worker-type",
    "run --metrics-sta": "run --metrics-state-dir",
    "run --no-app": "run --no-app-metrics",
    "run --max-requests-j": "run --max-requests-jitter",
    "run app:app --prelo": "run app:app --preload",
    "run --workers 3 --worker-ty": "run --workers 3 --worker-type",
    "run --worker-type gt": "run --worker-type gthread",
    "run --worker-type=gt": "run --worker-type=gthread",
    "run -k gt": "run -k gthread",
    "run --log-level d": "run --log-level debug",
    "run --metrics-server p": "run --metrics-server process",
    "run --http-protocols h1,h2": "run --http-protocols h1,h2",
    "run --user roo": "run --user root",
    "run --certfile ce": "run --certfile cert.pem",
    "run --certfile=ce": "run --certfile=cert.pem",
    "run -c co": "run -c conf.py",
    "run --metrics-web-config we": "run --metrics-web-config web.yml",
    "run --chdir sr": "run --chdir src/",
    "run --chdir=sr": "run --chdir=src/",
    "run --metrics-state-dir sr": "run --metrics-state-dir src/",
    "run ap": "run app:",
    "run src.w": "run src.wsgi:",
    "check --only GP018": "check --only GP018",
    "check --only GP018,se": "check --only GP018,security",
    "check --ignore=GP018,GP017": "check --ignore=GP018,GP017",
    "check --explain GP018": "check --explain GP018",
    "check --format g": "check --format github",
    "check --fail-level w": "check --fail-level warning",
    "check --worker-type gt": "check --worker-type gthread",
    "settings --format j": "settings --format json",
    "settings --cha": "settings --changed",
    "settings worker_cl": "settings worker_class",
    "metrics --format m": "metrics --format markdown",
    "export --metrics-b": "export --metrics-bind",
    "export sr": "export src/",
    "export web=sr": "export web=src/",
}
# Where nothing is proposed, nothing is written either.
WITHOUT_PROPOSALS = [
    "run --timeout ",
    "run --bind 127.0.0.1:80",
    "run --worker-type nop",
    "run app:a",
]

cases = pytest.mark.parametrize(("typed", "expected"), CASES.items(), ids=CASES)
without_proposals = pytest.mark.parametrize("typed", WITHOUT_PROPOSALS)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which every case has one answer."""
    directory = tmp_path_factory.mktemp("project")
    (directory / "src").mkdir()
    for name in ("app.py", "cert.pem", "conf.py", "web.yml", "sr-file", "src/wsgi.py"):
        (directory / name).touch()
    return directory


@pytest.fixture(scope="module")
def bash(project: Path) -> Iterator[shells.Shell]:
    """A bash that has read the file, without the package bash-completion."""
    find_program("bash", "bash")
    with shells.bash(project, "--norc") as shell:
        shell.run(f". {BASH_FILE}")
        yield shell


@pytest.fixture(scope="module")
def zsh(project: Path) -> Iterator[shells.Shell]:
    """A zsh that finds the file in its fpath."""
    find_program("zsh", "zsh")
    with shells.zsh(project) as shell:
        shell.run(f"fpath=({COMPLETIONS} $fpath)")
        shell.run("autoload -Uz compinit; compinit -u -d $HOME/.zcompdump")
        yield shell


def completed(shell: shells.Shell, typed: str) -> str:
    """Type a command line and TAB; return it without what ends the word or begins the next."""
    shell.press(f"gunicorn-prom {typed}{shells.TAB}")
    return shell.line().removeprefix("gunicorn-prom ").rstrip(" =,")


def proposals_of_fish(directory: Path, typed: str) -> list[str]:
    """Return what fish proposes for the last word of a command line."""
    fish = find_program("fish", "fish")
    line = shlex.quote(f"gunicorn-prom {typed}")
    finished = subprocess.run(
        [fish, "--no-config", "-c", f"source {FISH_FILE}; complete -C {line}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=directory,
        env=os.environ | {"HOME": str(directory), "LC_ALL": "C.UTF-8"},
    )
    assert not finished.stderr
    return [line.partition("\t")[0] for line in finished.stdout.splitlines()]


def proposals_of_bash(directory: Path, typed: str) -> set[str]:
    """Return what the function of bash proposes for the last word of a command line."""
    bash = find_program("bash", "bash")
    line = f"gunicorn-prom {typed}"
    # As bash does: = is a word of its own, and what is to be replaced begins after it.
    words = line.replace("=", " = ").rstrip().split()
    last = "" if line.endswith((" ", "=")) else words[-1]
    if line.endswith(" "):
        words.append("")
    script = f"""
        . {BASH_FILE}
        compopt() {{ :; }}
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE=$LINE COMP_POINT=${{#LINE}}
        _gunicorn_prom gunicorn-prom {shlex.quote(last)} "${{COMP_WORDS[COMP_CWORD - 1]}}"
        ((${{#COMPREPLY[@]}} == 0)) || printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    finished = subprocess.run(
        [bash, "-c", script, "bash", *words],
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd=directory,
        env=os.environ | {"LINE": line},
    )
    assert not finished.stderr
    return set(finished.stdout.split())


@pytest.mark.parametrize("path", [path for path in generate.FILES if "completions" in path])
def test_the_files_are_those_that_the_declarations_make(path: str) -> None:
    """A completion that is not as it would be made now is stale."""
    stale = "run `python -m scripts.generate`"
    assert (ROOT / path).read_text() == generate.FILES[path](), stale


@real_parts
@cases
def test_bash_completes(bash: shells.Shell, typed: str, expected: str) -> None:
    """TAB in bash ends the word as it is the only one possible."""
    assert completed(bash, typed) == expected


@real_parts
@without_proposals
def test_bash_proposes_nothing_where_it_knows_nothing(bash: shells.Shell, typed: str) -> None:
    """A number, an address or a wrong word stays as it is."""
    assert completed(bash, typed) == typed.rstrip()


@real_parts
@cases
def test_zsh_completes(zsh: shells.Shell, typed: str, expected: str) -> None:
    """TAB in zsh ends the word as it is the only one possible."""
    assert completed(zsh, typed) == expected


@real_parts
@without_proposals
def test_zsh_proposes_nothing_where_it_knows_nothing(zsh: shells.Shell, typed: str) -> None:
    """A number, an address or a wrong word stays as it is."""
    assert completed(zsh, typed) == typed.rstrip()


@real_parts
@cases
def test_fish_completes(project: Path, typed: str, expected: str) -> None:
    """Fish proposes one word."""
    proposals = proposals_of_fish(project, typed)
    assert [proposal.rstrip("=") for proposal in proposals] == [expected.rpartition(" ")[2]]


@real_parts
@without_proposals
def test_fish_proposes_nothing_where_it_knows_nothing(project: Path, typed: str) -> None:
    """A number, an address or a wrong word has no proposals."""
    assert proposals_of_fish(project, typed) == []


@real_parts
def test_every_shell_proposes_the_commands(project: Path, zsh: shells.Shell) -> None:
    """TAB after the program's name shows all commands."""
    assert proposals_of_bash(project, "") == COMMANDS
    assert set(proposals_of_fish(project, "")) >= COMMANDS
    zsh.press(f"gunicorn-prom {shells.TAB}")
    zsh.wait_for(*COMMANDS, "Start Gunicorn with metrics")
    zsh.line()


@real_parts
def test_every_shell_proposes_every_option(project: Path, zsh: shells.Shell) -> None:
    """TAB after a dash shows every option that `run` takes, also a new one of Gunicorn's."""
    parser = Configuration(["app:app"]).cfg.parser()
    longer = {name for name in parser._option_string_actions if name.startswith("--")}
    longer.remove("--version")
    assert proposals_of_bash(project, "run --") == longer
    assert {name.rstrip("=") for name in proposals_of_fish(project, "run --")} == longer
    for name in sorted(longer):
        typed = name[:-1]
        others = [other for other in longer if other.startswith(typed)]
        ending = os.path.commonprefix(others)  # noqa: RUF071  # by character, as TAB does it
        assert completed(zsh, f"run {typed}") == f"run {ending}"


@real_parts
def test_every_shell_proposes_the_worker_types(project: Path, zsh: shells.Shell) -> None:
    """TAB after `--worker-type` shows all that there are."""
    types = set(WORKER_TYPES)
    assert proposals_of_bash(project, "run --worker-type ") == types
    assert proposals_of_bash(project, "run --worker-type=") == types
    assert set(proposals_of_fish(project, "run --worker-type ")) == types
    zsh.press(f"gunicorn-prom run --worker-type {shells.TAB}")
    zsh.wait_for(*types)
    zsh.line()


@real_parts
def test_every_shell_proposes_the_checks(project: Path, zsh: shells.Shell) -> None:
    """TAB after `check --only` shows all checks and groups, and what each is about."""
    ids = {*CHECKS, *GROUPS}
    assert proposals_of_bash(project, "check --only ") == ids
    assert set(proposals_of_fish(project, "check --only ")) == ids
    zsh.press(f"gunicorn-prom check --only GP01{shells.TAB}")
    zsh.wait_for("GP018", CHECKS["GP018"].title)
    zsh.line()


@real_parts
def test_bash_without_equals_among_its_word_breaks(project: Path) -> None:
    """Who has taken = out of COMP_WORDBREAKS gets the whole word."""
    with shells.bash(project, "--norc") as shell:
        shell.run(f". {BASH_FILE}; COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}")
        assert completed(shell, "run --worker-type=gt") == "run --worker-type=gthread"
        assert completed(shell, "run --certfile=ce") == "run --certfile=cert.pem"


@real_parts
def test_bash_completion_finds_the_file_by_itself(project: Path, tmp_path: Path) -> None:
    """The package bash-completion loads it from where the wheel puts it, at the first TAB."""
    if not BASH_COMPLETION.exists():
        unavailable("bash-completion is not installed (Debian: bash-completion)")
    data = tmp_path / "share"
    target = data / "bash-completion" / "completions" / "gunicorn-prom"
    target.parent.mkdir(parents=True)
    target.symlink_to(BASH_FILE)
    with shells.bash(project, "--norc", environ={"XDG_DATA_HOME": str(data)}) as shell:
        shell.run(f". {BASH_COMPLETION}")
        assert completed(shell, "run --worker-type=gt") == "run --worker-type=gthread"
        assert completed(shell, "check --only GP018,se") == "check --only GP018,security"


@real_parts
def test_zsh_can_source_the_file(project: Path) -> None:
    """After compinit, sourcing it does what fpath does."""
    find_program("zsh", "zsh")
    with shells.zsh(project) as shell:
        shell.run("autoload -Uz compinit; compinit -u -d $HOME/.zcompdump")
        shell.run(f"source {COMPLETIONS}/_gunicorn-prom")
        assert completed(shell, "run --worker-type=gt") == "run --worker-type=gthread"
    assert (COMPLETIONS / "_gunicorn-prom").read_text().startswith("#compdef gunicorn-prom\n")


@real_parts
def test_typers_own_completion(tmp_path: Path) -> None:
    """What `--install-completion` leaves in HOME completes commands, options and values."""
    program = tmp_path / "bin" / "gunicorn-prom"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gunicorn_prom "$@"\n')
    program.chmod(0o755)
    environ = {
        "PATH": os.pathsep.join((str(program.parent), os.environ["PATH"])),
        "PYTHONPATH": str(ROOT),
    }
    with shells.bash(tmp_path, environ=environ) as shell:
        shell.run("gunicorn-prom --install-completion", "bash completion installed")
    with shells.bash(tmp_path, environ=environ) as shell:
        assert completed(shell, "me") == "metrics"
        assert completed(shell, "run --worker-ty") == "run --worker-type"
        assert (
            completed(shell, "run app:app --worker-type gt") == "run app:app --worker-type gthread"
        )
        assert completed(shell, "check --explain GP018") == "check --explain GP018"


def test_every_word_that_is_proposed_is_taken() -> None:
    """A setting takes each of the words that are proposed for it."""
    for setting in KNOWN_SETTINGS:
        for word in values_of(setting.name, setting.meta).words if setting.cli else ():
            value = int(word) if word.isdigit() else word
            Config().set(setting.name, value)


def test_what_every_option_takes_is_known() -> None:
    """An option of a new Gunicorn has to be entered in gunicorn_prom/cli/values.py."""
    unknown = [o.names[-1] for o in of_gunicorn() if o.values and o.values.kind == "unknown"]
    assert unknown == []


@real_parts
def test_the_wheel_has_them_where_the_shells_look(tmp_path: Path) -> None:
    """Installed below a prefix, each file is where its shell looks for it below /usr."""
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if uv is None:
        unavailable("uv is not installed (PyPI: uv)")
    built = subprocess.run(
        [uv, "build", "--quiet", "--wheel", f"--out-dir={tmp_path}", str(ROOT)],
        check=False,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            found[name.partition(".data/data/")[2]] = archive.read(name)
    assert found["share/bash-completion/completions/gunicorn-prom"] == BASH_FILE.read_bytes()
    assert found["share/fish/vendor_completions.d/gunicorn-prom.fish"] == FISH_FILE.read_bytes()
    zsh_file = COMPLETIONS / "_gunicorn-prom"
    assert found["share/zsh/site-functions/_gunicorn-prom"] == zsh_file.read_bytes()

"""The project's tasks. `nox` runs the default ones, `nox --list` shows all of them."""

import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.11.12"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
# Apart for each Python: nox would go on using the environments of another one.
nox.options.envdir = f".nox/{sys.implementation.cache_tag}"
nox.options.sessions = ["lint", "typecheck", "docs", "tests", "compat"]

# Most tests wait for servers, so four processes pay even on two cores. `loadfile` keeps the
# tests that share a server together; in what order the files come, tests/conftest.py says.
PARALLEL_TESTS = ("--numprocesses=4", "--dist=loadfile", "--no-loadscope-reorder")
# A test that changes a module twice in a second would get the bytecode of the first.
TEST_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1"}

# The lock records no other index, wherever it is made.
PUBLIC_INDEX = "--default-index=https://pypi.org/simple"


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and that the lock belongs to pyproject.toml."""
    install(session, groups=["lint"], project=False)
    session.run("uv", "lock", "--check", PUBLIC_INDEX)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the types of the package."""
    install(session, groups=["gunicorn-newest", "typing"], extras=["all"])
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation as a site, without a warning."""
    install(session, groups=["docs"], project=False)
    session.run("zensical", "build", "--strict", "--clean")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the unit and integration tests on the newest Gunicorn."""
    arguments = choose_tests(session, "tests/unit", "tests/integration")
    install(session, groups=["gunicorn-newest", "tests"], extras=["all"])
    compile_modules(session)
    run_pytest(session, arguments)


@nox.session
@nox.parametrize(
    ("group", "extras"),
    [
        nox.param("gunicorn-23", ["all"], id="gunicorn-23.0"),
        nox.param("gunicorn-25", ["all", "eventlet"], id="gunicorn-25.3-eventlet"),
    ],
)
def compat(session: nox.Session, group: str, extras: list[str]) -> None:
    """Run the compatibility tests on older Gunicorns."""
    arguments = choose_tests(session, "tests/compat")
    install(session, groups=[group, "tests"], extras=extras)
    compile_modules(session)
    run_pytest(session, arguments)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Compare with bare Gunicorn and other exporters, in environments that bench/ makes itself."""
    session.run(sys.executable, "-m", "bench", *session.posargs)


@nox.session
def generate(session: nox.Session) -> None:
    """Make what follows from declarations: pages of the documentation and completions."""
    install(session, groups=["gunicorn-newest"], extras=["all"])
    session.run("python", "-m", "scripts.generate", *session.posargs)


@nox.session
def pictures(session: nox.Session) -> None:
    """Make the pictures of the documentation anew."""
    install(session, groups=["gunicorn-newest", "tests"], extras=["all"])
    session.run("python", "-m", "scripts.pictures")
    session.run("python", "-m", "scripts.page_pictures")


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    """Make uv.lock and scripts/tools.txt anew, with the newest releases."""
    session.run("uv", "lock", "--upgrade", PUBLIC_INDEX)
    session.run(
        "uv",
        "export",
        "--frozen",
        "--only-group=tools",
        "--no-header",
        "--output-file=scripts/tools.txt",
        silent=True,
    )


def install(
    session: nox.Session,
    *,
    groups: list[str],
    extras: list[str] | None = None,
    project: bool = True,
) -> None:
    """Install into the session's environment what uv.lock says."""
    environment = session.virtualenv.location
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        "--frozen",
        f"--python={environment}/bin/python",
        "--no-default-groups",
        *(f"--group={group}" for group in groups),
        *(f"--extra={extra}" for extra in extras or []),
        *([] if project else ["--no-install-project"]),
        env={"UV_PROJECT_ENVIRONMENT": environment, "UV_PYTHON_DOWNLOADS": "never"},
    )


def compile_modules(session: nox.Session) -> None:
    """Write the bytecode of all that is installed, for the tests start Python thousands of times.

    uv writes none, and PYTHONDONTWRITEBYTECODE may keep Python from it; then every start of a
    server compiles every module, which is half of its work.
    """
    folders = (f"{session.virtualenv.location}/lib", "gunicorn_prom", "tests/apps")
    compiles_all_but_some = (0, 1)
    command = ("python", "-m", "compileall", "-q", "--workers=0", *folders)
    session.run_install(*command, success_codes=compiles_all_but_some)


def choose_tests(session: nox.Session, *folders: str) -> list[str]:
    """Return pytest's arguments: the user's, with only those paths that lie in the folders."""
    paths = [argument for argument in session.posargs if is_path(argument)]
    ours = [path for path in paths if path.startswith(folders)]
    if paths and not ours:
        session.skip(f"no given path is in {' or '.join(folders)}")
    options = [argument for argument in session.posargs if argument not in paths]
    return [*options, *(ours or folders)]


def run_pytest(session: nox.Session, arguments: list[str]) -> None:
    """Run pytest, which may find nothing to run only where the user chose the tests."""
    nothing_collected = 5
    success_codes = [0, nothing_collected] if session.posargs else [0]
    session.run(
        "pytest", *PARALLEL_TESTS, *arguments, env=TEST_ENVIRONMENT, success_codes=success_codes
    )


def is_path(argument: str) -> bool:
    """Tell a path, or a test's id that begins with one, from an option or its value."""
    return os.sep in argument and Path(argument.partition("::")[0]).exists()

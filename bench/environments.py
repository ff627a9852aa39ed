"""Virtual environments of the contenders, made with pip in `.bench/`."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

__all__ = ["GUNICORN_23", "NEWEST", "PROJECT_ROOT", "Environment"]

PROJECT_ROOT = Path(__file__).resolve().parent.parent
_BUILD_DIRECTORY = PROJECT_ROOT / ".bench"

_VERSIONS_SCRIPT = """
import importlib.metadata, json, platform, sys
versions = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment: a name and what pip installs into it."""

    name: str
    requirements: tuple[str, ...]

    @property
    def directory(self) -> Path:
        return _BUILD_DIRECTORY / self.name

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    def script(self, name: str) -> Path:
        """Return the path of a console script."""
        return self.directory / "bin" / name

    def prepare(self, *, fresh: bool = False) -> None:
        """Create the environment, unless it is there with the same requirements.

        Args:
            fresh: Make it anew in any case, with the newest versions allowed.
        """
        stamp = self.directory / "requirements.stamp"
        wanted = "\n".join((sys.version, *self.requirements))
        if not fresh and stamp.exists() and stamp.read_text() == wanted:
            return
        _make_build_directory()
        shutil.rmtree(self.directory, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(self.directory)])
        self._pip_install(*self.requirements)
        stamp.write_text(wanted)

    def install_project(self) -> None:
        """Install the project as it is now, unless that was done already."""
        stamp = self.directory / "project.stamp"
        digest = _digest_project()
        if stamp.exists() and stamp.read_text() == digest:
            return
        self._pip_install(str(PROJECT_ROOT))
        stamp.write_text(digest)

    def versions(self, *names: str) -> dict[str, str]:
        """Return the versions of Python and of those packages that are installed."""
        output = _run([str(self.python), "-c", _VERSIONS_SCRIPT, *names])
        versions: dict[str, str] = json.loads(output)
        return versions

    def _pip_install(self, *requirements: str) -> None:
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", *requirements])


NEWEST = Environment(
    "newest",
    (
        "gunicorn[gevent]",
        "prometheus-client",
        "uvicorn[standard]",
        "uvicorn-worker",
        "fastapi",
        "prometheus-fastapi-instrumentator",
    ),
)
GUNICORN_23 = Environment(
    "gunicorn-23",
    ("gunicorn==23.0.0", "gevent", "gunicorn-prometheus-exporter==0.2.4"),
)


def _make_build_directory() -> None:
    _BUILD_DIRECTORY.mkdir(exist_ok=True)
    (_BUILD_DIRECTORY / ".gitignore").write_text("*\n")


def _digest_project() -> str:
    digest = hashlib.sha256()
    sources = sorted((PROJECT_ROOT / "gunicorn_prom").rglob("*"))
    for path in [PROJECT_ROOT / "pyproject.toml", *sources]:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _run(command: list[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout

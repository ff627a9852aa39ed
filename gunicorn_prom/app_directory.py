"""Where the application's own prometheus_client keeps its numbers.

prometheus_client decides what it is when it is imported: only with
PROMETHEUS_MULTIPROC_DIR in the environment it keeps its values in files, one set for
each process. So the variable is set before anything of the user's runs, the
configuration file included, while the directory it should name is known only
afterwards: the value is looked at anew for each metric that is made. The directory
that was announced stays in use if something has been made in it meanwhile.
"""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from gunicorn_prom.app_metrics import VARIABLE

__all__ = ["AppDirectory", "announce"]

_PREFIX = "gunicorn-prom-app-"
_announced: Path | None = None


def announce() -> None:
    """Set the variable, unless the user has; call it before the configuration is read."""
    global _announced  # noqa: PLW0603  # the environment is global as well
    if VARIABLE in os.environ:
        return
    # Where there is no room, the application's metrics stay what they would be without us.
    with suppress(OSError):
        _announced = Path(tempfile.mkdtemp(prefix=_PREFIX))
        os.environ[VARIABLE] = str(_announced)
        atexit.register(withdraw)  # the process may come to nothing


def withdraw() -> None:
    """Take back what was announced, unless it is in use."""
    global _announced  # noqa: PLW0603  # see announce
    if _announced is not None:
        with suppress(OSError):  # somebody has made a metric in it
            _announced.rmdir()
        if os.environ.get(VARIABLE) == str(_announced):
            del os.environ[VARIABLE]
        _announced = None


class AppDirectory:
    """The directory of the application's metrics, in the master.

    Attributes:
        path: None when they are not to be served.
        is_ours: made for this run; else it is what the user has set.
    """

    def __init__(self, path: Path | None, *, is_ours: bool) -> None:
        self.path = path
        self.is_ours = is_ours
        self._owner: tuple[int, int] | None = None

    @classmethod
    def announced(cls, cfg: Any) -> "AppDirectory":
        """Return the directory that the environment names; none when `cfg` wants none."""
        users = cfg.env.get(VARIABLE)  # what `--env` sets in the workers
        if users or not cfg.app_metrics:
            withdraw()
            return cls(Path(users) if users and cfg.app_metrics else None, is_ours=False)
        found = os.environ.get(VARIABLE)
        path = Path(found) if found else None
        return cls(path, is_ours=path is not None and path == _announced)

    def settle(self, better: Path, uid: int, gid: int) -> None:
        """Move to `better` if the directory is ours and nothing is in it; else link to it.

        Args:
            better: where readers look for it.
            uid: of the workers, who write there.
            gid: of the workers.

        Raises:
            OSError: it cannot be made.
        """
        if self.path is None:
            return
        self._owner = (uid, gid) if uid != os.geteuid() else None
        if self.is_ours:
            with suppress(OSError):
                self.path.rmdir()
                self.path = better
                os.environ[VARIABLE] = str(better)
        if self.path == better:
            self.restore()
        else:
            with suppress(FileExistsError):
                better.symlink_to(self.path.absolute())

    def restore(self) -> None:
        """Make the directory if it is missing: without it no worker could boot.

        Raises:
            OSError: it cannot be made.
        """
        if self.path is None or not self.is_ours or self.path.is_dir():
            return
        self.path.mkdir(mode=0o700, parents=True)
        if self._owner is not None:
            os.chown(self.path, *self._owner)
            # The workers must come through, which is not to say that they can look around.
            for parent in self.path.parents[:2]:
                parent.chmod(0o711)

    def pass_on(self, environ: dict[str, str]) -> None:
        """See that the next generation does not take our directory for the user's."""
        if self.is_ours:
            environ.pop(VARIABLE, None)

    def remove(self) -> None:
        """Delete at the end what was announced and used; the rest goes with the state."""
        if self.is_ours and self.path is not None and self.path == _announced:
            shutil.rmtree(self.path, ignore_errors=True)

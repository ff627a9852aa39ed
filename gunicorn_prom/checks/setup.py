"""What the checks look at: the configuration, the host, the application, a running server."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gunicorn_prom.checks.probe import AppReport, probe
from gunicorn_prom.configuration import Configuration

if TYPE_CHECKING:
    from gunicorn_prom.checks.endpoint import Endpoint, Scrape

__all__ = ["Setup"]


class Setup:
    """One set-up of a server, as `run` with the same options would have it.

    Args:
        configuration: as `run` would use it.
        live_url: of the metrics server of a running server, None: none is asked.
        environ: of the process.
        proc: where proc is mounted.
        cgroups: where the cgroup file systems are mounted.

    Attributes:
        cfg: Gunicorn's configuration with our settings in it.
    """

    def __init__(
        self,
        configuration: Configuration,
        live_url: str | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        self.configuration = configuration
        self.cfg: Any = configuration.cfg
        self.live_url = live_url
        self.environ = environ
        self.proc = proc
        self.cgroups = cgroups

    @cached_property
    def app(self) -> AppReport:
        """What happens when the application is imported, in a process of its own."""
        return probe(self.configuration)

    @cached_property
    def endpoint(self) -> "Endpoint":
        """The metrics endpoint of the running server.

        Raises:
            UsageError: its URL is none.
        """
        from gunicorn_prom.checks.endpoint import Endpoint  # not wanted where `run` looks

        return Endpoint(self.live_url or "", self.cfg.metrics_path)

    @cached_property
    def scrape(self) -> "Scrape":
        """What the metrics of the running server are, or why there are none; asked for once."""
        return self.endpoint.scrape()

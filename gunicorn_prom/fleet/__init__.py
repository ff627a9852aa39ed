"""What `gunicorn-prom emit` makes: a module for each kind of file, each with `files(plan)`."""

from importlib import import_module
from typing import NamedTuple

from gunicorn_prom.fleet.plan import File, Plan

__all__ = ["KINDS", "Kind", "files_of"]


class Kind(NamedTuple):
    """What can be emitted.

    Attributes:
        name: as it is asked for.
        about: what it is, one sentence.
        has_application: it has the application and its options in it.
        is_container: it is for an image that is made of the directory where it was emitted.
        module: in this package, with `files(plan: Plan) -> list[File]`.
    """

    name: str
    about: str
    has_application: bool = False
    is_container: bool = False

    @property
    def module(self) -> str:
        """The module that makes it, imported only when it is asked for."""
        return f"{__name__}.{self.name}"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("dashboard", "A Grafana dashboard."),
        Kind("alerts", "Alerting and recording rules of Prometheus, and their unit tests."),
        Kind("scrape", "A Prometheus configuration that scrapes the servers."),
        Kind(
            "podmonitor",
            "A Kubernetes Deployment with probes, its Service and its PodMonitor.",
            has_application=True,
            is_container=True,
        ),
        Kind("keda", "A KEDA ScaledObject that scales the Deployment on its saturation."),
        Kind(
            "compose",
            "The application, Prometheus, Alertmanager and Grafana for Compose.",
            has_application=True,
            is_container=True,
        ),
        Kind("systemd", "A unit and a socket for systemd.", has_application=True),
        Kind(
            "dockerfile",
            "A Dockerfile for the application.",
            has_application=True,
            is_container=True,
        ),
    )
}


def files_of(kind: str, plan: Plan) -> list[File]:
    """Make the files of `kind`, one of KINDS, the main one first.

    Raises:
        UsageError: there are none for this configuration.
    """
    files: list[File] = import_module(KINDS[kind].module).files(plan)
    return files

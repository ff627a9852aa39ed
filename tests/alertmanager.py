"""A real Alertmanager, and the webhook that it tells of alerts."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.real_parts import find_program
from tests.support import QuietHandler, free_port, http_server, is_answered, wait_for


class Alertmanager(NamedTuple):
    """An Alertmanager that runs.

    Attributes:
        port: of its API.
        told: the alerts that its webhook has got, each as Alertmanager words it.
    """

    port: int
    told: list[dict[str, Any]]


@contextlib.contextmanager
def running_alertmanager(directory: Path) -> Iterator[Alertmanager]:
    """Run one that tells a webhook of each alert by itself and at once, until the block ends."""
    program = find_program("prometheus-alertmanager", "prometheus-alertmanager")
    told: list[dict[str, Any]] = []
    with _webhook(told) as webhook_port:
        receiver = {"url": f"http://127.0.0.1:{webhook_port}/", "send_resolved": False}
        configuration = {
            "route": {
                "receiver": "webhook",
                "group_by": ["..."],
                "group_wait": "1s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [{"name": "webhook", "webhook_configs": [receiver]}],
        }
        path = directory / "alertmanager.yml"
        path.write_text(json.dumps(configuration))
        port = free_port()
        command = [
            program,
            f"--config.file={path}",
            f"--storage.path={directory / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        environ = {"PATH": os.environ["PATH"], "HOME": str(directory)}
        with (directory / "alertmanager.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
        try:
            wait_for(lambda: is_answered(port), "Alertmanager")
            yield Alertmanager(port, told)
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def _webhook(told: list[dict[str, Any]]) -> Iterator[int]:
    """Note the alerts that are posted, until the block ends; yield the port."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.extend(json.loads(body)["alerts"])
            self.send_response(200)
            self.end_headers()

    with http_server(Handler) as port:
        yield port

"""A real Prometheus that scrapes a server under test."""

import contextlib
import json
import os
import subprocess
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.real_parts import find_program
from tests.support import free_port, is_answered, request, wait_for


@contextlib.contextmanager
def running_prometheus(
    directory: Path,
    target_port: int,
    *options: str,
    more_ports: Sequence[int] = (),
    rule_files: Sequence[Path] = (),
) -> Iterator[int]:
    """Run a Prometheus that scrapes targets and evaluates rules every second; yield its port."""
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": list(map(str, rule_files)),
        "scrape_configs": [
            {
                "job_name": "gunicorn",
                "static_configs": [
                    {"targets": [f"127.0.0.1:{port}" for port in (target_port, *more_ports)]}
                ],
            }
        ],
    }
    (directory / "prometheus.yml").write_text(json.dumps(configuration))
    with prometheus_on(directory / "prometheus.yml", *options) as port:
        yield port


@contextlib.contextmanager
def prometheus_on(configuration: Path, *options: str) -> Iterator[int]:
    """Run a Prometheus on a configuration, beside which it keeps its data; yield its port."""
    program = find_program("prometheus", "prometheus")
    port, directory = free_port(), configuration.parent
    command = [
        program,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *options,
    ]
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    with (directory / "prometheus.log").open("wb") as log:
        prometheus = subprocess.Popen(command, stdout=log, stderr=log, env=environ)
    try:
        wait_for(lambda: is_answered(port), "Prometheus")
        yield port
    finally:
        prometheus.terminate()
        prometheus.wait(30)


def query(port: int, expression: str) -> dict[tuple[str, ...], float]:
    """Return the values of an instant query by their labels but for those of the target."""
    data = ask(port, f"query?query={urllib.parse.quote(expression)}")
    return {
        tuple(
            value
            for name, value in result["metric"].items()
            if name not in {"__name__", "instance", "job"}
        ): float(result["value"][1])
        for result in data["result"]
    }


def ask(port: int, target: str) -> Any:
    """Return the data that the API answers."""
    answer = request(port, f"/api/v1/{target}")
    assert answer.status == 200, answer.text
    return json.loads(answer.text)["data"]


def promtool(directory: Path, *arguments: str) -> str:
    """Run promtool in a directory, which has to succeed; return what it prints."""
    program = find_program("promtool", "prometheus")
    ended = subprocess.run(
        [program, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout

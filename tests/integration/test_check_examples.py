"""What `gunicorn-prom check` says of set-ups that are right."""

import json
from pathlib import Path

import pytest

from tests.support import ROOT, free_port, run_to_end

EXAMPLES = {
    "plain_wsgi": "app:application",
    "flask": "app:app",
    "django": "django_app.wsgi:application",
}


WORKER_TYPES = ["sync", "gthread", "gevent"]


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("worker_type", WORKER_TYPES)
def test_the_examples_pass(tmp_path: Path, example: str, worker_type: str) -> None:
    """No example gets a warning, on no worker type, and nothing is written beside it."""
    # Each example and each type with it and without.
    number = [*EXAMPLES].index(example) + WORKER_TYPES.index(worker_type)
    preload = ["--preload"] if number % 2 else []
    directory = ROOT / "examples" / example
    before = sorted(directory.rglob("*"))
    ports = f"--bind=127.0.0.1:{free_port()}", f"--metrics-bind=127.0.0.1:{free_port()}"
    arguments = (EXAMPLES[example], f"--chdir={directory}", f"--worker-type={worker_type}")
    ended = run_to_end(tmp_path, *arguments, *preload, *ports, "--format=json", command=("check",))
    found = json.loads(ended.stdout)["checks"]
    assert [entry for entry in found if entry["status"] in ("warning", "error")] == []
    assert next(entry for entry in found if entry["id"] == "GP001")["status"] == "ok"
    assert ended.returncode == 0
    assert sorted(directory.rglob("*")) == before

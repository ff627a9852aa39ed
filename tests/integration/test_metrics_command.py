"""`gunicorn-prom metrics`: the reference of every family."""

import json
import re
from pathlib import Path

import pytest

from gunicorn_prom.metrics import FAMILIES
from scripts import generate
from tests import shells
from tests.support import ROOT, gunicorn_prom, run_to_end

PAGE = ROOT / "docs" / "metrics.md"
# Only where the sidecar serves several servers.
OF_SIDECAR = {"gunicorn_prom_server_up"}


def metrics(directory: Path, *arguments: str) -> str:
    """Return what the command prints on stdout, and nothing elsewhere."""
    finished = run_to_end(directory, *arguments, command=("metrics",))
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout


def test_the_text_has_every_family(tmp_path: Path) -> None:
    """Piped, each family is two plain lines: what it is and what it means."""
    lines = metrics(tmp_path).splitlines()
    for family in FAMILIES.values():
        at = next(i for i, line in enumerate(lines) if re.split("[{ ]", line)[0] == family.name)
        assert all(label in lines[at] for label in family.labels)
        assert family.kind in lines[at]
        assert lines[at + 1] == f"    {family.help}"
    assert "\x1b" not in "".join(lines)
    assert "process_*" in lines


def test_the_json_has_every_family(tmp_path: Path) -> None:
    """A program gets what is declared, the unit and whether each worker has its own."""
    document = json.loads(metrics(tmp_path, "--format", "json"))
    assert document["version"] == 1
    by_name = {entry["name"]: entry for entry in document["families"]}
    assert list(by_name) == list(FAMILIES)
    assert by_name["gunicorn_worker_busy_seconds_total"] == {
        "name": "gunicorn_worker_busy_seconds_total",
        "type": "counter",
        "labels": ["worker_id"],
        "unit": "seconds",
        "scope": "worker",
        "meaning": FAMILIES["gunicorn_worker_busy_seconds_total"].help,
    }
    assert by_name["gunicorn_http_requests_total"]["scope"] == "server"
    assert by_name["gunicorn_http_requests_total"]["unit"] == ""
    assert by_name["gunicorn_worker_memory_bytes"]["unit"] == "bytes"
    assert "process_*" in [entry["name"] for entry in document["others"]]


def test_the_markdown_is_that_of_the_page(tmp_path: Path) -> None:
    """docs/metrics.md has the tables that the command prints."""
    assert metrics(tmp_path, "--format=markdown") in PAGE.read_text()


def test_the_page_is_that_which_the_declarations_make() -> None:
    """docs/metrics.md is not stale."""
    made = generate.FILES["docs/metrics.md"]()
    assert PAGE.read_text() == made, "run `python -m scripts.generate`"


def test_a_server_has_the_families_with_their_types(tmp_path: Path) -> None:
    """What a running server says of its families is what the reference says."""
    document = json.loads(metrics(tmp_path, "--format", "json"))
    declared = {entry["name"]: entry["type"] for entry in document["families"]}
    with gunicorn_prom(tmp_path, "behave:app") as server:
        lines = server.scrape().text.splitlines()
    served = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE gunicorn_"))
    assert served.items() <= declared.items()
    assert declared.keys() - served.keys() <= OF_SIDECAR


@pytest.mark.parametrize("columns", [40, 80])
def test_on_a_terminal_nothing_is_wider_than_it(tmp_path: Path, columns: int) -> None:
    """The text is wrapped between words; a long name is folded, not cut."""
    with shells.shell(["sh"], tmp_path, {"COLUMNS": str(columns)}) as shell:
        shell.press(f"{shells.program('metrics')}; echo d''one\r")
        shell.wait_for("done")
    lines = shell.screen.partition("Of the server")[2].splitlines()
    assert max(map(len, lines)) <= columns
    assert "the application's" in shell.screen


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    """The error names those that there are."""
    finished = run_to_end(tmp_path, "--format", "yaml", command=("metrics",))
    assert finished.returncode == 2
    assert "'yaml' is not one of 'text', 'json', 'markdown'" in finished.stderr
    assert finished.stdout == ""


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    """`gunicorn-prom metrics | head -1` ends well and says nothing on stderr."""
    program = shells.program("metrics", "--format", "json")
    with shells.bash(tmp_path, "--norc") as shell:
        shell.press(f"{program} 2>errors | head -1; echo codes ${{PIPESTATUS[@]}} en''d\r")
        shell.wait_for("end")
    assert "codes 0 0 end" in shell.screen
    assert (tmp_path / "errors").read_text() == ""

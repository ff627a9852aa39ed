"""Every command of the documentation, run as a reader would."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

from tests.pages import PAGES, blocks_of, name_of, outside_of_consoles
from tests.support import ROOT
from tests.walkthrough import IN_AN_ENGINE, Walkthrough

# Commands that no test can run, each with its reason on the page. Give a new one a test instead.
MOST_NOT_RUN = 4
COMMAND = re.compile(
    r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:sudo )?"
    r"(?:gunicorn(?:-prom)? -?\w|(?:pip|docker|curl|kubectl|systemctl|promtool) \w|python -m )"
)

with_commands = pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page))
        for page in PAGES
        if any(block.language == "console" for block in blocks_of(page))
    ],
)
every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.mark.real_parts
@with_commands
def test_the_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    """Each does what the page says, from the first to the last, with the page's own files."""
    Walkthrough(tmp_path).follow(page)


@every_page
def test_no_command_stands_elsewhere(page: Path) -> None:
    """What looks like a command is in a console block, where it is run."""
    assert [line for line in outside_of_consoles(page) if COMMAND.match(line)] == []


@every_page
def test_python_on_a_page_is_python(page: Path) -> None:
    """A block of Python, also one that is a part of a file only, has no error of syntax."""
    for block in blocks_of(page):
        if block.language == "python":
            ast.parse(textwrap.dedent(block.text), f"{page.name}:{block.line}")


def test_few_commands_are_not_run() -> None:
    """Those few say why."""
    notes = [block.note for page in PAGES for block in blocks_of(page)]
    reasons = [note.removeprefix("not run: ") for note in notes if note.startswith("not run")]
    assert all(len(reason.split()) > 2 for reason in reasons)
    assert len(reasons) <= MOST_NOT_RUN


def test_what_needs_an_engine_is_on_one_page() -> None:
    """tests/integration/test_docker.py runs those of docs/docker.md."""
    pages = {page for page in PAGES for block in blocks_of(page) if block.note == IN_AN_ENGINE}
    assert pages == {ROOT / "docs" / "docker.md"}

"""What the documentation refers to is there."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from gunicorn_prom.cli import check, emit, settings
from gunicorn_prom.cli.app import app
from tests.pages import PAGES, name_of
from tests.support import ROOT

RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
TESTS = "".join(path.read_text() for path in Path(ROOT, "tests").rglob("*.py"))


PROGRAM: Any = typer.main.get_command(app)
# The options of a command, and the page that it has.
OPTIONS = {
    **{
        page: [
            option
            for one in PROGRAM.commands[name].params
            for option in one.opts
            if option.startswith("-")  # no argument
        ]
        for page, name in (("top", "top"), ("sidecar", "export"))
    },
    "emit": [option for names, _ in emit.OPTIONS for option in names],
    "checks": [option for names, _ in check.OPTIONS for option in names],
    "settings": [option for names, _ in settings.OPTIONS for option in names],
}


@pytest.mark.parametrize("page", OPTIONS)
def test_every_option_is_on_the_page_of_its_command(page: str) -> None:
    """Whoever reads the page of a command finds all that can be asked of it."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    assert OPTIONS[page]
    assert [one for one in OPTIONS[page] if not re.search(rf"(?<![\w-]){one}(?![\w-])", text)] == []


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\b(test_[a-z0-9_]+)`", RELIABILITY))))
def test_every_promise_has_its_test(name: str) -> None:
    """A test that docs/reliability.md names exists."""
    assert f"def {name}(" in TESTS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to another page of the project finds it, and the heading in it."""
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not heading or heading in headings_of(found), f"{target}#{heading}"


def test_the_site_leads_to_every_page() -> None:
    """The navigation has each page of docs/ once, and nothing else."""
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    listed = [page for part in site["nav"] for pages in part.values() for page in pages]
    there = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)


def headings_of(page: Path) -> set[str]:
    """Return what a link may name behind the # of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles)
    return {re.sub(r"\s", "-", title) for title in plain}

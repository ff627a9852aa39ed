"""What the documentation refers to is there."""

import re
from pathlib import Path

import pytest

from tests.support import ROOT

RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
TESTS = "".join(path.read_text() for path in Path(ROOT, "tests").rglob("*.py"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\b(test_[a-z0-9_]+)`", RELIABILITY))))
def test_every_promise_has_its_test(name: str) -> None:
    """A test that docs/reliability.md names exists."""
    assert f"def {name}(" in TESTS


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    """A link to another page of the project finds it."""
    text = (ROOT / "docs" / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target

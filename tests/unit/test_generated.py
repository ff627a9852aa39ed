"""The files that follow from declarations are as the declarations are."""

import pytest

from scripts.generate import FILES, ROOT


@pytest.mark.parametrize("path", FILES)
def test_a_generated_file_is_as_it_would_be_made(path: str) -> None:
    """Nobody has changed it by hand, or a declaration without `python -m scripts.generate`."""
    assert (ROOT / path).read_text() == FILES[path]()

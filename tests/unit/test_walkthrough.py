"""The test of the documentation finds what is wrong with a page."""

from pathlib import Path

import pytest

from tests.pages import Block, blocks_of, outside_of_consoles
from tests.walkthrough import Walkthrough, is_like

PAGE = """\
# A page

```text title="words.txt"
one
two
```

<!-- test: exits with 1 -->
```console
$ cat words.txt
one
two
$ wc -l \\
    < words.txt && false
2
```

    pip install something
"""


def test_a_page_is_read_by_its_blocks(tmp_path: Path) -> None:
    """Each has its title, its note and its line; a command may go on in the next line."""
    page = write(tmp_path, PAGE)
    text, console = blocks_of(page)
    assert text == Block("text", "words.txt", "", "one\ntwo\n", 4)
    assert (console.note, console.line) == ("exits with 1", 10)
    first, second = console.commands()
    assert (first.typed, first.output, first.line) == ("cat words.txt", "one\ntwo", 10)
    assert (second.typed, second.output) == ("wc -l \\\n    < words.txt && false", "2")
    assert outside_of_consoles(page) == ["pip install something"]


def test_what_is_true_is_let_be(tmp_path: Path) -> None:
    """A page whose commands do what it says passes."""
    Walkthrough(tmp_path / "reader").follow(write(tmp_path, PAGE))


@pytest.mark.parametrize(
    ("true", "false", "line"),
    [
        ("two\n$ wc", "three\n$ wc", 10),
        ("exits with 1", "exits with 2", 13),
        ("< words.txt", "< other.txt", 13),
        ("one\ntwo\n```", "one\n```", 9),
    ],
)
def test_what_is_false_fails(tmp_path: Path, true: str, false: str, line: int) -> None:
    """Another output or exit code, or a file that is not on the page: the line is named."""
    page = write(tmp_path, PAGE.replace(true, false, 1))
    with pytest.raises(pytest.fail.Exception, match=rf"page\.md:{line}\n"):
        Walkthrough(tmp_path / "reader").follow(page)


@pytest.mark.parametrize(
    ("expected", "actual", "is_right"),
    [
        ("a\n...\nz", "a\nb\nc\nz\n", True),
        ("a\n...\nz", "a\nz\n", True),
        ("a\n...\nz", "b\nz\n", False),
        ("at ... (thread)", "at 127.0.0.1 (thread)", True),
        ("wide       9464 end", "wide     9464 end", True),
        ("a", "a\nb", False),
        ("12 ms", "13 ms", False),
    ],
)
def test_an_output_is_like_that_of_the_page(expected: str, actual: str, is_right: bool) -> None:
    """Only what the page leaves open may differ."""
    assert is_like(expected, actual) == is_right


def test_numbers_may_vary() -> None:
    """Where the page says so."""
    assert is_like("12.5 ms of 3 s", "0.1 ms of 12 s", do_numbers_vary=True)
    assert not is_like("12 ms", "12 s", do_numbers_vary=True)


def write(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(text)
    return page

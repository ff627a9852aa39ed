"""The pages of the documentation, by their blocks.

A block may have a line of HTML in front, which readers do not see, for the test that runs it:

    <!-- test: exits with 1 -->                    the last command of the block does
    <!-- test: numbers vary -->                    any number does where the output has one
    <!-- test: needs promtool, prometheus -->      a program, and the Debian package that has it
    <!-- test: not run: it needs a cluster -->     with the reason

A block of another language with a `title` is the file of that name.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?:<!-- test: (?P<note>[^\n]*) -->\n+)?"
    r"^(?P<indent> *)(?P<fence>```+) *(?P<language>[\w-]*)(?P<info>[^\n]*)\n"
    r"(?P<text>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Command:
    """What a reader types, and what the page says comes of it."""

    typed: str
    output: str
    line: int


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        title: the name of the file that it is, "" for none.
        note: what the line in front of it says to the test.
        line: of the page, on which its text begins.
    """

    language: str
    title: str
    note: str
    text: str
    line: int

    def commands(self) -> Iterator[Command]:
        """Yield what stands behind each `$ `."""
        lines = self.text.splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
        assert starts[:1] == [0], f"line {self.line}: a console block begins with `$ `"
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            last = start
            while lines[last].endswith("\\"):
                last += 1
            typed = "\n".join(lines[start : last + 1]).removeprefix("$ ")
            yield Command(typed, "\n".join(lines[last + 1 : end]).rstrip(), self.line + start)


def name_of(page: Path) -> str:
    """Return the path of a page as a test's id has it."""
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    text = page.read_text()
    return [_block(text, found) for found in FENCE.finditer(text)]


def _block(page: str, found: re.Match[str]) -> Block:
    title = TITLE.search(found["info"])
    return Block(
        language=found["language"],
        title=title[1] if title else "",
        note=found["note"] or "",
        text=re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
        line=page.count("\n", 0, found.start("text")) + 1,
    )


def outside_of_consoles(page: Path) -> list[str]:
    """Return the lines of a page that are in code, but in no console block and no file."""
    text = page.read_text()
    loose = [
        line
        for block in blocks_of(page)
        if block.language != "console" and not block.title
        for line in block.text.splitlines()
    ]
    indented = re.findall(r"^(?: {4}|\t)\s*(\S.*)$", FENCE.sub("", text), re.MULTILINE)
    return [*loose, *indented]

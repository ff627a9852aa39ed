"""Makes the files that follow from declarations in the code.

`python -m scripts.generate` writes them, `--check` only tells which are stale.
"""

import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from gunicorn import config

from gunicorn_prom.checks import CHECKS
from gunicorn_prom.checks.declare import GROUPS, Check
from gunicorn_prom.cli.metrics import markdown
from gunicorn_prom.cli.report import TITLES
from gunicorn_prom.cli.settings_report import option_of, plain, written
from gunicorn_prom.settings import OWN_SETTINGS, environment, name_of
from scripts import completions

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- Made by `python -m scripts.generate`: -->"
END = "<!-- end -->"


def between(path: str, text: str) -> str:
    """Return a hand-written file with `text` in the one place that is marked for it."""
    before, begin, rest = (ROOT / path).read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{path} has no line {BEGIN}"
    assert end, f"{path} has no line {END}"
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def settings_page() -> str:
    """Return docs/settings.md with our settings as they are declared."""
    rows = ["| option | variable | default | meaning |", "|---|---|---|---|"]
    rows += [_row(setting) for setting in OWN_SETTINGS]
    return between("docs/settings.md", "\n".join(rows))


def _row(setting: type[config.Setting]) -> str:
    declared = setting()
    option, is_switch = option_of(declared), isinstance(declared.default, bool)
    options = f"`{option}`, `{option.replace('--', '--no-', 1)}`" if is_switch else f"`{option}`"
    default = written(declared, plain(declared.get()))
    # In no cell may be an upright line.
    meaning = " ".join((declared.desc or "").split()).replace("|", r"\|")
    variable = environment(name_of(setting))
    return f"| {options} | `{variable}` | {_in_table(default, is_switch)} | {meaning} |"


def _in_table(default: str, is_switch: bool) -> str:
    if is_switch:
        return "on" if default == "true" else "off"
    return default if default == "none" else f"`{default.replace(',', ', ')}`"


def metrics_page() -> str:
    """Return docs/metrics.md with our families as they are declared."""
    return between("docs/metrics.md", markdown())


def checks_page() -> str:
    """Return docs/checks.md with the checks as they are declared."""
    by_group = sorted(CHECKS.values(), key=lambda check: GROUPS.index(check.group))
    parts = []
    for group, checks in groupby(by_group, key=lambda check: check.group):
        parts += [f"## {TITLES[group]}", *map(_of_check, checks)]
    return between("docs/checks.md", "\n\n".join(parts))


def _of_check(check: Check) -> str:
    heading = f"### {check.id}\n\n**{check.severity}**, unless {check.title}."
    return "\n\n".join((heading, check.what, check.why, check.fix, f"*{check.hint}*"))


# Each generated file, by its path, with what returns its text. One that is hand-written around
# the generated part goes through `between`.
FILES: dict[str, Callable[[], str]] = {
    "completions/_gunicorn-prom": completions.zsh,
    "completions/gunicorn-prom.bash": completions.bash,
    "completions/gunicorn-prom.fish": completions.fish,
    "docs/checks.md": checks_page,
    "docs/metrics.md": metrics_page,
    "docs/settings.md": settings_page,
}


def stale() -> list[str]:
    """Return the paths of the files that are not as they would be made."""
    return [
        path
        for path, text in FILES.items()
        if not (ROOT / path).exists() or (ROOT / path).read_text() != text()
    ]


def main() -> None:
    """Write the files, or with `--check` end with 1 where one is stale."""
    paths = stale()
    if "--check" in sys.argv[1:]:
        if paths:
            sys.exit(f"stale: {', '.join(paths)}; run python -m scripts.generate")
        return
    for path in paths:
        (ROOT / path).write_text(FILES[path]())
        print(path)


if __name__ == "__main__":
    main()

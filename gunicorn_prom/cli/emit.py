"""`gunicorn-prom emit`: files for the fleet, made from the configuration of a server."""

import os
import sys
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NoReturn

from gunicorn_prom.cli.help import Section, of_options, print_help
from gunicorn_prom.cli.options import Declared, names_of, split
from gunicorn_prom.cli.output import print_and_end
from gunicorn_prom.cli.reading import ReadConfiguration
from gunicorn_prom.errors import GunicornPromError, UsageError
from gunicorn_prom.fleet import KINDS, container, files_of
from gunicorn_prom.fleet.plan import DEFAULT_SLO, OWN_STREAM, File, Plan, plan_of
from gunicorn_prom.masking import masked

__all__ = ["OPTIONS", "emit", "main"]

USAGE = "gunicorn-prom emit [OPTIONS] KIND [APP_MODULE]"
ABOUT = """\
Make files for the fleet: gunicorn-prom emit podmonitor app:app -c gunicorn.conf.py

Takes every option of `gunicorn-prom run` besides its own: addresses, paths, TLS, probes, grace
periods and resources follow the configuration. Prints the file, or writes all of them with -o.
"""
# Below it a server that fails always does not burn fast, so no alert could watch it.
LOWEST_SLO, PERCENT = 95, 100

# As argparse takes them; the help page and the completions are made of the same.
OPTIONS: tuple[Declared, ...] = (
    (
        ("-o", "--output"),
        {"metavar": "DIR", "help": "Write the files into this directory and print their names."},
    ),
    (("--force",), {"action": "store_true", "help": "Overwrite files that are there already."}),
    (
        ("--slo",),
        {
            "metavar": "PERCENT",
            "default": f"{DEFAULT_SLO:g}",
            "help": "The share of requests that shall succeed, for alerts.",
        },
    ),
)


class _Asked(ReadConfiguration):
    """A configuration before whose application the kind is named.

    Attributes:
        kind: "" where none is.
    """

    takes_several = True
    kind = ""

    def init(self, parser: Any, opts: Any, args: Any) -> Any:
        """Take the first argument for the kind."""
        self.kind, *others = args or [""]
        if self.kind not in KINDS:
            hint = f"it can be {', '.join(KINDS)}"
            if not self.kind:
                raise UsageError("it is not said what to emit", hint)
            raise UsageError(f"there is no kind {self.kind} to emit", _meant(self.kind) or hint)
        return super().init(parser, opts, others)


def _meant(kind: str) -> str:
    import difflib

    close = difflib.get_close_matches(kind, KINDS, n=1)
    return f"did you mean {close[0]}?" if close else ""


def emit() -> NoReturn:
    """Make files for the fleet: dashboard, alerts, manifests."""
    main(sys.argv[2:])


def main(arguments: list[str]) -> NoReturn:
    """Make what `gunicorn-prom emit ARGUMENTS` asks for.

    Raises:
        SystemExit: always, with the exit code of the contract.
    """
    print_and_end(_main, arguments)


def _main(arguments: list[str]) -> None:
    options, others = split("emit", OPTIONS, arguments)
    if options.help:
        kinds = Section("Kinds", [(kind.name, kind.about, "") for kind in KINDS.values()])
        print_help(USAGE, ABOUT, [kinds, of_options("Options", OPTIONS)])
        return
    slo = _share(options.slo)
    if options.force and options.output is None:
        raise UsageError("--force is for -o, and there is none", "name a directory with -o")
    if options.output == "":
        raise UsageError("-o names no directory", "-o . is the one in which you are")
    asked = _Asked(others, "emit", names_of(OPTIONS), needs_application=False, needs_worker=False)
    plan = plan_of(asked, slo)
    files = files_of(asked.kind, plan)
    if KINDS[asked.kind].has_application:
        _see_that_no_secret_is_in(plan.application)
        _tell_what_is_missing(plan)
        _tell_of_log_files(plan, container.STREAMS if KINDS[asked.kind].is_container else ())
    if KINDS[asked.kind].is_container:
        _tell_what_no_image_has(plan)
    os.chdir(plan.directory)  # what is configured may have led elsewhere
    if options.output is None:
        _print(*files)
    else:
        _write(files, Path(options.output), is_forced=options.force)


def _share(given: str) -> float:
    try:
        share = float(given.removesuffix("%"))
    except ValueError:
        share = 0.0
    if not LOWEST_SLO <= share < PERCENT:
        range_ = f"from {LOWEST_SLO} up to, but not, {PERCENT}"
        message = f"invalid --slo: {given!r} is not a percentage {range_}"
        raise UsageError(message, "write it like 99.9, which allows one failure in 1000")
    return share


def _see_that_no_secret_is_in(application: str) -> None:
    shown = masked(application)
    if shown != application:
        raise UsageError(
            f"the application has what may be a secret, and would be written out: {shown}",
            "have it read its secrets from the environment or from files",
        )


def _tell_what_is_missing(plan: Plan) -> None:
    if not plan.is_application_named:
        print(f"note: no application is named, {plan.application} stands for it", file=sys.stderr)
    for option in plan.left_out:
        print(f"note: {option} is left out, for its value may be secret", file=sys.stderr)


def _tell_of_log_files(plan: Plan, kept: Collection[str]) -> None:
    for option, path in plan.log_files.items():
        if path not in kept:
            reason = "for no log file is kept there"
            print(f"note: {option} {path} is replaced by {OWN_STREAM}, {reason}", file=sys.stderr)


def _tell_what_no_image_has(plan: Plan) -> None:
    image = f"{plan.directory}, of which the image is made"
    for name, value in plan.host_claims.items():
        print(
            f"note: {name} = {value!r} of the configuration file must exist in the image",
            file=sys.stderr,
        )
    if os.path.isabs(plan.chdir) and "chdir" not in plan.host_claims:
        print(f"note: --chdir {plan.chdir} is left out, for it is not in {image}", file=sys.stderr)
    file = plan.config_file
    if os.path.isabs(file):
        print(f"note: put {file} into the image, for it is not in {image}", file=sys.stderr)


def _print(main: File, *others: File) -> None:
    """Print one file, so that it can be redirected, and say which ones belong to it."""
    if others:
        names = ", ".join(file.name for file in others)
        print(f"note: this is {main.name}; -o DIR writes it with {names}", file=sys.stderr)
    print(main.text, end="")


def _write(files: list[File], directory: Path, *, is_forced: bool) -> None:
    """Write the files that are not there as they shall be, all or, where one is in the way, none.

    Raises:
        UsageError: a file is there with another content, or a directory of its name.
        GunicornPromError: one cannot be written.
    """
    paths = {directory / file.name: file.text for file in files}
    written: Path | None = None
    try:
        stale = {path: text for path, text in paths.items() if not _has(path, text)}
        _see_that_the_way_is_free(stale, is_forced=is_forced)
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
        for written, text in stale.items():
            _replace(written, text)
    except OSError as error:
        # The name of a draft would say nothing.
        message = f"cannot write {written or error.filename or directory}: {error.strerror}"
        raise GunicornPromError(message, "name a directory with -o that can be written") from error
    for path in paths:
        print(path)


def _see_that_the_way_is_free(paths: Iterable[Path], *, is_forced: bool) -> None:
    directories = [str(path) for path in paths if path.is_dir()]
    if directories:
        raise UsageError(
            f"there is a directory where a file shall be: {', '.join(directories)}",
            "move it away, or name another directory with -o",
        )
    taken = [str(path) for path in paths if os.path.lexists(path)]
    if taken and not is_forced:
        is_or_are = "is" if len(taken) == 1 else "are"
        raise UsageError(
            f"{', '.join(taken)} {is_or_are} there already", "--force overwrites what is there"
        )


def _has(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def _replace(path: Path, text: str) -> None:
    """Write a file that is there as a whole or, whatever happens, as it was.

    Of a symbolic link it is the file that it leads to.
    """
    path = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(text.encode())
            os.fchmod(descriptor, _mode(path))
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _mode(path: Path) -> int:
    """Return the mode that a file has, or that a new one would get."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask

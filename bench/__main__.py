"""The command line: `python -m bench`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contenders import CONTENDERS, WORKER_TYPES, Contender, two_builds
from bench.counters import COUNTERS, pick_counter
from bench.errors import BenchError
from bench.measure import Effort, Session
from bench.report import format_report

_PACKAGES = (
    "gunicorn",
    "gunicorn-prom",
    "gevent",
    "uvicorn",
    "fastapi",
    "prometheus-client",
    "gunicorn-prometheus-exporter",
    "prometheus-fastapi-instrumentator",
)
_FULL = Effort(
    counted_rounds=3,
    traffic_rounds=9,
    traffic_requests=3000,
    footprint_rounds=5,
    scrapes=1000,
)
_QUICK = Effort(
    counted_rounds=1,
    traffic_rounds=3,
    traffic_requests=1000,
    footprint_rounds=1,
    scrapes=1000,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison and print it; return the exit code."""
    options = _make_parser().parse_args(arguments)
    try:
        report = _compare(options)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report, end="")
    if options.markdown is not None:
        options.markdown.write_text(report)
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Compare gunicorn-prom with bare Gunicorn, with prometheus_client "
        "wired up by hand, and with gunicorn-prometheus-exporter, in alternating "
        "rounds of one run. Makes its environments in .bench/ with pip.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: some 5 minutes, not 20")
    parser.add_argument(
        "--worker-type",
        action="append",
        choices=WORKER_TYPES,
        help="only this one; may be repeated",
    )
    parser.add_argument(
        "--contender",
        action="append",
        choices=[contender.name for contender in CONTENDERS],
        help="only this one, beside its bare Gunicorn; may be repeated",
    )
    parser.add_argument(
        "--beside",
        type=Path,
        metavar="CHECKOUT",
        help="compare the project with itself as it is in another checkout, not with others",
    )
    parser.add_argument(
        "--instructions-only", action="store_true", help="count instructions, measure nothing else"
    )
    parser.add_argument(
        "--counter",
        default="auto",
        choices=["auto", *COUNTERS, "none"],
        help="what counts instructions: the processor through perf, or valgrind; "
        "auto (default) takes the first that works here",
    )
    parser.add_argument("--fresh", action="store_true", help="make the environments anew")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the report there")
    return parser


def _compare(options: argparse.Namespace) -> str:
    contenders = (
        two_builds(options.beside) if options.beside else _select_contenders(options.contender)
    )
    counter = pick_counter(options.counter)
    versions = _prepare_environments(contenders, fresh=options.fresh)
    session = Session(
        contenders=contenders,
        worker_types=options.worker_type or WORKER_TYPES,
        effort=_QUICK if options.quick else _FULL,
        counter=counter,
        say=_say,
        counts_only=options.instructions_only,
    )
    session.measure_all()
    return format_report(session, versions)


def _select_contenders(names: Sequence[str] | None) -> list[Contender]:
    """Return the contenders of these names and their bases, in the usual order."""
    if names is None:
        return list(CONTENDERS)
    bases = {contender.base for contender in CONTENDERS if contender.name in names}
    return [
        contender for contender in CONTENDERS if contender.name in names or contender.name in bases
    ]


def _prepare_environments(
    contenders: Sequence[Contender], *, fresh: bool
) -> dict[str, dict[str, str]]:
    """Make the environments that are needed and return what is in them."""
    environments = dict.fromkeys(contender.environment for contender in contenders)
    for environment in environments:
        _say(f"environment {environment.name}")
        environment.prepare(fresh=fresh)
    for contender in contenders:
        if contender.is_project:
            contender.environment.install_project()
    return {environment.name: environment.versions(*_PACKAGES) for environment in environments}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

"""A long life compressed: `python -m bench.soak`, from the project root.

Load, and every second a random event: workers killed, told to go, more and fewer of them,
reloads, upgrades and rollbacks of the master, the metrics server killed, storms of scrapes,
slow clients. The same seed makes the same events. Its engine is that of the one-minute test.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from tests.soak import Outcome, Soak, soaking_server

__all__ = ["main"]

_WORKER_TYPES = ("sync", "gthread", "gevent", "eventlet")


def main() -> int:
    """Run a soak and print what it has shown; return 1 if anything was wrong."""
    options = _make_parser().parse_args()
    print(f"seed {options.seed}, {options.worker_type}, metrics server: {options.metrics_server}")
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        try:
            outcome = _soak(Path(name), options)
        except AssertionError:
            traceback.print_exc()
            return 1
    print(_format(outcome))
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker-type", choices=_WORKER_TYPES, default="sync")
    parser.add_argument("--metrics-server", choices=("thread", "process"), default="process")
    return parser


def _soak(directory: Path, options: argparse.Namespace) -> Outcome:
    with soaking_server(directory, options.worker_type, options.metrics_server) as served:
        server, masters, per_kill = served
        soak = Soak(server, masters, options.seed, per_kill=per_kill, say=_say)
        return soak.run(options.seconds)


def _say(event: str) -> None:
    print(event, file=sys.stderr, flush=True)


def _format(outcome: Outcome) -> str:
    counts = ", ".join(f"{count} {event}" for event, count in Counter(outcome.events).most_common())
    first, last = outcome.first, outcome.last
    return "\n".join(
        (
            f"{len(outcome.events)} events: {counts}",
            f"{outcome.answered:,} answered, {outcome.lost} without a whole answer,"
            f" {outcome.behind:.0f} not counted after {outcome.kills} kills",
            f"{outcome.scrapes:,} scrapes compared, {outcome.failed_scrapes} did not come",
            f"master: {first.descriptors} -> {last.descriptors} descriptors,"
            f" {first.threads} -> {last.threads} threads,"
            f" {first.rss_bytes / 2**20:.1f} -> {last.rss_bytes / 2**20:.1f} MiB",
            f"state directory: {first.files} -> {last.files} files",
        )
    )


if __name__ == "__main__":
    raise SystemExit(main())

"""Checks of a running server, through its endpoint."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from gunicorn_prom.checks.declare import Problem, Skip, check
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.workers import type_of

if TYPE_CHECKING:
    from gunicorn_prom.checks.endpoint import Scrape

__all__ = ["request_start", "series_caps", "slow_scrape", "stuck_workers", "worker_count"]

QUEUE = "gunicorn_http_request_queue_seconds"
CLOCKS = "the clocks of proxy and server differ: set both by NTP"
OVERFLOW = "gunicorn_prom_series_overflow_total"
TARGET = "gunicorn_workers_target"
EXITS = "gunicorn_worker_exits_total"

SLOW_S = 2.0
# As far as what the master writes may be behind, and its clock behind ours.
LAG_S = 2.0
# The other types are heard of twice in a timeout, also when they have nothing to do.
HEARD_OF_EACH_SECOND = frozenset(
    ("gthread", "gevent", "gevent_pywsgi", "eventlet", "tornado", "asgi")
)
# So long a worker that is just being replaced may be missing.
LOOK_S = 2.0
PAUSE_S = 0.2
LOOK_LIMIT_S = 1.0
SHOWN = 3


@check(
    "GP034",
    "live",
    "info",
    title="the proxy says when a request came to it",
    hint='set it in the proxy, in nginx: proxy_set_header X-Request-Start "t=${msec}";',
)
def request_start(setup: Setup) -> Iterator[Problem]:
    """Find a server that is not told by its proxy when a request came, or not by the same clock.

    How long requests wait between the proxy and a worker is then unknown, and that is the first
    thing to grow when there are too few workers.

    Let the proxy set the header, in nginx `proxy_set_header X-Request-Start "t=${msec}";`, and
    keep the clocks of both machines in step, with chrony or another client of NTP.
    """
    scrape = _answer(setup)
    requests = scrape.total("gunicorn_http_requests_total")
    told = scrape.total(f"{QUEUE}_count", stage="proxy")
    to_come = scrape.total("gunicorn_http_queue_headers_ignored_total", reason="future")
    if not requests:
        raise Skip("there was no request yet")
    if to_come > told:
        yield Problem(f"{to_come:.0f} requests came before the time in their header", CLOCKS)
    elif not told:
        yield Problem(f"none of {requests:.0f} requests had the header X-Request-Start")
    elif not _within_bounds(scrape):
        yield Problem(
            f"all of {told:.0f} requests seem to have waited longer than the longest bucket", CLOCKS
        )


def _within_bounds(scrape: "Scrape") -> float:
    """Return how many requests came within the longest bucket that has an end."""
    buckets = scrape.all(f"{QUEUE}_bucket", stage="proxy")
    return max((b.value for b in buckets if b.labels["le"] != "+Inf"), default=0.0)


@check(
    "GP035",
    "live",
    "error",
    title="every worker was heard of in time",
    hint="find out where it hangs: py-spy dump --pid PID, on the server's machine",
)
def stuck_workers(setup: Setup) -> Iterator[Problem]:
    """Find workers whose last heartbeat is older than half of the timeout.

    Gunicorn aborts such a worker when the whole timeout is over, with all requests that it has;
    until then it answers nobody.

    Look where it hangs: `py-spy dump --pid PID`. Where it is only a long request of a sync
    worker, use `--worker-type gthread`, or raise `--timeout`. The timeout of the running server
    is not in its metrics: give the check the options that the server was started with.
    """
    scrape = _answer(setup)
    timeout = setup.cfg.timeout
    if not timeout:
        raise Skip("with timeout 0 a worker may be silent as long as it likes")
    late = [worker for worker in _workers(scrape) if worker.silent_s > timeout / 2 + LAG_S]
    if late and not _is_timeout_given(setup) and not _are_heard_of_each_second(scrape):
        longest = max(worker.silent_s for worker in late)
        raise Skip(
            f"a worker is silent for {longest:.0f} s; give the server's --timeout"
            " to learn whether that is long"
        )
    for worker in late:
        yield _stuck(worker, timeout)


class _Worker(NamedTuple):
    """A worker that ought to be heard of.

    Attributes:
        silent_s: since its last heartbeat.
        busy_s: since its oldest request began, None where it has none.
    """

    pid: str
    silent_s: float
    busy_s: float | None


def _workers(scrape: "Scrape") -> Iterator[_Worker]:
    for heartbeat in scrape.all("gunicorn_worker_heartbeat_timestamp_seconds"):
        whose = heartbeat.labels
        states = scrape.all("gunicorn_worker_state", **whose)
        # One that boots or finishes its requests has its own limits.
        if not any(s.value and s.labels["state"] in ("running", "aborting") for s in states):
            continue
        began = scrape.all("gunicorn_worker_oldest_request_start_time_seconds", **whose)
        yield _Worker(
            pid=next((s.labels["pid"] for s in scrape.all("gunicorn_worker_info", **whose)), "?"),
            silent_s=scrape.time - heartbeat.value,
            busy_s=scrape.time - began[0].value if began else None,
        )


def _is_timeout_given(setup: Setup) -> bool:
    configuration = setup.configuration
    is_said = configuration.origin("timeout").source != "default"
    return is_said or bool(configuration.app_uri or configuration.config_file)


def _are_heard_of_each_second(scrape: "Scrape") -> bool:
    classes = {sample.labels["worker_class"] for sample in scrape.all("gunicorn_info")}
    return {type_of(name) or name for name in classes} <= HEARD_OF_EACH_SECOND


def _stuck(worker: _Worker, timeout: float) -> Problem:
    detail = f"pid {worker.pid} is stuck: silent for {worker.silent_s:.0f} s, timeout {timeout} s"
    if worker.busy_s is None:
        return Problem(detail, f"find out where it hangs: py-spy dump --pid {worker.pid}")
    return Problem(
        f"{detail}, busy with a request for {worker.busy_s:.0f} s",
        f"find out where: py-spy dump --pid {worker.pid}; is it a long request of a sync worker,"
        " --worker-type gthread",
    )


@check(
    "GP036",
    "live",
    "error",
    title="the metrics come in time",
    hint="keep down the label values of the largest families, or give the machine more CPU",
)
def slow_scrape(setup: Setup) -> Iterator[Problem]:
    """Find an endpoint that does not answer, answers something else, or takes over 2 seconds.

    Prometheus has gaps where a scrape fails, alerts on them say nothing of the server, and by
    default a scrape that takes 10 seconds has failed.

    Where there is no answer, compare the URL with the line `Metrics at` in the server's log.
    Where it takes long, find out which family has grown: a label with a value for each user,
    path or time is to be removed from it. `--no-app-metrics` leaves the application's out.
    """
    scrape = setup.scrape
    if scrape.error:
        yield Problem(scrape.error, scrape.hint)
    elif scrape.duration_s > SLOW_S:
        families = sorted(scrape.series, key=scrape.series.__getitem__, reverse=True)[:SHOWN]
        largest = ", ".join(f"{family} ({scrape.series[family]} series)" for family in families)
        collecting = scrape.total("gunicorn_prom_scrape_duration_seconds")
        yield Problem(
            f"a scrape takes {scrape.duration_s:.1f} s, {collecting:.1f} s of it to collect; "
            f"largest families: {largest}"
        )


@check(
    "GP037",
    "live",
    "warning",
    title="no family has reached its cap",
    hint="find out who makes so many label values: a scan, or names made up while serving",
)
def series_caps(setup: Setup) -> Iterator[Problem]:
    """Find families that have all the series they may have.

    What is new in them is counted under `_OTHER`, so dashboards and alerts no longer tell a new
    status or exception from others. Nothing that was counted is lost.

    Find out where so many come from: a scan with made-up methods, statuses outside of HTTP's,
    exception classes that are made while serving. The caps are fixed; a restart begins anew.
    """
    for sample in _answer(setup).all(OVERFLOW):
        if sample.value:
            family = sample.labels["family"]
            yield Problem(f"{family} is full: {sample.value:.0f} events went to _OTHER")


@check(
    "GP038",
    "live",
    "error",
    title="as many workers run as are wanted",
    hint="a boot loop? the server's log says why workers exit",
)
def worker_count(setup: Setup) -> Iterator[Problem]:
    """Find a server that has not as many running workers as it wants, over some seconds.

    Fewer serve less, or nobody serves at all: workers that exit as soon as they have booted are
    replaced for ever.

    See the reasons in `gunicorn_worker_exits_total` and the traceback in the server's log. `oom`
    wants more memory or fewer workers, `timeout` a faster start or a longer `--timeout`, `error`
    is the application's own.
    """
    first = last = _answer(setup)
    end = time.monotonic() + LOOK_S
    while (wrong := _wrong_counts(last)) and time.monotonic() < end:
        time.sleep(PAUSE_S)
        last = setup.endpoint.scrape(LOOK_LIMIT_S)
        if last.error:
            raise Skip("the second look at the workers failed")
    exited = last.total(EXITS) - first.total(EXITS)
    for count in wrong:
        if count.running + count.booting == count.target and not (exited or count.is_first_boot):
            raise Skip(f"{count.booting} of {count.target} workers are still booting")
        yield _miscount(count)


class _Count(NamedTuple):
    """The workers of one server.

    Attributes:
        server: its name where there are several, else "".
        exits: by reason, those that there were.
        has_booted: whether any worker has ever booted.
    """

    server: str
    target: int
    running: int
    booting: int
    exits: dict[str, int]
    has_booted: bool

    @property
    def is_first_boot(self) -> bool:
        """Whether workers have exited, but none has booted yet."""
        return bool(self.exits) and not self.has_booted


def _wrong_counts(scrape: "Scrape") -> list[_Count]:
    counts = [_count(scrape, target.labels) for target in scrape.all(TARGET)]
    return [count for count in counts if count.running != count.target]


def _count(scrape: "Scrape", whose: dict[str, str]) -> _Count:
    states = {s.labels["state"]: int(s.value) for s in scrape.all("gunicorn_workers", **whose)}
    exits = {s.labels["reason"]: int(s.value) for s in scrape.all(EXITS, **whose)}
    return _Count(
        server=whose.get("server", ""),
        target=int(scrape.total(TARGET, **whose)),
        running=states.get("idle", 0) + states.get("busy", 0),
        booting=states.get("booting", 0),
        exits={reason: number for reason, number in exits.items() if number},
        has_booted=scrape.total("gunicorn_worker_boot_seconds_count", **whose) > 0,
    )


def _miscount(count: _Count) -> Problem:
    server = f"{count.server}: " if count.server else ""
    reasons = sorted(count.exits, key=count.exits.__getitem__, reverse=True)[:SHOWN]
    exits = ", ".join(f"{reason} {count.exits[reason]}" for reason in reasons) or "none"
    return Problem(
        f"{server}{count.running} workers run, {count.booting} boot, {count.target} are wanted; "
        f"exits by reason: {exits}"
    )


def _answer(setup: Setup) -> "Scrape":
    """Return the scrape that the checks share.

    Raises:
        Skip: it failed, which GP036 tells.
    """
    if setup.scrape.error:
        raise Skip("there are no metrics, see GP036")
    return setup.scrape

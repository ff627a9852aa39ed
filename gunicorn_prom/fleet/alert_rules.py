"""What the fleet is watched for: recording rules and alerting rules.

A server keeps every label that its target has: sums are `without` what is within a server, so
they are right for one host, for a thousand, and for several servers behind one sidecar.
"""

from typing import NamedTuple

from gunicorn_prom.fleet.text import exact, quoted
from gunicorn_prom.scoreboard import UNWANTED_EXITS

__all__ = [
    "FAILED",
    "OBJECTIVE_INTERVAL",
    "RATES",
    "UNANSWERED",
    "Alert",
    "Record",
    "alerts",
    "objective_records",
    "server_records",
]

PERCENT = 100
# Of few requests a single failure is a large share.
FEW_FAILURES = 10
# How often the objective is evaluated, so that failures can be counted in what is recorded.
OBJECTIVE_INTERVAL = "1m"
# After `timeout` the master has a worker killed. What is older than that by this much shows that
# it does not.
STALE_AFTER_TIMEOUT_S = 60
# There is no timeout: then only somebody who looks can tell whether a request is to take so long.
STALE_WITHOUT_TIMEOUT_S = 300


class Record(NamedTuple):
    """A recording rule."""

    name: str
    expression: str


class Alert(NamedTuple):
    """An alerting rule.

    Attributes:
        severity: `page`: somebody must look now; `ticket`: on the next working day.
        hold: for how long it must be so.
        summary: one line, `<server>` stands for the name of the server.
        description: what is the case, with the value.
        action: what to do, one or two sentences.
    """

    name: str
    severity: str
    hold: str
    expression: str
    summary: str
    description: str
    action: str


# Why requests got no answer, and why they failed: `error` is a response that was cut off.
UNANSWERED = "no_response|timeout"
FAILED = f"{UNANSWERED}|error"

# `or` puts series of both families into one sum. A request that got no answer is only in the
# second one, one that was cut off is in the first one already.
RATES = (
    Record(
        "job:gunicorn_http_requests:rate5m",
        f"""
        sum by (job, server) (
            rate(gunicorn_http_requests_total[5m])
          or
            rate(gunicorn_http_aborted_total{{reason=~"{UNANSWERED}"}}[5m])
        )
        """,
    ),
    Record(
        "job:gunicorn_http_failures:rate5m",
        f"""
        sum by (job, server) (
            rate(gunicorn_http_requests_total{{status=~"5.."}}[5m])
          or
            rate(gunicorn_http_aborted_total{{reason=~"{FAILED}"}}[5m])
        )
        """,
    ),
    Record(
        "job:gunicorn_http_failures:ratio_rate5m",
        "job:gunicorn_http_failures:rate5m / job:gunicorn_http_requests:rate5m",
    ),
)

SERVERS = (
    Record(
        "instance:gunicorn_saturation:ratio",
        """
        sum without (worker_id) (gunicorn_worker_requests_in_progress)
          / sum without (worker_id) (gunicorn_worker_capacity)
        """,
    ),
    Record(
        "instance:gunicorn_worker_cpu:avg_rate5m",
        "avg without (worker_id) (rate(gunicorn_worker_cpu_seconds_total[5m]))",
    ),
    Record(
        "instance:gunicorn_workers_serving:sum",
        'sum without (state) (gunicorn_workers{state=~"idle|busy"})',
    ),
    Record("job:gunicorn_servers:count", "count by (job) (gunicorn_start_time_seconds)"),
)


def _ratio(window: str) -> Record:
    # Of what is recorded: to look at 3 days is as cheap as at 5 minutes, and minutes with more
    # requests weigh more.
    return Record(
        f"job:gunicorn_http_failures:ratio_rate{window}",
        f"""
        sum_over_time(job:gunicorn_http_failures:rate5m[{window}])
          / sum_over_time(job:gunicorn_http_requests:rate5m[{window}])
        """,
    )


def objective_records() -> list[Record]:
    """Return what the burn rates are made of, evaluated every OBJECTIVE_INTERVAL."""
    return [*RATES, *map(_ratio, ("30m", "1h", "6h", "3d"))]


def server_records(job: str) -> list[Record]:
    """Return what several rules want to know of each server.

    Args:
        job: whose every target is a server.
    """
    return [*SERVERS, _known_servers(job)]


def _known_servers(job: str) -> Record:
    # It reads itself, so a target is known for as long as it is one, however long it is down.
    return Record(
        "instance:gunicorn_server:known",
        f"""
        group by (job, instance) (gunicorn_start_time_seconds)
          or group by (job, instance) (up{{job={quoted(job)}}})
          or (instance:gunicorn_server:known and on (job, instance) up)
        """,
    )


def alerts(slo: float) -> list[Alert]:
    """Return the alerting rules. One that another one makes needless comes behind that.

    Args:
        slo: percentage of requests that shall succeed.
    """
    return [*_burn_rates(slo), *MISSING, *WORKERS, STALE_HEARTBEAT, *LOAD, OWN_ERRORS]


class Burn(NamedTuple):
    """How fast the error budget may be used up.

    Attributes:
        factor: 1 uses it up in 30 days.
        window: over which it was burnt.
        recent: over which it still burns.
        meaning: what comes of it.
        faster: alerts that make this one needless.
    """

    name: str
    severity: str
    hold: str
    factor: float
    window: str
    recent: str
    meaning: str
    faster: str = ""


BURNS = (
    Burn(
        "GunicornErrorBudgetBurnsFast",
        "page",
        "2m",
        14.4,
        "1h",
        "5m",
        "the errors allowed for a month are used up in two days",
    ),
    Burn(
        "GunicornErrorBudgetBurns",
        "page",
        "5m",
        6,
        "6h",
        "30m",
        "the errors allowed for a month are used up in five days",
        faster="GunicornErrorBudgetBurnsFast",
    ),
    Burn(
        "GunicornErrorBudgetBurnsSlowly",
        "ticket",
        "15m",
        1,
        "3d",
        "6h",
        "more than the errors allowed for a month are made",
        faster="GunicornErrorBudgetBurns(Fast)?",
    ),
)


def _burn_rates(slo: float) -> list[Alert]:
    return [_burn_rate(burn, slo) for burn in BURNS]


def _burn_rate(burn: Burn, slo: float) -> Alert:
    limit = f"{burn.factor:g} * {(PERCENT - slo) / PERCENT:.6g}"
    expression = f"""
        job:gunicorn_http_failures:ratio_rate{burn.window} > {limit}
          and job:gunicorn_http_failures:ratio_rate{burn.recent} > {limit}
          and sum_over_time(job:gunicorn_http_failures:rate5m[{burn.window}]) * 60 >= {FEW_FAILURES}
        """
    if burn.faster:
        # Also for a while afterwards, or the same incident would be told twice.
        expression += f"""  unless on (job, server) last_over_time(
            ALERTS{{alertname=~"{burn.faster}", alertstate="firing"}}[{burn.recent}]
          )
        """
    return Alert(
        burn.name,
        burn.severity,
        burn.hold,
        expression,
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} fail",
        f"Over {burn.window} {{{{ $value | humanizePercentage }}}} of the requests to "
        f"{{{{ $labels.job }}}} failed, and over {burn.recent} still do; {exact(slo)}% are to "
        f"succeed. At this rate {burn.meaning}.",
        "Look which routes and which servers fail, and what was released last; roll it back if "
        "that fits. The exceptions are in gunicorn_http_exceptions_total.",
    )


# A server is gone when its target is there and cannot be scraped, a job also when its targets are.
# One that ends while it boots and is started again can be scraped now and then, so of a job a
# server must serve.
MISSING = (
    Alert(
        "GunicornJobMissing",
        "page",
        "5m",
        """
        (
            count by (job) (instance:gunicorn_server:known)
          or
            last_over_time(job:gunicorn_servers:count[1h])
        )
        unless on (job) (instance:gunicorn_workers_serving:sum > 0)
        unless on (job) ALERTS{alertname="GunicornBootLoop", alertstate="firing"}
        """,
        "No server of {{ $labels.job }} serves",
        "For 5 minutes no server of {{ $labels.job }} that could be scraped had a worker that "
        "serves, or none could be scraped, or their targets are gone. Servers that were known: "
        "{{ $value }}.",
        "Look whether the servers run: Gunicorn ends when its workers cannot boot, see its log. "
        "Then at the targets in Prometheus for the error. If the job was removed on purpose, this "
        "ends by itself within an hour.",
    ),
    Alert(
        "GunicornServerMissing",
        "ticket",
        "5m",
        """
        (
            up == 0 and on (job, instance) instance:gunicorn_server:known
          or
            gunicorn_prom_server_up == 0
        )
        and on (job) group by (job) (gunicorn_start_time_seconds)
        """,
        "{{ with $labels.server }}{{ . }} at {{ end }}<server> gives no metrics",
        "{{ with $labels.server }}{{ . }} at {{ end }}<server> could not be scraped for 5 minutes; "
        "others of the job can.",
        "Look whether the server runs and its metrics port can be reached from Prometheus; the "
        "targets there show the error. Gunicorn ends when its workers cannot boot: see its log.",
    ),
)

# The others have alerts of their own.
BOOT_LOOP = "|".join(reason for reason in UNWANTED_EXITS if reason not in ("timeout", "oom"))

WORKERS = (
    Alert(
        "GunicornBootLoop",
        "page",
        "1m",
        f"""
        sum without (reason) (
          increase(gunicorn_worker_exits_total{{reason=~"{BOOT_LOOP}"}}[10m])
        ) >= clamp_min(2 * gunicorn_workers_target, 3)
        """,
        "Workers of <server> die again and again",
        "Workers of <server> that ended by themselves within 10 minutes: "
        '{{ $value | printf "%.0f" }}.',
        "The reasons are in gunicorn_worker_exits_total, the traceback is in the server's log. "
        "Run `gunicorn-prom check` with the release and roll it back if it fails.",
    ),
    Alert(
        "GunicornServerRestarting",
        "ticket",
        "0m",
        "changes(gunicorn_start_time_seconds[30m]) > 3",
        "<server> is restarted again and again",
        "The master of <server> was started {{ $value }} times within 30 minutes.",
        "Look who ends it: a liveness probe that fails, the kernel for memory, or an error at the "
        "end of its log.",
    ),
    Alert(
        "GunicornWorkerOutOfMemory",
        "ticket",
        "0m",
        'sum without (reason) (increase(gunicorn_worker_exits_total{reason="oom"}[30m])) > 0',
        "Workers of <server> are killed for memory",
        "Workers of <server> that the kernel has killed within 30 minutes, with the requests that "
        'they had: {{ $value | printf "%.0f" }}.',
        "Give the server more memory or fewer workers. Against a leak `--max-worker-memory` "
        "replaces a worker before the kernel does, and loses no request.",
    ),
    Alert(
        "GunicornWorkerTimeouts",
        "ticket",
        "0m",
        'sum without (reason) (increase(gunicorn_worker_exits_total{reason="timeout"}[30m])) >= 3',
        "Workers of <server> time out",
        '{{ $value | printf "%.0f" }} workers of <server> were stuck and killed within 30 minutes.',
        "The log has the request and the stacks of each. Which routes they are in is in "
        "gunicorn_worker_timeouts_total.",
    ),
    Alert(
        "GunicornNoWorkers",
        "page",
        "5m",
        """
        instance:gunicorn_workers_serving:sum == 0
          and gunicorn_workers_target > 0
          unless on (job, instance, server)
            ALERTS{alertname="GunicornBootLoop", alertstate="firing"}
          unless on (job) ALERTS{alertname="GunicornJobMissing", alertstate="firing"}
        """,
        "No worker of <server> serves",
        "<server> has had no worker that serves for 5 minutes.",
        "See in the log where the workers are stuck: most often they wait for something while they "
        "import the application. `py-spy dump` of a worker shows the line.",
    ),
    Alert(
        "GunicornWorkersBelowTarget",
        "ticket",
        "10m",
        """
        gunicorn_workers_target - (instance:gunicorn_workers_serving:sum > 0) > 0
          unless on (job, instance, server) ALERTS{
            alertname=~"GunicornBootLoop|GunicornWorkerOutOfMemory|GunicornWorkerTimeouts",
            alertstate="firing"
          }
        """,
        "<server> has too few workers",
        "Workers that <server> has lacked for 10 minutes: {{ $value }}.",
        "Look at the states and at how long workers take to boot (gunicorn_worker_boot_seconds). "
        "A worker that stays in `booting` hangs in the import of the application.",
    ),
)


# Start and uptime together are the time of the scrape by the server's own clock, so it is no matter
# how far Prometheus's is from that.
STALE_HEARTBEAT = Alert(
    "GunicornHeartbeatStale",
    "ticket",
    "1m",
    f"""
    max without (worker_id) (
      gunicorn_worker_start_time_seconds + gunicorn_worker_uptime_seconds
        - gunicorn_worker_heartbeat_timestamp_seconds
    ) > (
        (gunicorn_worker_timeout_seconds > 0) + {STALE_AFTER_TIMEOUT_S}
      or
        (gunicorn_worker_timeout_seconds == 0) + {STALE_WITHOUT_TIMEOUT_S}
    )
    """,
    "A worker of <server> is stuck and not replaced",
    "A worker of <server> has given no sign of life for {{ $value | humanizeDuration }}, and the "
    "master has not replaced it.",
    "Find it by `gunicorn-prom top`. If `timeout` is 0, end it; else the master itself is stuck: "
    "see its log and restart the server.",
)

LOAD = (
    Alert(
        "GunicornBacklog",
        "page",
        "5m",
        """
        sum without (listener) (min_over_time(gunicorn_socket_backlog[5m])) > 0
          or
        sum without (worker_id) (min_over_time(gunicorn_worker_connections_waiting[5m])) > 0
        """,
        "Clients of <server> wait to be served",
        "Connections to <server> that wait to be accepted or for a thread, at the least, for 5 "
        "minutes and more: {{ $value }}.",
        "Look whether workers are stuck or slow (oldest request, slowest routes). If they are "
        "merely busy add workers, threads or servers.",
    ),
    Alert(
        "GunicornSaturated",
        "ticket",
        "10m",
        """
        (
            avg_over_time(instance:gunicorn_saturation:ratio[5m]) > 0.9
          or
            instance:gunicorn_worker_cpu:avg_rate5m > 0.9
        )
        unless on (job, instance, server)
          ALERTS{alertname=~"GunicornBacklog|GunicornNoWorkers", alertstate="firing"}
        """,
        "<server> is full",
        "{{ $value | humanizePercentage }} of what the workers of <server> can do is in use. The "
        "next burst will have to wait.",
        "Add workers or threads while the host has cores and memory for them, else servers. The "
        "routes that take the time are on the dashboard.",
    ),
)

OWN_ERRORS = Alert(
    "GunicornMetricsFailing",
    "ticket",
    "0m",
    "increase(gunicorn_prom_errors_total[15m]) > 0",
    "gunicorn-prom on <server> has errors",
    "Failures of gunicorn-prom in `{{ $labels.where }}` on <server> within 15 minutes: "
    '{{ $value | printf "%.0f" }}. Requests are served, but numbers may be missing.',
    "The first failure is in the server's log, by the word gunicorn-prom. Often the state "
    "directory is full or was removed.",
)

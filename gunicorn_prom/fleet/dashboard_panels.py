"""What the dashboard shows.

In a query `{@` stands for the servers that are chosen and `<budget>` for the share of requests that
may fail, `<slo>` in a description for the percentage that shall not. Every query is an aggregate,
or the few that were worst at some time: a thousand servers draw no more lines than ten.
"""

from typing import Literal, NamedTuple

from gunicorn_prom.fleet.alert_rules import FAILED, UNANSWERED
from gunicorn_prom.scoreboard import UNWANTED_EXITS

__all__ = ["ROWS", "Panel", "Row"]

Kind = Literal["timeseries", "stat", "heatmap", "table", "text"]


class Panel(NamedTuple):
    """A panel.

    Attributes:
        description: what it shows, and what to do about it.
        unit: as Grafana calls it.
        queries: each with what its lines are called, in a table with the name of its column.
        kind: as Grafana calls it.
        width: of 24 columns.
        limits: from where on it is orange, and red.
        units: of columns that differ.
        text: in Markdown, instead of queries.
    """

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...] = ()
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    is_stacked: bool = False
    limits: tuple[float, float] | tuple[()] = ()
    units: dict[str, str] = {}  # noqa: RUF012  # nobody writes to it
    text: str = ""


class Row(NamedTuple):
    """Panels under one title, all of the same height."""

    title: str
    panels: tuple[Panel, ...]


REQUESTS = "sum(rate(gunicorn_http_requests_total{@}[$__rate_interval]))"
# A request that nobody answered is in no response. Where nothing has failed there is no series.
ABORTED = 'sum(rate(gunicorn_http_aborted_total{{@, reason=~"{}"}}[$__rate_interval]))'
FAILED_SHARE = (
    '((sum(rate(gunicorn_http_requests_total{@, status=~"5.."}[$__rate_interval])) or vector(0))'
    f" + {ABORTED.format(FAILED)}) / ({REQUESTS} + {ABORTED.format(UNANSWERED)})"
)
CAPACITY = "gunicorn_worker_capacity{@}"
IN_PROGRESS = "gunicorn_worker_requests_in_progress{@}"
# Of workers with a limit; others have no capacity of which this could be a share.
IN_USE = f"({IN_PROGRESS} and {CAPACITY})"
SERVING = 'gunicorn_workers{@, state=~"idle|busy"}'
CPU = "rate(gunicorn_worker_cpu_seconds_total{@}[$__rate_interval])"
WAITING = '{@, __name__=~"gunicorn_socket_backlog|gunicorn_worker_connections_waiting"}'
# By the server's own clock: together they are the time of the scrape.
SCRAPED_AT = "gunicorn_worker_start_time_seconds{@} + gunicorn_worker_uptime_seconds{@}"
# `server` is empty unless one sidecar exports several.
SERVER = "{{instance}} {{server}}"
WORKER = f"{SERVER} worker {{{{worker_id}}}}"
ROUTE = '@, route=~"$route"'


def quantile(share: float, histogram: str, by: str = "le", labels: str = "@") -> str:
    """Return the query for what that share of the observations stays under."""
    return (
        f"histogram_quantile({share:g}, sum by ({by}) "
        f"(rate({histogram}_bucket{{{labels}}}[$__rate_interval])))"
    )


def percentiles(histogram: str, *shares: float, labels: str = "@") -> tuple[tuple[str, str], ...]:
    """Return a query for each share, called p95 and the like."""
    return tuple(
        (quantile(share, histogram, labels=labels), f"p{100 * share:g}") for share in shares
    )


def worst(query: str, legend: str = SERVER, count: int = 5) -> tuple[str, str]:
    """Return the query for the servers or workers that have had the highest values.

    They are the same over the whole graph: `topk` alone chooses anew at each of its points.
    """
    over_the_graph = f"max_over_time(({query})[$__range:$__interval] @ end())"
    return f"{query} and topk({count}, {over_the_graph})", legend


DURATION = "gunicorn_http_request_duration_seconds"
QUEUE = "gunicorn_http_request_queue_seconds"

GLANCE = Row(
    "At a glance",
    (
        Panel(
            "Servers",
            "Servers of which Prometheus has numbers.",
            "short",
            (("count(gunicorn_start_time_seconds{@})", "servers"),),
            kind="stat",
            width=3,
            height=4,
        ),
        Panel(
            "Requests",
            "Requests answered in a second, by all servers that are chosen.",
            "reqps",
            ((REQUESTS, "requests"),),
            kind="stat",
            width=3,
            height=4,
        ),
        Panel(
            "Failed",
            "Share of the requests that were answered with 5xx, were cut off, or got no answer. "
            "Look at the errors below, and at the routes.",
            "percentunit",
            ((FAILED_SHARE, "failed"),),
            kind="stat",
            width=3,
            height=4,
            limits=(0.001, 0.01),
        ),
        Panel(
            "p95",
            "Time in which nineteen of twenty requests are answered.",
            "s",
            percentiles(DURATION, 0.95),
            kind="stat",
            width=3,
            height=4,
        ),
        Panel(
            "Saturation",
            "Of what all workers could work on at once, the share in use. From 0.7 on bursts wait; "
            "empty where nothing limits a worker.",
            "percentunit",
            ((f"sum({IN_USE}) / sum({CAPACITY})", "in use"),),
            kind="stat",
            width=3,
            height=4,
            limits=(0.7, 0.9),
        ),
        Panel(
            "Workers lacking",
            "Workers that are to run and do not serve. More than 0 for minutes: they die, or hang "
            "while they boot; see the exits.",
            "short",
            ((f"sum(gunicorn_workers_target{{@}}) - sum({SERVING})", "lacking"),),
            kind="stat",
            width=3,
            height=4,
            limits=(1, 5),
        ),
        Panel(
            "Waiting connections",
            "Connections that no worker has accepted, or no thread of a gthread worker has taken "
            "up. If it stays above 0 clients wait: workers are stuck or too few.",
            "short",
            ((f"sum({WAITING})", "waiting"),),
            kind="stat",
            width=3,
            height=4,
            limits=(1, 100),
        ),
        Panel(
            "Alerts",
            "Alerts of `gunicorn-prom emit alerts` that fire, for the chosen jobs.",
            "short",
            (
                (
                    'count(ALERTS{alertname=~"Gunicorn.+", alertstate="firing", job=~"$job"})'
                    " or vector(0)",
                    "firing",
                ),
            ),
            kind="stat",
            width=3,
            height=4,
            limits=(1, 3),
        ),
    ),
)

REQUESTS_ROW = Row(
    "Requests",
    (
        Panel(
            "Requests by class of status",
            "Answers in a second. A step with no deployment is the traffic; a fall with a backlog "
            "is the server.",
            "reqps",
            (
                (
                    f"sum by (status_class) (rate({DURATION}_count{{@}}[$__rate_interval]))",
                    "{{status_class}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Requests by method",
            "Answers in a second, by method.",
            "reqps",
            (
                (
                    "sum by (method) (rate(gunicorn_http_requests_total{@}[$__rate_interval]))",
                    "{{method}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Busiest servers",
            "Requests answered in a second by the servers with the most. If they differ much the "
            "load balancer does not balance.",
            "reqps",
            (
                worst(
                    "sum by (job, instance, server) "
                    "(rate(gunicorn_http_requests_total{@}[$__rate_interval]))",
                    count=10,
                ),
            ),
        ),
    ),
)

ERRORS = Row(
    "Errors",
    (
        Panel(
            "Failed requests",
            "Share of the requests that were answered with 5xx, were cut off by the application, "
            "or got no answer.",
            "percentunit",
            ((FAILED_SHARE, "failed"),),
        ),
        Panel(
            "Burn of the error budget",
            "1 uses up exactly the errors that an objective of <slo> allows for. Needs the rules "
            "of `gunicorn-prom emit alerts`; 14.4 over an hour pages.",
            "short",
            tuple(
                (
                    f'max(job:gunicorn_http_failures:ratio_rate{window}{{job=~"$job"}}) / <budget>',
                    f"over {window}",
                )
                for window in ("1h", "6h", "3d")
            ),
        ),
        Panel(
            "Failing servers",
            "Answers with 5xx in a second, of the servers with the most. One alone is a bad host, "
            "all together a bad release or something that they depend on.",
            "reqps",
            (
                worst(
                    "sum by (job, instance, server) (rate(gunicorn_http_requests_total"
                    '{@, status=~"5.."}[$__rate_interval]))'
                ),
            ),
        ),
        Panel(
            "Requests without their end",
            "By reason: the client went away, the application failed in the middle, the worker "
            "timed out, or nobody answered because it died.",
            "reqps",
            (
                (
                    "sum by (reason) (rate(gunicorn_http_aborted_total{@}[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Exceptions",
            "Exceptions that the application let through, by class. The tracebacks are in the "
            "server's log.",
            "cps",
            (
                worst(
                    "sum by (exception) "
                    "(rate(gunicorn_http_exceptions_total{@}[$__rate_interval]))",
                    "{{exception}}",
                    10,
                ),
            ),
        ),
        Panel(
            "Unreadable requests",
            "Connections on which no request could be read, by the class of the error. Scanners, "
            "TLS on a plain port, headers that are too large.",
            "cps",
            (
                (
                    "sum by (error) (rate(gunicorn_http_parse_errors_total{@}[$__rate_interval]))",
                    "{{error}}",
                ),
            ),
        ),
    ),
)

DURATIONS = Row(
    "Duration",
    (
        Panel(
            "Duration of requests",
            "From the parsed request to the end of its response. Half, nine of ten, ... of the "
            "requests stay under the line.",
            "s",
            percentiles(DURATION, 0.5, 0.9, 0.95, 0.99),
        ),
        Panel(
            "How long requests take",
            "Requests in a second by how long they took. Two bands are two kinds of requests.",
            "s",
            (
                (
                    f"sum by (le) (rate({DURATION}_bucket{{@}}[$__rate_interval]))",
                    "{{le}}",
                ),
            ),
            kind="heatmap",
        ),
        Panel(
            "Slowest servers",
            "p95 of the servers where it is highest.",
            "s",
            (worst(quantile(0.95, DURATION, "le, job, instance, server")),),
        ),
        Panel(
            "Mean duration by class of status",
            "Errors that are much faster than answers make the overall numbers look better.",
            "s",
            (
                (
                    f"sum by (status_class) (rate({DURATION}_sum{{@}}[$__rate_interval])) / "
                    f"sum by (status_class) (rate({DURATION}_count{{@}}[$__rate_interval]))",
                    "{{status_class}}",
                ),
            ),
        ),
        Panel(
            "Size of requests",
            "Bodies that clients send, as they announce them.",
            "bytes",
            percentiles("gunicorn_http_request_size_bytes", 0.5, 0.95),
        ),
        Panel(
            "Size of responses",
            "Bodies that were sent.",
            "bytes",
            percentiles("gunicorn_http_response_size_bytes", 0.5, 0.95),
        ),
    ),
)

SATURATION = Row(
    "Saturation",
    (
        Panel(
            "Capacity in use",
            "Requests in progress over what the workers can work on at once: of all servers "
            "together, and of the fullest. At 1 every further request waits.",
            "percentunit",
            (
                (f"sum({IN_USE}) / sum({CAPACITY})", "all"),
                worst(
                    f"sum by (job, instance, server) ({IN_USE}) / "
                    f"sum by (job, instance, server) ({CAPACITY})"
                ),
            ),
            limits=(0.7, 0.9),
        ),
        Panel(
            "Busy share of the workers",
            "Part of the time in which a worker had anything to do: the mean, and the busiest "
            "workers. It counts while a request runs, so one that hangs is seen.",
            "percentunit",
            (
                ("avg(rate(gunicorn_worker_busy_seconds_total{@}[$__rate_interval]))", "mean"),
                worst("rate(gunicorn_worker_busy_seconds_total{@}[$__rate_interval])", WORKER),
            ),
        ),
        Panel(
            "CPU of the workers",
            "Cores that a worker uses: the mean, and the hungriest. Near 1 the worker is full, "
            "whatever its capacity says: more processes help, threads do not.",
            "percentunit",
            ((f"avg({CPU})", "mean"), worst(CPU, WORKER)),
            limits=(0.7, 0.9),
        ),
        Panel(
            "Requests in progress",
            "Requests that workers are working on now, and what they could.",
            "short",
            (
                ("sum(gunicorn_http_requests_in_progress{@})", "in progress"),
                (f"sum({CAPACITY})", "capacity"),
            ),
        ),
        Panel(
            "Connections",
            "Connections that workers have open, also those that idle. They count against "
            "worker_connections. Not shown by sync workers.",
            "short",
            (
                ("sum(gunicorn_worker_connections{@})", "open"),
                ("sum(gunicorn_websocket_connections{@})", "WebSockets"),
            ),
        ),
        Panel(
            "CPU by job",
            "Cores that all workers of a job use.",
            "short",
            ((f"sum by (job) ({CPU})", "{{job}}"),),
            is_stacked=True,
        ),
    ),
)

QUEUES = Row(
    "Queues",
    (
        Panel(
            "Wait from the proxy",
            "From X-Request-Start to when a worker began, the kernel's queue included. Empty "
            "unless the proxy sends the header.",
            "s",
            percentiles(QUEUE, 0.5, 0.95, 0.99, labels='@, stage="proxy"'),
        ),
        Panel(
            "Wait for a thread",
            "Time that requests wait in a gthread worker for one of its threads. More threads or "
            "workers shorten it.",
            "s",
            percentiles(QUEUE, 0.5, 0.95, 0.99, labels='@, stage="pool"'),
        ),
        Panel(
            "Connections that wait for a thread",
            "Accepted by a gthread worker whose threads are all taken: all, and the workers with "
            "most. One worker alone has them when its threads hang in slow requests.",
            "short",
            (
                ("sum(gunicorn_worker_connections_waiting{@})", "all"),
                worst("gunicorn_worker_connections_waiting{@}", WORKER),
            ),
        ),
        Panel(
            "Backlog",
            "Connections that no worker has accepted: all, and the longest queues with their "
            "peaks of a minute. Of sync workers it means that all are busy, of others that a "
            "worker stands still.",
            "short",
            (
                ("sum(gunicorn_socket_backlog{@})", "all"),
                worst("gunicorn_socket_backlog_peak{@}", "peak {{instance}} {{listener}}"),
            ),
        ),
        Panel(
            "How full the backlog was",
            "Peak of a minute over the limit. At 1 the kernel turns clients away: raise "
            "net.core.somaxconn and backlog, or add workers.",
            "percentunit",
            (
                worst(
                    "gunicorn_socket_backlog_peak{@} / (gunicorn_socket_backlog_limit{@} > 0)",
                    "{{instance}} {{listener}}",
                ),
            ),
        ),
        Panel(
            "Queue headers that were ignored",
            "X-Request-Start that is no time, in the future or a day old. The clocks differ, or "
            "the proxy writes something else.",
            "cps",
            (
                (
                    "sum by (reason) "
                    "(rate(gunicorn_http_queue_headers_ignored_total{@}[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
        ),
    ),
)

WORKERS = Row(
    "Workers",
    (
        Panel(
            "Workers by state",
            "All workers that live, and how many are to. Twice as many for a moment: an upgrade "
            "or a reload.",
            "short",
            (
                ("sum by (state) (gunicorn_workers{@})", "{{state}}"),
                ("sum(gunicorn_workers_target{@})", "target"),
            ),
        ),
        Panel(
            "Oldest requests",
            "Age of the requests that have been in progress for longest. On gthread and async "
            "workers no timeout ends them.",
            "s",
            (
                worst(
                    f"{SCRAPED_AT} - gunicorn_worker_oldest_request_start_time_seconds{{@}}", WORKER
                ),
            ),
        ),
        Panel(
            "Oldest heartbeats",
            "Time since a worker gave a sign of life. At `timeout` the master kills it; beyond "
            "that the master is stuck.",
            "s",
            (worst(f"{SCRAPED_AT} - gunicorn_worker_heartbeat_timestamp_seconds{{@}}", WORKER),),
        ),
        Panel(
            "Time to boot",
            "From the fork until a worker is ready, the import of the application included; of all "
            "boots since the servers were started.",
            "s",
            (
                (
                    "sum(gunicorn_worker_boot_seconds_sum{@}) / "
                    "sum(gunicorn_worker_boot_seconds_count{@})",
                    "mean",
                ),
                (
                    "histogram_quantile(0.95, "
                    "sum by (le) (gunicorn_worker_boot_seconds_bucket{@}))",
                    "p95",
                ),
            ),
        ),
        Panel(
            "Requests of the busiest workers",
            "If one worker has most of the requests, connections are kept alive to it, or "
            "reuse_port spreads them badly.",
            "reqps",
            (worst("rate(gunicorn_worker_requests_total{@}[$__rate_interval])", WORKER),),
        ),
        Panel(
            "Workers lacking",
            "Workers that are to run and do not serve, of the servers that lack most.",
            "short",
            (
                worst(
                    "sum by (job, instance, server) (gunicorn_workers_target{@}) - "
                    f"sum by (job, instance, server) ({SERVING})"
                ),
            ),
        ),
    ),
)

MEMORY = Row(
    "Memory",
    (
        Panel(
            "Memory of the workers",
            "Proportional size: each shared page is divided by those who share it, so this is "
            "what they really take. Not known across pid namespaces.",
            "bytes",
            (
                ("sum(gunicorn_worker_memory_pss_bytes{@})", "proportional"),
                ("sum(gunicorn_worker_memory_bytes{@})", "resident, shared pages in full"),
            ),
        ),
        Panel(
            "Largest workers",
            "Resident memory. One that only grows leaks: `--max-worker-memory` replaces it in "
            "time.",
            "bytes",
            (worst("gunicorn_worker_memory_bytes{@}", WORKER),),
        ),
        Panel(
            "Shared by copy-on-write",
            "Share of a worker's memory that it has in common with the master. With preload_app "
            "it is large at first and falls as pages are written to.",
            "percentunit",
            (
                (
                    "avg(gunicorn_worker_memory_shared_bytes{@} / gunicorn_worker_memory_bytes{@})",
                    "mean",
                ),
                (
                    "min(gunicorn_worker_memory_shared_bytes{@} / gunicorn_worker_memory_bytes{@})",
                    "least",
                ),
            ),
        ),
        Panel(
            "Growth",
            "Bytes in a second by which the fastest growing workers grow, over half an hour.",
            "Bps",
            (worst("deriv(gunicorn_worker_memory_bytes{@}[30m])", WORKER),),
            width=12,
        ),
        Panel(
            "Memory of one more worker",
            "Resident memory of a worker less what it shares, on average.",
            "bytes",
            (
                (
                    "avg(gunicorn_worker_memory_bytes{@} - gunicorn_worker_memory_shared_bytes{@})",
                    "of its own",
                ),
            ),
            width=12,
        ),
    ),
)

EXITS = Row(
    "Exits, timeouts, restarts",
    (
        Panel(
            "Exits by reason",
            f"Workers that ended within the interval. {', '.join(UNWANTED_EXITS)} are nobody's "
            "intention.",
            "short",
            (
                (
                    "sum by (reason) (increase(gunicorn_worker_exits_total{@}[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
            is_stacked=True,
        ),
        Panel(
            "Timeouts by route",
            "Workers that were stuck, by the route of the request that they were in. The log has "
            "the stacks.",
            "short",
            (
                worst(
                    "sum by (route) "
                    "(increase(gunicorn_worker_timeouts_total{@}[$__rate_interval]))",
                    "{{route}}",
                    10,
                ),
            ),
        ),
        Panel(
            "Servers whose workers die",
            "Workers that ended in an hour by themselves, the kernel or a timeout.",
            "short",
            (
                worst(
                    "sum by (job, instance, server) (increase(gunicorn_worker_exits_total{@, "
                    f'reason=~"{"|".join(UNWANTED_EXITS)}"}}[1h]))'
                ),
            ),
        ),
        Panel(
            "Spawns and reloads",
            "Workers started and reloads begun within the interval.",
            "short",
            (
                ("sum(increase(gunicorn_worker_spawns_total{@}[$__rate_interval]))", "spawns"),
                ("sum(increase(gunicorn_reloads_total{@}[$__rate_interval]))", "reloads"),
            ),
            width=12,
        ),
        Panel(
            "Signals to the masters",
            "Signals within the interval: HUP reloads, USR2 upgrades, TTIN and TTOU scale.",
            "short",
            (
                (
                    "sum by (signal) (increase(gunicorn_signals_total{@}[$__rate_interval]))",
                    "{{signal}}",
                ),
            ),
            is_stacked=True,
            width=12,
        ),
    ),
)

ROUTES = Row(
    "Routes",
    (
        Panel(
            "Requests by route",
            "The routes that are asked most. `_UNMATCHED` rises while somebody scans.",
            "reqps",
            (
                worst(
                    "sum by (method, route) "
                    f"(rate(gunicorn_http_route_requests_total{{{ROUTE}}}[$__rate_interval]))",
                    "{{method}} {{route}}",
                    10,
                ),
            ),
        ),
        Panel(
            "p95 of the slowest routes",
            "Time in which nineteen of twenty requests to a route are answered.",
            "s",
            (
                worst(
                    quantile(
                        0.95,
                        "gunicorn_http_route_duration_seconds",
                        "le, method, route",
                        ROUTE,
                    ),
                    "{{method}} {{route}}",
                    10,
                ),
            ),
        ),
        Panel(
            "Where the time goes",
            "Seconds that requests to a route take in a second: how many workers it keeps busy. "
            "Make the first of them faster.",
            "short",
            (
                worst(
                    "sum by (method, route) "
                    f"(rate(gunicorn_http_route_duration_seconds_sum{{{ROUTE}}}[$__rate_interval]))",
                    "{{method}} {{route}}",
                    10,
                ),
            ),
        ),
        Panel(
            "Failing routes",
            "Share of the answers of a route that are 5xx.",
            "percentunit",
            (
                worst(
                    "sum by (route) (rate(gunicorn_http_route_requests_total"
                    f'{{{ROUTE}, status_class="5xx"}}[$__rate_interval])) / sum by (route) '
                    f"(rate(gunicorn_http_route_requests_total{{{ROUTE}}}[$__rate_interval]))",
                    "{{route}}",
                    10,
                ),
            ),
            width=10,
        ),
        Panel(
            "Routes of the last hour",
            "What each route took: total time, requests, and the mean of one.",
            "short",
            (
                (
                    "sum by (method, route) (increase("
                    f"gunicorn_http_route_duration_seconds_sum{{{ROUTE}}}[1h]))",
                    "total time",
                ),
                (
                    "sum by (method, route) (increase("
                    f"gunicorn_http_route_duration_seconds_count{{{ROUTE}}}[1h]))",
                    "requests",
                ),
                (
                    "sum by (method, route) (increase("
                    f"gunicorn_http_route_duration_seconds_sum{{{ROUTE}}}[1h])) / "
                    "sum by (method, route) (increase("
                    f"gunicorn_http_route_duration_seconds_count{{{ROUTE}}}[1h]))",
                    "mean",
                ),
            ),
            kind="table",
            width=14,
            units={"total time": "s", "mean": "s"},
        ),
    ),
)

RUNTIME = Row(
    "Runtime",
    (
        Panel(
            "Pauses of the garbage collector",
            "Seconds in a second: the mean, and the workers with most. Above 0.05 it is worth "
            "a look at gc.freeze, thresholds, or who makes the cycles.",
            "percentunit",
            (
                (
                    "avg(sum by (job, instance, server, worker_id) "
                    "(rate(gunicorn_worker_gc_pause_seconds_total{@}[$__rate_interval])))",
                    "mean",
                ),
                worst(
                    "sum by (job, instance, server, worker_id) "
                    "(rate(gunicorn_worker_gc_pause_seconds_total{@}[$__rate_interval]))",
                    WORKER,
                ),
            ),
        ),
        Panel(
            "Collections by generation",
            "Garbage collections in a second, of all workers.",
            "cps",
            (
                (
                    "sum by (generation) "
                    "(rate(gunicorn_worker_gc_collections_total{@}[$__rate_interval]))",
                    "generation {{generation}}",
                ),
            ),
        ),
        Panel(
            "Context switches",
            "In a second, of the workers' main threads. Involuntary ones: more runs than there "
            "are cores.",
            "cps",
            (
                (
                    "sum by (kind) "
                    "(rate(gunicorn_worker_context_switches_total{@}[$__rate_interval]))",
                    "{{kind}}",
                ),
            ),
        ),
        Panel(
            "Open file descriptors",
            "Of the workers that have the most. A line that only rises is a leak, and ends at "
            "`ulimit -n`.",
            "short",
            (worst("gunicorn_worker_open_fds{@}", WORKER),),
        ),
        Panel(
            "Threads",
            "Of the workers that have the most.",
            "short",
            (worst("gunicorn_worker_threads{@}", WORKER),),
        ),
        Panel(
            "CPU of the masters",
            "Cores that the masters use, scrapes included.",
            "percentunit",
            (
                worst(
                    "rate(process_cpu_seconds_total{@}[$__rate_interval]) "
                    "and on (job, instance) gunicorn_info{@}"
                ),
            ),
        ),
    ),
)

OURSELVES = Row(
    "Versions and gunicorn-prom itself",
    (
        Panel(
            "Versions",
            "How many servers run what. More than one line outside of a rollout: some were "
            "forgotten.",
            "short",
            (
                (
                    "count by (job, version, python_version, worker_class, gunicorn_prom_version) "
                    "(gunicorn_info{@})",
                    "servers",
                ),
            ),
            kind="table",
            width=12,
        ),
        Panel(
            "Time of a scrape",
            "Time that a server needs to collect its numbers; it grows with workers, routes and "
            "metrics of the application.",
            "s",
            (worst("gunicorn_prom_scrape_duration_seconds{@}"),),
            width=4,
        ),
        Panel(
            "Own errors",
            "Failures of gunicorn-prom within an hour, by the part that failed. The log has the "
            "first one.",
            "short",
            (("sum by (where) (increase(gunicorn_prom_errors_total{@}[1h])) > 0", "{{where}}"),),
            width=4,
        ),
        Panel(
            "Folded labels",
            "Events counted under _OTHER within an hour because their family is full: too many "
            "routes, statuses or classes of exceptions.",
            "short",
            (
                (
                    "sum by (family) (increase(gunicorn_prom_series_overflow_total{@}[1h])) > 0",
                    "{{family}}",
                ),
            ),
            width=4,
        ),
    ),
)

APPLICATION = Row(
    "The application",
    (
        Panel(
            "Metrics of your own",
            "Where to put panels for what the application counts itself.",
            "none",
            kind="text",
            width=24,
            height=4,
            text=(
                "What the application counts with prometheus_client is at the same address, with "
                "the same `job` and `instance`. Add panels here, with queries such as\n\n"
                "```promql\n"
                'sum(rate(orders_total{job=~"$job", instance=~"$instance"}[$__rate_interval]))\n'
                "```"
            ),
        ),
    ),
)

ROWS = (
    GLANCE,
    REQUESTS_ROW,
    ERRORS,
    DURATIONS,
    SATURATION,
    QUEUES,
    WORKERS,
    MEMORY,
    EXITS,
    ROUTES,
    RUNTIME,
    OURSELVES,
    APPLICATION,
)

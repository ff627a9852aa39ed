"""Every family of metrics that is ours, declared once.

The exposition, its help texts and the reference are made from these.
"""

from typing import Literal, NamedTuple

__all__ = ["FAMILIES", "Family"]

Kind = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """A family of metrics.

    Attributes:
        name: as users see it, with `_total` on counters and the unit in it.
        labels: the label names of a sample, besides `le`.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


# Server-wide.

HTTP_REQUESTS = Family(
    "gunicorn_http_requests_total",
    "counter",
    "Requests whose response was sent, whole or in part, by the status the client saw.",
    ("method", "status"),
)
HTTP_DURATION = Family(
    "gunicorn_http_request_duration_seconds",
    "histogram",
    "Time from the parsed request to the end of its response; the same requests as "
    "in gunicorn_http_requests_total.",
    ("method", "status_class"),
)
HTTP_REQUEST_SIZE = Family(
    "gunicorn_http_request_size_bytes",
    "histogram",
    "Size of request bodies as announced by Content-Length, 0 where there is none.",
)
HTTP_RESPONSE_SIZE = Family(
    "gunicorn_http_response_size_bytes",
    "histogram",
    "Size of response bodies sent, without headers and chunk framing.",
)
HTTP_IN_PROGRESS = Family(
    "gunicorn_http_requests_in_progress",
    "gauge",
    "Requests that workers are working on now.",
)
HTTP_QUEUE = Family(
    "gunicorn_http_request_queue_seconds",
    "histogram",
    "Time that requests waited before a worker began with them: from the proxy's X-Request-Start "
    "or X-Queue-Start on (proxy), and for a thread of gthread (pool). The proxy's has not the "
    "pool's in it.",
    ("stage",),
)
HTTP_QUEUE_IGNORED = Family(
    "gunicorn_http_queue_headers_ignored_total",
    "counter",
    "Headers X-Request-Start or X-Queue-Start that were not taken, by what is wrong with them: "
    "no time (garbage), a time to come (future), more than a day ago (past).",
    ("reason",),
)
HTTP_ROUTE_REQUESTS = Family(
    "gunicorn_http_route_requests_total",
    "counter",
    "Requests answered, by the template of the route as the framework tells it.",
    ("method", "route", "status_class"),
)
HTTP_ROUTE_DURATION = Family(
    "gunicorn_http_route_duration_seconds",
    "histogram",
    "Time from the parsed request to the end of its response, by the template of the route.",
    ("method", "route", "status_class"),
)
WEBSOCKETS_TOTAL = Family(
    "gunicorn_websocket_connections_total",
    "counter",
    "WebSocket connections that the application accepted.",
)
WEBSOCKETS = Family(
    "gunicorn_websocket_connections", "gauge", "WebSocket connections that are open now."
)
HTTP_EXCEPTIONS = Family(
    "gunicorn_http_exceptions_total",
    "counter",
    "Exceptions that the application let through to Gunicorn, by class; not SystemExit "
    "and its like, and not what a server raises because the client has gone.",
    ("exception",),
)
HTTP_PARSE_ERRORS = Family(
    "gunicorn_http_parse_errors_total",
    "counter",
    "Connections on which no request could be read, by the class of the error.",
    ("error",),
)
HTTP_ABORTED = Family(
    "gunicorn_http_aborted_total",
    "counter",
    "Requests that did not come to their end: the client went away, the application failed in "
    "the middle of the response (error), the worker timed out, or nobody answered, also because "
    "the worker died (no_response).",
    ("reason",),
)
INFO = Family(
    "gunicorn_info",
    "gauge",
    "Versions and worker class, always 1.",
    ("version", "python_version", "worker_class", "gunicorn_prom_version"),
)
WORKERS = Family("gunicorn_workers", "gauge", "Workers that live, by state.", ("state",))
WORKERS_TARGET = Family(
    "gunicorn_workers_target", "gauge", "Workers that the master means to keep running."
)
WORKER_TIMEOUT = Family(
    "gunicorn_worker_timeout_seconds",
    "gauge",
    "Silence after which the master kills a worker, 0 for never.",
)
SPAWNS = Family(
    "gunicorn_worker_spawns_total",
    "counter",
    "Workers started: those that live and those that have exited.",
)
EXITS = Family(
    "gunicorn_worker_exits_total",
    "counter",
    "Workers that have exited, by the reason, which is told from the wait status and from what "
    "the master meant to do.",
    ("reason",),
)
TIMEOUTS = Family(
    "gunicorn_worker_timeouts_total",
    "counter",
    "Workers that timed out, by the route of the request that they were in; the same as "
    'gunicorn_worker_exits_total{reason="timeout"}.',
    ("route",),
)
BOOT_SECONDS = Family(
    "gunicorn_worker_boot_seconds",
    "histogram",
    "Time from the fork of a worker until it was ready, the import of the application included.",
)
RELOADS = Family("gunicorn_reloads_total", "counter", "Reloads begun (HUP).")
SIGNALS = Family(
    "gunicorn_signals_total", "counter", "Signals that the master was sent.", ("signal",)
)
START_TIME = Family(
    "gunicorn_start_time_seconds",
    "gauge",
    "Unix time at which the newest master was started.",
)
RELOAD_SUCCESS = Family(
    "gunicorn_config_reload_success_timestamp_seconds",
    "gauge",
    "Unix time at which the configuration was last read, at the start or by a reload.",
)
SERVER_UP = Family(
    "gunicorn_prom_server_up",
    "gauge",
    "1 while the server is there; only where `export` serves several.",
    ("server",),
)
SOCKET_BACKLOG = Family(
    "gunicorn_socket_backlog",
    "gauge",
    "Connections that wait for a worker to accept them.",
    ("listener",),
)
SOCKET_BACKLOG_LIMIT = Family(
    "gunicorn_socket_backlog_limit",
    "gauge",
    "Connections that may wait to be accepted; further ones are turned away.",
    ("listener",),
)
SOCKET_BACKLOG_PEAK = Family(
    "gunicorn_socket_backlog_peak",
    "gauge",
    "The most connections that were seen waiting within the last minute.",
    ("listener",),
)
SCRAPE_DURATION = Family(
    "gunicorn_prom_scrape_duration_seconds",
    "gauge",
    "Time that collecting this scrape took.",
)
ERRORS = Family(
    "gunicorn_prom_errors_total",
    "counter",
    "Failures of gunicorn-prom itself, by the part that failed; serving went on.",
    ("where",),
)
SERIES_OVERFLOW = Family(
    "gunicorn_prom_series_overflow_total",
    "counter",
    "Events counted under _OTHER because their family has all the series it may have.",
    ("family",),
)

# Per worker. They go with the worker; its slot, and so its series, are taken
# again by its successor.

WORKER = ("worker_id",)

WORKER_INFO = Family(
    "gunicorn_worker_info",
    "gauge",
    "Which worker has the slot, always 1.",
    (*WORKER, "pid", "age", "unique_id"),
)
WORKER_REQUESTS = Family(
    "gunicorn_worker_requests_total",
    "counter",
    "Requests answered by the worker.",
    WORKER,
)
WORKER_DURATION = Family(
    "gunicorn_worker_request_duration_seconds",
    "histogram",
    "Time that the worker took for its requests.",
    WORKER,
)
WORKER_MEMORY = Family(
    "gunicorn_worker_memory_bytes",
    "gauge",
    "Resident memory of the worker, pages shared with others counted in full.",
    WORKER,
)
WORKER_MEMORY_PSS = Family(
    "gunicorn_worker_memory_pss_bytes",
    "gauge",
    "Resident memory of the worker, each shared page divided by those who share it.",
    WORKER,
)
WORKER_MEMORY_SHARED = Family(
    "gunicorn_worker_memory_shared_bytes",
    "gauge",
    "Resident memory of the worker that other processes have mapped too: what preloading shares.",
    WORKER,
)
WORKER_CPU_PERCENT = Family(
    "gunicorn_worker_cpu_percent",
    "gauge",
    "Share of one core that the worker used since the last scrape, in percent.",
    WORKER,
)
WORKER_CPU_SECONDS = Family(
    "gunicorn_worker_cpu_seconds_total",
    "counter",
    "User and system time of the worker.",
    WORKER,
)
WORKER_UPTIME = Family(
    "gunicorn_worker_uptime_seconds", "gauge", "Time since the worker was started.", WORKER
)
WORKER_START_TIME = Family(
    "gunicorn_worker_start_time_seconds",
    "gauge",
    "Unix time at which the worker was started.",
    WORKER,
)
WORKER_OPEN_FDS = Family(
    "gunicorn_worker_open_fds", "gauge", "File descriptors that the worker has open.", WORKER
)
WORKER_THREADS = Family("gunicorn_worker_threads", "gauge", "Threads of the worker.", WORKER)
WORKER_CONTEXT_SWITCHES = Family(
    "gunicorn_worker_context_switches_total",
    "counter",
    "Times the worker's main thread gave up its core or lost it, by kind.",
    (*WORKER, "kind"),
)
WORKER_STATE = Family(
    "gunicorn_worker_state",
    "gauge",
    "1 for the state that the worker is in, 0 for the others.",
    (*WORKER, "state"),
)
WORKER_BUSY_SECONDS = Family(
    "gunicorn_worker_busy_seconds_total",
    "counter",
    "Time in which the worker had at least one request in progress.",
    WORKER,
)
WORKER_IN_PROGRESS = Family(
    "gunicorn_worker_requests_in_progress",
    "gauge",
    "Requests that the worker is working on now.",
    WORKER,
)
WORKER_CAPACITY = Family(
    "gunicorn_worker_capacity",
    "gauge",
    "Requests that the worker can work on at once: 1, threads or worker_connections; absent where "
    "nothing limits them.",
    WORKER,
)
WORKER_CONNECTIONS = Family(
    "gunicorn_worker_connections",
    "gauge",
    "Connections that the worker has open, also those that are idle; where it counts them.",
    WORKER,
)
WORKER_WAITING = Family(
    "gunicorn_worker_connections_waiting",
    "gauge",
    "Connections that the worker has accepted and that wait for one of its threads; gthread only.",
    WORKER,
)
WORKER_HEARTBEAT = Family(
    "gunicorn_worker_heartbeat_timestamp_seconds",
    "gauge",
    "Unix time at which the master last heard of the worker.",
    WORKER,
)
WORKER_OLDEST_REQUEST = Family(
    "gunicorn_worker_oldest_request_start_time_seconds",
    "gauge",
    "Unix time at which the oldest request in progress began; absent when there is none.",
    WORKER,
)
WORKER_GC_COLLECTIONS = Family(
    "gunicorn_worker_gc_collections_total",
    "counter",
    "Garbage collections of the worker, by generation.",
    (*WORKER, "generation"),
)
WORKER_GC_PAUSE = Family(
    "gunicorn_worker_gc_pause_seconds_total",
    "counter",
    "Time that the worker spent in garbage collections, by generation.",
    (*WORKER, "generation"),
)

# The plugin API's. Without the worker, so that a count outlives it.

FAILED_REQUESTS = Family(
    "gunicorn_worker_failed_requests_total",
    "counter",
    "Requests in which the application let an exception through to Gunicorn.",
    ("method", "endpoint", "error_type"),
)
ERROR_HANDLING = Family(
    "gunicorn_worker_error_handling_total",
    "counter",
    "Errors that Gunicorn's handle_error was called for.",
    ("method", "endpoint", "error_type"),
)

RESTARTS = Family(
    "gunicorn_worker_restart_total",
    "counter",
    "Workers that were told to go or had their max_requests, in their own words; see "
    "gunicorn_worker_exits_total for all of them.",
    ("reason",),
)
RESTART_COUNT = Family(
    "gunicorn_worker_restart_count_total",
    "counter",
    "The same as gunicorn_worker_restart_total, also by whether the worker could finish its work.",
    ("restart_type", "reason"),
)

FAMILIES = {value.name: value for value in list(globals().values()) if isinstance(value, Family)}

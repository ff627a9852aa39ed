"""The unit tests of the alerts.

In each case something is wrong with `sick`, so that one alert fires, and nearly so with `well`.
Series have a value a minute, in the notation of promtool.
"""

from typing import NamedTuple

from gunicorn_prom.fleet.text import exact

__all__ = ["Case", "Firing", "cases"]


class Firing(NamedTuple):
    """An alert that fires, and what it says then."""

    alert: str
    labels: dict[str, str]
    summary: str
    description: str


class Case(NamedTuple):
    """A test.

    Attributes:
        name: what is the case.
        at: the time at which it is looked.
        series: values by series.
        firing: these alerts and no others.
    """

    name: str
    at: str
    series: dict[str, str]
    firing: tuple[Firing, ...] = ()


SICK = {"job": "pods", "instance": "sick:9464"}
WELL = {"job": "pods", "instance": "well:9464"}
SLOW = {"job": "pods", "instance": "slow:9464"}
ENDLESS = {"job": "pods", "instance": "endless:9464"}
SICK_JOB, WELL_JOB = {"job": "sick"}, {"job": "well"}
A, B = {"instance": "a:9464"}, {"instance": "b:9464"}
# When the workers were started, by their own clocks.
NOW_S = 1_790_000_000
DAY_S = 86400
WORKER = {"worker_id": "0"}
REQUESTS = "gunicorn_http_requests_total"
ABORTED = "gunicorn_http_aborted_total"
EXITS = "gunicorn_worker_exits_total"
WORKERS = "gunicorn_workers"
TARGET = "gunicorn_workers_target"
START_TIME = "gunicorn_start_time_seconds"
# Of a server that lives for a minute each time.
GAPS = "1 0 1 0 1 0 1 0"
RESTARTS = "5 stale 125 stale 245 stale 365 stale"
NONE_SERVES = "0 stale 0 stale 0 stale 0 stale"
BACKLOG = "gunicorn_socket_backlog"
WAITING = "gunicorn_worker_connections_waiting"


def _series(name: str, *labels: dict[str, str]) -> str:
    merged = {key: value for part in labels for key, value in part.items()}
    return name + "{" + ", ".join(f'{key}="{value}"' for key, value in merged.items()) + "}"


def _requests(job: dict[str, str], good: str, failed: str) -> dict[str, str]:
    where = {**job, **A, "method": "GET"}
    return {
        _series(REQUESTS, where, {"status": "200"}): good,
        _series(REQUESTS, where, {"status": "503"}): failed,
    }


def _failing(job: dict[str, str], share: float, failed: str) -> dict[str, str]:
    """Return requests of which one a minute fails while `failed` rises."""
    return _requests(job, f"0+{1 / share - 1:.10g}x120", failed)


def _workers(where: dict[str, str], booting: str, idle: str) -> dict[str, str]:
    return {
        _series(TARGET, where): "4x40",
        _series(WORKERS, where, {"state": "booting"}): booting,
        _series(WORKERS, where, {"state": "idle"}): idle,
        _series(WORKERS, where, {"state": "busy"}): "0x40",
        _series(WORKERS, where, {"state": "quitting"}): "0x40",
    }


def _worker(where: dict[str, str], in_progress: str, capacity: str, cpu: str) -> dict[str, str]:
    return {
        _series("gunicorn_worker_requests_in_progress", where, WORKER): in_progress,
        _series("gunicorn_worker_capacity", where, WORKER): capacity,
        _series("gunicorn_worker_cpu_seconds_total", where, WORKER): cpu,
    }


def _heartbeat(where: dict[str, str], heartbeat: str, timeout_s: int = 30) -> dict[str, str]:
    return {
        _series("gunicorn_worker_timeout_seconds", where): f"{timeout_s}x40",
        _series("gunicorn_worker_start_time_seconds", where, WORKER): f"{NOW_S}x40",
        _series("gunicorn_worker_uptime_seconds", where, WORKER): "0+60x40",
        _series("gunicorn_worker_heartbeat_timestamp_seconds", where, WORKER): heartbeat,
    }


def _server(where: dict[str, str], started: str, exits: str, idle: str, up: str) -> dict[str, str]:
    """Return a whole server that answers a hundred requests a minute."""
    return {
        _series("up", where): up,
        _series(START_TIME, where): started,
        _series(REQUESTS, where, {"method": "GET", "status": "200"}): "0+100x20 0+100x40",
        _series(REQUESTS, where, {"method": "GET", "status": "500"}): "0x5 1x60",
        _series(ABORTED, where, {"reason": "no_response"}): "0x60",
        _series(ABORTED, where, {"reason": "client_disconnect"}): "0+3x60",
        **_workers(where, "0x60", idle),
        **_worker(where, "0 1 0 0 1x4 0x60", "1x60", "0+12x20 0+12x40"),
        **_heartbeat(where, f"{NOW_S}+60x60"),
        _series(EXITS, where, {"reason": "reload"}): exits,
        _series(EXITS, where, {"reason": "max_requests"}): "0+1x60",
        _series(EXITS, where, {"reason": "timeout"}): "0x60",
        _series(EXITS, where, {"reason": "oom"}): "0x60",
        _series(EXITS, where, {"reason": "error"}): "0x60",
        _series(BACKLOG, where, {"listener": "0.0.0.0:8000"}): "0x18 40 40 0x40",
        _series("gunicorn_prom_errors_total", where, {"where": "state"}): "0x60",
    }


def _alive(where: dict[str, str], up: str, started: str, idle: str) -> dict[str, str]:
    return {
        _series("up", where): up,
        _series(START_TIME, where): started,
        _series(WORKERS, where, {"state": "idle"}): idle,
    }


def cases(slo: float, job: str) -> list[Case]:
    """Return the tests.

    Args:
        slo: percentage of requests that shall succeed.
        job: whose every target is a server.
    """
    return [*CALM, *_burning(slo), *_missing(job), *WORKER_CASES, STUCK, *LOAD]


def _case(name: str, at: str, *parts: dict[str, str], firing: tuple[Firing, ...] = ()) -> Case:
    return Case(name, at, {series: v for part in parts for series, v in part.items()}, firing)


CALM = (
    _case(
        "Nothing fires in a calm fleet.",
        "40m",
        *(
            _server({"job": "pods", "instance": f"{name}:9464"}, "5x60", "0x60", "4x60", "1x60")
            for name in ("a", "b", "c")
        ),
    ),
    _case(
        "Nothing fires while one server restarts, and another is upgraded and reloads.",
        "24m",
        _server(SICK, "5x20 1205x40", "0x60", "4x19 0x2 4x40", "1x19 0x2 1x40"),
        _server(WELL, "5x22 1325x40", "0x20 4x40", "4x21 0x2 4x40", "1x60"),
    ),
)


def _burning(slo: float) -> list[Case]:
    budget = (100 - slo) / 100
    unanswered = _series(ABORTED, SICK_JOB, A, {"reason": "no_response"})
    gone = _series(ABORTED, WELL_JOB, A, {"reason": "client_disconnect"})
    return [
        _case(
            "Many requests to sick fail; of those to well half, but they are nine.",
            "61m",
            _failing(SICK_JOB, 20 * budget, "0+1x120"),
            _requests(WELL_JOB, "0x50 0+1x9 9x20", "0x50 0+1x9 9x20"),
            firing=(_burn("Fast", "1h", "5m", 20 * budget, slo),),
        ),
        _case(
            "Some requests to sick fail; of those to well as many did until 40 minutes ago.",
            "100m",
            _failing(SICK_JOB, 10 * budget, "0+1x120"),
            _failing(WELL_JOB, 10 * budget, "0+1x60 60x80"),
            firing=(_burn("", "6h", "30m", 10 * budget, slo),),
        ),
        _case(
            "Too many requests to sick fail, half as many as allowed to well.",
            "60m",
            _failing(SICK_JOB, 2 * budget, "0+1x120"),
            _failing(WELL_JOB, 0.5 * budget, "0+1x120"),
            firing=(_burn("Slowly", "3d", "6h", 2 * budget, slo),),
        ),
        _case(
            "Workers of sick die with all requests that they have; clients of well go away.",
            "30m",
            {unanswered: "0+5x40", gone: "0+5x40"},
            _requests(WELL_JOB, "0+5x40", "0x40"),
            firing=(_burn("Fast", "1h", "5m", 1, slo),),
        ),
    ]


OUTLOOKS = {
    "Fast": "the errors allowed for a month are used up in two days",
    "": "the errors allowed for a month are used up in five days",
    "Slowly": "more than the errors allowed for a month are made",
}


def _burn(speed: str, window: str, recent: str, share: float, slo: float) -> Firing:
    percent = f"{100 * share:.4g}%"
    return Firing(
        f"GunicornErrorBudgetBurns{speed}",
        SICK_JOB,
        f"{percent} of the requests to sick fail",
        f"Over {window} {percent} of the requests to sick failed, and over {recent} still do; "
        f"{exact(slo)}% are to succeed. At this rate {OUTLOOKS[speed]}.",
    )


def _missing(job: str) -> list[Case]:
    def gone(job: str, known: int) -> Firing:
        return Firing(
            "GunicornJobMissing",
            {"job": job},
            f"No server of {job} serves",
            f"For 5 minutes no server of {job} that could be scraped had a worker that serves, or "
            f"none could be scraped, or their targets are gone. Servers that were known: {known}.",
        )

    return [
        _case(
            "Both servers of sick cannot be scraped; that of well for 4 minutes.",
            "30m",
            *(
                _alive({**SICK_JOB, **each}, "1x10 0x30", "5x10 stale", "4x10 stale")
                for each in (A, B)
            ),
            _alive({**WELL_JOB, **A}, "1x26 0x10", "5x26 stale", "4x26 stale"),
            firing=(gone("sick", 2),),
        ),
        _case(
            "Both servers of sick end while they boot, again and again; so does one of well.",
            "7m",
            *(_alive({**SICK_JOB, **each}, GAPS, RESTARTS, NONE_SERVES) for each in (A, B)),
            _alive({**WELL_JOB, **A}, GAPS, RESTARTS, NONE_SERVES),
            _alive({**WELL_JOB, **B}, "1x8", "5x8", "4x8"),
            firing=(gone("sick", 2),),
        ),
        _case(
            "The workers of both servers of sick hang while they boot; well has come at last.",
            "12m",
            *(_alive({**SICK_JOB, **each}, "1x20", "5x20", "0x20") for each in (A, B)),
            *({_series(TARGET, SICK_JOB, each): "4x20"} for each in (A, B)),
            _alive({**WELL_JOB, **A}, "1x20", "5x20", "0x4 4x20"),
            firing=(gone("sick", 2),),
        ),
        _case(
            "The target of sick is gone; of those of well one is.",
            "30m",
            _alive({**SICK_JOB, **A}, "1x10 stale", "5x10 stale", "4x10 stale"),
            _alive({**WELL_JOB, **A}, "1x40", "5x40", "4x40"),
            _alive({**WELL_JOB, **B}, "1x10 stale", "5x10 stale", "4x10 stale"),
            firing=(gone("sick", 1),),
        ),
        _case(
            "The server was never there; nor was something else.",
            "10m",
            {
                _series("up", {"job": job}, A): "0x20",
                _series("up", {"job": f"not-{job}"}, B): "0x20",
            },
            firing=(gone(job, 1),),
        ),
        _case(
            "sick cannot be scraped, for an hour already; nor can something else.",
            "80m",
            _alive(SICK, "1x10 0x80", "5x10 stale", "4x10 stale"),
            _alive(WELL, "1x90", "5x90", "4x90"),
            {_series("up", {"job": "pods", "instance": "database:9187"}): "0x90"},
            firing=(
                Firing(
                    "GunicornServerMissing",
                    SICK,
                    "sick:9464 (pods) gives no metrics",
                    "sick:9464 (pods) could not be scraped for 5 minutes; others of the job can.",
                ),
            ),
        ),
        _case(
            "Of two servers behind one sidecar one is gone.",
            "20m",
            {_series("up", WELL): "1x30", _series(START_TIME, WELL, {"server": "web"}): "5x30"},
            {_series(WORKERS, WELL, {"server": "web", "state": "idle"}): "4x30"},
            {_series("gunicorn_prom_server_up", WELL, {"server": "web"}): "1x30"},
            {_series("gunicorn_prom_server_up", WELL, {"server": "api"}): "1x10 0x30"},
            firing=(
                Firing(
                    "GunicornServerMissing",
                    {**WELL, "server": "api"},
                    "api at well:9464 (pods) gives no metrics",
                    "api at well:9464 (pods) could not be scraped for 5 minutes; others of the "
                    "job can.",
                ),
            ),
        ),
    ]


WORKER_CASES = (
    _case(
        "Workers of sick end by themselves; those of well have had their requests.",
        "20m",
        _workers(SICK, "4x40", "0x40"),
        _workers(WELL, "0x40", "4x40"),
        {
            _series(EXITS, SICK, {"reason": "error"}): "0x5 0+2x40",
            _series(EXITS, WELL, {"reason": "error"}): "0x10 3x40",
            _series(EXITS, WELL, {"reason": "max_requests"}): "0+9x40",
            _series(EXITS, WELL, {"reason": "reload"}): "0+9x40",
        },
        firing=(
            Firing(
                "GunicornBootLoop",
                SICK,
                "Workers of sick:9464 (pods) die again and again",
                "Workers of sick:9464 (pods) that ended by themselves within 10 minutes: 20.",
            ),
        ),
    ),
    _case(
        "sick is started every minute; well was restarted once.",
        "30m",
        {_series(START_TIME, SICK): "5+60x40", _series(START_TIME, WELL): "5x15 905x40"},
        _workers(WELL, "0x40", "4x40"),
        firing=(
            Firing(
                "GunicornServerRestarting",
                SICK,
                "sick:9464 (pods) is restarted again and again",
                "The master of sick:9464 (pods) was started 30 times within 30 minutes.",
            ),
        ),
    ),
    _case(
        "A worker of sick was killed for memory; of well some were long ago.",
        "20m",
        {
            _series(EXITS, SICK, {"reason": "oom"}): "0x10 1x40",
            _series(EXITS, WELL, {"reason": "oom"}): "7x40",
        },
        firing=(
            Firing(
                "GunicornWorkerOutOfMemory",
                SICK,
                "Workers of sick:9464 (pods) are killed for memory",
                "Workers of sick:9464 (pods) that the kernel has killed within 30 minutes, with "
                "the requests that they had: 1.",
            ),
        ),
    ),
    _case(
        "Three workers of sick have timed out, two of well.",
        "25m",
        {
            _series(EXITS, SICK, {"reason": "timeout"}): "0x10 1x4 2x4 3x40",
            _series(EXITS, WELL, {"reason": "timeout"}): "0x10 1x4 2x40",
        },
        firing=(
            Firing(
                "GunicornWorkerTimeouts",
                SICK,
                "Workers of sick:9464 (pods) time out",
                "3 workers of sick:9464 (pods) were stuck and killed within 30 minutes.",
            ),
        ),
    ),
    _case(
        "All workers of sick hang while they boot; those of well take three minutes.",
        "20m",
        _workers(SICK, "4x40", "0x40"),
        _workers(WELL, "0x15 4x2 0x40", "4x15 0x2 4x40"),
        firing=(
            Firing(
                "GunicornNoWorkers",
                SICK,
                "No worker of sick:9464 (pods) serves",
                "sick:9464 (pods) has had no worker that serves for 5 minutes.",
            ),
        ),
    ),
    _case(
        "One worker of sick hangs while it boots; of well one has for five minutes.",
        "25m",
        _workers(SICK, "1x40", "3x40"),
        _workers(WELL, "0x20 1x40", "4x20 3x40"),
        firing=(
            Firing(
                "GunicornWorkersBelowTarget",
                SICK,
                "sick:9464 (pods) has too few workers",
                "Workers that sick:9464 (pods) has lacked for 10 minutes: 1.",
            ),
        ),
    ),
)


def _stuck(instance: str, days: int) -> Firing:
    return Firing(
        "GunicornHeartbeatStale",
        {**SICK, "instance": instance},
        f"A worker of {instance} (pods) is stuck and not replaced",
        f"A worker of {instance} (pods) has given no sign of life for {days}d 0h 0m 0s, and the "
        "master has not replaced it.",
    )


STUCK = _case(
    "Workers of sick and of endless are stuck, those of well and slow wait for their timeouts. All "
    "clocks are years off.",
    "20m",
    _heartbeat(SICK, f"{NOW_S - 2 * DAY_S}+60x40"),
    _heartbeat(ENDLESS, f"{NOW_S - DAY_S}+60x40", timeout_s=0),
    _heartbeat(WELL, f"{NOW_S - 80}+60x40"),
    _heartbeat(SLOW, f"{NOW_S - 600}+60x40", timeout_s=600),
    firing=(_stuck("sick:9464", 2), _stuck("endless:9464", 1)),
)


def _full(instance: str, percent: str) -> Firing:
    return Firing(
        "GunicornSaturated",
        {**SICK, "instance": instance},
        f"{instance} (pods) is full",
        f"{percent} of what the workers of {instance} (pods) can do is in use. The next burst "
        "will have to wait.",
    )


LOAD = (
    _case(
        "Clients of sick, which is full, always wait; of well often.",
        "25m",
        _worker(SICK, "4x40", "4x40", "0+30x40"),
        {
            _series(BACKLOG, SICK, {"listener": "0.0.0.0:8000"}): "0 2x40",
            _series(BACKLOG, SICK, {"listener": "unix:/run/app.sock"}): "0 1x40",
            _series(BACKLOG, WELL, {"listener": "0.0.0.0:8000"}): "9x2 0 9x2 0 " * 4 + "9x9",
            # All of its waiting clients are at one worker.
            _series(BACKLOG, SLOW, {"listener": "0.0.0.0:8000"}): "0x40",
            _series(WAITING, SLOW, {"worker_id": "0"}): "0 7x40",
            _series(WAITING, SLOW, {"worker_id": "1"}): "0x40",
            _series(WAITING, WELL, {"worker_id": "0"}): "9x2 0 9x2 0 " * 4 + "9x9",
        },
        firing=(
            Firing(
                "GunicornBacklog",
                SICK,
                "Clients of sick:9464 (pods) wait to be served",
                "Connections to sick:9464 (pods) that wait to be accepted or for a thread, at the "
                "least, for 5 minutes and more: 3.",
            ),
            Firing(
                "GunicornBacklog",
                SLOW,
                "Clients of slow:9464 (pods) wait to be served",
                "Connections to slow:9464 (pods) that wait to be accepted or for a thread, at the "
                "least, for 5 minutes and more: 7.",
            ),
        ),
    ),
    _case(
        "All that sick can do at once is in use, and all the CPU that hot can use; well has room.",
        "25m",
        _worker(SICK, "4x40", "4x40", "0+6x40"),
        _worker({**SICK, "instance": "hot:9464"}, "9x40", "1000x40", "0+57x40"),
        _worker(WELL, "3x40", "4x40", "0+30x40"),
        firing=(_full("sick:9464", "100%"), _full("hot:9464", "95%")),
    ),
    _case(
        "gunicorn-prom on sick has failed; on well it did when it started.",
        "20m",
        {
            _series("gunicorn_prom_errors_total", SICK, {"where": "state"}): "0x10 2x40",
            _series("gunicorn_prom_errors_total", WELL, {"where": "backlog"}): "1x40",
        },
        firing=(
            Firing(
                "GunicornMetricsFailing",
                {**SICK, "where": "state"},
                "gunicorn-prom on sick:9464 (pods) has errors",
                "Failures of gunicorn-prom in `state` on sick:9464 (pods) within 15 minutes: 2. "
                "Requests are served, but numbers may be missing.",
            ),
        ),
    ),
)

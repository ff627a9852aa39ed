"""Checks of the configuration."""

import ast
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn.workers import SUPPORTED_WORKERS

from gunicorn_prom import workers
from gunicorn_prom.checks.addresses import reachable_binds
from gunicorn_prom.checks.declare import Problem, Skip, check
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.paths import obstacles

__all__ = [
    "development_only",
    "files_to_be_had",
    "keepalive_behind_balancer",
    "misspelt_setting",
    "no_jitter",
    "no_timeout",
    "timeout_as_limit",
]

HOOKS = "Server Hooks"
# GP010 looks at these.
CERTIFICATES = ("certfile", "keyfile", "ca_certs")
# Of two names; `preload` and `preload_app` are nearer, `host` and `statsd_host` are not.
NEAR = 0.75
SAME = 1.0

# From here on nobody sets it for the sake of the loop alone.
LONG_TIMEOUT_S = 60
UVICORN = ("uvicorn.workers.", "uvicorn_worker.")
# Those that wait for the next request of a connection as long as `keepalive` says.
KEEPING = ("gthread", "gevent", "eventlet", "asgi", "uvicorn")
JITTER_DIVISOR = 10


class _Balancer(NamedTuple):
    """What stands before servers where a variable is in the environment.

    Attributes:
        idle_s: for how long it keeps connections that are idle.
    """

    variable: str
    where: str
    name: str
    idle_s: int


# Source: "Connection idle timeout" of Elastic Load Balancing; `upstream-keepalive-timeout` of
# ingress-nginx. Both are the defaults.
BALANCERS = (
    _Balancer("ECS_CONTAINER_METADATA_URI_V4", "Amazon ECS", "load balancers", 60),
    _Balancer("ECS_CONTAINER_METADATA_URI", "Amazon ECS", "load balancers", 60),
    _Balancer("KUBERNETES_SERVICE_HOST", "Kubernetes", "ingress controllers", 60),
)
MARGIN_S = 5


class _Definition(NamedTuple):
    name: str
    line: int
    is_function: bool


@check(
    "GP005",
    "config",
    "warning",
    title="every name in the configuration file that looks like a setting is one",
    hint="see `gunicorn-prom settings` for the names",
)
def misspelt_setting(setup: Setup) -> Iterator[Problem]:
    """Find names in the configuration file that resemble a setting or a hook and are neither.

    Gunicorn passes over a name that it does not know and says nothing: with `time_out = 60`
    the timeout stays at 30 seconds, and a hook `post_forked` is never called.

    Write the name as `gunicorn-prom settings` has it. A variable of your own is not meant: one
    that the file reads somewhere, or that begins with an underscore, is left alone.
    """
    variables = setup.configuration.file_variables
    file = Path(variables.get("__file__") or "")
    if file.suffix == ".pyc" or not file.is_file():
        raise Skip("there is no configuration file in Python")
    for found in _unread(file.read_bytes(), variables):
        meant = _meant(found, setup.cfg.settings)
        if meant and meant not in variables:
            yield Problem(
                f"{file.name}:{found.line}: `{found.name}` is unknown and ignored",
                f"did you mean `{meant}`?",
            )


def _unread(source: bytes, variables: Mapping[str, Any]) -> list[_Definition]:
    """Return what the file gives a name and never uses by it: a setting, or a mistake."""
    nodes = list(ast.walk(ast.parse(source)))
    read = {
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    definitions = {found.name: found for node in nodes for found in _definitions(node)}
    return [
        found
        for name, found in sorted(definitions.items(), key=lambda item: item[1].line)
        if name in variables and name not in read and not name.startswith("_")
    ]


def _definitions(node: ast.AST) -> Iterator[_Definition]:
    # What is imported, decorated, a class or the variable of a loop is no attempt at a setting.
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
        yield _Definition(node.name, node.lineno, is_function=True)
    targets = node.targets if isinstance(node, ast.Assign) else []
    for target in [node.target] if isinstance(node, ast.AnnAssign) else targets:
        if isinstance(target, ast.Name):
            yield _Definition(target.id, target.lineno, is_function=False)


def _meant(found: _Definition, settings: Mapping[str, Any]) -> str:
    """Return the setting that `found` may have been meant for, "" for none."""
    name = found.name.lower()
    if found.name in settings:
        return ""
    if found.is_function:
        names = [name for name, setting in settings.items() if setting.section == HOOKS]
    else:
        names = list(settings)
        options = {
            option.removeprefix("--").replace("-", "_"): setting.name
            for setting in settings.values()
            for option in setting.cli or ()
        }
        if name not in settings and name in options:
            return str(options[name])
    cutoff = NEAR if found.name.islower() else SAME
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=cutoff)), "")


@check(
    "GP018",
    "config",
    "warning",
    title="workers that hang are restarted",
    hint="give --timeout, without it a worker that hangs is never restarted",
)
def no_timeout(setup: Setup) -> Iterator[Problem]:
    """Find `timeout = 0`, which turns the master's watch over its workers off.

    A worker that hangs, in a deadlock or a lost connection, stays until somebody kills it, and
    with it a part of what the server can serve.

    Set `--timeout` to more than the longest request of sync workers may take. For other workers
    it covers the loop and not the request, so 30 seconds do.
    """
    if setup.cfg.timeout == 0:
        yield Problem("timeout is 0: workers that hang are never restarted")


@check(
    "GP019",
    "config",
    "warning",
    title="timeout is not taken for a limit of requests",
    hint="leave --timeout at 30, and limit requests in the application or in the proxy",
)
def timeout_as_limit(setup: Setup) -> Iterator[Problem]:
    """Find a `timeout` above 60 seconds with workers whose requests it does not limit.

    With sync workers it is the longest that a request may take. With gthread, gevent, eventlet,
    tornado, asgi and uvicorn workers a request may take as long as it likes: the timeout is how
    long their loop may be stuck. One that is meant for long requests changes nothing for them,
    and a worker that hangs is replaced so much later.

    Leave `--timeout` at 30, and limit requests where they are made: in the proxy, in the clients
    of databases, with `gevent.Timeout` or `asyncio.timeout`. Where a worker needs so long to
    import the application, keep it and pass `--ignore GP019`, or use `--preload`.
    """
    worker_type, timeout = _worker_type(setup.cfg), setup.cfg.timeout
    if not worker_type:
        raise Skip("the worker class is your own")
    is_given = setup.configuration.origin("timeout").source != "default"
    if worker_type != "sync" and is_given and timeout > LONG_TIMEOUT_S:
        yield Problem(
            f"timeout is {timeout} s, which does not limit requests of {worker_type} workers "
            "but delays the end of one that hangs"
        )


def _worker_type(cfg: Any) -> str:
    """Return the type of the workers, "" for a class that nothing is known of."""
    name = cfg.worker_class_str
    aliases = {path: alias for alias, path in SUPPORTED_WORKERS.items()}
    if name.startswith(UVICORN):
        return "uvicorn"
    found = workers.type_of(name) or aliases.get(name, name)
    is_known = found in SUPPORTED_WORKERS or found in workers.WORKER_TYPES
    return found if is_known else ""


@check(
    "GP025",
    "config",
    "warning",
    title="workers are not recycled all at once",
    hint="give --max-requests-jitter a tenth of --max-requests",
)
def no_jitter(setup: Setup) -> Iterator[Problem]:
    """Find `max_requests` without `max_requests_jitter`, with more than one worker.

    Workers that began together have served about as many requests at any time, so they end
    together, too. Until their successors have imported the application nobody answers.

    Set `--max-requests-jitter` to a tenth of `--max-requests` or more: each worker then adds a
    random number up to it to its own limit.
    """
    cfg = setup.cfg
    if cfg.max_requests and not cfg.max_requests_jitter and cfg.workers > 1:
        yield Problem(
            f"max_requests is {cfg.max_requests} without jitter: "
            f"{cfg.workers} workers end at about the same time",
            f"--max-requests-jitter {max(1, cfg.max_requests // JITTER_DIVISOR)}",
        )


@check(
    "GP028",
    "config",
    "warning",
    title="nothing is on that is for development only",
    hint="it is for development only, leave it out where users are served",
)
def development_only(setup: Setup) -> Iterator[Problem]:
    """Find `reload` and `spew`, which are for development.

    With `reload` workers watch every file of the application, restart when one is touched, and
    show the traceback to every visitor when it does not load. `spew` prints each line of Python
    that is executed, which makes everything many times slower.

    Leave `--reload` and `--spew` out, in the configuration file and in GUNICORN_CMD_ARGS as well.
    To take up new code in production, send SIGHUP to the master.
    """
    if setup.cfg.reload:
        yield Problem("reload is on: workers restart whenever a file changes")
    if setup.cfg.spew:
        yield Problem("spew is on: every executed line is printed")


@check(
    "GP030",
    "config",
    "warning",
    title="keepalive outlasts the load balancer's idle timeout",
    hint="set --keep-alive above the idle timeout of the load balancer",
)
def keepalive_behind_balancer(setup: Setup) -> Iterator[Problem]:
    """Find a `keepalive` shorter than a load balancer in front keeps idle connections.

    When Gunicorn closes a connection at the moment in which the load balancer sends a request
    on it, the client gets a 502, once in a while and without a line in any log of Gunicorn.

    Set `--keep-alive` to more than the idle timeout of the load balancer, 65 for the usual 60
    seconds, or to 0 for a new connection for each request. It is looked at in Amazon ECS and in
    Kubernetes only, for an address that others can reach and workers that keep connections, and
    taken for granted that the idle timeout is the usual one.
    """
    cfg = setup.cfg
    found = next((known for known in BALANCERS if known.variable in setup.environ), None)
    if found is None:
        raise Skip("nothing tells of a load balancer")
    worker_type = _worker_type(cfg)
    if worker_type not in KEEPING:
        raise Skip("keepalive is nothing to these workers")
    if 0 < cfg.keepalive < found.idle_s and reachable_binds(cfg):
        yield Problem(
            f"keepalive is {cfg.keepalive} s with {worker_type} workers in {found.where}, "
            f"whose {found.name} keep idle connections for {found.idle_s} s",
            f"--keep-alive {found.idle_s + MARGIN_S}",
        )


@check(
    "GP039",
    "config",
    "error",
    title="the files and directories that the settings name can be had",
    hint="make what is missing, or name another",
)
def files_to_be_had(setup: Setup) -> Iterator[Problem]:
    """Find a log, pid file, heartbeat directory or logger class that Gunicorn could not use.

    It looks at what `--pid`, `--access-logfile`, `--error-logfile`, `--log-config`,
    `--worker-tmp-dir`, `--logger-class` and `--bind fd://` name, as far as Gunicorn is going to
    use it. `gunicorn --check-config` finds nothing wrong with them, and the server ends with a
    traceback or without a worker. Where a hook or an application that is preloaded may still make
    what is missing, it is only a warning.

    Make the directory, name another file, or install the package. Gunicorn makes no directories.
    """
    for found in obstacles(setup.cfg, but=CERTIFICATES):
        yield Problem(found.message, found.hint, is_certain=found.is_certain)

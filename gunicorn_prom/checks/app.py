"""Checks of the application, which is imported in a process of its own."""

import difflib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gunicorn_prom import workers
from gunicorn_prom.checks.declare import Problem, Skip, check
from gunicorn_prom.checks.probe import AppReport, limit_of
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.masking import hide_credentials

__all__ = [
    "asgi_on_wsgi",
    "does_not_import",
    "eventlet_removed",
    "late_directory",
    "late_patch",
    "metrics_server_in_workers",
    "opentelemetry_before_fork",
    "preload_opens",
    "worker_unavailable",
]

OPENTELEMETRY = "opentelemetry."
# Hooks that run before a worker imports the application, and that the check does not call.
HOOKS_BEFORE = ("on_starting", "pre_fork", "post_fork")
# What brings the worker classes that are no types of ours, by module.
PACKAGES = {
    "uvicorn": "gunicorn-prom[uvicorn]",
    "uvicorn_worker": "gunicorn-prom[uvicorn]",
    "tornado": "gunicorn-prom[tornado]",
    "gevent": "gunicorn-prom[gevent]",
    "eventlet": "gunicorn-prom[eventlet]",
}


def _loaded(setup: Setup) -> AppReport:
    """Return the report of an application that has been imported.

    Raises:
        Skip: there is none.
    """
    _named(setup)
    if setup.app.outcome != "loaded":
        raise Skip("the application does not import")
    return setup.app


def _named(setup: Setup) -> AppReport:
    if setup.configuration.app_uri is None:
        raise Skip("no application is named")
    return setup.app


def _witnessed(setup: Setup) -> AppReport:
    """Return a report with what was seen, be it that the import has failed afterwards.

    Raises:
        Skip: nothing was seen, and the import has failed.
    """
    report = _named(setup)
    return report if report.late_directory or report.metrics_servers else _loaded(setup)


def _preloaded(setup: Setup) -> AppReport:
    if not setup.cfg.preload_app:
        raise Skip("only with --preload is the application imported before the fork")
    return _loaded(setup)


def _at(place: str) -> str:
    return f" ({place})" if place else ""


@check(
    "GP001",
    "app",
    "error",
    title="the application imports",
    hint="run in the project's root, or name its directory with --chdir",
    needs_app=True,
)
def does_not_import(setup: Setup) -> Iterator[Problem]:
    """Find an application that cannot be imported as a worker would import it.

    Every worker fails as it boots, and the server ends with exit code 3 or 4. Where the import
    hangs, nothing is ever served: the timeout counts from the boot on.

    Name the application as MODULE:NAME from the directory in which the module lies, or give
    that with `--chdir`; `--pythonpath` adds further ones. Run the check with the Python of the
    environment in which everything is installed, and with the environment variables of
    production (`--env NAME=VALUE`).
    """
    report = setup.app
    if report.outcome == "unnamed" and setup.live_url:
        raise Skip("no application is named")
    if report.outcome != "loaded":
        yield _SENTENCES[report.outcome](setup, report)
    elif report.kind == "factory" and report.protocol:
        name, takes = setup.configuration.app_uri, {"wsgi": "two", "asgi": "three"}
        yield Problem(
            f"{name} can be called without arguments, and {report.protocol.upper()} "
            f"applications take {takes[report.protocol]}",
            f"if it is what makes the application, name it '{name}()'",
        )


def _unnamed(_setup: Setup, _report: AppReport) -> Problem:
    return Problem("no application is named", "name it: gunicorn-prom check module:app")


def _no_module(setup: Setup, report: AppReport) -> Problem:
    name = report.missing
    if not report.is_own:
        hint = f"install what brings {name} for {sys.executable}, or mend the name"
        return Problem(f"there is no module {name}, which is imported{_at(report.place)}", hint)
    if report.nearest:
        return Problem(f"{name} is a file and no module", f"did you mean {report.nearest}?")
    directory = Path(setup.cfg.chdir)
    return Problem(f"there is no module {name} in {directory}", _where_else(name, directory))


def _where_else(name: str, directory: Path) -> str:
    """Return a hint where module `name` may be or what may have been meant, "" for none."""
    *packages, last = name.split(".")
    for path in sorted(directory.glob(f"*/{'/'.join(packages) or '.'}")):
        if last in _modules_in(path) and not (path / "pyvenv.cfg").exists():
            place = directory.joinpath(path.relative_to(directory).parts[0])
            return f"it is in {place}: give --chdir {place}"
    near = difflib.get_close_matches(last, _modules_in(directory.joinpath(*packages)), n=1)
    return f"did you mean {'.'.join((*packages, near[0]))}?" if near else ""


def _modules_in(directory: Path) -> set[str]:
    files = {path.stem for path in directory.glob("*.py")}
    return files | {path.parent.name for path in directory.glob("*/__init__.py")}


def _no_attribute(setup: Setup, report: AppReport) -> Problem:
    module = str(setup.configuration.app_uri).partition(":")[0]
    hint = "name what is to be called, as MODULE:NAME"
    if report.nearest:
        hint = f"did you mean {module}:{report.nearest}?"
    return Problem(f"module {module} has no {report.missing}", hint)


def _not_callable(setup: Setup, report: AppReport) -> Problem:
    said = "is None" if report.error == "NoneType" else f"is of type {report.error}"
    detail = f"{setup.configuration.app_uri} {said} and cannot be called"
    return Problem(detail, "name the application itself, as MODULE:NAME")


def _raised(setup: Setup, report: AppReport) -> Problem:
    if "Address already in use" in report.error:
        hint = "bind no port in the application's module: each worker imports it"
    else:
        hint = "mend what fails; what it needs of the environment is given with --env NAME=VALUE"
    detail = f"the import of {setup.configuration.app_uri} fails: {hide_credentials(report.error)}"
    hooks = [name for name in HOOKS_BEFORE if setup.configuration.origin(name).source != "default"]
    if hooks:
        return Problem(
            f"{detail}; {', '.join(hooks)} of the configuration was not called",
            f"--ignore GP001 where the application needs what {hooks[0]} does",
            is_certain=False,
        )
    return Problem(detail, hint)


def _exited(setup: Setup, report: AppReport) -> Problem:
    detail = (
        f"the import of {setup.configuration.app_uri} ends the process "
        f"with exit code {report.status}{_at(report.place)}"
    )
    return Problem(detail, "keep what ends it behind `if __name__ == '__main__':`")


def _hung(setup: Setup, report: AppReport) -> Problem:
    uri, limit_s = setup.configuration.app_uri, limit_of(setup.configuration)
    detail = f"the import of {uri} does not end within {limit_s:g} s{_at(report.place)}"
    if limit_s == setup.cfg.timeout:
        return Problem(
            f"{detail}, after which the master kills a worker",
            "have the import not wait, or give a longer --timeout",
        )
    return Problem(detail, "have the import not wait for what may never come")


def _killed(setup: Setup, report: AppReport) -> Problem:
    name = signal.Signals(-report.status).name
    hint = "find out which native module it is with python -X faulthandler -c 'import MODULE'"
    if name == "SIGKILL":
        hint = "see whether the kernel has ended it for want of memory"
    uri = setup.configuration.app_uri
    return Problem(f"{name} ends the import of {uri}{_at(report.place)}", hint)


_SENTENCES: dict[str, Callable[[Setup, AppReport], Problem]] = {
    "unnamed": _unnamed,
    "no_module": _no_module,
    "no_attribute": _no_attribute,
    "not_callable": _not_callable,
    "raised": _raised,
    "exited": _exited,
    "hung": _hung,
    "killed": _killed,
}


@check(
    "GP002",
    "app",
    "error",
    title="the workers speak what the application speaks",
    hint="the application is ASGI: --worker-type asgi",
    needs_app=True,
)
def asgi_on_wsgi(setup: Setup) -> Iterator[Problem]:
    """Find an ASGI application on workers that speak WSGI, and the reverse.

    The server starts without complaint, and then every request fails with 500.

    Serve an ASGI application (FastAPI, Starlette, Quart, Django's asgi.py) with
    `--worker-type asgi`, and a WSGI application (Flask, Django's wsgi.py) with any of the
    others. Of a framework that offers both, name the one that fits the workers.
    """
    report = _loaded(setup)
    kind, protocol = report.kind, report.protocol
    if {kind, protocol} == {"asgi", "wsgi"}:
        yield Problem(
            f"{setup.configuration.app_uri} is {kind.upper()}, "
            f"and {setup.cfg.worker_class_str} workers speak {protocol.upper()}",
            "" if kind == "asgi" else "the application is WSGI: --worker-type gthread",
        )


def _given_type(setup: Setup) -> str | None:
    return workers.type_of(setup.cfg.settings["worker_class"].get())


@check(
    "GP003",
    "app",
    "error",
    title="workers of this type can run here",
    hint="install what the worker class needs",
    needs_app=True,
)
def worker_unavailable(setup: Setup) -> Iterator[Problem]:
    """Find a worker type whose library is missing or too old, or a class that cannot be loaded.

    The server does not start.

    Install the extra of that worker type, `pip install 'gunicorn-prom[gevent]'`, into the
    environment of the server, or choose a type that needs none: sync or gthread. A class of
    your own is given by its full name, as `-k package.module.Class`.
    """
    name = _given_type(setup)
    problem = workers.unavailable(name, setup.cfg.pythonpath) if name else None
    if problem:
        if not _is_removed(name):
            yield Problem(str(problem), problem.hint)
    elif reason := setup.app.worker_error:
        worker_class = setup.cfg.worker_class_str
        yield Problem(f"cannot load the worker class {worker_class}: {reason}", _remedy(reason))


def _remedy(reason: str) -> str:
    package = next((PACKAGES[name] for name in PACKAGES if name in reason), "")
    return f"pip install '{package}'" if package else ""


def _is_removed(name: str | None) -> bool:
    return bool(name and workers.REGISTRY[name].is_removed)


@check(
    "GP004",
    "app",
    "error",
    title="Gunicorn has workers of this type",
    hint="take another worker type",
)
def eventlet_removed(setup: Setup) -> Iterator[Problem]:
    """Find a worker type that the installed Gunicorn has no more: eventlet since Gunicorn 26.

    The server does not start.

    Change to gevent, which serves the same applications, or keep an older Gunicorn with
    `pip install 'gunicorn-prom[eventlet]'`.
    """
    name = _given_type(setup)
    if name and _is_removed(name):
        problem = workers.unavailable(name)
        assert problem is not None
        yield Problem(str(problem), problem.hint)


@check(
    "GP013",
    "app",
    "error",
    title="PROMETHEUS_MULTIPROC_DIR is not set too late",
    hint="leave the variable to gunicorn-prom run, or set it in the environment of the server",
    needs_app=True,
)
def late_directory(setup: Setup) -> Iterator[Problem]:
    """Find an application that sets PROMETHEUS_MULTIPROC_DIR after importing prometheus_client.

    prometheus_client looks at the variable when it is imported, and again for each metric. Set
    in between, it splits the metrics of the application: some of them, or all, are those of one
    worker only, or are missing from the endpoint.

    Remove the line: `gunicorn-prom run` sets the variable before anything else. For a
    directory of your own set it in the environment of the server.
    """
    for directory, place in _witnessed(setup).late_directory:
        yield Problem(
            f"PROMETHEUS_MULTIPROC_DIR is set to {directory} "
            f"when prometheus_client has been imported{_at(place)}"
        )


@check(
    "GP014",
    "app",
    "warning",
    title="the application leaves the metrics to one server",
    hint="remove it: the application's metrics are merged and served with those of Gunicorn",
    needs_app=True,
)
def metrics_server_in_workers(setup: Setup) -> Iterator[Problem]:
    """Find an application that binds a port when it is imported, such as a metrics server's.

    Each worker imports the application. The first has the port and shows its own numbers only;
    the others fail, or go without.

    Remove `prometheus_client.start_http_server` from what workers import: the application's
    metrics are on the same endpoint as those of Gunicorn, over all workers. Start any other
    server in a process of its own.
    """
    report = _witnessed(setup)
    each = "in the master" if setup.cfg.preload_app else "in each worker"
    for address, place in report.metrics_servers:
        yield Problem(f"prometheus_client serves metrics on {address} {each}{_at(place)}")
    known = {server.what for server in report.metrics_servers}
    for address, place in report.listeners:
        if address not in known:
            yield Problem(
                f"the application listens on {address} {each}{_at(place)}",
                "start that server in a process of its own",
            )


@check(
    "GP026",
    "app",
    "warning",
    title="nothing is open when workers are forked",
    hint="move it to the post_fork hook, or leave out --preload",
    needs_app=True,
)
def preload_opens(setup: Setup) -> Iterator[Problem]:
    """Find threads and connections that a preloaded application opens before the fork.

    A thread stays behind in the master: what it did does not happen in any worker, and who
    waits for it waits for ever. A connection is shared by all workers, and their questions and
    answers get mixed up.

    Open them in each worker: in the `post_fork` or `post_worker_init` hook, or on the first
    request. Without `--preload` each worker imports the application by itself.
    """
    report = _preloaded(setup)
    for target, place in report.lost_threads:
        if not target.startswith(OPENTELEMETRY):
            yield Problem(f"a thread that runs {target} stays in the master{_at(place)}")
    for address, place in report.connections:
        yield Problem(f"all workers share a connection to {address}{_at(place)}")


@check(
    "GP027",
    "app",
    "error",
    title="gevent patches before anything holds on to ssl",
    hint="put `from gevent import monkey; monkey.patch_all()` first in gunicorn.conf.py",
    needs_app=True,
)
def late_patch(setup: Setup) -> Iterator[Problem]:
    """Find what has taken hold of `ssl` before gevent patched it.

    A TLS connection that is made with it fails: with RecursionError as soon as an option of
    the context is set, or with TypeError when a socket is wrapped. With `--preload` a gevent
    worker patches after the application was imported, which is too late for urllib3, say.

    Have `from gevent import monkey; monkey.patch_all()` as the first line of gunicorn.conf.py,
    or leave out `--preload`: gevent workers patch before they import the application.
    """
    report = _loaded(setup)
    if report.patch_error:
        yield Problem(f"gevent cannot patch: {report.patch_error}")
    if report.late_ssl:
        first, *others = (sight.what for sight in report.late_ssl)
        more = f", and {len(others)} more" if others else ""
        yield Problem(f"ssl was in use before gevent patched it: {first}{more}")


@check(
    "GP033",
    "app",
    "warning",
    title="OpenTelemetry's threads are there after the fork",
    hint="set OpenTelemetry up in the post_fork hook, or bring opentelemetry-sdk up to date",
    needs_app=True,
)
def opentelemetry_before_fork(setup: Setup) -> Iterator[Problem]:
    """Find an OpenTelemetry SDK that a preloaded application starts and that a fork stops.

    The thread that exports stays in the master. The workers go on to collect what nobody ever
    sends, until their queues are full and drop it.

    Set up the providers in the `post_fork` hook. An SDK that starts its threads again after a
    fork, as those of today do, is not reported.
    """
    report = _preloaded(setup)
    lost = [sight for sight in report.lost_threads if sight.what.startswith(OPENTELEMETRY)]
    for target, place in dict.fromkeys(lost):
        yield Problem(f"the thread of {target} stays in the master{_at(place)}")

"""`gunicorn-prom run` as a command: its options, its errors, and Gunicorn's own behaviour."""

import os
import re
import signal
import socket
import sys
from pathlib import Path

import gunicorn
import pytest

from gunicorn_prom.settings import OWN_SETTINGS
from tests.hooks import Hooks
from tests.support import (
    GUNICORN,
    OWN_OPTIONS,
    Server,
    can_bind,
    free_port,
    gunicorn_prom,
    is_running,
    request,
    run_to_end,
    wait_for,
)

APP = "behave:app"
COMMAND = ("run", "--metrics-bind=127.0.0.1:0", "--metrics-state-dir=state")
PLAIN_APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
OWN_NAMES = tuple(setting.name for setting in OWN_SETTINGS)


# The command line.


def printed_config(program: list[str], directory: Path, *arguments: str, **environ: str) -> str:
    """Return what `--print-config` says of Gunicorn's own settings."""
    ended = Server(directory, [*program, "--print-config", *arguments], environ).run_to_end()
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith(OWN_NAMES))


@pytest.mark.parametrize(
    "arguments",
    [
        ("-w2", APP),
        ("--workers=2", APP),
        (APP, "--workers", "2"),
        ("--workers", "2", APP, "-t30"),
        ("-b", ":8001", APP, "-b", "unix:/nowhere/socket", "--bind=[::1]:8002"),
        ("-kgthread", "--threads", "3", "--no-sendfile", APP),
        ("-Dw3", APP, "-R"),
        ("--max-requests-j", "7", APP),
        ("-c", "settings.py", APP, "-e", "A=1", "--env=B=2"),
        ("--config=settings.py", "-w", "5"),
        (APP, "--log-level=debug", "--access-logfile", "-", "--forwarded-allow-ips=*"),
    ],
    ids=" ".join,
)
def test_options_mean_what_they_mean_to_gunicorn(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Every spelling and order gives the configuration that `gunicorn` makes of it."""
    (tmp_path / "settings.py").write_text(f"wsgi_app = {APP!r}\nworkers = 4\nbacklog = 99\n")
    environ = {"GUNICORN_CMD_ARGS": "--timeout=77 --keep-alive 9"}
    ours = [sys.executable, "-m", "gunicorn_prom", "run"]
    expected = printed_config([GUNICORN], tmp_path, *arguments, **environ)
    assert printed_config(ours, tmp_path, *arguments, **environ) == expected


def test_the_application_may_stand_anywhere(tmp_path: Path) -> None:
    """In front of, among or behind the options the application is found."""
    for arguments in ((APP, "-w1"), ("-w", "1", APP, "-t9"), ("--workers=1", APP)):
        with gunicorn_prom(tmp_path, *arguments) as server:
            assert server.get("/").text == "ok"


def write_elsewhere(tmp_path: Path) -> Path:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "named.py").write_text(PLAIN_APP)
    (elsewhere / "gunicorn.conf.py").write_text("wsgi_app = 'named:app'\n")
    (elsewhere / "paste.ini").write_text(
        "[app:main]\npaste.app_factory = named:factory\n[server:main]\nuse = egg:gunicorn#main\n"
    )
    with (elsewhere / "named.py").open("a") as module:
        module.write("\n\ndef factory(config, **settings):\n    return app\n")
    return elsewhere


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (("named:app", "--chdir={elsewhere}"), {}),
        (("named:app", "--pythonpath", "{elsewhere}"), {}),
        (("--config={elsewhere}/gunicorn.conf.py", "--pythonpath={elsewhere}"), {}),
        (("named:app",), {"GUNICORN_CMD_ARGS": "--pythonpath {elsewhere}"}),
        (("--paste", "{elsewhere}/paste.ini", "--pythonpath={elsewhere}"), {}),
        (("--pythonpath={elsewhere}", "named:app", "--preload"), {}),
    ],
)
def test_the_application_is_found_as_gunicorn_finds_it(
    tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str]
) -> None:
    """Directory, import path, configuration file, environment and Paste lead to it."""
    if "--paste" in arguments:
        pytest.importorskip("paste.deploy", exc_type=ImportError)
    elsewhere = str(write_elsewhere(tmp_path))
    arguments = tuple(a.replace("{elsewhere}", elsewhere) for a in arguments)
    environ = {name: value.replace("{elsewhere}", elsewhere) for name, value in environ.items()}
    with gunicorn_prom(tmp_path, *arguments, environ=environ) as server:
        assert server.get("/").text == "ok"
        server.wait_for_requests(1)


def test_every_bind_is_served(tmp_path: Path) -> None:
    """Two `-b` mean two addresses."""
    second = free_port()
    with gunicorn_prom(tmp_path, APP, "-b", f"127.0.0.1:{second}") as server:
        assert [request(port, "/").text for port in (server.port, second)] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("sources", "expected"),
    list(enumerate(("/metrics", "/file", "/arguments", "/environment", "/line"))),
)
def test_precedence_of_our_settings(tmp_path: Path, sources: int, expected: str) -> None:
    """Default, then file, GUNICORN_CMD_ARGS, GUNICORN_PROM_*, and above all the command line."""
    (tmp_path / "gunicorn.conf.py").write_text("metrics_path = '/file'\n" if sources > 0 else "")
    environ = {}
    if sources > 1:
        environ["GUNICORN_CMD_ARGS"] = "--metrics-path /arguments"
    if sources > 2:
        environ["GUNICORN_PROM_METRICS_PATH"] = "/environment"
    line = ["--metrics-path=/line"] if sources > 3 else []
    with gunicorn_prom(tmp_path, APP, *line, environ=environ) as server:
        assert request(server.metrics_port, expected).status == 200
        assert expected == "/metrics" or request(server.metrics_port, "/metrics").status == 404


@pytest.mark.parametrize(
    ("arguments", "file", "expected"),
    [
        ((), "", "sync"),
        (("--threads=2",), "", "gthread"),
        (("--worker-type=gthread",), "", "gthread"),
        (("-kgthread", "--worker-type=gthread"), "", "gthread"),
        (("-k", "gunicorn.workers.gthread.ThreadWorker", "--worker-type=gthread"), "", "gthread"),
        (("--worker-type=sync",), "worker_class = 'gthread'", "sync"),
        (("-k", "gthread"), "worker_type = 'sync'", "gthread"),
        ((), "worker_type = 'gthread'", "gthread"),
    ],
)
def test_worker_type_and_worker_class(
    tmp_path: Path, arguments: tuple[str, ...], file: str, expected: str
) -> None:
    """Either chooses the workers, the stronger source wins, and equal ones may agree."""
    (tmp_path / "gunicorn.conf.py").write_text(file)
    with gunicorn_prom(tmp_path, APP, *arguments) as server:
        (info, _), *_ = server.scrape().all("gunicorn_info")
        assert info["worker_class"] in {expected, "gunicorn.workers.gthread.ThreadWorker"}
        assert f"Using worker: {info['worker_class']}" in server.log


def test_a_users_class_with_a_loop_of_another_kind(tmp_path: Path) -> None:
    """What it calls its loop need not be one of asyncio."""
    source = "from gunicorn.workers.sync import SyncWorker\nclass Own(SyncWorker): loop = 'own'\n"
    (tmp_path / "owned.py").write_text(source)
    with gunicorn_prom(tmp_path, APP, "--worker-class=owned.Own") as server:
        assert server.get("/").status == 200
        assert server.stop() == 0


# What Gunicorn does on request.


def test_check_config_binds_nothing(tmp_path: Path) -> None:
    """`--check-config` judges the application while the metrics port belongs to somebody else."""
    (tmp_path / "broken.py").write_text("raise ValueError('broken')\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"--metrics-bind=127.0.0.1:{other.getsockname()[1]}"
        assert run_to_end(tmp_path, APP, taken, "--check-config").returncode == 0
        assert run_to_end(tmp_path, "broken:app", taken, "--check-config").returncode == 1


def test_reload_on_change(tmp_path: Path) -> None:
    """With `--reload` a changed application is served anew, and the totals go on."""
    module = tmp_path / "changing.py"
    module.write_text(PLAIN_APP)
    arguments = ("changing:app", "--reload", "--reload-engine=poll")
    with gunicorn_prom(tmp_path, *arguments, environ={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
        assert server.get("/").text == "ok"
        module.write_text(PLAIN_APP.replace('b"ok"', 'b"OK"'))
        wait_for(lambda: server.get("/").text == "OK", "the new application")
        assert server.scrape().total("gunicorn_http_requests_total") >= 2


def test_preload_loads_in_the_master(tmp_path: Path) -> None:
    """With `--preload` the application is imported once, by the master."""
    (tmp_path / "preloaded.py").write_text(
        f"import os\nprint('imported by', os.getpid())\n{PLAIN_APP}"
    )
    with gunicorn_prom(tmp_path, "preloaded:app", "--preload", "-w2") as server:
        assert server.get("/").text == "ok"
        assert re.findall(r"imported by (\d+)", server.log) == [str(server.pid)]


def test_daemon(tmp_path: Path) -> None:
    """With `--daemon` the command ends at once; the daemon serves both ports until TERM."""
    pidfile = tmp_path / "pid"
    arguments = (APP, "--daemon", f"--pid={pidfile}", "--log-file=daemon.log")
    with gunicorn_prom(tmp_path, *arguments, start=False) as server:
        server.launch()
        assert server.wait() == 0
        pid = int(wait_for(lambda: pidfile.exists() and pidfile.read_text(), "the pid file"))
        try:
            assert os.getsid(pid) not in {os.getsid(0), server.pid}
            wait_for(lambda: answers(server.metrics_port, "/-/ready"), "readiness")
            assert server.get("/").text == "ok"
            server.wait_for_requests(1)
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not is_running(pid), "the end of the daemon")
            assert can_bind(server.metrics_port)
            assert not list(server.state_directory.iterdir())
        finally:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_daemon_tells_of_an_unusable_state_directory(tmp_path: Path) -> None:
    """The command says so itself, for as a daemon nobody would read it."""
    (tmp_path / "state").write_text("a file in its place")
    ended = run_to_end(tmp_path, APP, "--daemon")
    assert ended.stderr.startswith("error: cannot use the state directory ")
    assert (ended.returncode, ended.stdout) == (1, "")


def answers(port: int, target: str) -> bool:
    """Tell whether a GET request is answered with 200."""
    try:
        return request(port, target).status == 200
    except OSError:
        return False


# Hooks.


class TestHooks(Hooks):
    """See tests/hooks.py."""


@pytest.mark.parametrize("parameters", ["worker, req", "worker, req, environ", "a, b, c, d"])
def test_post_request_may_have_two_to_four_parameters(tmp_path: Path, parameters: str) -> None:
    """Every form of the hook that Gunicorn takes goes on working, also after a reload."""
    (tmp_path / "gunicorn.conf.py").write_text(
        f"def post_request({parameters}):\n    print('post_request', len(locals()))\n"
    )
    noted = f"post_request {parameters.count(',') + 1}"
    with gunicorn_prom(tmp_path, APP) as server:
        server.get("/")
        wait_for(lambda: server.log.count(noted) == 1, "the hook")
        first = server.wait_for_workers(1)
        server.send_signal(signal.SIGHUP)
        wait_for(lambda: server.wait_for_workers(1) != first, "another worker")
        server.get("/")
        wait_for(lambda: server.log.count(noted) == 2, "the hook after the reload")
        server.wait_for_requests(2)
        assert "Traceback" not in server.log


# Errors.

usage_errors = pytest.mark.parametrize(
    ("arguments", "environ", "error", "hint"),
    [
        ((), {}, "No application module specified", "name the application: .*"),
        (
            (APP, "--bind=:9464", "--metrics-bind=127.0.0.1:9464"),
            {},
            "--bind and --metrics-bind both ask for port 9464",
            "choose another with --metrics-bind",
        ),
        (
            (APP, "--worker-tpye", "gevent"),
            {},
            "unrecognized arguments: --worker-tpye gevent",
            r"did you mean --worker-type\?",
        ),
        (
            (APP, "--wrokers=2"),
            {},
            "unrecognized arguments: --wrokers=2",
            r"did you mean --workers\?",
        ),
        ((APP, "--workers=x"), {}, "argument -w/--workers: invalid int value: 'x'", ".*--help`"),
        ((APP, "--bind=127.0.0.1:99999"), {}, "invalid --bind: port 99999 is not in .*", ".*"),
        ((APP, "-b", "host:port"), {}, "invalid --bind: 'port' is not a valid port number", ".*"),
        ((APP, "--metrics-bind=:99999"), {}, "invalid --metrics-bind: port 99999 .*", ".*"),
        (
            (APP,),
            {"GUNICORN_PROM_METRICS_PATH": "x"},
            "invalid GUNICORN_PROM_METRICS_PATH: 'x' .*",
            ".*",
        ),
        (
            (APP,),
            {"GUNICORN_PROM_APP_METRICS": "maybe"},
            "invalid GUNICORN_PROM_APP_METRICS: 'maybe' is neither true nor false",
            ".*",
        ),
        ((APP, "--metrics-buckets=2,1"), {}, "invalid --metrics-buckets: .*", ".*"),
        (
            (APP,),
            {"GUNICORN_CMD_ARGS": "--wrokers=2"},
            "GUNICORN_CMD_ARGS: unrec.*",
            "did you mean .*",
        ),
        ((APP, "--worker-type=nope"), {}, "invalid --worker-type: 'nope' is not one of .*", ".*"),
        (
            (APP, "-k", "nope.Worker"),
            {},
            "cannot load the worker class nope.Worker: ModuleNotFoundError: .*'nope'",
            "worker types are .*",
        ),
        (
            (APP, "-k", "gthread", "--worker-type=sync"),
            {},
            "--worker-type sync and --worker-class gthread contradict each other",
            "give one of them",
        ),
        ((APP, "-c", "nowhere.py"), {}, "there is no configuration file nowhere.py", ".*"),
    ],
)


@usage_errors
def test_a_usage_error_is_one_sentence_and_a_hint(
    tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str], error: str, hint: str
) -> None:
    """It is said on stderr, in two lines and with exit code 2, before anything else happens."""
    ended = run_to_end(tmp_path, *arguments, environ=environ)
    assert re.fullmatch(f"error: {error}\nhint: {hint}\n", ended.stderr), ended.stderr
    assert (ended.returncode, ended.stdout) == (2, "")
    assert not (tmp_path / "state").exists()


def test_an_invalid_value_in_the_file_is_an_error(tmp_path: Path) -> None:
    """A bad value in the configuration file is told with its setting and its place."""
    (tmp_path / "gunicorn.conf.py").write_text("workers = 2\nmetrics_buckets = [2, 1]\n")
    ended = run_to_end(tmp_path, APP)
    assert ended.returncode == 2
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: invalid --metrics-buckets: ")
    assert error.endswith("gunicorn.conf.py:2)")
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("file", "where"),
    [
        ("workers = 2\ntimeout = )\n", "gunicorn.conf.py:2: SyntaxError: "),
        ("import os\n\nworkers = cpus * 2\n", "gunicorn.conf.py:3: NameError: "),
        ("import json\njson.loads('{')\n", "gunicorn.conf.py:2: json.decoder.JSONDecodeError: "),
    ],
)
def test_a_configuration_file_that_fails_says_where(tmp_path: Path, file: str, where: str) -> None:
    """The error names the line of the user's own code, without a traceback."""
    (tmp_path / "gunicorn.conf.py").write_text(file)
    ended = run_to_end(tmp_path, APP)
    assert ended.returncode == 2
    error, hint = ended.stderr.splitlines()
    assert where in error
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("file", "exit_code", "said"),
    [
        ("import nosuch\n", 3, "No module named 'nosuch'"),
        ("import json\n\njson.loads('{')\napp = 1\n", 3, 'broken.py", line 3, in <module>'),
        ("application = 1\n", 4, "Failed to find attribute 'app' in 'broken'"),
    ],
)
@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_an_application_that_does_not_load(
    tmp_path: Path, file: str, exit_code: int, said: str, preload: tuple[str, ...]
) -> None:
    """Its own part of the traceback is shown, and nothing of Gunicorn's and ours."""
    (tmp_path / "broken.py").write_text(file)
    ended = run_to_end(tmp_path, "broken:app", *preload)
    assert ended.returncode == (4 if preload else exit_code)
    assert said in ended.stderr
    assert "import_app" not in ended.stderr
    assert "gunicorn_prom" not in ended.stderr


@pytest.mark.skipif(
    gunicorn.version_info < (26,), reason="this Gunicorn still has an eventlet worker"
)
@pytest.mark.parametrize("option", ["--worker-type=eventlet", "-keventlet"])
def test_an_unavailable_worker_type_tells_the_way_out(tmp_path: Path, option: str) -> None:
    """It names the reason and the command that would install it, and ends with 2."""
    ended = run_to_end(tmp_path, APP, option)
    error, hint = ended.stderr.splitlines()
    assert error.startswith("error: worker type eventlet is not available: Gunicorn 26 removed it")
    assert "pip install 'gunicorn-prom[eventlet]'" in hint
    assert ended.returncode == 2


def test_a_busy_metrics_port_is_told(tmp_path: Path) -> None:
    """At once, and when it was waited for in vain; nothing is imported before."""
    (tmp_path / "telling.py").write_text(f"print('imported')\n{PLAIN_APP}")
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "{}:{}".format(*other.getsockname())
        ended = run_to_end(tmp_path, "telling:app", "--preload", f"--metrics-bind={address}")
    warning, error, hint = ended.stderr.splitlines()
    assert warning == f"warning: {error.removeprefix('error: ')}; trying for 5 s"
    reason = f"address already in use (pid {os.getpid()}, "
    assert error.startswith(f"error: cannot bind {address}: {reason}")
    assert hint == "hint: choose another with --metrics-bind, or stop the other process"
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.parametrize(
    ("source", "exit_code"), [("", 4), ("raise ValueError('broken')", 3)], ids=["load", "boot"]
)
def test_exit_codes_of_gunicorn(tmp_path: Path, source: str, exit_code: int) -> None:
    """4 when the application is not there, 3 when a worker fails to boot; nothing is left."""
    (tmp_path / "failing.py").write_text(source)
    with gunicorn_prom(tmp_path, "failing:app", start=False) as server:
        server.launch()
        assert server.wait() == exit_code
        assert can_bind(server.metrics_port)
        assert not list(server.state_directory.iterdir())


# Around it.


def test_the_master_is_lean(tmp_path: Path) -> None:
    """Nothing of the command line is in the master, and so in no worker."""
    modules = tmp_path / "modules"
    (tmp_path / "gunicorn.conf.py").write_text(
        "import sys\n"
        "def when_ready(server):\n"
        f"    open({str(modules)!r}, 'w').write(' '.join(sys.modules))\n"
    )
    with gunicorn_prom(tmp_path, APP) as server:
        loaded = {name.partition(".")[0] for name in modules.read_text().split()}
        assert "gunicorn_prom" in loaded
        assert loaded.isdisjoint({"typer", "rich", "click", "pydantic", "pydantic_core"})
        assert "pydantic" not in Path(f"/proc/{server.pid}/maps").read_text()


def test_version_and_help(tmp_path: Path) -> None:
    """`--version` names the three versions; `run --help` has our options and Gunicorn's."""
    version = run_to_end(tmp_path, command=["--version"])
    python = ".".join(map(str, sys.version_info[:3]))
    pattern = rf"gunicorn-prom \S+ \(Gunicorn {gunicorn.__version__}, Python {python}\)\n"
    assert re.fullmatch(pattern, version.stdout)
    shown = run_to_end(tmp_path, command=["run", "--help"])
    assert (version.returncode, shown.returncode, version.stderr, shown.stderr) == (0, 0, "", "")
    for option in ("--worker-type", "--metrics-bind", "--workers", "--statsd-host", "--preload"):
        assert option in shown.stdout


def test_the_plugin_route_reports_errors_in_one_line(tmp_path: Path) -> None:
    """A busy metrics port under plain Gunicorn is an error at start too, without a traceback."""
    (tmp_path / "gunicorn.conf.py").write_text("from gunicorn_prom.hooks import *\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "{}:{}".format(*other.getsockname())
        environ = {"GUNICORN_PROM_METRICS_BIND": address}
        command = [GUNICORN, OWN_OPTIONS[0], "-k", "gunicorn_prom.PrometheusWorker", APP]
        ended = Server(tmp_path, command, environ).run_to_end()
    assert f"cannot bind {address}: address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("-k", "os.path"), "cannot load the worker class os.path: "),
        (("-b", "127.0.0.1:-1"), "invalid --bind: port -1 is not in 0 to 65535"),
        (("--log-config", "bad.ini", "--no-preflight"), "Gunicorn does not start: "),
    ],
)
def test_what_cannot_start_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], error: str
) -> None:
    """And a hint, rather than a traceback of Gunicorn's."""
    (tmp_path / "bad.ini").write_text("nothing")
    ended = run_to_end(tmp_path, "behave:app", *arguments, command=COMMAND)
    assert ended.returncode != 0
    lines = ended.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-2:-1]
    assert lines[-2].startswith(f"error: {error}")
    assert "Traceback" not in ended.stderr


def test_a_failed_start_leaves_no_state(tmp_path: Path) -> None:
    """When Gunicorn cannot bind, the state directory goes with the process."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "{}:{}".format(*other.getsockname())
        arguments = ("behave:app", "--no-preflight", "-b", address)
        ended = run_to_end(tmp_path, *arguments, command=COMMAND)
    assert ended.returncode == 1
    assert list((tmp_path / "state").iterdir()) == []


def test_the_last_switch_counts(tmp_path: Path) -> None:
    """`--app-metrics` prevails over the environment and over `--no-app-metrics` before it."""
    (tmp_path / "telling.py").write_text(
        "import os, sys\nprint('PROMETHEUS_MULTIPROC_DIR' in os.environ)\nsys.exit(7)\n"
    )
    for switches, is_set in (
        (("--app-metrics",), True),
        (("--no-app-metrics", "--app-metrics"), True),
        (("--app-metrics", "--no-app-metrics"), False),
        ((), False),
    ):
        environ = {"GUNICORN_PROM_APP_METRICS": "false"}
        arguments = ("telling:app", "--preload", "-b", "127.0.0.1:0", *switches)
        ended = run_to_end(tmp_path, *arguments, command=COMMAND, environ=environ)
        assert ended.stdout == f"{is_set}\n"


def test_a_refused_start_leaves_nothing(tmp_path: Path) -> None:
    """Neither does one that comes to nothing because its state directory cannot be used."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "file").touch()
    command = ("run", "--metrics-bind=127.0.0.1:0", "--metrics-state-dir=file")
    environ = {"TMPDIR": str(tmp_path / "temporary")}
    ended = run_to_end(tmp_path, "behave:app", command=command, environ=environ)
    assert ended.returncode == 1
    assert "cannot use the state directory" in ended.stderr
    assert list((tmp_path / "temporary").iterdir()) == []

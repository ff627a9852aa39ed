"""`gunicorn-prom top` in a real terminal, on real servers."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.test_door_run import PASSWORD, USER, USERS, Identities, tls_section
from tests.real_parts import find_program
from tests.support import (
    ROOT,
    Server,
    free_port,
    gunicorn_prom,
    is_running,
    request,
    run_to_end,
    running,
    wait_for,
)
from tests.terminals import PROMPT, Terminal, terminal

real_parts = pytest.mark.real_parts

WAITING = 3
# xdist tells its workers a width.
EMPTY_STATE = {
    "GUNICORN_PROM_METRICS_STATE_DIR": "none",
    "GUNICORN_PROM_PASSWORD": "",
    "COLUMNS": "",
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of four workers, three of which have a request that waits."""
    directory = tmp_path_factory.mktemp("loaded")
    # One request each, so that none waits behind another, and none counts as stuck.
    options = ("--workers=4", "--timeout=0")
    with (
        gunicorn_prom(directory, "behave:app", *options) as server,
        ThreadPoolExecutor(WAITING) as clients,
    ):
        server.wait_for_workers(4)
        for _ in range(20):
            assert server.get("/pid").status == 200
        waiting = [
            clients.submit(request, server.port, "/wait/gate", timeout_s=300)
            for _ in range(WAITING)
        ]
        server.wait_for_metrics(
            lambda m: m.total("gunicorn_http_requests_in_progress") == WAITING, "requests"
        )
        yield server
        server.open_gate("gate")
        assert {each.result().status for each in waiting} == {200}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `top` finds no server by itself."""
    return tmp_path_factory.mktemp("home")


def command(server: Server, *options: str) -> str:
    """Return the command line of `top` on a server that it has to find."""
    program = [
        sys.executable,
        "-m",
        "gunicorn_prom",
        "top",
        f"--state-dir={server.state_directory}",
    ]
    return shlex.join(["env", f"PYTHONPATH={ROOT}", *program, "--interval=0.2", *options])


def top(directory: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `top` that is expected to end by itself, and finds nothing by itself."""
    return run_to_end(directory, *options, command=("top",), environ=EMPTY_STATE | environ)


@pytest.fixture(params=[80, 160], scope="module")
def shown(
    request: pytest.FixtureRequest,
    loaded: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Terminal]:
    """A terminal in which `top` runs."""
    with terminal(tmp_path_factory.mktemp("terminal"), request.param, 24) as screen:
        screen.run(command(loaded))
        screen.wait_for("workers 4 of 4")
        yield screen


@real_parts
def test_the_screen_of_a_loaded_server(shown: Terminal, loaded: Server) -> None:
    """Health, rates, a line for each worker with its request, and the keys, in the width it has."""
    seen = shown.wait_for("3 busy, 1 idle", "GET /wait", f"127.0.0.1:{loaded.port}")
    lines = seen.splitlines()
    assert lines[0].startswith("gunicorn-prom top  healthy  4 of 4 workers serve")
    for fact in ("requests", "latency p99", "3/4", "saturation", "since start 20 requests  2xx 20"):
        assert fact in seen
    assert all(str(pid) in seen for pid in loaded.worker_pids())
    assert lines[-1].startswith(" q  quit   p  pause")
    assert ("THR" in seen) == (shown.tell("pane_width") == "160")


@real_parts
def test_keys(shown: Terminal) -> None:
    """Sorting, the filter, pause and help do what they say, and leave it as it was."""
    shown.press("s")
    shown.wait_for("PID▼")
    shown.press("S")
    shown.wait_for("PID▲")
    shown.press("/")
    shown.wait_for("type what to search for")
    shown.type("idle")
    shown.wait_for("with idle_", "1 idle")
    shown.press("Enter")
    seen = shown.wait_for("with idle,", " q  quit")
    assert "GET /wait" not in seen
    shown.press("Escape")
    shown.wait_for("GET /wait")
    shown.press("p")
    shown.wait_for("PAUSED", "go on")
    shown.press("Space")
    shown.wait_for("p  pause")
    shown.press("?")
    shown.wait_for("Keys", "Columns")
    shown.press("q")
    shown.wait_for("workers 4 of 4")


@real_parts
def test_it_follows_the_size_of_the_terminal(shown: Terminal) -> None:
    """Made smaller, then larger, it fills what there is; what does not fit is scrolled."""
    width, height = int(shown.tell("pane_width")), int(shown.tell("pane_height"))
    shown.resize(50, 7)
    seen = shown.wait_for("workers 4 of 4, shown 1 to")
    assert max(map(len, seen.splitlines())) <= 50
    shown.press("End")
    shown.wait_for("to 4 of 4")
    shown.press("Home")
    shown.wait_for("shown 1 to")
    shown.resize(20, 7)
    assert shown.wait_for(" healthy  4 of 4 wo…").startswith(" healthy ")
    shown.resize(width, height)
    shown.wait_for("3 busy, 1 idle", "listens at")


def pid_of_top(screen: Terminal) -> int:
    """Return the pid of what runs in the terminal."""
    shell = int(screen.tell("pane_pid"))
    children = Path(f"/proc/{shell}/task/{shell}/children")
    return int(wait_for(lambda: children.read_text().split(), "a process in the terminal")[0])


ENDINGS: dict[str, Callable[[Terminal], object]] = {
    "q": lambda screen: screen.press("q"),
    "Ctrl-C": lambda screen: screen.press("C-c"),
    "SIGTERM": lambda screen: subprocess.run(["kill", str(pid_of_top(screen))], check=True),
    "SIGHUP": lambda screen: subprocess.run(["kill", "-HUP", str(pid_of_top(screen))], check=True),
    "SIGUSR1": lambda screen: subprocess.run(
        ["kill", "-USR1", str(pid_of_top(screen))], check=True
    ),
    "Ctrl-\\": lambda screen: screen.press("C-\\"),
}
EXIT_CODES = {
    "q": 0,
    "Ctrl-C": 130,
    "SIGTERM": 128 + signal.SIGTERM,
    "SIGHUP": 128 + signal.SIGHUP,
    "SIGUSR1": 128 + signal.SIGUSR1,
    "Ctrl-\\": 128 + signal.SIGQUIT,
}


@real_parts
def test_it_leaves_the_terminal_as_it_was(loaded: Server, tmp_path: Path) -> None:
    """However it ends, the screen, the cursor and the settings are those of before."""
    with terminal(tmp_path, 100, 30) as screen:
        screen.run("stty -g >before; echo what was there")
        for ending, end in ENDINGS.items():
            screen.run(f"{command(loaded)}; echo it ended with $?")
            screen.wait_for("3 busy, 1 idle")
            assert (screen.tell("alternate_on"), screen.tell("cursor_flag")) == ("1", "0")
            end(screen)
            seen = screen.wait_for(f"it ended with {EXIT_CODES[ending]}\n{PROMPT.strip()}")
            assert "what was there" in seen
            assert "Traceback" not in seen
            assert (screen.tell("alternate_on"), screen.tell("cursor_flag")) == ("0", "1")
            screen.run("clear; stty -g | cmp - before; echo cmp ended with $?, what was there")
            screen.wait_for("cmp ended with 0, what was there\n")


@real_parts
def test_a_terminal_that_goes_away(loaded: Server, tmp_path: Path) -> None:
    """It ends without a word of its own, also where SIGHUP is ignored."""
    errors, code = tmp_path / "errors", tmp_path / "code"
    with terminal(tmp_path, 100, 30) as screen:
        screen.run(f"trap '' HUP; {command(loaded)} 2>{errors}; echo $? >{code}")
        screen.wait_for("3 busy, 1 idle")
    wait_for(lambda: code.exists() and code.read_text(), "its end")
    assert (code.read_text(), errors.read_text()) == (f"{128 + signal.SIGHUP}\n", "")


@real_parts
def test_a_terminal_that_does_not_know_its_size(loaded: Server, tmp_path: Path) -> None:
    """It has 24 lines of 80 columns, as everybody takes it to have."""
    with terminal(tmp_path, 100, 30) as screen:
        screen.run(f"stty cols 0 rows 0; {command(loaded)}")
        screen.wait_for("3 busy, 1 idle", "q  quit")
        screen.press("q")


@real_parts
def test_it_can_be_stopped_and_continued(loaded: Server, tmp_path: Path) -> None:
    """Ctrl-Z gives the terminal back to the shell, and `fg` brings the screen again."""
    with terminal(tmp_path, 100, 30) as screen:
        screen.run("stty -g >before")
        screen.run(command(loaded))
        screen.wait_for("3 busy, 1 idle")
        screen.press("C-z")
        screen.wait_for("Stopped")
        assert (screen.tell("alternate_on"), screen.tell("cursor_flag")) == ("0", "1")
        screen.run("fg; echo it ended with $?")
        screen.wait_for("3 busy, 1 idle")
        screen.press("q")
        # What is typed before is thrown away with the other keys.
        screen.wait_for("it ended with 0\n")
        screen.run("stty -g | cmp - before; echo cmp ended with $?")
        screen.wait_for("cmp ended with 0\n")


@real_parts
def test_without_a_shell_it_cannot_be_stopped(loaded: Server, tmp_path: Path) -> None:
    """As the only program of a terminal, by `ssh -t` say, it goes on: nobody could continue it."""
    with terminal(tmp_path, 100, 30) as screen:
        alone = f"stty cols 100 rows 30; exec {command(loaded)}"
        program = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", "sh", "-c"]
        screen.run(f"{shlex.join([*program, alone])}; echo it ended with $?")
        screen.wait_for("3 busy, 1 idle")
        screen.press("C-z")
        screen.press("?")
        screen.wait_for("Keys")
        screen.press("q")
        screen.wait_for("3 busy, 1 idle")
        screen.press("q")
        screen.wait_for("it ended with 0\n")


@real_parts
def test_a_terminal_with_less(loaded: Server, tmp_path: Path) -> None:
    """With NO_COLOR there is no colour, in the C locale no character beyond ASCII."""
    with terminal(tmp_path, 100, 30, {"NO_COLOR": "1", "LC_ALL": "C"}) as screen:
        screen.run(command(loaded))
        screen.wait_for("3 busy, 1 idle")
        coloured = screen.screen(with_colours=True)
        assert coloured.isascii()
        assert "\x1b[7m" in coloured
        assert "\x1b[3" not in coloured.replace("\x1b[39m", "")


@real_parts
def test_a_dumb_terminal(loaded: Server, tmp_path: Path) -> None:
    """A terminal that cannot move its cursor gets it once."""
    with terminal(tmp_path, 100, 30) as screen:
        screen.run(f"TERM=dumb {command(loaded)}; echo it ended with $?")
        screen.wait_for("3 busy, 1 idle", "it ended with 0")


@real_parts
def test_a_server_that_restarts(tmp_path: Path) -> None:
    """While it is away the screen says since when, and it is found again at another address."""
    with terminal(tmp_path / "terminal", 80, 24) as screen:
        with gunicorn_prom(tmp_path / "first", "behave:app") as server:
            screen.run(command(server))
            screen.wait_for("healthy  1 of 1 worker ", f"pid {server.pid}")
            server.stop()
            screen.wait_for("no answer  since ", "nothing listens there", "OLDEST REQUEST")
        again = f"--metrics-state-dir={server.state_directory}"
        with gunicorn_prom(tmp_path / "second", "behave:app", again) as server:
            screen.wait_for("healthy  1 of 1 worker ", f"pid {server.pid}")
        screen.wait_for("no answer  since ")
        screen.press("q")
        screen.wait_for(PROMPT.strip())


def test_once_into_a_pipe(loaded: Server, home: Path) -> None:
    """Piped it is shown once, plain, with every column and every worker."""
    ended = top(home, f"--state-dir={loaded.state_directory}", "--sort=-oldest", LC_ALL="C.UTF-8")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
    assert ended.stdout.count("GET /wait/gate") == WAITING
    assert all(str(pid) in ended.stdout for pid in loaded.worker_pids())
    assert "OLDEST REQUEST▲" in ended.stdout
    filtered = top(home, f"--url=127.0.0.1:{loaded.metrics_port}", "--filter=idle", LC_ALL="C")
    assert filtered.stdout.isascii()
    assert "GET /wait/gate" not in filtered.stdout


@pytest.mark.parametrize("form", ["--once", "--format=json"])
def test_a_stdout_that_is_full(loaded: Server, home: Path, form: str) -> None:
    """It is an error in one line."""
    options = (form, f"--state-dir={loaded.state_directory}")
    full = ("bash", "-c", 'exec "$@" >/dev/full', "bash")
    ended = run_to_end(home, *options, prefix=full, command=("top",))
    assert ended.stderr == "error: cannot write to stdout: No space left on device\n"
    assert ended.returncode == 1


def test_the_document_for_a_program(loaded: Server, home: Path) -> None:
    """`--format json` is what the server has at /status.json."""
    # Wherever the metrics are on that port.
    at = f"http://127.0.0.1:{loaded.metrics_port}"
    for page in ("/metrics", "/-/ready", "/internal/stats"):
        ended = top(home, f"--url={at}{page}", "--once", LC_ALL="C")
        # The address that is shown is the one that has answered.
        assert f"  {at}/status.json\n" in ended.stdout
    ended = top(home, f"--url={at}/metrics", "--format=json")
    document = json.loads(ended.stdout)
    assert document["version"] == 1
    assert document["totals"]["in_progress"] == WAITING
    assert {worker["pid"] for worker in document["workers"]} == set(loaded.worker_pids())


def test_several_servers(loaded: Server, tmp_path: Path) -> None:
    """Where two are found it says which, and either can be chosen."""
    again = f"--metrics-state-dir={loaded.state_directory}"
    with gunicorn_prom(tmp_path, "behave:app", again) as server:
        ended = top(tmp_path, f"--state-dir={loaded.state_directory}")
        assert ended.returncode == 2
        for each in (loaded, server):
            assert f"http://127.0.0.1:{each.metrics_port} (pid {each.pid})" in ended.stderr
        assert "hint: choose one: --url http://127.0.0.1:" in ended.stderr
    assert top(tmp_path, f"--state-dir={loaded.state_directory}").returncode == 0


def test_a_server_without_workers(tmp_path: Path) -> None:
    """It is found all the same, and says what it lacks."""
    with gunicorn_prom(tmp_path, "behave:app", "--workers=0", start=False) as server:
        server.launch()
        directory = f"--state-dir={server.state_directory}"
        wait_for(lambda: top(tmp_path, directory).returncode == 0, "the server")
        assert "degraded  no worker is wanted" in top(tmp_path, directory).stdout


def test_a_server_whose_master_was_killed(loaded: Server, tmp_path: Path) -> None:
    """Its workers, which have not noticed it so far, are no server beside one that runs."""
    directory = f"--state-dir={loaded.state_directory}"
    again = f"--metrics-state-dir={loaded.state_directory}"
    # An idle worker looks for its master twice in that time.
    with gunicorn_prom(tmp_path, "behave:app", again, "--timeout=600") as server:
        (worker,) = server.wait_for_workers(1)
        server.stop(signal.SIGKILL)
        # Its heart is heard for some seconds more.
        wait_for(lambda: top(tmp_path, directory).returncode == 0, "one server")
        assert f"pid {loaded.pid}" in top(tmp_path, directory).stdout
        assert is_running(worker)


def test_a_sidecar_of_several(loaded: Server, tmp_path: Path) -> None:
    """`--server` chooses one of those that a sidecar shows."""
    exported = f"--metrics-bind=127.0.0.1:{(port := free_port())}"
    program = [sys.executable, "-m", "gunicorn_prom", "export", exported]
    program += [f"web={loaded.state_directory}", f"api={tmp_path / 'api'}"]
    sidecar = Server(tmp_path, program, {})
    with running(sidecar, start=False):
        sidecar.launch()
        wait_for(lambda: "Metrics at" in sidecar.log, "the sidecar")
        url = f"--url=127.0.0.1:{port}"
        assert "healthy  4 of 4 workers" in top(tmp_path, url).stdout
        assert "server api of web, api" in top(tmp_path, url, "--server=api").stdout
        missing = top(tmp_path, url, "--server=nobody")
        assert missing.returncode == 1
        assert "404" in missing.stderr


@pytest.mark.parametrize("is_option", [True, False])
def test_a_state_directory_without_a_server(tmp_path: Path, is_option: bool) -> None:
    """The directory that was given is named, and the default address is not asked."""
    state = str(tmp_path / "elsewhere")
    if is_option:
        ended = top(tmp_path, f"--state-dir={state}")
    else:
        ended = top(tmp_path, GUNICORN_PROM_METRICS_STATE_DIR=state)
    error, hint = ended.stderr.splitlines()
    assert error == f"error: {state}: no server runs there that has a metrics server"
    assert "--metrics-state-dir" in hint
    assert (ended.returncode, ended.stdout) == (1, "")


MISTAKES = [
    (("--state-dir=/dev/null",), 1, "/dev/null: cannot look for a server there: Not a", "--url"),
    (("--url=127.0.0.1:1",), 1, "127.0.0.1:1/status.json: nothing listens", "--state-dir"),
    (("--url={app}",), 1, "it answers 500", "log"),
    (("--url=https://{metrics}",), 1, "TLS, ", "http://"),
    (("--url=https://{metrics}", "--ca-file=none"), 2, "--ca-file none: No such", "PEM"),
    (("--url=https://{metrics}", "--cert=none"), 2, "--cert none: No such", "PEM"),
    (("--key=none",), 2, "--key without --cert", "certificate"),
    (("--password-file=none",), 2, "--password-file without --user", "whose"),
    (("--user=me", "--password-file=none"), 2, "--password-file none: No such", ""),
    (("--sort=memroy",), 2, "there is no column memroy", "did you mean memory?"),
    (("--format=yaml",), 2, "error: invalid --format: 'yaml' is not one of ", "--help"),
    *(
        ((f"--interval={given}",), 2, f"error: invalid --interval: '{given}' is not ", "like 2")
        for given in ("0.1", "-1", "nan", "inf", "often")
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: " ".join(mistake[0]))
def test_errors(loaded: Server, home: Path, mistake: tuple[tuple[str, ...], int, str, str]) -> None:
    """What is wrong is one sentence and a hint on stderr, with the exit code of its kind."""
    options, code, error, hint = mistake
    places = {"app": f"127.0.0.1:{loaded.port}", "metrics": f"127.0.0.1:{loaded.metrics_port}"}
    ended = top(home, *(option.format(**places) for option in options))
    assert ended.returncode == code
    assert error in ended.stderr
    assert hint in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2
    assert ended.stdout == ""


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    find_program("openssl", "openssl")
    return Identities(tmp_path_factory.mktemp("identities"))


@pytest.fixture(scope="module")
def guarded(identities: Identities, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose metrics want a password, and verify the certificate of who shows one."""
    directory = tmp_path_factory.mktemp("guarded")
    verifying = "  client_auth_type: VerifyClientCertIfGiven\n"
    authority = f"  client_ca_file: {identities.ours.file}\n"
    config = directory / "web.yml"
    config.write_text(tls_section(identities.server, verifying + authority) + USERS)
    (directory / "password").write_text(f"{PASSWORD}\n")
    options = ("behave:app", "--metrics-bind=0.0.0.0:{server.metrics_port}")
    with gunicorn_prom(
        directory, *options, f"--metrics-web-config={config}", start=False
    ) as server:
        server.launch()
        wait_for(lambda: "Booting worker" in server.log, "a worker")
        yield server


def test_a_guarded_server(guarded: Server, identities: Identities) -> None:
    """It is found with its scheme, and shown to who trusts it and has the password."""
    found, trusting = f"--state-dir={guarded.state_directory}", f"--ca-file={identities.ours.file}"
    known = ("--user", USER, "--password-file=password")
    cert, key = identities.client
    stranger = [
        f"{option}={file}"
        for option, file in zip(("--cert", "--key"), identities.stranger, strict=True)
    ]
    for options, code, said in (
        ((found,), 1, "no trust in its certificate"),
        ((found, trusting), 1, "it answers 401"),
        ((found, trusting, "--user", USER), 2, "there is no password"),
        ((found, trusting, *known), 0, "1 of 1 worker "),
        ((found, "--insecure", *known), 0, "1 of 1 worker "),
        ((found, trusting, *known, f"--cert={cert}", f"--key={key}"), 0, "1 of 1 worker "),
        ((found, trusting, *known, *stranger), 1, "with --cert and --key"),
        ((f"--url=http://127.0.0.1:{guarded.metrics_port}",), 1, "see whether it wants https://"),
    ):
        ended = run_to_end(guarded.directory, *options, command=("top",))
        assert said in (ended.stdout if code == 0 else ended.stderr), options
        assert ended.returncode == code
        assert PASSWORD not in ended.stdout + ended.stderr
    environ = {"GUNICORN_PROM_PASSWORD": "wrong"}
    ended = run_to_end(
        guarded.directory, found, trusting, "--user", USER, command=("top",), environ=environ
    )
    assert "hint: see the user and the password" in ended.stderr


@real_parts
def test_the_password_is_asked_for(guarded: Server, identities: Identities, tmp_path: Path) -> None:
    """On a terminal it is typed unseen, and then the screen is there."""
    with terminal(tmp_path, 100, 24) as screen:
        screen.run(command(guarded, f"--ca-file={identities.ours.file}", f"--user={USER}"))
        screen.wait_for(f"Password of {USER}:")
        screen.run(PASSWORD)
        screen.wait_for("1 of 1 worker ")
        screen.press("q")
        assert PASSWORD not in screen.wait_for(PROMPT.strip())


@real_parts
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_an_end_while_the_password_is_asked_for(
    guarded: Server, identities: Identities, tmp_path: Path, number: signal.Signals
) -> None:
    """The terminal shows what is typed, as before."""
    with terminal(tmp_path, 100, 24) as screen:
        screen.run("stty -g >before")
        screen.run(command(guarded, f"--ca-file={identities.ours.file}", f"--user={USER}"))
        screen.wait_for(f"Password of {USER}:")
        os.kill(pid_of_top(screen), number)
        screen.run("stty -g | cmp - before; echo cmp ended with $?")
        screen.wait_for("cmp ended with 0\n")

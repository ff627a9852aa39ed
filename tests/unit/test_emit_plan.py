"""What `gunicorn-prom emit` takes from a configuration, and what a container makes of it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gunicorn_prom.cli.reading import ReadConfiguration
from gunicorn_prom.configuration import Configuration
from gunicorn_prom.errors import UsageError
from gunicorn_prom.fleet import KINDS, container, podmonitor
from tests.emitted import ARGUMENTS, emit, enter, plan

FILE = """\
bind = ["127.0.0.1:8080", "unix:/run/shop.sock"]
wsgi_app = "shop.wsgi:app"
workers = 3
graceful_timeout = 25
metrics_path = "/m"
max_worker_memory = "100MiB"
"""
# What a container and this host may not have in common.
DECIDED_ANEW = {
    *("bind", "ca_certs", "certfile", "control_socket", "keyfile", "metrics_bind"),
    *("metrics_state_dir", "metrics_web_config", "worker_tmp_dir"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(tmp_path, monkeypatch)


def deployment(*arguments: str) -> Any:
    """Return the pod and the first container of the Deployment."""
    (text,) = emit("podmonitor", *arguments).values()
    pod = next(yaml.safe_load_all(text))["spec"]["template"]["spec"]
    return pod, pod["containers"][0]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_container_runs_what_is_configured(name: str) -> None:
    """Read again, its arguments give every setting the value that it has here, but for places."""
    here = ReadConfiguration(ARGUMENTS[name], "emit", needs_application=False, needs_worker=False)
    arguments = container.arguments(plan(*ARGUMENTS[name]), "/run/x")
    there = Configuration(arguments, needs_worker=False)
    differing = {
        setting.name
        for setting in here.cfg.settings.values()
        if setting.name not in DECIDED_ANEW
        and not callable(setting.default)
        and setting.get() != there.cfg.settings[setting.name].get()
    }
    assert differing <= ({"default_proc_name"} if name == "nothing" else set())


def test_the_file_is_followed_and_found_again(tmp_path: Path) -> None:
    """What gunicorn.conf.py says is not repeated; a file of another name is named."""
    (tmp_path / "gunicorn.conf.py").write_text(FILE)
    pod, web = deployment("-n", "Big Shop!")
    assert pod["terminationGracePeriodSeconds"] == 5 + 25 + 10
    assert web["name"] == "big-shop"
    assert web["args"][:3] == ["shop.wsgi:app", "--name=Big Shop!", "--bind=0.0.0.0:8080"]
    assert web["args"][-1] == "--workers=3"
    # 3 workers of 110 MiB, the master, tmpfs; up to a full step.
    assert web["resources"]["limits"] == {"memory": "576Mi"}
    (tmp_path / "conf").mkdir()
    (tmp_path / "gunicorn.conf.py").rename(tmp_path / "conf" / "web.py")
    _, web = deployment("-c", "conf/web.py")
    assert web["args"][:2] == ["shop.wsgi:app", "--config=conf/web.py"]


@pytest.mark.parametrize("kind", ["podmonitor", "compose", "dockerfile"])
def test_what_can_be_quoted_is(kind: str) -> None:
    """Control characters of an argument arrive as they were given where a file can have them."""
    name = "--name=" + "".join(map(chr, (*range(1, 0x20), *range(0x7F, 0xA0), 0x2028, 0x1F600)))
    text, *_ = emit(kind, "shop:app", name).values()
    match kind:
        case "podmonitor":
            document = next(yaml.safe_load_all(text))
            found = document["spec"]["template"]["spec"]["containers"][0]["args"]
        case "compose":
            (service, *_) = yaml.safe_load(text)["services"].values()
            found = service["command"]
        case "dockerfile":
            found = json.loads(text.rpartition("CMD ")[2])
    assert name in found


@pytest.mark.parametrize("address", ["10.0.0.9:8125", "[::1]:8125", "unix:///run/statsd.sock"])
def test_an_address_is_written_as_it_was_given(address: str) -> None:
    """Gunicorn takes the address of statsd apart; the option that is made has it whole."""
    assert f"--statsd-host={address}" in plan("shop:app", "--statsd-host", address).arguments


def test_a_server_writes_to_one_directory(tmp_path: Path) -> None:
    """What it writes at its start lies where it may, also by the configuration file."""
    (tmp_path / "gunicorn.conf.py").write_text("pidfile = '/x/a.pid'\nworker_tmp_dir = '/x'\n")
    for kind, place in {
        "systemd": "%t/gunicorn-prom/shop",
        "dockerfile": container.SHARED_MEMORY_DIR,
        "podmonitor": podmonitor.STATE_DIR,
    }.items():
        for options in ([], ["--pid=/x/b.pid", "--worker-tmp-dir=/x"]):
            text, *_ = emit(kind, "shop:app", *options).values()
            assert f"--pid={place}/gunicorn.pid" in text
            assert text.rpartition("--worker-tmp-dir=")[2].startswith(place)
    (tmp_path / "gunicorn.conf.py").unlink()
    assert "--pid" not in "".join(emit("systemd", "shop:app").values())


def test_the_environment_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What variables say stands in the arguments, for a container has others."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--keep-alive=9 --preload")
    monkeypatch.setenv("GUNICORN_PROM_METRICS_BUCKETS", "0.1,0.5,2")
    assert set(plan("shop:app", "--no-app-metrics").arguments) == {
        "--keep-alive=9",
        "--preload",
        "--metrics-buckets=0.1,0.5,2",
        "--no-app-metrics",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_secret_is_shown(kind: str) -> None:
    """Neither a variable that may be one nor the hash of a password is in any file."""
    secret = "--env=DB_PASSWORD=hunter2"
    given = [*ARGUMENTS["tls"], secret, "--env=A=b"]
    assert plan(*given).left_out == ("--env",)
    assert not [text for text in emit(kind, *given).values() if "hunter2" in text or "$2b" in text]


@pytest.mark.parametrize(
    ("application", "job"),
    [
        ("shop.wsgi:application", "shop"),
        ("app:create_app()", "app"),
        ("my_shop.main:app", "my-shop"),
        ("Öl:app", "l"),
        (f"{'x' * 90}:app", "x" * 40),
        ("2048:app", "app-2048"),
        ("on:app", "app-on"),
        ("Grafana:app", "app-grafana"),
        ("ö:app", "app"),
    ],
)
def test_the_job_is_named_after_the_application(application: str, job: str) -> None:
    """It is a name that Kubernetes and Compose take, and that is a text in YAML."""
    assert plan(application).job == job


@pytest.mark.parametrize(
    ("binds", "inside"),
    [
        (["127.0.0.1:5000"], ["0.0.0.0:5000"]),
        (["[::1]:5000"], ["[::]:5000"]),
        (["unix:/run/x.sock"], ["0.0.0.0:8000"]),
        (["localhost:80", "10.0.0.1:443"], ["0.0.0.0:8080", "0.0.0.0:8443"]),
        (["127.0.0.1:5000", "10.0.0.1:5000"], ["0.0.0.0:5000"]),
        (["127.0.0.1:0"], ["0.0.0.0:8000"]),
        (["127.0.0.1:5000", "[::1]:5000"], ["[::]:5000"]),
        (["[::1]:8080", "127.0.0.1:80", "10.0.0.1:81"], ["[::]:8080", "0.0.0.0:8081"]),
    ],
)
def test_a_container_is_open(binds: list[str], inside: list[str]) -> None:
    """It listens where others reach it, and where a user that is not root may listen."""
    found = plan("shop:app", *(f"--bind={bind}" for bind in binds))
    assert [str(bind) for bind in container.listeners(found)] == inside


@pytest.mark.parametrize(
    ("binds", "published"),
    [
        (["127.0.0.1:80", "[::1]:8080"], ["127.0.0.1:80:8080", "127.0.0.1:8080:8080"]),
        (["0.0.0.0:8000", "[::1]:8000"], ["8000:8000"]),
        (["[::1]:8000", "10.0.0.1:8000", "localhost:81"], ["8000:8000", "127.0.0.1:81:8081"]),
    ],
)
def test_a_port_is_published_once(binds: list[str], published: list[str]) -> None:
    """For all where one of its addresses is, for two publications would be in each other's way."""
    text = emit("compose", "shop:app", *(f"--bind={bind}" for bind in binds))["compose.yaml"]
    assert yaml.safe_load(text)["services"]["shop"]["ports"] == published


@pytest.mark.parametrize(
    ("metrics", "binds", "inside"),
    [
        ("127.0.0.1:9000", ["127.0.0.1:5000"], "0.0.0.0:9000"),
        ("0.0.0.0:8080", ["0.0.0.0:80"], "0.0.0.0:9464"),
        ("0.0.0.0:80", ["0.0.0.0:8080"], "0.0.0.0:9464"),
        ("127.0.0.1:65535", ["10.0.0.1:65535"], "0.0.0.0:9464"),
        ("127.0.0.1:0", ["127.0.0.1:9464", "127.0.0.1:9465"], "0.0.0.0:9466"),
    ],
)
def test_a_container_has_a_port_for_the_metrics_alone(
    metrics: str, binds: list[str], inside: str
) -> None:
    """It is as configured where the application has not taken that."""
    found = plan("shop:app", f"--metrics-bind={metrics}", *(f"--bind={bind}" for bind in binds))
    assert str(container.metrics_bind(found)) == inside


def test_probes_follow_the_metrics_server() -> None:
    """They ask its port by its scheme, and only connect where it wants a certificate."""
    _, plain = deployment(*ARGUMENTS["default"])
    _, encrypted = deployment(*ARGUMENTS["tls"])
    _, closed = deployment(*ARGUMENTS["certificate"])
    assert plain["readinessProbe"]["httpGet"] == {"path": "/-/ready", "port": "metrics"}
    assert encrypted["livenessProbe"]["httpGet"] == {
        "path": "/-/healthy",
        "port": "metrics",
        "scheme": "HTTPS",
    }
    assert closed["livenessProbe"]["tcpSocket"] == {"port": "metrics"}


def test_a_server_without_metrics_has_one_beside_it() -> None:
    """With --metrics-server none the pod has the sidecar, and Prometheus finds its port."""
    pod, web = deployment(*ARGUMENTS["none"])
    _, beside = pod["containers"]
    assert beside["command"] == ["gunicorn-prom", "export"]
    assert [port["name"] for port in web["ports"]] == ["http"]
    assert beside["ports"] == [{"name": "metrics", "containerPort": 9464}]
    assert beside["volumeMounts"][0]["mountPath"] == podmonitor.STATE_DIR
    # Of a probe of life the wrong container, or one that is only busy, would be restarted.
    probes = [key for one in (web, beside) for key in one if key.endswith("Probe")]
    assert (probes, beside["readinessProbe"]["httpGet"]["path"]) == (["readinessProbe"], "/-/ready")


def test_keda_follows_what_a_pod_can_do() -> None:
    """Threads of blocking workers count; of workers with a loop the cores do."""

    def thresholds(*arguments: str) -> list[str]:
        (text,) = emit("keda", *arguments).values()
        return [t["metadata"]["threshold"] for t in yaml.safe_load(text)["spec"]["triggers"]]

    assert thresholds("shop:app", "-w", "2") == ["1.4", "1.4"]
    assert thresholds(*ARGUMENTS["gthread"]) == ["8.4", "8.4"]
    assert thresholds(*ARGUMENTS["gevent"]) == ["2.8"]


def test_autoscaling_has_room_for_a_worker() -> None:
    """A threshold of 0 is none, so a server without workers counts as one with one."""
    (text,) = emit("keda", "shop:app", "--workers=0").values()
    assert [t["metadata"]["threshold"] for t in yaml.safe_load(text)["spec"]["triggers"]] == [
        "0.7",
        "0.7",
    ]


@pytest.mark.parametrize("lines", ["user = 'nobody'", "group = 'nogroup'", "user = 65534"])
def test_a_user_of_the_file_is_not_asked_for_where_nobody_can_be(lines: str) -> None:
    """A container has one of its own; a unit runs as that user, from the start."""
    Path("gunicorn.conf.py").write_text(lines)
    name, given = lines.partition(" ")[0], {"user": "nobody", "group": "nogroup"}
    arguments = container.arguments(plan("shop:app"), "/run/x")
    own = [argument for argument in arguments if argument.startswith(("--user", "--group"))]
    assert own == [f"--{name}={container.USER_ID}"]
    service = emit("systemd", "shop:app")["shop.service"]
    assert f"\n{name.capitalize()}={given[name]}\n" in service
    assert ("DynamicUser=yes" in service) == (name == "group")


def test_the_image_has_its_options_as_they_are() -> None:
    """Docker looks for variables in what ENV sets, and takes backslashes for its own."""
    Path("a$b \\ é").mkdir()
    text = emit("dockerfile", "shop:app", "--chdir=a$b \\ é")["Dockerfile"]
    (value,) = re.findall(r'GUNICORN_CMD_ARGS="(.*)"$', text, re.MULTILINE)
    assert "--chdir=a\\$b \\\\ é'" in value


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("certfile = '/etc/tls.crt'; keyfile = '/etc/tls.key'", "yes"),
        ("certfile = '/etc/tls.crt'; keyfile = '/home/me/tls.key'", "read-only"),
        ("chdir = '/root'", "read-only"),
    ],
)
def test_a_unit_sees_every_file_that_the_server_reads(
    lines: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates in a home, and the directory to which the file changes."""
    monkeypatch.setattr(os.path, "isdir", lambda path: True)  # not everybody may see /root
    monkeypatch.setattr(os, "chdir", lambda path: None)
    Path("gunicorn.conf.py").write_text(lines)
    service = emit("systemd", "shop:app")["shop.service"]
    assert f"\nProtectHome={expected}\n" in service


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("scrape", ["--metrics-bind=:0"], "with port 0 nobody knows"),
        ("compose", ["--metrics-server=none"], "nothing for Prometheus to scrape"),
        ("compose", ["--bind=0.0.0.0:3000"], "port 3000 of the application"),
        ("podmonitor", ["--daemon"], "leaves its container"),
        ("compose", ["--daemon"], "leaves its container"),
        ("dockerfile", ["--daemon"], "leaves its container"),
        ("systemd", ["--daemon"], "leaves its container"),
        ("podmonitor", ["--initgroups"], "no worker boots in a container"),
        ("systemd", ["--initgroups"], "no worker boots in a container"),
        ("systemd", ["--bind=web.internal:8000"], "resolves no names, so web.internal:8000"),
        ("systemd", ["--bind=127.0.0.1:0"], "with port 0 nobody knows"),
        ("systemd", ["--bind=unix:a\nb"], "has a control character"),
        ("dockerfile", ["--chdir=a\nb"], "has a control character"),
    ],
)
def test_what_cannot_be_made_is_said(kind: str, arguments: list[str], message: str) -> None:
    """A configuration for which there is no such file is an error with a hint."""
    Path("a\nb").mkdir()
    with pytest.raises(UsageError, match=message) as caught:
        emit(kind, "shop:app", *arguments)
    assert caught.value.hint

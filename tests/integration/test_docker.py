"""The image, built and run by Debian's Docker engine: a dockerd of the test's own.

Needs root and the Debian packages docker.io and mmdebstrap, for the emitted Deployment podman, runc
and catatonit. No registry is asked: the base image is
a Debian made here. The first run makes its tarball (some 20 s) and keeps it in
$GUNICORN_PROM_TEST_CACHE, by default a directory below $XDG_CACHE_HOME.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import walkthrough
from tests.real_parts import find_program, unavailable
from tests.support import (
    APPS,
    ROOT,
    Metrics,
    free_port,
    is_answered,
    request,
    run_to_end,
    wait_for,
)

# Making the base image and building may take longer than any one test.
pytestmark = [pytest.mark.real_parts, pytest.mark.timeout(300)]

SUITE = "bookworm"
ARCHIVE_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
BASE_RECIPE = (
    "mmdebstrap",
    "--variant=minbase",
    f"--include={','.join(BASE_PACKAGES)}",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    SUITE,
)
# How pip reaches its index from here, which a RUN on this machine has to know too.
PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")

BASE_TIMEOUT_S = 200.0
BUILD_TIMEOUT_S = 200.0
COMMAND_TIMEOUT_S = 60.0
# Bounds the life of dockerd even if the tests are killed.
ENGINE_LIFE_S = 900
STOP_AT_REST_S = 2.0

PORT = 8000
METRICS_PORT = 9464
USER_ID = "10001"
IMAGE = "gunicorn-prom"
BASE_IMAGE = "debian-python"
EMITTED_IMAGE = "emitted"
# What an image cannot have is in it, too: files where nothing can be written.
CONFIGURATION = """\
workers = 2
metrics_path = "/internal"
accesslog = "access.log"
pidfile = "app.pid"
"""
# gunicorn-prom of this checkout, where pip finds it as it will find a published one.
PUBLISHING = f"""\
FROM {BASE_IMAGE}
COPY . /src
RUN python3 -m venv /maker && /maker/bin/pip wheel --no-deps --wheel-dir /wheels /src
ENV PIP_FIND_LINKS=/wheels
"""

LOCKED_DOWN = (
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)

# Runs in the container's network with this machine's Python: the client outlives the container.
CLIENT = """
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=20)
connection.request("GET", sys.argv[2])
response = connection.getresponse()
print(response.read().decode(), end="")
raise SystemExit(response.status != 200)
"""


@dataclass(frozen=True)
class Engine:
    """A dockerd, and the client of the same version that talks to it."""

    client: str
    environment: dict[str, str]

    def run(self, *arguments: str | Path, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a docker command and return its standard output."""
        finished = subprocess.run(
            [self.client, *map(str, arguments)],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if finished.returncode != 0:
            pytest.fail(
                f"docker {arguments[0]} exited with {finished.returncode}\n"
                f"{finished.stdout[-4000:]}{finished.stderr[-8000:]}"
            )
        return finished.stdout.strip()


@dataclass(frozen=True)
class Podman:
    """A podman with its own storage, as it works without systemd.

    Attributes:
        options: before each of its commands.
    """

    options: tuple[str, ...]
    environment: dict[str, str]

    def run(self, *arguments: str | Path) -> str:
        """Run a command and return its standard output; print the other, which has the logs."""
        finished = subprocess.run(
            [*self.options, *map(str, arguments)],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        print(finished.stderr)
        assert finished.returncode == 0, f"podman {arguments[0]}: {finished.stderr[-4000:]}"
        return finished.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A running container, without any network but its own loopback."""

    engine: Engine
    id: str

    def inspect(self, template: str) -> str:
        return self.engine.run("inspect", f"--format={template}", self.id)

    def execute(self, *command: str) -> str:
        return self.engine.run("exec", self.id, *command)

    def open(self, path: str, port: int = PORT) -> subprocess.Popen[str]:
        """Begin a GET request inside the container's network."""
        pid = self.inspect("{{.State.Pid}}")
        assert pid != "0", "the container has ended"
        return subprocess.Popen(
            [
                *("nsenter", f"--target={pid}", "--net"),
                *(sys.executable, "-IS", "-c", CLIENT, str(port), path),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def try_to_get(self, path: str, port: int = PORT) -> tuple[bool, str]:
        """Tell whether the answer came with status 200, and what it or the error said."""
        with self.open(path, port) as client:
            body, errors = client.communicate(timeout=COMMAND_TIMEOUT_S)
        return client.returncode == 0, body + errors

    def get(self, path: str, port: int = PORT) -> str:
        """Return the body of the answer, which must come with status 200."""
        succeeded, body = self.try_to_get(path, port)
        assert succeeded, f"{path}: {body}"
        return body

    def scrape(self) -> Metrics:
        return Metrics(self.get("/metrics", METRICS_PORT))

    def is_ready(self, metrics_port: int = METRICS_PORT) -> bool:
        return self.try_to_get("/-/ready", metrics_port)[0]

    def wait_until_ready(self, metrics_port: int = METRICS_PORT) -> None:
        wait_for(lambda: self.is_ready(metrics_port), "readiness")

    def wait_for_health(self, status: str) -> None:
        def has_status() -> bool:
            running, health = self.inspect("{{.State.Running}} {{.State.Health.Status}}").split()
            assert running == "true", "the container has ended"
            return health == status

        wait_for(has_status, status)

    def stop(self) -> tuple[float, int]:
        """Seconds that `docker stop` took, and the exit code of PID 1."""
        start = time.monotonic()
        self.engine.run("stop", self.id)
        return time.monotonic() - start, int(self.inspect("{{.State.ExitCode}}"))


def test_the_master_is_pid_1_and_not_root(server: Container) -> None:
    """PID 1 is Gunicorn's master, its user is the unprivileged one, and no shell is in between."""
    assert server.get("/parent") == "1"
    assert "gunicorn" in server.execute("cat", "/proc/1/cmdline")
    assert server.execute("cat", "/proc/1/comm") not in {"sh", "dash", "bash"}
    status = server.execute("cat", "/proc/1/status")
    for kind in ("Uid", "Gid"):
        assert re.search(rf"^{kind}:((\s+{USER_ID}){{4}})$", status, re.MULTILINE)


def test_a_read_only_root_is_enough(server: Container) -> None:
    """Nothing is written but to /dev/shm and /tmp, and nothing is complained of."""
    assert server.inspect("{{.HostConfig.ReadonlyRootfs}}") == "true"
    assert server.get("/parent") == "1"
    complaints = re.findall(
        r".*(?:\[(?:WARNING|ERROR|CRITICAL)\]|Read-only|Permission).*", logs(server)
    )
    assert complaints == []


def test_no_directory_for_temporary_files_is_needed(
    engine: Engine, image: str, application: Path
) -> None:
    """With /dev/shm as the only writable place the server starts and serves."""
    with running(engine, image, application, options=("--read-only",)) as container:
        container.wait_until_ready()
        assert container.get("/parent") == "1"


def test_metrics_are_served_on_9464(server: Container) -> None:
    """The image's metrics address is open to other hosts, and the requests served are on it."""
    assert "GUNICORN_PROM_METRICS_BIND=0.0.0.0:9464" in server.inspect("{{json .Config.Env}}")
    server.get("/parent")
    wait_for(
        lambda: server.scrape().total("gunicorn_http_requests_total", status="200") >= 1,
        "the request in the metrics",
    )


def test_orphans_are_reaped(server: Container) -> None:
    """An orphan that PID 1 inherits does not stay a zombie."""
    orphan = server.get("/orphan")
    wait_for(lambda: server.get(f"/process/{orphan}").startswith("1 "), "the inheritance")
    server.get(f"/kill/{orphan}")
    wait_for(lambda: server.get(f"/process/{orphan}") == "gone", "the end of the orphan")


def test_health_follows_the_master(engine: Engine, image: str, application: Path) -> None:
    """The image's own check reports a working master, one that hangs, and its recovery."""
    checks = ("--health-interval=1s", "--health-timeout=2s", "--health-retries=1")
    with running(engine, image, application, options=(*LOCKED_DOWN, *checks)) as container:
        container.wait_for_health("healthy")
        engine.run("kill", "--signal=STOP", container.id)
        container.wait_for_health("unhealthy")
        engine.run("kill", "--signal=CONT", container.id)
        container.wait_for_health("healthy")


def test_stop_is_quick_at_rest(engine: Engine, image: str, application: Path) -> None:
    """`docker stop` ends an idle server within 2 seconds, with exit code 0."""
    with running(engine, image, application, options=LOCKED_DOWN) as container:
        container.wait_until_ready()
        duration_s, exit_code = container.stop()
        assert (duration_s < STOP_AT_REST_S, exit_code) == (True, 0), f"after {duration_s:.1f} s"


def test_stop_drains(engine: Engine, image: str, application: Path) -> None:
    """A request in progress at `docker stop` gets its answer before the server ends."""
    with running(engine, image, application, options=LOCKED_DOWN) as container:
        container.wait_until_ready()
        with container.open("/wait/gate") as client, ThreadPoolExecutor(1) as pool:
            wait_for(
                lambda: container.scrape().one("gunicorn_http_requests_in_progress") == 1,
                "the request",
            )
            stopping = pool.submit(container.stop)
            wait_for(lambda: not container.is_ready(), "the shutdown")
            (application / "gate").touch()
            _, exit_code = stopping.result()
            answer, _ = client.communicate(timeout=COMMAND_TIMEOUT_S)
        assert (answer, exit_code) == ("waited", 0)


def test_options_user_and_addresses_can_be_chosen(
    engine: Engine, image: str, application: Path
) -> None:
    """Other addresses, an extra's worker type and a user without an account: still healthy."""
    options = (
        *LOCKED_DOWN,
        "--user=4242:0",
        "--health-interval=1s",
        "--env=GUNICORN_PROM_METRICS_BIND=127.0.0.1:9999",
    )
    arguments = ("--worker-type", "gevent", "-w", "2", "-b", "127.0.0.1:8080")
    with running(engine, image, application, options, arguments) as container:
        container.wait_for_health("healthy")
        container.wait_until_ready(9999)
        assert container.get("/parent", 8080) == "1"


@pytest.mark.timeout(600)
def test_the_commands_of_the_documentation(
    engine: Engine, image: str, base_image: str, tmp_path: Path
) -> None:
    """The image of an application is made, run, asked and stopped as docs/docker.md says."""
    build_arguments = (f"BASE={base_image}", *(name for name, _ in settings(PROXY_VARIABLES)))
    of_the_reader = walkthrough.Engine(engine.client, engine.environment, build_arguments)
    walkthrough.Walkthrough(tmp_path, of_the_reader).follow(ROOT / "docs" / "docker.md")


@pytest.mark.usefixtures("emitted")
def test_the_emitted_dockerfile_works(engine: Engine) -> None:
    """It builds, is healthy and scraped where the configuration says, and ends at once with 0."""
    checks = ("--health-interval=1s",)
    with running(engine, EMITTED_IMAGE, None, options=(*LOCKED_DOWN, *checks)) as container:
        container.wait_for_health("healthy")
        container.wait_until_ready(9555)
        assert container.get("/parent", 8080) == "1"
        workers = Metrics(container.get("/internal", 9555)).total("gunicorn_workers")
        assert workers == 2
        duration_s, exit_code = container.stop()
        assert (duration_s < STOP_AT_REST_S, exit_code) == (True, 0), f"after {duration_s:.1f} s"


def test_the_emitted_service_of_compose_works(
    engine: Engine, emitted: Path, tmp_path: Path
) -> None:
    """Run as compose.yaml says the image is healthy, serves on both ports and ends with 0."""
    options = ("app:app", "--worker-type=gthread", "--metrics-bind=:9555", "-b", "localhost:80")
    done = run_to_end(emitted, "compose", *options, "-o", str(tmp_path), command=["emit"])
    assert done.returncode == 0, done.stderr
    service = yaml.safe_load((tmp_path / "compose.yaml").read_text())["services"]["app"]
    program, *arguments = *service["entrypoint"], *service["command"]
    given = (f"--entrypoint={program}", *as_docker_takes_it(service))
    with running(engine, EMITTED_IMAGE, None, given, tuple(arguments)) as container:
        container.wait_for_health("healthy")
        assert container.get("/parent", 8080) == "1"
        assert Metrics(container.get("/internal", 9555)).total("gunicorn_workers") == 2
        assert container.execute("sh", "-c", "touch /app/x 2>/dev/null || echo no") == "no"
        duration_s, exit_code = container.stop()
        assert (duration_s < STOP_AT_REST_S, exit_code) == (True, 0), f"after {duration_s:.1f} s"


def as_docker_takes_it(service: dict[str, Any]) -> Iterator[str]:
    """Yield options of `docker run` for what a service is but for its image, command and ports."""
    assert service["healthcheck"]["test"][0] == "CMD"
    # Asked more often than emitted, so that nobody waits.
    yield f"--health-cmd={shlex.join(service['healthcheck']['test'][1:])}"
    yield "--health-interval=1s"
    yield f"--stop-timeout={service['stop_grace_period'].removesuffix('s')}"
    yield f"--user={service['user']}"
    yield f"--read-only={json.dumps(service['read_only'])}"
    for key in ("tmpfs", "cap_drop", "security_opt"):
        yield from (f"--{key.replace('_', '-')}={value}" for value in service[key])


def test_the_emitted_deployment_comes_up(
    engine: Engine, emitted: Path, podman: Podman, tmp_path: Path
) -> None:
    """podman plays it: open to probes and Prometheus, not root, its root read-only, gone with 0."""
    engine.run("save", EMITTED_IMAGE, "-o", tmp_path / "image.tar")
    podman.run("load", "--input", tmp_path / "image.tar")
    port, metrics_port = free_port(), free_port()
    options = ("app:app", f"--bind=:{port}", f"--metrics-bind=:{metrics_port}")
    done = run_to_end(emitted, "podmonitor", *options, command=["emit"])
    assert done.returncode == 0, done.stderr
    deployment = next(yaml.safe_load_all(done.stdout))
    (tmp_path / "pod.json").write_text(json.dumps(as_podman_takes_it(deployment)))
    podman.run("play", "kube", "--network=host", tmp_path / "pod.json")
    name = "app-pod-0-app"
    try:
        wait_for(lambda: is_answered(metrics_port), "readiness")
        assert request(port, "/parent").text == "1"
        assert Metrics(request(metrics_port, "/internal").text).total("gunicorn_workers") == 2
        assert podman.run("exec", name, "id", "-u") == USER_ID
        assert podman.run("exec", name, "sh", "-c", "touch /app/x 2>/dev/null || echo no") == "no"
        podman.run("stop", name)
        assert podman.run("inspect", "--format={{.State.ExitCode}}", name) == "0"
    finally:
        podman.run("logs", name)
        podman.run("pod", "rm", "--force", "--all")


def as_podman_takes_it(deployment: dict[str, Any]) -> dict[str, Any]:
    """Change what podman 4.3 cannot: two on the host's network, names of ports, seccomp here."""
    deployment["spec"]["replicas"] = 1
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    container |= {"image": EMITTED_IMAGE, "imagePullPolicy": "Never"}
    numbers = {port["name"]: port["containerPort"] for port in container.pop("ports")}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        http_get = container[probe]["httpGet"]
        http_get["port"] = numbers[http_get["port"]]
    del spec["securityContext"]["seccompProfile"]
    return deployment


@pytest.fixture
def podman() -> Iterator[Podman]:
    """A podman whose directories have short names, as it wants them."""
    find_program("catatonit", "catatonit")
    options = (find_program("podman", "podman"), "--runtime", find_program("runc", "runc"))
    with tempfile.TemporaryDirectory(prefix="podman-") as name:
        configuration = Path(name, "containers.conf")
        limits = 'default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]'
        configuration.write_text(f"[containers]\n{limits}\n")
        places = (f"--root={name}/storage", f"--runroot={name}/run", f"--tmpdir={name}/tmp")
        environment = {**os.environ, "CONTAINERS_CONF": str(configuration)}
        here = ("--cgroup-manager=cgroupfs", "--events-backend=file", "--storage-driver=vfs")
        yield Podman((*options, *here, *places), environment)
        unmount_below(Path(name))


@pytest.fixture(scope="module")
def emitted(engine: Engine, published_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application with a requirement, of which the emitted Dockerfile has made an image."""
    directory: Path = tmp_path_factory.mktemp("emitted")
    shutil.copytree(APPS, directory, dirs_exist_ok=True)
    (directory / "app.py").write_text("import itsdangerous\nfrom processes import app\n")
    (directory / "requirements.txt").write_text("itsdangerous\n")
    (directory / "gunicorn.conf.py").write_text(CONFIGURATION)
    options = ("app:app", "--worker-type=gthread", "--metrics-bind=:9555", "-b", "localhost:80")
    done = run_to_end(directory, "dockerfile", *options, "-o", ".", command=["emit"])
    assert done.returncode == 0, done.stderr
    build(engine, directory, EMITTED_IMAGE, f"BASE={published_image}")
    return directory


@pytest.fixture(scope="module")
def server(engine: Engine, image: str, application: Path) -> Iterator[Container]:
    """A container that runs the image as strictly as an engine can."""
    with running(engine, image, application, options=LOCKED_DOWN) as container:
        container.wait_until_ready()
        yield container


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that any user may read, whatever the checkout's modes are."""
    directory = tmp_path_factory.mktemp("application")
    directory.chmod(0o755)
    for path in APPS.glob("*.py"):
        copy = Path(shutil.copyfile(path, directory / path.name))
        copy.chmod(0o644)
    return directory


@pytest.fixture(scope="module")
def image(engine: Engine, base_image: str) -> str:
    """The project's Dockerfile, built with the extra of a worker type."""
    build(engine, ROOT, IMAGE, f"BASE={base_image}", "EXTRAS=gevent")
    return IMAGE


@pytest.fixture(scope="module")
def published_image(
    engine: Engine, base_image: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The base image, on which `pip install gunicorn-prom` brings what is here."""
    file = tmp_path_factory.mktemp("published") / "Dockerfile"
    file.write_text(PUBLISHING)
    build(engine, ROOT, "published", file=file)
    return "published"


@pytest.fixture(scope="module")
def base_image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Debian with Python that reaches the package index as this machine does."""
    engine.run("import", base_tarball(), "debian")
    context = tmp_path_factory.mktemp("base")
    lines = ["FROM debian"]
    lines += [f"ENV {name}={json.dumps(value)}" for name, value in settings(PIP_VARIABLES)]
    certificates = os.environ.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    if certificates:
        shutil.copy(certificates, context / "certificates.crt")
        lines.append("COPY certificates.crt /etc/ssl/certs/ca-certificates.crt")
    (context / "Dockerfile").write_text("\n".join(lines))
    build(engine, context, BASE_IMAGE)
    return BASE_IMAGE


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A dockerd with its own socket and data, which touches no network of this machine."""
    dockerd, client = find_engine()
    directory = tmp_path_factory.mktemp("docker")
    (directory / "daemon.json").write_text("{}")
    (directory / "client").mkdir()
    socket = directory / "docker.sock"
    command = (
        *("timeout", "--kill-after=20", str(ENGINE_LIFE_S), dockerd),
        f"--host=unix://{socket}",
        f"--config-file={directory / 'daemon.json'}",
        f"--data-root={directory / 'data'}",
        f"--exec-root={directory / 'exec'}",
        f"--pidfile={directory / 'dockerd.pid'}",
        # Apart from an engine of the machine, should that run on a system-wide containerd.
        f"--containerd-namespace=gunicorn-prom-{os.getpid()}",
        f"--containerd-plugins-namespace=gunicorn-prom-plugins-{os.getpid()}",
        *("--iptables=false", "--ip6tables=false", "--bridge=none"),
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "DOCKER_CONFIG": str(directory / "client"),
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKER_BUILDKIT": "1",
        **dict(settings(PROXY_VARIABLES)),
    }
    log = directory / "dockerd.log"
    with log.open("w") as output:
        daemon = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until_engine_answers(daemon, client, environment, log)
        yield Engine(client, environment)
    finally:
        daemon.terminate()  # `timeout` passes it on.
        daemon.wait(COMMAND_TIMEOUT_S)
        unmount_below(directory)
        shutil.rmtree(directory)


def wait_until_engine_answers(
    daemon: subprocess.Popen[bytes], client: str, environment: dict[str, str], log: Path
) -> None:
    def answers() -> bool:
        if daemon.poll() is not None:
            unavailable(f"dockerd does not start here: {log.read_text()[-2000:]}")
        probe = subprocess.run(
            [client, "version"], env=environment, check=False, capture_output=True
        )
        return probe.returncode == 0

    wait_for(answers, "dockerd")


def unmount_below(directory: Path) -> None:
    """Undo what a dockerd leaves mounted, such as the namespace of the host's network."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    mount_points = [mount.split()[4] for mount in mounts]
    for mount_point in reversed(mount_points):
        if mount_point.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", mount_point], check=True)


def find_engine() -> tuple[str, str]:
    """dockerd and the client of the same version: another may come before it in PATH."""
    if os.geteuid() != 0:
        unavailable("dockerd needs root")
    folders = [*os.get_exec_path(), "/usr/sbin", "/sbin"]
    dockerd = shutil.which("dockerd", path=os.pathsep.join(folders))
    if dockerd is None:
        unavailable("dockerd is not installed (Debian: docker.io)")
    clients = filter(None, (shutil.which("docker", path=folder) for folder in folders))
    for client in clients:
        if version(client) == version(dockerd):
            return dockerd, client
    unavailable(f"no docker client of the version of {dockerd} ({version(dockerd)})")


def version(program: str) -> str:
    """`Docker version 20.10.24`, without the build, which differs between the parts."""
    finished = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return finished.stdout.partition(",")[0]


def base_tarball() -> Path:
    """Make the base system, or find it where an earlier run left it."""
    if shutil.which("mmdebstrap") is None:
        unavailable("mmdebstrap is not installed")
    if not ARCHIVE_KEYRING.exists():
        unavailable("the keys of Debian's archive are not installed (debian-archive-keyring)")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(" ".join(BASE_RECIPE).encode()).hexdigest()[:12]
    tarball = cache / f"debian-{recipe}.tar"
    if not tarball.exists():
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            made = Path(directory, "base.tar")
            finished = subprocess.run(
                [*BASE_RECIPE, made],
                check=False,
                capture_output=True,
                text=True,
                timeout=BASE_TIMEOUT_S,
            )
            if finished.returncode != 0:
                unavailable(f"mmdebstrap failed: {finished.stderr[-2000:]}")
            made.replace(tarball)
    return tarball


def cache_directory() -> Path:
    if chosen := os.environ.get("GUNICORN_PROM_TEST_CACHE"):
        return Path(chosen)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches, "gunicorn-prom", "tests")


def build(
    engine: Engine, context: Path, tag: str, *arguments: str, file: Path | None = None
) -> None:
    given = [*arguments, *(name for name, _ in settings(PROXY_VARIABLES))]
    engine.run(
        *("build", "--network=host", f"--tag={tag}"),
        *((f"--file={file}",) if file else ()),
        *(f"--build-arg={argument}" for argument in given),
        context,
        timeout_s=BUILD_TIMEOUT_S,
    )


@contextlib.contextmanager
def running(
    engine: Engine,
    image: str,
    application: Path | None,
    options: tuple[str, ...] = (),
    arguments: tuple[str, ...] = (),
) -> Iterator[Container]:
    """Run the image on the application, or as it is; print its logs and remove it afterwards."""
    mounted = () if application is None else (f"--volume={application}:/app:ro",)
    command = arguments if application is None else ("processes:app", *arguments)
    container = Container(
        engine,
        engine.run("run", "--detach", "--network=none", *options, *mounted, image, *command),
    )
    try:
        yield container
    finally:
        print(logs(container))
        engine.run("rm", "--force", container.id)


def logs(container: Container) -> str:
    finished = subprocess.run(
        [container.engine.client, "logs", container.id],
        env=container.engine.environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    return finished.stdout


def settings(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Those of the environment variables that are set."""
    return [(name, os.environ[name]) for name in names if os.environ.get(name)]

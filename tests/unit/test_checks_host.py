"""The checks of the host on machines that are not at hand: other kernels, other containers."""

import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gunicorn_prom import ports
from gunicorn_prom.checks import host
from gunicorn_prom.checks.cgroups import cpu_quota, memory_limit_bytes
from gunicorn_prom.checks.declare import Check, Problem, Skip
from gunicorn_prom.checks.setup import Setup
from gunicorn_prom.configuration import Configuration

LIMITS = "Limit                     Soft Limit           Hard Limit           Units     \n"


@pytest.fixture
def machine(tmp_path: Path) -> "Machine":
    return Machine(tmp_path)


class Machine:
    """A host that consists of files."""

    def __init__(self, directory: Path) -> None:
        self.proc, self.cgroups = directory / "proc", directory / "cgroup"

    def write(self, files: Mapping[str, str]) -> "Machine":
        """Write files, each with its path from the directory that holds proc and cgroup."""
        for name, text in files.items():
            path = self.proc.parent / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self

    def setup(self, *arguments: str, **environ: str) -> Setup:
        """Return a set-up on this host."""
        configuration = Configuration(list(arguments), "check", needs_application=False)
        return Setup(configuration, environ=environ, proc=self.proc, cgroups=self.cgroups)

    def find(self, check: Check, *arguments: str, **environ: str) -> list[Problem]:
        """Return what a check finds."""
        return list(check.function(self.setup(*arguments, **environ)))


# Control groups.

V2_CPU = {
    "proc/self/cgroup": "0::/slice/pod/app\n",
    "cgroup/slice/cpu.max": "400000 100000\n",
    "cgroup/slice/pod/cpu.max": "50000 100000\n",
    "cgroup/slice/pod/app/cpu.max": "max 100000\n",
}
V2_MEMORY = {
    "proc/self/cgroup": "0::/slice/pod/app\n",
    "cgroup/slice/memory.max": "max\n",
    "cgroup/slice/pod/memory.max": "268435456\n",
    "cgroup/slice/pod/app/memory.max": "536870912\n",
}
V1 = {
    "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n",
    "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "cgroup/memory/docker/abc/memory.limit_in_bytes": "104857600\n",
    "cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    "cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "cgroup/cpu/docker/abc/cpu.cfs_quota_us": "250000\n",
    "cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
}


@pytest.mark.parametrize(
    ("files", "cpus", "memory"),
    [
        pytest.param(V2_CPU, 0.5, None, id="v2 CPU, the smallest of nested groups"),
        pytest.param(V2_MEMORY, None, 1 << 28, id="v2 memory, the smallest of nested groups"),
        pytest.param(V1, 2.5, 100 << 20, id="v1"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/\n",
                "cgroup/cpu.max": "150000 100000\n",
                "cgroup/memory.max": "1048576\n",
            },
            1.5,
            1 << 20,
            id="v2 in a container with its own namespace",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/kubepods/x\n4:cpu,cpuacct:/kubepods/x\n",
                "cgroup/memory/memory.limit_in_bytes": "1048576\n",
                "cgroup/cpu/cpu.cfs_quota_us": "20000\n",
                "cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.2,
            1 << 20,
            id="v1 in a container that is told the host's path",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/../other\n",
                "cgroup/cpu.max": "100000 100000\n",
                "other/cpu.max": "1000 100000\n",
            },
            1.0,
            None,
            id="a group outside of what is mounted",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "unheard of\n"},
            None,
            None,
            id="a file of another form",
        ),
        pytest.param({}, None, None, id="no control groups at all"),
    ],
)
def test_limits_of_control_groups(
    machine: Machine, files: dict[str, str], cpus: float | None, memory: int | None
) -> None:
    """Both versions are read, and of nested groups the one that leaves least counts."""
    machine.write(files)
    assert cpu_quota(machine.cgroups, machine.proc) == cpus
    assert memory_limit_bytes(machine.cgroups, machine.proc) == memory


def test_gp021_in_a_group_of_version_2(machine: Machine) -> None:
    """Workers by the CPUs of the machine are too many for half a CPU, a few are not."""
    machine.write(V2_CPU)
    (found,) = machine.find(host.cpu_share, "-w17", "--threads=4")
    assert found[:2] == (
        "17 workers with 4 threads each share a quota of 0.5 CPU",
        "--workers 3",
    )
    assert not machine.find(host.cpu_share, "-w3")
    assert not machine.find(host.cpu_share, "-w1", "--threads=32")


@pytest.mark.parametrize("check", [host.cpu_share, host.memory_share], ids=lambda c: c.id)
def test_no_limit_no_check(machine: Machine, check: Check) -> None:
    """Where nothing is limited, nothing is said of it."""
    with pytest.raises(Skip, match=r"limit|quota"):
        machine.find(check, "-w200")


# The heartbeat directory.


def mounts(*lines: str) -> dict[str, str]:
    text = "".join(f"{number} 1 0:{number} / {line}\n" for number, line in enumerate(lines, 20))
    return {"proc/self/mountinfo": text}


@pytest.mark.parametrize(
    ("kind", "is_chosen", "is_found"),
    [
        ("ext4", False, False),
        ("ext4", True, True),
        ("xfs", False, False),
        ("tmpfs", True, False),
        ("tmpfs", False, False),
        ("overlay", False, True),
        ("overlay", True, True),
        ("nfs4", False, True),
        ("fuse.grpcfuse", False, True),
    ],
)
def test_gp015_by_file_system(
    machine: Machine, tmp_path: Path, kind: str, is_chosen: bool, is_found: bool
) -> None:
    """A laptop's disk is let pass unless it was chosen; layers and networks never are."""
    place = tmp_path / "a b"
    place.mkdir()
    shown = str(place).replace(" ", "\\040")
    machine.write(
        mounts(
            "/ rw shared:1 - btrfs /dev/vda rw",
            f"{shown} rw - nfs4 server:/x rw",
            f"{shown} rw shared:2 - {kind} x rw",
            f"{shown}x rw - nfs4 server:/y rw",
        )
    )
    chosen = [f"--worker-tmp-dir={place}"] if is_chosen else []
    found = machine.find(host.heartbeat_directory, *chosen, TMPDIR=str(place))
    detail = f"the heartbeat directory {place} is on {kind}, not in memory"
    assert found == ([Problem(detail)] if is_found else [])


def test_gp015_without_proc(machine: Machine) -> None:
    """Where it cannot be told, nothing is found."""
    assert not machine.find(host.heartbeat_directory)


# Limits of the kernel.


def test_gp023(machine: Machine) -> None:
    """The kernel's limit is compared with what is asked for; one that is not there is skipped."""
    with pytest.raises(Skip):
        machine.find(host.backlog)
    machine.write({"proc/sys/net/core/somaxconn": "128\n"})
    (found,) = machine.find(host.backlog, "--backlog=129")
    assert found.detail == "backlog is 129, the kernel clamps it to 128"
    assert not machine.find(host.backlog, "--backlog=128")


@pytest.mark.parametrize(
    ("soft", "is_found"), [("1015", True), ("1016", False), ("unlimited", False)]
)
def test_gp024(machine: Machine, soft: str, is_found: bool) -> None:
    """A worker needs a file for each connection and a few for itself."""
    row = f"Max open files            {soft}                 524288               files     \n"
    machine.write({"proc/self/limits": f"{LIMITS}{row}"})
    assert bool(machine.find(host.open_files, "--threads=4")) is is_found
    with pytest.raises(Skip):
        machine.find(host.open_files)


# The first process.


@pytest.mark.parametrize(
    ("name", "arguments", "is_found"),
    [
        ("sh", ["-c", "gunicorn-prom run app:app"], True),
        ("sh", ["-ec", "cd /app; gunicorn app:app --workers 4"], True),
        ("bash", ["-o", "pipefail", "-c", "/venv/bin/gunicorn app:app | tee log"], True),
        ("dash", ["-c", "python -m gunicorn_prom run app:app\nexit"], True),
        ("sh", ["start.sh"], True),
        ("sh", ["-e", "start.sh", "-c", "gunicorn.conf.py"], True),
        ("sh", ["-c", "exec gunicorn-prom run app:app"], False),
        ("sh", ["-c", "PORT=80 exec gunicorn app:app"], False),
        ("sh", ["good.sh"], False),
        # bash replaces itself by the last command.
        ("bash", ["-c", "./migrate && gunicorn-prom run app:app"], False),
        ("sh", ["-c", "gunicorn-prom check app:app; true"], False),
        ("sh", ["-c", "sleep infinity; true"], False),
        ("sh", ["missing.sh"], False),
        ("bash", [], False),
        ("bash", ["-l"], False),
        ("systemd", ["--system"], False),
        ("gunicorn", ["/venv/bin/gunicorn", "app:app"], False),
    ],
)
def test_gp031(machine: Machine, name: str, arguments: list[str], is_found: bool) -> None:
    """Only a shell that is seen to start a server without `exec` is found."""
    machine.write(
        {
            "proc/1/cmdline": "\0".join([name, *arguments, ""]),
            "proc/1/cwd/start.sh": "#!/bin/sh\n# exec it\ngunicorn-prom run app:app\n",
            "proc/1/cwd/good.sh": "#!/bin/sh\n# gunicorn-prom run x\nexec gunicorn-prom run x:x\n",
        }
    )
    (machine.proc / "1" / "exe").symlink_to(f"/bin/{name}")
    detail = f"PID 1 is {name}, which starts the server without exec"
    assert machine.find(host.shell_as_pid_1) == ([Problem(detail)] if is_found else [])


# Names that do not resolve.


def test_gp032_waits_for_no_name_server(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer is a finding, after a limited time."""
    answer = threading.Event()
    monkeypatch.setattr(host, "RESOLVING_S", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait())
    try:
        (found,) = machine.find(host.statsd_host, "--statsd-host=statsd:8125")
    finally:
        answer.set()
    assert found.detail == "the statsd host statsd does not resolve: no answer within 0.1 s"


# Who has a port.

ROW = "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1\n"


def process(pid: int, inode: int, *arguments: str, name: str = "python3") -> dict[str, Any]:
    return {"pid": pid, "inode": inode, "arguments": arguments, "name": name}


def write_processes(machine: Machine, *processes: dict[str, Any]) -> None:
    for each in processes:
        directory = machine.proc / str(each["pid"])
        (directory / "fd").mkdir(parents=True)
        (directory / "fd" / "0").symlink_to("/dev/null")
        (directory / "fd" / "3").symlink_to(f"socket:[{each['inode']}]")
        (directory / "comm").write_text(f"{each['name']}\n")
        (directory / "cmdline").write_text("\0".join([*each["arguments"], ""]))


@pytest.mark.parametrize(
    ("arguments", "name", "shown"),
    [
        (["nginx: master process nginx"], "nginx", "nginx"),
        (["gunicorn: master [app:app]"], "gunicorn: maste", "gunicorn"),
        (["/usr/bin/python3", "-m", "gunicorn_prom", "run"], "python3", "gunicorn_prom"),
        (["python", "-X", "dev", "-u", "/srv/manage.py", "runserver"], "python", "manage.py"),
        (["python3.13", "-c", "import this"], "python3", "python3"),
        (["python3"], "python3", "python3"),
    ],
)
def test_the_name_of_a_holder(
    machine: Machine, arguments: list[str], name: str, shown: str
) -> None:
    """It is the program, and for one in Python the script or the module."""
    row = ROW.format(local="0100007F:1F40", state="0A", inode=77)
    machine.write({"proc/net/tcp": f"header\n{row}"})
    write_processes(machine, process(41, 77, *arguments, name=name))
    assert ports.holder(("127.0.0.1", 8000), machine.proc) == f"pid 41, {shown}"


def test_the_holder_is_the_eldest_that_listens(machine: Machine) -> None:
    """Workers inherit the socket, clients and other ports are passed over."""
    rows = [
        ROW.format(local="0100007F:1F40", state="01", inode=70),
        ROW.format(local="0100007F:1F41", state="0A", inode=71),
        ROW.format(local="0200007F:1F40", state="0A", inode=72),
    ]
    row6 = ROW.format(local="0" * 32 + ":1F40", state="0A", inode=77)
    machine.write({"proc/net/tcp": "header\n" + "".join(rows), "proc/net/tcp6": f"header\n{row6}"})
    others = [process(pid, pid, "other", name="other") for pid in (70, 71, 72)]
    write_processes(machine, *others, process(900, 77, "x"), process(99, 77, "nginx", name="nginx"))
    assert ports.holder(("127.0.0.1", 8000), machine.proc) == "pid 99, nginx"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("127.0.0.1", ""), ("0.0.0.0", ""), ("::1", "pid 41, x"), ("::", "pid 41, x")],
)
def test_an_address_of_ipv6_is_in_the_way_of_none_of_ipv4(
    machine: Machine, wanted: str, found: str
) -> None:
    """Who has it is named to those only that want it, alone or with all of IPv6."""
    words = "0" * 24 + "01000000"
    machine.write(
        {"proc/net/tcp6": f"header\n{ROW.format(local=f'{words}:1F40', state='0A', inode=77)}"}
    )
    write_processes(machine, process(41, 77, "x", name="x"))
    assert ports.holder((wanted, 8000), machine.proc) == found


def test_a_holder_that_cannot_be_told(machine: Machine) -> None:
    """Without /proc, or without a process that we may look at, it is nobody."""
    assert ports.holder(("127.0.0.1", 8000), machine.proc) == ""
    row = ROW.format(local="00000000:1F40", state="0A", inode=77)
    machine.write({"proc/net/tcp": f"header\n{row}", "proc/41/comm": "nginx\n"})
    assert ports.holder(("127.0.0.1", 8000), machine.proc) == ""


def test_the_holder_of_a_unix_socket(machine: Machine) -> None:
    """It is found by its path, which may have blanks, and abstract ones by their name."""
    table = (
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 77 /run/my app.sock\n"
        "0000000000000000: 00000002 00000000 00010000 0001 01 78 @app\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 79 /run/connected.sock\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 80\n"
    )
    machine.write({"proc/net/unix": table})
    write_processes(machine, *(process(pid, pid, "x", name="x") for pid in (77, 78, 79, 80)))
    assert ports.holder("/run/my app.sock", machine.proc) == "pid 77, x"
    assert ports.holder("\0app", machine.proc) == "pid 78, x"
    assert ports.holder("/run/connected.sock", machine.proc) == ""

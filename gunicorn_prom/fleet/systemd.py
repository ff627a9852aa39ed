"""The kind `systemd`: a unit of the server and the socket that starts it."""

import re
from ipaddress import ip_address

from gunicorn_prom.errors import UsageError
from gunicorn_prom.fleet import container
from gunicorn_prom.fleet.plan import Bind, File, Plan
from gunicorn_prom.fleet.text import head, one_line

__all__ = ["files"]

HOMES = ("/home/", "/root/")
# In directories of which the unit has its own: DynamicUser= leaves no choice.
TEMPORARY = re.compile(r"(/var)?/tmp/[^/]+")
# As far as a server of any worker type can do without: it reads proc of its own processes, asks
# netlink for the backlog, and an application may make code at run time.
HARDENING = """\
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
LockPersonality=yes
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
# AF_NETLINK tells the backlog of the sockets.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0027
"""


def files(plan: Plan) -> list[File]:
    """Make the unit and its socket.

    Raises:
        UsageError: the server would leave its unit, or systemd cannot have one of its addresses
            or arguments.
    """
    container.refuse_what_cannot_run(plan)
    return [
        File(f"{plan.job}.service", _service(plan)),
        File(f"{plan.job}.socket", _socket(plan)),
    ]


def _service(plan: Plan) -> str:
    introduction = head(
        "systemd",
        "To be put into /etc/systemd/system with the socket beside it, then:",
        f"systemctl daemon-reload && systemctl enable --now {plan.job}.socket {plan.job}.service",
        "A binary upgrade by USR2 is not for units: systemd would take the end of the old master",
        "for the end of the service. Reload, or restart: the socket keeps who comes meanwhile.",
    )
    return f"""\
{introduction}[Unit]
Description={_escaped(plan.application or plan.job)} (Gunicorn)
Requires={plan.job}.socket
After=network.target {plan.job}.socket

[Service]
# Gunicorn says when it is ready. It feeds no watchdog: --timeout watches over the workers.
Type=notify
NotifyAccess=main
{_user(plan)}\
WorkingDirectory={_escaped(plan.directory)}
ExecStart={_command(plan)}
ExecReload=/bin/kill -s HUP $MAINPID
# The master gets SIGTERM and lets the workers finish; what is left then is killed.
KillMode=mixed
# {plan.graceful_timeout_s} s of --graceful-timeout, {container.MARGIN_S} s more.
TimeoutStopSec={plan.graceful_timeout_s + container.MARGIN_S}
Restart=on-failure
RestartSec=5
# What the command line or a setting has wrong stays wrong.
RestartPreventExitStatus=2
# On tmpfs; the metrics' state is here.
RuntimeDirectory=gunicorn-prom/{plan.job}
RuntimeDirectoryMode=0700
{_memory(plan)}
{HARDENING}\
{_home(plan)}\
{_temporary(plan)}\
{_capabilities(plan)}\

[Install]
WantedBy=multi-user.target
"""


def _user(plan: Plan) -> str:
    group = f"Group={plan.group}\n" if plan.group else ""
    if plan.user:
        return f"User={plan.user}\n{group}"
    return (
        "# A user that systemd makes for it, who must be able to read the application. What it\n"
        "# keeps goes to $STATE_DIRECTORY.\n"
        f"DynamicUser=yes\nStateDirectory={plan.job}\n{group}"
    )


def _command(plan: Plan) -> str:
    """Return the command line, an option a line."""
    runtime = f"%t/gunicorn-prom/{plan.job}"
    words = [_word(word) for word in (*container.command(plan), *plan.host_arguments)]
    # The last one counts.
    words += container.written(plan, runtime)
    program = " ".join(map(_word, plan.program))
    return " \\\n    ".join([f"{program} run", *words])


def _word(text: str) -> str:
    """Return an argument as systemd takes it for one, and as it stands."""
    text = text.replace("$", "$$")
    needs_quotes = any(character in text for character in " \t\"'\\;")
    return _quoted(text) if needs_quotes else _escaped(text)


def _quoted(text: str) -> str:
    return '"' + _escaped(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escaped(text: str) -> str:
    """Return a text without what systemd would take for a specifier.

    Raises:
        UsageError: it does not fit into a line.
    """
    return one_line(text).replace("%", "%%")


def _memory(plan: Plan) -> str:
    if plan.max_worker_memory_bytes is None:
        return ""
    # Workers go by themselves before; this is for what they share and for one that does not.
    limit = plan.max_worker_memory_bytes * (plan.workers + 1)
    reason = f"{plan.workers} workers of --max-worker-memory, and as much as one for the rest."
    return f"# {reason}\nMemoryMax={limit}\n"


def _home(plan: Plan) -> str:
    needed = any(path.startswith(HOMES) for path in _places(plan))
    reason = "# What the server reads lies in a home directory; elsewhere it would be `yes`.\n"
    return f"{reason}ProtectHome=read-only\n" if needed else "ProtectHome=yes\n"


def _temporary(plan: Plan) -> str:
    found = [match[0] for place in _places(plan) if (match := TEMPORARY.match(place))]
    reason = "# What the server reads lies where the unit has a directory of its own.\n"
    lines = [f"BindReadOnlyPaths={_quoted(path)}\n" for path in dict.fromkeys(found)]
    return reason + "".join(lines) if lines else ""


def _places(plan: Plan) -> list[str]:
    """Return what must be there for the server to start, with a slash behind directories."""
    return [f"{plan.directory}/", f"{plan.chdir}/", plan.config_file, *plan.files, *plan.program]


def _capabilities(plan: Plan) -> str:
    # systemd itself binds the application's addresses.
    needs_port = plan.has_metrics and 0 < plan.metrics_port < container.FIRST_FREE_PORT
    capability = "CAP_NET_BIND_SERVICE" if needs_port else ""
    ambient = f"AmbientCapabilities={capability}\n" if needs_port else ""
    return f"CapabilityBoundingSet={capability}\n{ambient}"


def _socket(plan: Plan) -> str:
    streams = "".join(f"ListenStream={_stream(bind)}\n" for bind in plan.binds)
    is_unix = any(bind.path for bind in plan.binds)
    # Gunicorn's own sockets are open to all, too.
    access = "# For the proxy only: SocketGroup=www-data and SocketMode=0660\n" if is_unix else ""
    introduction = head(
        "systemd",
        f"The addresses of {plan.job}, which stay open while the service restarts. They are the",
        "ones that hold: the server takes these sockets, whatever --bind says.",
    )
    return f"""\
{introduction}[Unit]
Description=Sockets of {_escaped(plan.application or plan.job)}

[Socket]
{streams}{access}Backlog={plan.backlog}

[Install]
WantedBy=sockets.target
"""


def _stream(bind: Bind) -> str:
    """Return an address as systemd takes it: no name, no port that is free.

    Raises:
        UsageError: it is one.
    """
    if bind.path:
        return _escaped(bind.path)
    if not bind.port:
        raise UsageError(
            "with port 0 nobody knows where systemd will listen", "choose a port with --bind"
        )
    host = "127.0.0.1" if bind.host == "localhost" else bind.host
    try:
        ip_address(host)
    except ValueError as error:
        raise UsageError(
            f"systemd resolves no names, so {bind} is no address for its socket",
            "name an address of this host with --bind, or 0.0.0.0 for every one",
        ) from error
    return _escaped(str(bind._replace(host=host)))

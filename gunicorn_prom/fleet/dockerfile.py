"""The kind `dockerfile`: an image of the application."""

import json
import re
import shlex

from gunicorn_prom.fleet import container
from gunicorn_prom.fleet.plan import File, Plan
from gunicorn_prom.fleet.text import head, one_line

__all__ = ["files"]

TMPFS = (
    "The root may be read-only, for the server itself writes to "
    f"{container.SHARED_MEMORY_DIR} only, which is on tmpfs:",
    "docker run --read-only --tmpfs /tmp ...",
)


def files(plan: Plan) -> list[File]:
    """Make the Dockerfile.

    Raises:
        UsageError: the server would leave its container, or has a directory that no line can have.
    """
    container.refuse_what_cannot_run(plan)
    text = head(
        "dockerfile",
        "Keep .git, .venv and what is secret out of the image with a .dockerignore.",
        *TMPFS,
        f"Gunicorn waits up to {plan.graceful_timeout_s} s for requests, docker stop only 10 s:",
        f"docker stop --time {plan.graceful_timeout_s + container.MARGIN_S} ...",
        *_mounts(plan),
    )
    return [File("Dockerfile", text + _stages(plan))]


def _mounts(plan: Plan) -> list[str]:
    """Return what must be mounted, one line each."""
    lines = []
    if plan.is_tls:
        names = ", ".join(container.tls_files(plan))
        lines.append(f"To be mounted at {container.TLS_DIR}: {names}.")
    if plan.has_metrics and plan.has_web_config:
        lines.append(f"To be mounted at {container.WEB_DIR}: web.yml and what it names.")
    return lines


def _stages(plan: Plan) -> str:
    surroundings = container.surroundings(plan, container.SHARED_MEMORY_DIR)
    options = one_line(shlex.join(surroundings))
    ports = [bind.port for bind in container.listeners(plan)]
    ports += [container.metrics_bind(plan).port] if plan.has_metrics else []
    return f"""\
ARG BASE=python:{plan.python_version}-slim

FROM ${{BASE}} AS build
WORKDIR /src
{_installation(plan)}
FROM ${{BASE}}
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN groupadd --gid {container.USER_ID} app \\
 && useradd --uid {container.USER_ID} --gid app --no-log-init --create-home \\
        --shell /usr/sbin/nologin app
COPY --from=build /opt/venv /opt/venv
# A container's own: addresses that are open, and what is written on tmpfs. The metrics port is for
# your Prometheus only: publish it on an inner address, or not at all.
ENV PATH=/opt/venv/bin:$PATH \\
    PYTHONUNBUFFERED=1 \\
    GUNICORN_CMD_ARGS={_quoted(options)}

WORKDIR /app
COPY . .
USER {container.USER_ID}:{container.USER_ID}
EXPOSE {" ".join(map(str, dict.fromkeys(ports)))}

{_health(plan)}
STOPSIGNAL SIGTERM
# Exec form: the master is PID 1 and gets the signal itself.
ENTRYPOINT ["gunicorn-prom", "run"]
CMD {json.dumps(container.command(plan), ensure_ascii=False)}
"""


def _quoted(text: str) -> str:
    """Return a value for ENV, in which Docker looks for variables.

    Source: Dockerfile reference, environment replacement.
    """
    escaped = re.sub(r'[\\"$]', r"\\\g<0>", text)
    return f'"{escaped}"'


def _installation(plan: Plan) -> str:
    install = (
        "RUN python3 -m venv /opt/venv \\\n"
        " && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \\\n       "
    )
    ours = f'"{container.requirement(plan)}"'
    match plan.requirements:
        case "requirements.txt":
            return f"COPY requirements.txt .\n{install} --requirement requirements.txt {ours}\n"
        case "pyproject.toml":
            return f"COPY . .\n{install} . {ours}\n"
    note = "# There is no requirements.txt and no pyproject.toml: add what the application needs.\n"
    return f"{note}{install} {ours}\n"


def _health(plan: Plan) -> str:
    if not plan.has_metrics:
        return (
            "# `gunicorn-prom export` beside this container tells its health.\nHEALTHCHECK NONE\n"
        )
    # A line of a program that goes on, inside of a string of JSON.
    program = ";\\\n".join(container.health_program(plan))
    return (
        "# Isolated (-I), so that no module of the application takes the place of one used here.\n"
        "HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \\\n"
        f'    CMD ["python", "-IS", "-c", "\\\n{program}\\\n"]\n'
    )

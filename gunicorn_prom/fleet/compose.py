"""The kind `compose`: the application with Prometheus, Alertmanager and Grafana around it."""

import json

from gunicorn_prom.errors import UsageError
from gunicorn_prom.fleet import alerts, container, dashboard, scrape
from gunicorn_prom.fleet.plan import File, Plan
from gunicorn_prom.fleet.text import head, indented, items

__all__ = ["files"]

PROMETHEUS = "prom/prometheus:v3.5.0"
ALERTMANAGER = "prom/alertmanager:v0.28.1"
GRAFANA = "grafana/grafana:11.6.0"
PROMETHEUS_PORT, ALERTMANAGER_PORT, GRAFANA_PORT = 9090, 9093, 3000
FOLDER = "monitoring"
# What a limit of memory has to hold besides the workers.
MASTER_BYTES = 192 * 1024 * 1024

ALERTING = f"""\
alerting:
  alertmanagers:
    - static_configs:
        - targets: ["alertmanager:{ALERTMANAGER_PORT}"]

"""
ROUTES = """\
route:
  receiver: nobody
  group_by: [alertname, job]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 4h

# Who is told: a webhook, mail, a chat; see Alertmanager's documentation.
receivers:
  - name: nobody
    # webhook_configs:
    #   - url: http://on-call.example/hook
"""
DATASOURCE = f"""\
apiVersion: 1
datasources:
  - name: Prometheus
    type: prometheus
    access: proxy
    url: http://prometheus:{PROMETHEUS_PORT}
    isDefault: true
"""
DASHBOARDS = """\
apiVersion: 1
providers:
  - name: gunicorn-prom
    type: file
    options:
      path: /var/lib/grafana/dashboards
"""
SERVICES_AROUND = f"""\
prometheus:
  image: {PROMETHEUS}
  volumes:
    - ./{FOLDER}/prometheus:/etc/prometheus:ro
    - prometheus-data:/prometheus
  ports: ["127.0.0.1:{PROMETHEUS_PORT}:{PROMETHEUS_PORT}"]
  restart: unless-stopped

alertmanager:
  image: {ALERTMANAGER}
  volumes:
    - ./{FOLDER}/alertmanager:/etc/alertmanager:ro
    - alertmanager-data:/alertmanager
  ports: ["127.0.0.1:{ALERTMANAGER_PORT}:{ALERTMANAGER_PORT}"]
  restart: unless-stopped

# The first login is admin, admin; it asks for a new password.
grafana:
  image: {GRAFANA}
  volumes:
    - ./{FOLDER}/grafana/provisioning:/etc/grafana/provisioning:ro
    - ./{FOLDER}/grafana/dashboards:/var/lib/grafana/dashboards:ro
    - grafana-data:/var/lib/grafana
  ports: ["127.0.0.1:{GRAFANA_PORT}:{GRAFANA_PORT}"]
  restart: unless-stopped
"""


def files(plan: Plan) -> list[File]:
    """Make the Compose file and what it mounts.

    Raises:
        UsageError: the server would leave its container, or serves no metrics in it.
    """
    container.refuse_what_cannot_run(plan)
    if not plan.has_metrics:
        raise UsageError(
            "with --metrics-server none there is nothing for Prometheus to scrape",
            "leave it out here; docs/sidecar.md tells how to export from beside",
        )
    # The tests of the rules are for a person, and Prometheus would take them for rules.
    rules, *_ = alerts.files(plan)
    return [
        File("compose.yaml", _compose(plan)),
        File(f"{FOLDER}/prometheus/prometheus.yml", _prometheus(plan)),
        File(f"{FOLDER}/prometheus/{rules.name}", rules.text),
        File(f"{FOLDER}/alertmanager/alertmanager.yml", head("compose") + ROUTES),
        File(f"{FOLDER}/grafana/provisioning/datasources/prometheus.yml", DATASOURCE),
        File(f"{FOLDER}/grafana/provisioning/dashboards/gunicorn-prom.yml", DASHBOARDS),
        *(
            File(f"{FOLDER}/grafana/dashboards/{file.name}", file.text)
            for file in dashboard.files(plan)
        ),
    ]


def _compose(plan: Plan) -> str:
    introduction = head(
        "compose",
        "The Dockerfile beside it is what `gunicorn-prom emit dockerfile -o .` makes.",
        f"Prometheus: http://localhost:{PROMETHEUS_PORT}, Alertmanager: :{ALERTMANAGER_PORT}, "
        f"Grafana: :{GRAFANA_PORT}.",
        *_mounts_by_hand(plan),
    )
    return f"""\
{introduction}\
name: {plan.job}

services:
{indented(_server(plan), 2)}
{indented(SERVICES_AROUND, 2)}
volumes:
  prometheus-data:
  alertmanager-data:
  grafana-data:
"""


def _server(plan: Plan) -> str:
    arguments = [
        a.replace("$", "$$") for a in container.arguments(plan, container.SHARED_MEMORY_DIR)
    ]
    program = ["CMD", "python", "-IS", "-c", "; ".join(container.health_program(plan))]
    return f"""\
{plan.job}:
  build: .
  entrypoint: ["gunicorn-prom", "run"]
  # In the container the addresses are open, for Prometheus comes from outside of it.
  command:
{indented(items(arguments), 4)}\
  ports:
{indented(items(_published(plan)), 4)}\
{indented(_volumes(plan), 2)}\
  healthcheck:
    test: {json.dumps(program)}
    interval: 10s
    timeout: 3s
    start_period: 30s
    retries: 3
  # {plan.graceful_timeout_s} s of --graceful-timeout, {container.MARGIN_S} s more.
  stop_grace_period: {plan.graceful_timeout_s + container.MARGIN_S}s
{indented(_memory(plan), 2)}\
  user: "{container.USER_ID}:{container.USER_ID}"
  read_only: true
  tmpfs: ["/tmp"]
  cap_drop: ["ALL"]
  security_opt: ["no-new-privileges:true"]
  restart: unless-stopped
"""


def _published(plan: Plan) -> list[str]:
    """Return the application's ports, open as widely as on the host; the metrics' is not."""
    given = [bind for bind in plan.binds if bind.port]
    if not given:
        port = container.listeners(plan)[0].port
        return [f"127.0.0.1:{port}:{port}"]
    for bind in given:
        if bind.port in (PROMETHEUS_PORT, ALERTMANAGER_PORT, GRAFANA_PORT):
            raise UsageError(
                f"port {bind.port} of the application is that of another service of the project",
                f"choose another with --bind; {PROMETHEUS_PORT} is Prometheus', "
                f"{ALERTMANAGER_PORT} Alertmanager's, {GRAFANA_PORT} Grafana's",
            )
    # A port that is published for all cannot be once more for this host.
    is_open: dict[int, bool] = {}
    for bind in given:
        is_open[bind.port] = is_open.get(bind.port, False) or not bind.is_loopback
    return [
        f"{'' if is_open[port] else '127.0.0.1:'}{port}:{container.inner_port(port)}"
        for port in is_open
    ]


def _volumes(plan: Plan) -> str:
    mounts = [f"./tls:{container.TLS_DIR}:ro"] if plan.is_tls else []
    mounts += [f"./metrics-web:{container.WEB_DIR}:ro"] if plan.has_web_config else []
    return f"volumes:\n{indented(items(mounts), 2)}" if mounts else ""


def _mounts_by_hand(plan: Plan) -> list[str]:
    """Return what must be put beside the file, one line each."""
    lines = []
    if plan.is_tls:
        names = ", ".join(container.tls_files(plan))
        lines.append(f"In ./tls: {names}, the application's certificate.")
    if plan.has_web_config:
        lines.append("In ./metrics-web: web.yml and the files that it names.")
    credentials = ["ca.crt"] if plan.metrics_is_tls else []
    credentials += ["client.crt", "client.key"] if plan.metrics_wants_certificate else []
    credentials += ["password"] if plan.metrics_wants_password else []
    if credentials:
        place = f"./{FOLDER}/prometheus/gunicorn-prom"
        lines.append(f"In {place}: {', '.join(credentials)}, for Prometheus.")
    return lines


def _memory(plan: Plan) -> str:
    if plan.max_worker_memory_bytes is None:
        return ""
    limit = plan.max_worker_memory_bytes * plan.workers + MASTER_BYTES
    reason = f"--max-worker-memory for each of {plan.workers} workers, and room for the rest."
    return f"# {reason}\nmem_limit: {limit}\n"


def _prometheus(plan: Plan) -> str:
    target = f"{plan.job}:{container.metrics_bind(plan).port}"
    job = scrape.job(plan, scrape.static(target))
    return head("compose") + scrape.base() + ALERTING + "scrape_configs:\n" + indented(job, 2)

"""The kind `scrape`: a Prometheus configuration."""

from gunicorn_prom.errors import UsageError
from gunicorn_prom.fleet.alerts import RULES
from gunicorn_prom.fleet.plan import Bind, File, Plan
from gunicorn_prom.fleet.text import commented, head, indented, quoted

__all__ = ["DIRECTORY", "base", "files", "job", "static"]

# Beside the configuration: what Prometheus shows to a server, and by which it knows one.
DIRECTORY = "gunicorn-prom"
ALERTING = """\
alerting:
  alertmanagers:
    - static_configs:
        - targets: ["localhost:9093"]
"""
LOOPBACK = """\
The server listens on loopback: only a Prometheus on its own host reaches it. For others give it
--metrics-bind 0.0.0.0:{port}, behind a firewall or with --metrics-web-config.
"""
FILE_SD = """\
# Hosts from files that something else writes: [{"targets": ["web-1.example:{port}"]}]
file_sd_configs:
  - files: [/etc/prometheus/targets/{job}*.json]
    refresh_interval: 1m
"""
HTTP_SD = """\
# Hosts from a service that answers with the same JSON.
http_sd_configs:
  - url: http://inventory.example/targets/{job}
    refresh_interval: 1m
"""
KUBERNETES_SD = """\
# Pods, without the operator; `gunicorn-prom emit podmonitor` makes such pods. Prometheus needs
# to be allowed to list and watch pods.
kubernetes_sd_configs:
  - role: pod
relabel_configs:
  - source_labels: [__meta_kubernetes_pod_label_app_kubernetes_io_name]
    regex: {job}
    action: keep
  - source_labels: [__meta_kubernetes_pod_container_port_name]
    regex: metrics
    action: keep
  - source_labels: [__meta_kubernetes_pod_phase]
    regex: Succeeded|Failed
    action: drop
  - source_labels: [__meta_kubernetes_namespace]
    target_label: namespace
  - source_labels: [__meta_kubernetes_pod_name]
    target_label: pod
"""


def files(plan: Plan) -> list[File]:
    """Make the configuration.

    Raises:
        UsageError: the port of the metrics server is not known.
    """
    if not plan.metrics_port:
        raise UsageError(
            "with port 0 nobody knows where the metrics server will listen",
            "choose a port with --metrics-bind",
        )
    target = str(Bind(_reachable(plan.metrics_host), plan.metrics_port))
    others = [job(plan, _filled(part, plan)) for part in (FILE_SD, HTTP_SD)]
    # Pods are reached by their addresses, which stand in no certificate.
    others.append(job(plan, _filled(KUBERNETES_SD, plan), server_name=plan.job))
    text = head(
        "scrape",
        f"Keep one way to find the servers of {plan.job}: the hosts by name, or one of those that",
        "are commented out.",
    )
    text += base()
    text += commented(f"Where alerts go: the address of Alertmanager.\n{ALERTING}")
    known = _notes(plan) + job(plan, static(target))
    text += "\nscrape_configs:\n" + indented(known, 2)
    text += "".join("\n" + indented(commented(other), 2) for other in others)
    return [File("prometheus.yml", text)]


def base() -> str:
    """Return how a configuration begins."""
    return f"""\
global:
  scrape_interval: 15s
  scrape_timeout: 10s
  evaluation_interval: 15s

# Made by `gunicorn-prom emit alerts`, beside this file.
rule_files:
  - {RULES}

"""


def job(plan: Plan, discovery: str, server_name: str = "") -> str:
    """Return a job, as an item of a list.

    Args:
        discovery: how its targets are found.
        server_name: in the certificate of the metrics server, "" for that of the target.
    """
    lines = [f"job_name: {plan.job}", f"metrics_path: {quoted(plan.metrics_path)}"]
    if plan.metrics_is_tls:
        lines += ["scheme: https", "tls_config:", *_tls(plan)]
        lines += [f"  server_name: {server_name}"] if server_name else []
    if plan.metrics_wants_password:
        lines += ["basic_auth:", "  # A user of the web configuration file, and its password."]
        lines += ["  username: prometheus", f"  password_file: {DIRECTORY}/password"]
    first, *rest = [*lines, *discovery.splitlines()]
    return "\n".join([f"- {first}", *(f"  {line}" for line in rest)]) + "\n"


def static(*targets: str) -> str:
    """Return targets that are known by name."""
    return "static_configs:\n  - targets:\n" + "".join(
        f"      - {quoted(target)}\n" for target in targets
    )


def _tls(plan: Plan) -> list[str]:
    lines = [f"  ca_file: {DIRECTORY}/ca.crt"]
    if plan.metrics_wants_certificate:
        lines += [f"  cert_file: {DIRECTORY}/client.crt", f"  key_file: {DIRECTORY}/client.key"]
    return lines


def _notes(plan: Plan) -> str:
    notes = "" if plan.has_metrics else "What `gunicorn-prom export` serves beside the server.\n"
    if Bind(plan.metrics_host, plan.metrics_port).is_loopback:
        notes += LOOPBACK.format(port=plan.metrics_port)
    return commented(notes + "A line for each server.")


def _reachable(host: str) -> str:
    return "localhost" if host in ("0.0.0.0", "::") else host


def _filled(part: str, plan: Plan) -> str:
    # Not format(), for there are braces in it.
    return part.replace("{job}", plan.job).replace("{port}", str(plan.metrics_port))

"""The kind `podmonitor`: a Deployment, its Service and the operator's PodMonitor."""

import math

from gunicorn_prom.fleet import container
from gunicorn_prom.fleet.plan import Bind, File, Plan
from gunicorn_prom.fleet.text import head, indented, items, quoted

__all__ = ["STATE_DIR", "cpu_millis", "files"]

# For how long a pod still gets requests after it was told to go.
DRAIN_S, MARGIN_S = 5, 10
BOOT_S, STARTUP_PERIOD_S = 60, 2
MEBIBYTE = 1024 * 1024
# What a worker is taken to need where no limit says it, and the master with its metrics server.
WORKER_MIB, MASTER_MIB = 128, 64
# A volume of the pod, which the sidecar has, too.
STATE_DIR = "/run/gunicorn-prom"
# Both directories on tmpfs, which counts as the container's memory.
TMPFS_MIB = 64
# What a worker may have above its limit until it notices.
ABOVE_LIMIT = 1.1
STEP_MIB = 64
# Of a worker that waits for others most of its time, and of one that has a loop to keep busy.
WAITING_CPU_MILLIS, LOOP_CPU_MILLIS = 250, 1000
BLOCKING_TYPES = ("sync", "gthread")
SECRET = "metrics-client"
WITHOUT_PROBES = """\
# The pod is ready when the container beside says so, which sees these workers. Nothing is asked
# whether they live: the port takes connections of a server that hangs, and takes none only
# when one that is busy has a full backlog. Where the master dies the container ends by itself.
"""
LOCKED_DOWN = """\
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: ["ALL"]
"""


def files(plan: Plan) -> list[File]:
    """Make the manifests, as one file of several documents.

    Raises:
        UsageError: the server would leave its container.
    """
    container.refuse_what_cannot_run(plan)
    documents = (_deployment(plan), _service(plan), _pod_monitor(plan))
    introduction = head(
        "podmonitor",
        f"Give it the image of {plan.job}, which `gunicorn-prom emit dockerfile` helps to make.",
        *_secrets(plan),
    )
    return [File(f"{plan.job}.yaml", introduction + "---\n".join(documents))]


def cpu_millis(plan: Plan) -> int:
    """Return the thousandths of a core that a pod asks for."""
    one = WAITING_CPU_MILLIS if plan.worker_type in BLOCKING_TYPES else LOOP_CPU_MILLIS
    return one * plan.workers


def _secrets(plan: Plan) -> list[str]:
    """Return which secrets must be there, one line each."""
    lines = []
    if plan.is_tls:
        names = ", ".join(container.tls_files(plan))
        lines.append(f"Secret {plan.job}-tls: {names}, the application's certificate.")
    if plan.has_web_config:
        lines.append(f"Secret {plan.job}-metrics-web: web.yml and the files that it names.")
    credentials = _client_keys(plan)
    if credentials:
        lines.append(f"Secret {plan.job}-{SECRET}: {', '.join(credentials)}, for Prometheus.")
    return lines


def _client_keys(plan: Plan) -> list[str]:
    keys = ["ca.crt"] if plan.metrics_is_tls else []
    keys += ["tls.crt", "tls.key"] if plan.metrics_wants_certificate else []
    keys += ["username", "password"] if plan.metrics_wants_password else []
    return keys


def _deployment(plan: Plan) -> str:
    graceful_s = plan.graceful_timeout_s
    grace = f"{DRAIN_S} s of preStop, {graceful_s} s of --graceful-timeout, {MARGIN_S} s more."
    grace_s = DRAIN_S + graceful_s + MARGIN_S
    containers = _server(plan) if plan.has_metrics else _server(plan) + _sidecar(plan)
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {plan.job}
  labels:
    app.kubernetes.io/name: {plan.job}
spec:
  # Leave it out where an autoscaler sets it.
  replicas: 2
  strategy:
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      app.kubernetes.io/name: {plan.job}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: {plan.job}
    spec:
      # {grace}
      terminationGracePeriodSeconds: {grace_s}
      automountServiceAccountToken: false
      securityContext:
        runAsNonRoot: true
        runAsUser: {container.USER_ID}
        runAsGroup: {container.USER_ID}
        fsGroup: {container.USER_ID}
        seccompProfile:
          type: RuntimeDefault
      containers:
{indented(containers, 8)}\
      volumes:
{indented(_volumes(plan), 8)}\
"""


def _server(plan: Plan) -> str:
    return f"""\
- name: {plan.job}
  image: registry.example/{plan.job}:1
  command: ["gunicorn-prom", "run"]
  # Kubernetes and Prometheus come from outside of the pod, so the addresses are open. Keep
  # others from the metrics port with a NetworkPolicy.
  args:
{indented(items(_arguments(plan)), 4)}\
  ports:
{indented(_ports(plan), 4)}\
{indented(_probes(plan), 2)}\
  lifecycle:
    # Requests still come for a moment after the pod was told to go.
    preStop:
      exec:
        command: ["sleep", "{DRAIN_S}"]
{indented(_resources(plan), 2)}\
{indented(LOCKED_DOWN, 2)}\
  volumeMounts:
{indented(_mounts(plan), 4)}\
"""


def _arguments(plan: Plan) -> list[str]:
    arguments = container.arguments(plan, STATE_DIR)
    # The resources are for so many, whatever number of cores the node has.
    if not any(argument.startswith("--workers=") for argument in arguments):
        arguments.append(f"--workers={plan.workers}")
    # What Kubernetes would take for a variable.
    return [argument.replace("$(", "$$(") for argument in arguments]


def _sidecar(plan: Plan) -> str:
    """Return the container that serves the metrics of a server that does not do it itself."""
    arguments = [
        f"--metrics-state-dir={STATE_DIR}",
        f"--metrics-bind={container.metrics_bind(plan)}",
        f"--metrics-path={plan.metrics_path}",
    ]
    if plan.has_web_config:
        arguments.append(f"--metrics-web-config={container.WEB_DIR}/web.yml")
    web = _mount("web", container.WEB_DIR) if plan.has_web_config else ""
    return f"""\
- name: metrics
  image: registry.example/{plan.job}:1
  command: ["gunicorn-prom", "export"]
  args:
{indented(items(arguments), 4)}\
  ports:
    - name: metrics
      containerPort: {container.metrics_bind(plan).port}
  readinessProbe:
{indented(_question(plan, "/-/ready"), 4)}\
    periodSeconds: 5
    timeoutSeconds: 3
  resources:
    requests:
      cpu: 50m
      memory: {MASTER_MIB}Mi
    limits:
      memory: {MASTER_MIB}Mi
{indented(LOCKED_DOWN, 2)}\
  volumeMounts:
    - name: state
      mountPath: {STATE_DIR}
      readOnly: true
{indented(web, 4)}\
"""


def _ports(plan: Plan) -> str:
    ports = [(name, bind.port) for name, bind in _named_listeners(plan)]
    if plan.has_metrics:
        ports.append(("metrics", container.metrics_bind(plan).port))
    return "".join(f"- name: {name}\n  containerPort: {port}\n" for name, port in ports)


def _named_listeners(plan: Plan) -> list[tuple[str, Bind]]:
    scheme = "https" if plan.is_tls else "http"
    return [
        (scheme if number == 1 else f"{scheme}-{number}", bind)
        for number, bind in enumerate(container.listeners(plan), start=1)
    ]


def _probes(plan: Plan) -> str:
    """Return the probes, which ask the metrics port: it answers while every worker is busy."""
    if not plan.has_metrics:
        return WITHOUT_PROBES
    ready, healthy = _question(plan, "/-/ready"), _question(plan, "/-/healthy")
    reason = "The metrics port answers while every worker is busy."
    if plan.metrics_wants_certificate:
        reason = "The kubelet has no certificate to show, so it only connects."
    return f"""\
# {reason}
startupProbe:
{indented(ready, 2)}\
  periodSeconds: {STARTUP_PERIOD_S}
  failureThreshold: {BOOT_S // STARTUP_PERIOD_S}
readinessProbe:
{indented(ready, 2)}\
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
{indented(healthy, 2)}\
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
"""


def _question(plan: Plan, path: str) -> str:
    if plan.metrics_wants_certificate:
        is_asked_for_requests = path == "/-/ready" and plan.has_metrics
        port = _named_listeners(plan)[0][0] if is_asked_for_requests else "metrics"
        return f"tcpSocket:\n  port: {port}\n"
    scheme = "  scheme: HTTPS\n" if plan.metrics_is_tls else ""
    return f"httpGet:\n  path: {path}\n  port: metrics\n{scheme}"


def _resources(plan: Plan) -> str:
    limit_mib = (plan.max_worker_memory_bytes or 0) / MEBIBYTE * ABOVE_LIMIT
    of_each = f"{limit_mib or WORKER_MIB:.0f} MiB"
    of_each += " (--max-worker-memory and a tenth)" if limit_mib else " (a guess: measure it)"
    needed_mib = plan.workers * (limit_mib or WORKER_MIB) + MASTER_MIB + 2 * TMPFS_MIB
    memory_mib = math.ceil(needed_mib / STEP_MIB) * STEP_MIB
    return f"""\
resources:
  # Memory: {of_each} for each worker, {MASTER_MIB} for the master, {2 * TMPFS_MIB} on tmpfs.
  # No limit of CPU: it would only make requests slower than they need be.
  requests:
    cpu: {cpu_millis(plan)}m
    memory: {memory_mib}Mi
  limits:
    memory: {memory_mib}Mi
"""


def _mounts(plan: Plan) -> str:
    mounts = _mount("state", STATE_DIR, is_written=True)
    mounts += _mount("tmp", "/tmp", is_written=True)
    mounts += _mount("tls", container.TLS_DIR) if plan.is_tls else ""
    has_web = plan.has_metrics and plan.has_web_config
    return mounts + (_mount("web", container.WEB_DIR) if has_web else "")


def _mount(name: str, path: str, *, is_written: bool = False) -> str:
    read_only = "" if is_written else "  readOnly: true\n"
    return f"- name: {name}\n  mountPath: {path}\n{read_only}"


def _volumes(plan: Plan) -> str:
    volumes = "".join(
        f"- name: {name}\n  emptyDir:\n    medium: Memory\n    sizeLimit: {TMPFS_MIB}Mi\n"
        for name in ("state", "tmp")
    )
    secrets = [("tls", f"{plan.job}-tls")] if plan.is_tls else []
    secrets += [("web", f"{plan.job}-metrics-web")] if plan.has_web_config else []
    return volumes + "".join(
        f"- name: {name}\n  secret:\n    secretName: {secret}\n" for name, secret in secrets
    )


def _service(plan: Plan) -> str:
    # The metrics port is left out: what is behind a Service is one pod, and not always the same.
    ports = "".join(
        f"- name: {name}\n  port: {_outer_port(plan, number)}\n  targetPort: {name}\n"
        for number, (name, _) in enumerate(_named_listeners(plan))
    )
    return f"""\
apiVersion: v1
kind: Service
metadata:
  name: {plan.job}
  labels:
    app.kubernetes.io/name: {plan.job}
spec:
  selector:
    app.kubernetes.io/name: {plan.job}
  ports:
{indented(ports, 4)}\
"""


def _outer_port(plan: Plan, number: int) -> int:
    if number:
        return _named_listeners(plan)[number][1].port
    return 443 if plan.is_tls else 80


def _pod_monitor(plan: Plan) -> str:
    return f"""\
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {plan.job}
  labels:
    app.kubernetes.io/name: {plan.job}
    # Your Prometheus may select PodMonitors by a label such as this.
    # release: kube-prometheus-stack
spec:
  # The dashboard and the alerts choose servers by job={quoted(plan.job)}.
  jobLabel: app.kubernetes.io/name
  selector:
    matchLabels:
      app.kubernetes.io/name: {plan.job}
  podMetricsEndpoints:
    - port: metrics
      path: {quoted(plan.metrics_path)}
      interval: 15s
      scrapeTimeout: 10s
{indented(_credentials(plan), 6)}\
"""


def _credentials(plan: Plan) -> str:
    secret = f"{plan.job}-{SECRET}"
    text = ""
    if plan.metrics_is_tls:
        text += "scheme: https\ntlsConfig:\n"
        text += "  # Pods are reached by addresses, which stand in no certificate.\n"
        text += f"  serverName: {plan.job}\n  ca:\n    secret:\n"
        text += f"      name: {secret}\n      key: ca.crt\n"
    if plan.metrics_wants_certificate:
        text += f"  cert:\n    secret:\n      name: {secret}\n      key: tls.crt\n"
        text += f"  keySecret:\n    name: {secret}\n    key: tls.key\n"
    if plan.metrics_wants_password:
        text += "basicAuth:\n"
        for key in ("username", "password"):
            text += f"  {key}:\n    name: {secret}\n    key: {key}\n"
    return text

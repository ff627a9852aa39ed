"""The kind `keda`: the number of pods follows how full they are."""

from gunicorn_prom.fleet.plan import File, Plan
from gunicorn_prom.fleet.podmonitor import BLOCKING_TYPES, cpu_millis
from gunicorn_prom.fleet.text import head, indented

__all__ = ["files"]

# Above it a burst finds nobody free, see docs/guide/sizing.md.
FULL = 0.7
MIN_REPLICAS, MAX_REPLICAS = 2, 10
WINDOW = "2m"


def files(plan: Plan) -> list[File]:
    """Make the ScaledObject."""
    text = head(
        "keda",
        f"Scales the Deployment {plan.job}, which `gunicorn-prom emit podmonitor` makes; leave",
        "`replicas` out there. To be changed: serverAddress, and how many pods there may be.",
        "Where one Prometheus has several of that job, in other namespaces perhaps, the queries",
        'want a label more, as in {job="...",namespace="..."}, or they scale each other.',
    )
    return [File(f"{plan.job}-scaledobject.yaml", text + _scaled_object(plan))]


def _scaled_object(plan: Plan) -> str:
    triggers = _by_requests(plan) if plan.worker_type in BLOCKING_TYPES else _by_cpu(plan)
    return f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {plan.job}
  labels:
    app.kubernetes.io/name: {plan.job}
spec:
  scaleTargetRef:
    name: {plan.job}
  minReplicaCount: {MIN_REPLICAS}
  maxReplicaCount: {MAX_REPLICAS}
  pollingInterval: 15
  # When Prometheus cannot be asked three times: no fewer than there are likely to be needed.
  fallback:
    failureThreshold: 3
    replicas: {(MIN_REPLICAS + MAX_REPLICAS) // 2}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          stabilizationWindowSeconds: 0
          policies:
            - type: Percent
              value: 100
              periodSeconds: 30
        # A quarter of the pods a minute, and only after five quiet minutes.
        scaleDown:
          stabilizationWindowSeconds: 300
          policies:
            - type: Percent
              value: 25
              periodSeconds: 60
  triggers:
{indented(triggers, 4)}\
"""


def _by_requests(plan: Plan) -> str:
    """Return triggers on what the workers of a pod can do at once."""
    capacity = plan.workers * (plan.threads if plan.worker_type == "gthread" else 1)
    selector = f'{{job="{plan.job}"}}'
    # A server that has not had a request yet has no such series.
    done = f"sum(rate(gunicorn_http_request_duration_seconds_sum{selector}[{WINDOW}])) or vector(0)"
    running = f"avg_over_time(sum(gunicorn_worker_requests_in_progress{selector})[{WINDOW}:15s])"
    threshold = f"{FULL * capacity:g}"
    return (
        f"# A pod has room for {capacity} requests at once; {FULL:g} of that is full enough.\n"
        "# The seconds that requests took in each second: how many there were at once, exactly.\n"
        f"{_trigger(done, threshold)}"
        "# The same from those under way, for one that hangs is counted above only when it ends.\n"
        f"{_trigger(running, threshold)}"
    )


def _by_cpu(plan: Plan) -> str:
    """Return a trigger on the cores: workers with a loop take any number of requests."""
    cores = cpu_millis(plan) / 1000
    used = f'sum(rate(gunicorn_worker_cpu_seconds_total{{job="{plan.job}"}}[{WINDOW}]))'
    return (
        "# These workers take more requests than they can compute, so it is the CPU that is full:\n"
        f"# {FULL:g} of a core for each of {plan.workers} workers.\n"
        f"{_trigger(used, f'{FULL * cores:g}')}"
    )


def _trigger(query: str, threshold: str) -> str:
    return f"""\
- type: prometheus
  metricType: AverageValue
  metadata:
    serverAddress: http://prometheus-operated.monitoring.svc:9090
    query: >-
      {query}
    threshold: "{threshold}"
    # A Prometheus without these series is an error and not a reason to scale down.
    ignoreNullValues: "false"
"""

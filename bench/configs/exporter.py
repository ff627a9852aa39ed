"""Gunicorn configuration: gunicorn-prometheus-exporter, with the hooks it documents.

Its settings come from the environment (PROMETHEUS_METRICS_PORT and others), because
its YAML file is read only after prometheus_client has chosen where to store values:
https://github.com/Agent-Hellboy/gunicorn-prometheus-exporter#basic-usage
"""

from gunicorn_prometheus_exporter.hooks import default_on_exit as on_exit
from gunicorn_prometheus_exporter.hooks import default_on_starting as on_starting
from gunicorn_prometheus_exporter.hooks import default_post_fork as post_fork
from gunicorn_prometheus_exporter.hooks import default_when_ready as when_ready
from gunicorn_prometheus_exporter.hooks import default_worker_int as worker_int

__all__ = ["on_exit", "on_starting", "post_fork", "when_ready", "worker_int"]

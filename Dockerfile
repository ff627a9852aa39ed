# gunicorn-prom as a container image. docs/docker.md says how to put an application on it.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# Extras of the package, comma separated: gevent, eventlet, tornado, uvicorn, auth, all.
ARG EXTRAS=""
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check ".${EXTRAS:+[$EXTRAS]}"

FROM ${BASE}
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN groupadd --gid 10001 app \
 && useradd --uid 10001 --gid app --no-log-init --create-home --shell /usr/sbin/nologin app
COPY --from=build /opt/venv /opt/venv

# PORT makes Gunicorn's default bind 0.0.0.0:8000. Being a default, it yields to `bind` in a
# configuration file; a --bind in GUNICORN_CMD_ARGS would override that file.
# /dev/shm is writable under a read-only root and never waits for a disk: the heartbeat files and
# the control socket go there, as the scoreboard does by itself.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PORT=8000 \
    GUNICORN_CMD_ARGS="--worker-tmp-dir=/dev/shm --control-socket=/dev/shm/gunicorn.ctl" \
    GUNICORN_PROM_METRICS_BIND=0.0.0.0:9464

WORKDIR /app
USER 10001:10001
EXPOSE 8000 9464

# Isolated (-I), so that no module of the application in /app can take the place of one used here;
# http.client, because urllib would go through the proxy of the environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-IS", "-c", "\
import os, http.client;\
host, _, port = os.environ['GUNICORN_PROM_METRICS_BIND'].rpartition(':');\
server = http.client.HTTPConnection(host.strip('[]') or '127.0.0.1', int(port), timeout=2);\
server.request('GET', '/-/healthy');\
raise SystemExit(server.getresponse().status != 200)\
"]

# Exec form: the master is PID 1 and gets SIGTERM itself.
ENTRYPOINT ["gunicorn-prom", "run"]

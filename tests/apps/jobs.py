"""An application that counts its jobs with prometheus_client, in metrics of every kind.

GET /do/KIND/VALUE    do a job, answer with the pid
GET /directory        where the metrics are kept, as it was when they were made
"""

import os

from prometheus_client import Counter, Gauge, Histogram, Summary

DIRECTORY = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
MODES = ("all", "min", "max", "sum", "mostrecent")

DONE = Counter("jobs", "Jobs done.", ["kind"])
SECONDS = Histogram("job_seconds", "Time a job took.", ["kind"], buckets=(0.5, 1.0))
BYTES = Summary("job_bytes", "Size of a job.", ["kind"])
LAST = [
    Gauge(
        f"job_last_{live}{mode}", "Value of the last job.", ["kind"], multiprocess_mode=live + mode
    )
    for mode in MODES
    for live in ("", "live")
]


def do(kind, value):
    DONE.labels(kind).inc()
    SECONDS.labels(kind).observe(value)
    BYTES.labels(kind).observe(value)
    for gauge in LAST:
        gauge.labels(kind).set(value)


def app(environ, start_response):
    name, *arguments = environ["PATH_INFO"].strip("/").split("/")
    body = DIRECTORY
    if name == "do":
        do(arguments[0], float(arguments[1]))
        body = str(os.getpid())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body.encode()]

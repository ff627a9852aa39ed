"""What a preloaded application costs in memory: `python -m bench.preload`, from the project root.

A Django project with its usual applications and a page from a template is preloaded and
served by 4 workers, by bare Gunicorn and by `gunicorn-prom run` in turns, each time by new
processes. What is compared is the proportional set size of all processes after the same
requests. Needs Django beside the development environment. Exits with 1 if ours is the larger
after the most of them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.load import Load, send
from bench.measure import Spread
from bench.processes import list_tree, read_rollup_bytes
from tests.support import Server, bare_gunicorn, gunicorn_prom, is_running, wait_for

__all__ = ["main"]

_WORKERS = 4
_CONNECTIONS = 4
# Before and after the first full collection in the workers of bare Gunicorn.
_REQUESTS = (2_000, 12_000)
_MEBIBYTE = 1 << 20
_BARE, _OURS, _UNFROZEN = "bare Gunicorn", "gunicorn-prom", "gunicorn-prom, --no-gc-freeze"

_PROJECT = """
import django
from django.conf import settings

CONTRIB = ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
MIDDLEWARE = (
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
)
PAGE = '''{% load i18n %}<!doctype html><title>{% translate "Home" %}</title>
<ul>{% for item in items %}<li>{{ item.name|title }} {{ item.price|floatformat:2 }}</li>
{% empty %}<li>{% translate "None" %}</li>{% endfor %}</ul>'''

settings.configure(
    SECRET_KEY="not secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[f"django.contrib.{name}" for name in CONTRIB],
    MIDDLEWARE=MIDDLEWARE,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TEMPLATES=[{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {
            "context_processors": ["django.template.context_processors.request"],
            "loaders": [("django.template.loaders.locmem.Loader", {"page.html": PAGE})],
        },
    }],
)
django.setup()

from django.contrib import admin
from django.core.wsgi import get_wsgi_application
from django.shortcuts import render
from django.urls import path


def page(request):
    items = [{"name": f"item {number}", "price": number / 7} for number in range(50)]
    return render(request, "page.html", {"items": items})


urlpatterns = [path("admin/", admin.site.urls), path("", page)]
app = get_wsgi_application()
"""

Run = Callable[..., AbstractContextManager[Server]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table for each number of requests, and return 1 if ours is the larger."""
    parser = argparse.ArgumentParser(prog="python -m bench.preload", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, action="append", help="may be repeated")
    options = parser.parse_args(arguments)
    contenders: dict[str, tuple[Run, tuple[str, ...]]] = {
        _BARE: (bare_gunicorn, ()),
        _OURS: (gunicorn_prom, ()),
        _UNFROZEN: (gunicorn_prom, ("--no-gc-freeze",)),
    }
    is_smaller = True
    for requests in options.requests or _REQUESTS:
        found: dict[str, list[int]] = {name: [] for name in contenders}
        for number in range(options.rounds + 1):
            for name, (run, own_options) in contenders.items():
                pss_bytes = _measure(run, own_options, requests)
                if number:  # the first round reads everything from disk
                    found[name].append(pss_bytes)
        _report(requests, found)
        is_smaller = sum(found[_OURS]) < sum(found[_BARE])
    return int(not is_smaller)


def _report(requests: int, found: dict[str, list[int]]) -> None:
    print(f"{requests:,} requests, {len(found[_BARE])} launches of each")
    for name, values in found.items():
        spread = Spread.of([value / _MEBIBYTE for value in values])
        ratio = Spread.of([a / b for a, b in zip(values, found[_BARE], strict=True)])
        print(
            f"| {name} | **x{ratio.median:.3f}** ({ratio.low:.3f}-{ratio.high:.3f}) "
            f"| {spread.median:.1f} MiB ({spread.low:.1f}-{spread.high:.1f}) |",
            flush=True,
        )


def _measure(run: Run, options: tuple[str, ...], requests: int) -> int:
    """Return the proportional set size of a server and its workers after the requests."""
    with tempfile.TemporaryDirectory(prefix="preload-") as name:
        directory = Path(name)
        (directory / "project.py").write_text(_PROJECT)
        arguments = (f"--workers={_WORKERS}", "--preload", "--chdir", name, *options)
        with run(directory, "project:app", *arguments) as server:
            wait_for(lambda: len(list_tree(server.pid)) > _WORKERS, "all workers")
            send(Load(server.port, requests, _CONNECTIONS, keep_alive=False))
            tree = list_tree(server.pid)
            assert all(map(is_running, tree))
            return sum(read_rollup_bytes(pid, "Pss") for pid in tree)


if __name__ == "__main__":
    raise SystemExit(main())

"""Secrets do not show, names do."""

from typing import Any

import pytest

from gunicorn_prom.masking import masked


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("DB_PASSWORD=hunter2 and more", "DB_PASSWORD=****"),
        ("secret_key=x=y", "secret_key=****"),
        ("AWS_ACCESS_KEY_ID=AKIA", "AWS_ACCESS_KEY_ID=****"),
        ("API-TOKEN = x", "API-TOKEN = ****"),
        ("SENTRY_DSN=https://abc@sentry.io/1", "SENTRY_DSN=****"),
        ("DATABASE_URL=postgres://me:pw@db:5432/x", "DATABASE_URL=postgres://****@db:5432/x"),
        ("URL=redis://:p/w:x@a, redis://b:c@d", "URL=redis://****@a, redis://****@d"),
        ("https://token@host/", "https://****@host/"),
        ("user:p:w@proxy:3128", "****@proxy:3128"),
        ("https://host/hook?api_key=abc&x=y", "https://host/hook?api_key=****"),
        ("host=db password=abc", "host=db password=****"),
        ("package.module:create(token='abc')", "package.module:create(token=****"),
        ("""JSON={"password": "x", "b": 1}""", """JSON={"password": ****"""),
        ("PGPASS=abc", "PGPASS=****"),
        ("JWT=abc", "JWT=****"),
        ("HEADER=Authorization: Bearer abc", "HEADER=Authorization: ****"),
        ("ARGS=--password abc", "ARGS=--password ****"),
        ("postgres://u:my pass@h/db", "postgres://****@h/db"),
        ("https://host/hook?sig=abc", "https://host/hook?sig=****"),
        ("api_key:abc", "api_key:****"),
        (["A=b", "TOKEN=c"], ["A=b", "TOKEN=****"]),
        (
            {"handlers": {"mail": {"credentials": ["me", "pw"], "host": "h"}}},
            {"handlers": {"mail": {"credentials": "****", "host": "h"}}},
        ),
    ],
)
def test_secrets_are_masked(value: Any, shown: Any) -> None:
    """By the name they have, or because they stand before a host."""
    assert masked(value) == shown


@pytest.mark.parametrize(
    "value",
    [
        "DEBUG=1",
        "MONKEY_PATCH=1",
        "unix:/run/app.sock",
        "unix:@abstract",
        "[::1]:8000",
        "/etc/ssl/private/server.key",
        "udp://localhost:514",
        "someone@example.org",
        "package.module:app",
        '%(h)s token=%({x-token}i)s "%(r)s"',
        ["127.0.0.1", "::1"],
        {"X-FORWARDED-PROTO": "https"},
        {"password": None},
        600,
        None,
        True,
    ],
)
def test_what_is_no_secret_is_shown(value: Any) -> None:
    """Addresses, paths, formats and applications stay readable."""
    assert masked(value) == value

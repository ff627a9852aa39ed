"""Our settings: what they take, what they refuse, and that each is declared well."""

from typing import Any

import pytest
from gunicorn.config import Config

from gunicorn_prom.settings import (
    DEFAULT_BUCKETS,
    MAX_BUCKETS,
    OWN_SETTINGS,
    SECTION,
    add_own_settings,
    environment,
    name_of,
    parse_bind,
)

settings = pytest.mark.parametrize("setting", OWN_SETTINGS, ids=name_of)


def value_of(name: str, value: Any) -> Any:
    """Return what a setting makes of a value."""
    cfg = Config()
    cfg.set(name, value)
    return getattr(cfg, name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":0", ("0.0.0.0", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:9464", ("::1", 9464)),
        ("[::]:9464", ("::", 9464)),
        (" host:1 ", ("host", 1)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """HOST:PORT, a bare port after a colon, and IPv6 in brackets are understood."""
    assert parse_bind(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "9464", "host", "host:", "host:x", ":65536", ":-1", "::1:9464", ":\uff11", "unix:/x"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Everything else is an error that names what was given."""
    with pytest.raises(ValueError, match=r"HOST:PORT|port|IPv6"):
        value_of("metrics_bind", text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.1,1", (0.1, 1.0)),
        (" 0.1 , 1e1 ", (0.1, 10.0)),
        ([0.1, 1], (0.1, 1.0)),
        ("1,+Inf", (1.0,)),
        (DEFAULT_BUCKETS, DEFAULT_BUCKETS),
    ],
)
def test_buckets(value: Any, expected: tuple[float, ...]) -> None:
    """Text and sequences become bounds; the infinite one is there anyway."""
    assert value_of("metrics_buckets", value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "1,1",
        "2,1",
        "0,1",
        "-1",
        "nan",
        "1,nan",
        "inf",
        [],
        None,
        5,
        range(1, MAX_BUCKETS + 2),
    ],
)
def test_what_are_no_buckets_is_refused(value: Any) -> None:
    """Bounds are positive, finite, strictly increasing, and not too many."""
    with pytest.raises(ValueError, match=r"buckets|seconds"):
        value_of("metrics_buckets", value)


@pytest.mark.parametrize("path", ["/metrics", "/a/b", "/x-y_z.txt", "/.m", "/a/", "/status"])
def test_paths(path: str) -> None:
    """A path of the metrics is taken as it is."""
    assert value_of("metrics_path", path) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "metrics", None),
        *("//m", "/a//b", "/a/..", "/./a"),
        *("/a?b", "/a#b", "/m e", "/m\tn", "/%6d", "/é"),
    ],
)
def test_what_no_client_asks_for_is_refused(path: Any) -> None:
    """What is no path, and what a client writes in another way before it asks."""
    with pytest.raises(ValueError, match="is no path"):
        value_of("metrics_path", path)


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready", "/-/x", "/status.json"])
def test_the_paths_of_other_answers_are_refused(path: str) -> None:
    """The metrics take away neither health nor status."""
    with pytest.raises(ValueError, match="is taken"):
        value_of("metrics_path", path)


@pytest.mark.parametrize("name", ["app_metrics", "route_labels", "preflight"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [((True, "true", "1", "yes", "ON "), True), ((False, "false", "0", "No", "off"), False)],
)
def test_switches(name: str, words: tuple[Any, ...], expected: bool) -> None:
    """What is on or off takes the words that people write into environment variables."""
    assert [value_of(name, word) for word in words] == [expected] * len(words)


@pytest.mark.parametrize("name", ["worker_type", "metrics_server"])
def test_a_choice_names_the_choices(name: str) -> None:
    """What is not one of the choices is refused with all of them."""
    with pytest.raises(ValueError, match=r"'nope' is not one of .*, "):
        value_of(name, "nope")


@settings
def test_each_setting_is_declared_well(setting: Any) -> None:
    """It has an option of its name, a description and a default that it takes itself."""
    name = name_of(setting)
    assert setting.section == SECTION
    assert setting.cli == [f"--{name.replace('_', '-')}"]
    assert setting.short.endswith((".", "?"))
    assert environment(name) == f"GUNICORN_PROM_{name.upper()}"
    assert value_of(name, setting.default) == setting.default


def test_a_configuration_made_before_us_gets_our_settings() -> None:
    """Under plain Gunicorn the settings come later; values that are there stay."""
    cfg = Config()
    for setting in OWN_SETTINGS[1:]:
        del cfg.settings[name_of(setting)]
    cfg.set(name_of(OWN_SETTINGS[0]), "sync")
    add_own_settings(cfg)
    assert (cfg.worker_type, cfg.metrics_path) == ("sync", "/metrics")

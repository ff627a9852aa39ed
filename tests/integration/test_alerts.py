"""`gunicorn-prom emit alerts`, by promtool and a real Prometheus."""

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from gunicorn_prom.fleet.alert_rules import alerts
from gunicorn_prom.metrics import FAMILIES
from tests.fleet_rules import RULES, TESTS, emitted_alerts
from tests.incidents import INCIDENTS
from tests.prometheus import promtool
from tests.support import ROOT, run_to_end

DECLARED = {alert.name: alert for alert in alerts(99.9)}
DOCUMENTATION = (ROOT / "docs" / "alerts.md").read_text()
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^#|\Z)", DOCUMENTATION, re.M | re.S))
# Of Prometheus itself.
FOREIGN = {"ALERTS", "up"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the files are that were emitted for a usual configuration."""
    path: Path = tmp_path_factory.mktemp("alerts")
    emitted_alerts(path)
    return path


def rules_of(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts_of(path: Path) -> list[dict[str, Any]]:
    return [rule for rule in rules_of(path) if "alert" in rule]


@pytest.mark.real_parts
def test_promtool_accepts_the_rules(directory: Path) -> None:
    """Every rule is one that Prometheus would load."""
    out = promtool(directory, "check", "rules", RULES)
    assert f"{len(rules_of(directory / RULES))} rules found" in out
    assert len(alerts_of(directory / RULES)) == len(DECLARED)


@pytest.mark.real_parts
def test_the_tests_pass(directory: Path) -> None:
    """Each incident fires its own alert with the right words, and a calm fleet none."""
    promtool(directory, "test", "rules", TESTS)


@pytest.mark.real_parts
@pytest.mark.parametrize("slo", ["95", "99.99999"])
def test_the_tests_pass_for_another_configuration(tmp_path: Path, slo: str) -> None:
    """The objective and the job of a configuration are in rules and tests alike."""
    emitted_alerts(tmp_path, "shop:app", f"--slo={slo}")
    descriptions = [rule["annotations"]["description"] for rule in alerts_of(tmp_path / RULES)]
    assert any(f" {slo}% are to succeed" in " ".join(text.split()) for text in descriptions)
    assert 'up{job="shop"}' in (tmp_path / RULES).read_text()
    promtool(tmp_path, "test", "rules", TESTS)


@pytest.mark.parametrize("name", DECLARED)
def test_every_alert_is_tested(directory: Path, name: str) -> None:
    """A test has it fire for one, and not for another that nearly has the same."""
    found = [
        test
        for test in yaml.safe_load((directory / TESTS).read_text())["tests"]
        if name in [case["alertname"] for case in test.get("alert_rule_test", ())]
    ]
    assert found
    for test in found:
        firing = [case for case in test["alert_rule_test"] if case["alertname"] == name]
        assert all(case["exp_alerts"] for case in firing)
        # All alerts that fire are named there, so the others of its series are those that do not.
        (all_alerts,) = test["promql_expr_test"]
        assert all_alerts["expr"] == 'ALERTS{alertstate="firing"}'
    assert any(is_sparing(test, name) for test in found)


def is_sparing(test: dict[str, Any], name: str) -> bool:
    """Tell whether there is one in a test, by a label of the alert, for which it does not fire."""
    firing = {
        label
        for case in test["alert_rule_test"]
        if case["alertname"] == name
        for alert in case["exp_alerts"]
        for label in alert["exp_labels"].items()
    }
    others = {
        label
        for series in test["input_series"]
        for label in re.findall(r'(\w+)="([^"]*)"', series["series"])
    } - firing
    names = {name for name, _ in firing}
    return any(name in names and value.startswith(("well", "not-")) for name, value in others)


def test_every_alert_has_its_incident() -> None:
    """What a fleet is watched for can be done to one, and is in bench/fleet.py."""
    assert set(INCIDENTS) == set(DECLARED)


@pytest.mark.parametrize("name", DECLARED)
def test_an_alert_says_what_to_do(directory: Path, name: str) -> None:
    """It has a severity, names whom it is about, and its page explains it."""
    (rule,) = [rule for rule in alerts_of(directory / RULES) if rule["alert"] == name]
    assert rule["labels"]["severity"] in ("page", "ticket")
    told = rule["annotations"]
    assert "{{ $labels." in told["summary"]
    assert "{{ $labels." in told["description"]
    assert told["what_to_do"].endswith(".")
    assert told["runbook"].endswith(f"docs/alerts.md#{name.lower()}")
    assert DECLARED[name].severity in SECTIONS[name]


def test_the_page_has_no_other_alerts() -> None:
    """docs/alerts.md explains what is emitted."""
    assert list(SECTIONS) == list(DECLARED)


def test_rules_ask_for_what_is_there(directory: Path) -> None:
    """Every series in an expression is a family of ours, a recorded one, or Prometheus's own."""
    rules = rules_of(directory / RULES)
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        promql_parser.parse(rule["expr"])
        # What stands in braces and in strings is no series.
        bare = re.sub(r"\{[^}]*\}", "", rule["expr"])
        names = set(re.findall(r"\b(?:ALERTS|up|[a-z]+:[\w:]+|gunicorn_\w+)\b", bare))
        assert names
        assert names <= recorded | FOREIGN | FAMILIES.keys()


def test_an_objective_that_cannot_be_watched(tmp_path: Path) -> None:
    """It is refused: no burn rate would ever be reached."""
    ended = run_to_end(tmp_path, "alerts", "--slo=90", command=("emit",))
    assert ended.returncode == 2
    assert "from 95" in ended.stderr

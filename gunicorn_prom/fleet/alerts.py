"""The kind `alerts`: recording rules, alerting rules, and unit tests of these for promtool."""

import re
import textwrap
from collections.abc import Iterable

from gunicorn_prom.fleet.alert_rules import (
    OBJECTIVE_INTERVAL,
    Alert,
    Record,
    alerts,
    objective_records,
    server_records,
)
from gunicorn_prom.fleet.alert_tests import Case, Firing, cases
from gunicorn_prom.fleet.plan import File, Plan
from gunicorn_prom.fleet.text import exact, head, indented, quoted

__all__ = ["RULES", "files"]

RULES, TESTS = "gunicorn-prom-rules.yml", "gunicorn-prom-tests.yml"
WIDTH = 88
SERVER = "{{ $labels.instance }} ({{ $labels.job }})"


def files(plan: Plan) -> list[File]:
    """Make the alerts with the rules that they need, and the tests of both."""
    found = alerts(plan.slo)
    return [
        File(RULES, _rules_text(found, plan)),
        File(TESTS, _tests_text({alert.name: alert for alert in found}, plan)),
    ]


def _rules_text(found: list[Alert], plan: Plan) -> str:
    about = head(
        "alerts",
        "Alerts of servers run by gunicorn-prom, and what they and the dashboard ask for often.",
        f"Those of the error budget are for an objective of {exact(plan.slo)} % of the requests.",
        "severity page: somebody must look now; ticket: on the next working day.",
        "The label `server` is there only where one sidecar exports several servers.",
    )
    objective, servers = objective_records(), server_records(plan.job)
    groups = (
        _group("gunicorn-prom-objective", map(_record, objective), OBJECTIVE_INTERVAL),
        _group("gunicorn-prom-servers", map(_record, servers)),
        _group("gunicorn-prom-alerts", map(_alert, found)),
    )
    return about + "groups:\n" + "\n".join(groups)


def _group(name: str, rules: Iterable[str], interval: str = "") -> str:
    lines = f"  - name: {name}\n" + (f"    interval: {interval}\n" if interval else "")
    return lines + "    rules:\n" + "\n".join(indented(rule, 6) for rule in rules)


def _record(record: Record) -> str:
    return f"- record: {record.name}\n  expr: {_expression(record.expression)}"


def _alert(alert: Alert) -> str:
    hold = "" if alert.hold == "0m" else f"  for: {alert.hold}\n"
    return (
        f"- alert: {alert.name}\n"
        f"  expr: {_expression(alert.expression)}{hold}"
        f"  labels:\n    severity: {alert.severity}\n"
        f"  annotations:\n{indented(_mapping(_annotations(alert)), 4)}"
    )


def _annotations(alert: Alert) -> dict[str, str]:
    return {
        "summary": alert.summary.replace("<server>", SERVER),
        "description": alert.description.replace("<server>", SERVER),
        "what_to_do": alert.action,
        "runbook": f"gunicorn-prom, docs/alerts.md#{alert.name.lower()}",
    }


def _expression(expression: str) -> str:
    return "|\n" + indented(textwrap.dedent(expression).strip() + "\n", 4)


def _mapping(texts: dict[str, str]) -> str:
    return "".join(f"{name}: {_folded(text)}" for name, text in texts.items())


def _folded(text: str) -> str:
    # What is in braces stays on one line.
    whole = re.sub(r"{{.*?}}", lambda match: match[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, WIDTH, break_long_words=False, break_on_hyphens=False)
    return ">-\n" + indented("\n".join(lines).replace("\0", " ") + "\n", 2)


def _tests_text(found: dict[str, Alert], plan: Plan) -> str:
    about = head("alerts", f"Tests of the rules beside it: promtool test rules {TESTS}")
    rules = f"rule_files: [{RULES}]\nevaluation_interval: 1m\n\ntests:\n"
    tests = [_test(case, found) for case in cases(plan.slo, plan.job)]
    return about + rules + "\n".join(indented(test, 2) for test in tests)


def _test(case: Case, found: dict[str, Alert]) -> str:
    text = f"- name: {quoted(case.name)}\n  interval: 1m\n  input_series:\n"
    for series, values in case.series.items():
        text += f"    - {{ series: '{series}', values: \"{values}\" }}\n"
    names = dict.fromkeys(firing.alert for firing in case.firing)
    if names:
        text += "  alert_rule_test:\n"
    text += "".join(_messages(case, found[name]) for name in names)
    # That these fire, and no others.
    text += '  promql_expr_test:\n    - expr: ALERTS{alertstate="firing"}\n'
    text += f"      eval_time: {case.at}\n      exp_samples:"
    samples = "".join(_sample(firing, found[firing.alert]) for firing in case.firing)
    return text + (f"\n{samples}" if samples else " []\n")


def _messages(case: Case, alert: Alert) -> str:
    text = f"    - alertname: {alert.name}\n      eval_time: {case.at}\n      exp_alerts:\n"
    for firing in case.firing:
        if firing.alert == alert.name:
            labels = {**firing.labels, "severity": alert.severity}
            told = {"summary": firing.summary, "description": firing.description}
            shown = _mapping({**_annotations(alert), **told})
            text += f"        - exp_labels: {_flow(labels)}\n          exp_annotations:\n"
            text += indented(shown, 12)
    return text


def _flow(labels: dict[str, str]) -> str:
    return "{ " + ", ".join(f"{name}: {quoted(value)}" for name, value in labels.items()) + " }"


def _sample(firing: Firing, alert: Alert) -> str:
    told = {"alertname": alert.name, "alertstate": "firing", "severity": alert.severity}
    labels = ", ".join(f"{k}={quoted(v)}" for k, v in {**told, **firing.labels}.items())
    return f"        - {{ labels: 'ALERTS{{{labels}}}', value: 1 }}\n"

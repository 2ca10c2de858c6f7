"""Prometheus' configuration and rules: valid, each alert with a case in which it fires and clears, and a runbook."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.prometheus import OBSERVABILITY, RULES, alerts, needs_prometheus, promtool
from thalweg.stack.broker import REPOSITORY

CASES = Path(__file__).parent / "alerts.yml"
RUNBOOK = REPOSITORY / "docs" / "runbook"


@needs_prometheus
@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-local.yml"])
def test_prometheus_takes_the_configuration(name: str) -> None:
    """With the rules that it names."""
    promtool("check", "config", OBSERVABILITY / name)


@needs_prometheus
def test_rules_are_in_order() -> None:
    """No rule is invalid or there twice."""
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@needs_prometheus
def test_alerts_fire_and_clear() -> None:
    """Each case of alerts.yml, by Prometheus' own evaluation."""
    promtool("test", "rules", CASES)


@pytest.mark.parametrize("name", sorted(alerts()))
def test_each_alert_has_a_case(name: str) -> None:
    """In one of the cases it is silent, fires, and is silent again."""
    states = []
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        at = [one for one in case["alert_rule_test"] if one["alertname"] == name]
        assert [int(one["eval_time"][:-1]) for one in at] == sorted(int(one["eval_time"][:-1]) for one in at)
        states.append([bool(one["exp_alerts"]) for one in at])
    assert any(one[0] is one[-1] is False and True in one for one in states if one)


@pytest.mark.parametrize("name", sorted(alerts()))
def test_each_alert_says_what_to_do(name: str) -> None:
    """A severity, what is wrong with the value, and a page with causes and remedies."""
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("warning", "critical")
    notes = alert["annotations"]
    assert notes["summary"]
    assert "$value" in notes["description"] or name == "ThalwegRoomGone"  # the value of one that is gone is 0 or 1
    page = REPOSITORY / notes["runbook_url"]
    assert page.parent == RUNBOOK
    assert re.findall(r"^## (.*)$", page.read_text(), re.M) == [
        "What it means",
        "How to see it",
        "Causes",
        "What to do",
    ]
    assert page.read_text().startswith(f"# {name}\n")


def test_each_page_of_the_runbook_is_of_an_alert() -> None:
    """Pages of alerts that were removed are removed, too."""
    named = {REPOSITORY / alert["annotations"]["runbook_url"] for alert in alerts().values()}
    assert named == set(RUNBOOK.glob("*.md"))

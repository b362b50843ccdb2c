"""Whom alerts call: the example for Alertmanager, judged by amtool and by Alertmanager itself."""

import re
from pathlib import Path

import pytest
import yaml
from support.alert_rules import ALERTS, MONITORING, name_of, run
from support.prometheus_server import AlertmanagerServer
from support.redis_server import wait_until

CONFIG = MONITORING / "alertmanager.yaml"
PARSED = yaml.safe_load(CONFIG.read_text())
SEVERITIES = {alert["labels"]["severity"] for alert in ALERTS}


def receiver_of(**labels: str) -> str:
    """Whom an alert with these labels calls, as amtool says."""
    command = ["amtool", "config", "routes", "test", f"--config.file={CONFIG}"]
    return run(*command, *(f"{name}={value}" for name, value in labels.items())).strip()


def means(matcher: str, labels: dict[str, str]) -> bool:
    """Whether a matcher of the file fits an alert."""
    name, is_pattern, value = re.fullmatch(r'(\w+)=(~?)"(.*)"', matcher).groups()
    return bool(re.fullmatch(value if is_pattern else re.escape(value), labels.get(name, "")))


def chosen(matchers: list[str]) -> list[dict[str, str]]:
    """The labels of the rules' alerts that matchers fit."""
    every = [{"alertname": alert["alert"], **alert["labels"]} for alert in ALERTS]
    return [labels for labels in every if all(means(matcher, labels) for matcher in matchers)]


def test_amtool_takes_the_file():
    assert "SUCCESS" in run("amtool", "check-config", CONFIG)


def test_every_severity_of_the_rules_has_a_route_and_a_receiver_of_its_own():
    routes = {tuple(route["matchers"]): route["receiver"] for route in PARSED["route"]["routes"]}

    assert routes == {(f'severity="{severity}"',): severity for severity in SEVERITIES}
    assert {receiver["name"] for receiver in PARSED["receivers"]} == SEVERITIES


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_an_alert_calls_whom_its_severity_names(alert: dict):
    labels = {"alertname": alert["alert"], **alert["labels"], "namespace": "demo", "job": "edgesam"}

    assert receiver_of(**labels) == alert["labels"]["severity"]


def test_what_has_no_severity_wakes_nobody():
    assert receiver_of(alertname="Watchdog") == "ticket"


def test_receivers_are_placeholders_without_a_secret():
    urls = [hook["url"] for receiver in PARSED["receivers"] for hook in receiver["webhook_configs"]]

    assert len(urls) == len(SEVERITIES)
    assert all(re.fullmatch(r"http://\w+\.example/\w+", url) for url in urls)
    assert {key for receiver in PARSED["receivers"] for hook in receiver["webhook_configs"] for key in hook} == {"url"}


@pytest.mark.parametrize("rule", PARSED["inhibit_rules"], ids=lambda rule: rule["source_matchers"][0])
def test_what_silences_another_is_an_alert_of_ours_and_no_ticket_silences_a_page(rule: dict):
    sources, targets = chosen(rule["source_matchers"]), chosen(rule["target_matchers"])
    named = set(re.findall(r"Edgesam\w+", str(rule)))

    assert named <= {labels["alertname"] for labels in [*sources, *targets]}
    assert sources
    assert targets
    if "page" in {labels["severity"] for labels in targets}:
        assert {labels["severity"] for labels in sources} == {"page"}


def test_a_cause_silences_what_it_explains_and_nothing_elsewhere(tmp_path: Path):
    def alert(name: str, namespace: str, window: str | None = None, **labels: str) -> dict[str, str]:
        (rule,) = [one for one in ALERTS if one["alert"] == name and one["labels"].get("window") == window]
        return {"alertname": name, "namespace": namespace, "job": "edgesam", **rule["labels"], **labels}

    silenced = [
        alert("EdgesamTargetDown", "one", instance="a"),
        alert("EdgesamReplicasMissing", "one", job="kube-state-metrics"),
        alert("EdgesamClickLatencyBudgetBurn", "one", window="3d"),
        alert("EdgesamRedisBreakerOpen", "two"),
        alert("EdgesamClicksQueue", "two"),
        alert("EdgesamCacheHitRatioCollapsed", "three"),
    ]
    told = [
        alert("EdgesamDown", "one"),
        alert("EdgesamClickLatencyBudgetBurn", "one", window="1h"),
        alert("EdgesamRedisDown", "two", job="edgesam-redis"),
        alert("EdgesamRefusesWork", "two"),
        alert("EdgesamClicksFindNoImage", "two"),  # people suffer, whatever the cause
        alert("EdgesamTargetDown", "two", instance="b"),
        alert("EdgesamEmbedLatencyBudgetBurn", "one", window="3d"),
        alert("EdgesamMixedModels", "three"),
        alert("EdgesamRedisBreakerOpen", "three"),
    ]

    with AlertmanagerServer(CONFIG) as server:
        server.send([*silenced, *told])
        wait_until(
            lambda: sum(bool(one["status"]["inhibitedBy"]) for one in server.alerts()) >= len(silenced),
            timeout_s=30,
            what="too few are silenced",
        )
        known = server.alerts()

    def as_set(alerts: list[dict[str, str]]) -> set[frozenset[tuple[str, str]]]:
        return {frozenset(labels.items()) for labels in alerts}

    assert len(known) == len(silenced) + len(told)
    assert as_set([one["labels"] for one in known if one["status"]["inhibitedBy"]]) == as_set(silenced)
    assert all([one["labels"]["severity"]] == [receiver["name"] for receiver in one["receivers"]] for one in known)

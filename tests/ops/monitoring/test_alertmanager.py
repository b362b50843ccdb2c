"""The example configuration of Alertmanager, checked by amtool and by Alertmanager."""

import re

import pytest
import yaml
from support.alert_rules import ALERTS, MONITORING, name_of, run
from support.prometheus_server import AlertmanagerServer
from support.redis_server import wait_until

CONFIG = MONITORING / "alertmanager.yaml"
PARSED = yaml.safe_load(CONFIG.read_text())
SEVERITIES = {alert["labels"]["severity"] for alert in ALERTS}


def receiver_of(**labels: str) -> str:
    """Return the receiver of an alert with these labels, from amtool."""
    command = ["amtool", "config", "routes", "test", f"--config.file={CONFIG}"]
    return run(*command, *(f"{name}={value}" for name, value in labels.items())).strip()


def matches(matcher: str, labels: dict[str, str]) -> bool:
    """Return whether a matcher of the configuration matches the labels of an alert."""
    name, is_pattern, value = re.fullmatch(r'(\w+)=(~?)"(.*)"', matcher).groups()
    return bool(re.fullmatch(value if is_pattern else re.escape(value), labels.get(name, "")))


def alerts_of(matchers: list[str]) -> list[dict[str, str]]:
    """Return the labels of all alerts of the rules that the matchers select."""
    every = [{"alertname": alert["alert"], **alert["labels"]} for alert in ALERTS]
    return [labels for labels in every if all(matches(matcher, labels) for matcher in matchers)]


def test_amtool_accepts_the_configuration():
    assert "SUCCESS" in run("amtool", "check-config", CONFIG)


def test_every_severity_of_the_rules_has_a_route_and_a_receiver_of_its_own():
    routes = {tuple(route["matchers"]): route["receiver"] for route in PARSED["route"]["routes"]}

    assert routes == {(f'severity="{severity}"',): severity for severity in SEVERITIES}
    assert {receiver["name"] for receiver in PARSED["receivers"]} == SEVERITIES


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_an_alert_goes_to_the_receiver_of_its_severity(alert: dict):
    labels = {"alertname": alert["alert"], **alert["labels"], "namespace": "demo", "job": "edgesam"}

    assert receiver_of(**labels) == alert["labels"]["severity"]


def test_an_alert_without_severity_makes_a_ticket():
    assert receiver_of(alertname="Watchdog") == "ticket"


def test_receivers_are_placeholders_without_a_secret():
    urls = [hook["url"] for receiver in PARSED["receivers"] for hook in receiver["webhook_configs"]]

    assert len(urls) == len(SEVERITIES)
    assert all(re.fullmatch(r"http://\w+\.example/\w+", url) for url in urls)
    assert {key for receiver in PARSED["receivers"] for hook in receiver["webhook_configs"] for key in hook} == {"url"}


@pytest.mark.parametrize("rule", PARSED["inhibit_rules"], ids=lambda rule: rule["source_matchers"][0])
def test_inhibitions_name_existing_alerts_and_no_ticket_inhibits_a_page(rule: dict):
    sources, targets = alerts_of(rule["source_matchers"]), alerts_of(rule["target_matchers"])
    named = set(re.findall(r"Edgesam\w+", str(rule)))

    assert named <= {labels["alertname"] for labels in [*sources, *targets]}
    assert sources
    assert targets
    if "page" in {labels["severity"] for labels in targets}:
        assert {labels["severity"] for labels in sources} == {"page"}


def test_an_alert_inhibits_the_alerts_it_explains_and_none_of_other_namespaces():
    def alert(name: str, namespace: str, window: str | None = None, **labels: str) -> dict[str, str]:
        (rule,) = [one for one in ALERTS if one["alert"] == name and one["labels"].get("window") == window]
        return {"alertname": name, "namespace": namespace, "job": "edgesam", **rule["labels"], **labels}

    inhibited = [
        alert("EdgesamTargetDown", "one", instance="a"),
        alert("EdgesamReplicasMissing", "one", job="kube-state-metrics"),
        alert("EdgesamClickLatencyBudgetBurn", "one", window="3d"),
        alert("EdgesamRedisBreakerOpen", "two"),
        alert("EdgesamClicksQueue", "two"),
        alert("EdgesamCacheHitRatioCollapsed", "three"),
    ]
    notified = [
        alert("EdgesamDown", "one"),
        alert("EdgesamClickLatencyBudgetBurn", "one", window="1h"),
        alert("EdgesamRedisDown", "two", job="edgesam-redis"),
        alert("EdgesamRefusesWork", "two"),
        alert("EdgesamClicksFindNoImage", "two"),  # users are affected, whatever the cause
        alert("EdgesamTargetDown", "two", instance="b"),
        alert("EdgesamEmbedLatencyBudgetBurn", "one", window="3d"),
        alert("EdgesamMixedModels", "three"),
        alert("EdgesamRedisBreakerOpen", "three"),
    ]

    with AlertmanagerServer(CONFIG) as server:
        server.send([*inhibited, *notified])
        wait_until(
            lambda: sum(bool(one["status"]["inhibitedBy"]) for one in server.alerts()) >= len(inhibited),
            timeout_s=30,
            what="too few alerts are inhibited",
        )
        known = server.alerts()

    def as_set(alerts: list[dict[str, str]]) -> set[frozenset[tuple[str, str]]]:
        return {frozenset(labels.items()) for labels in alerts}

    assert len(known) == len(inhibited) + len(notified)
    assert as_set([one["labels"] for one in known if one["status"]["inhibitedBy"]]) == as_set(inhibited)
    assert all([one["labels"]["severity"]] == [receiver["name"] for receiver in one["receivers"]] for one in known)

"""Recording rules and alerts: valid, tested firing and not firing, and each with a section of the runbook."""

import json
import re
import shutil
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry
from support.alert_rules import ALERTS, MONITORING, RULES, name_of, run
from support.doc_tables import metric_rows
from support.manifests import ROOT

from service.telemetry.metrics import Metrics

TESTS = [Path(__file__).with_name(name) for name in ("rules.test.yaml", "rules-slow.test.yaml")]
sys.path[:0] = [str(MONITORING)]

from write import derived  # noqa: E402

CHECKS = [
    check for path in TESTS for test in yaml.safe_load(path.read_text())["tests"] for check in test["alert_rule_test"]
]


def fires(alert: dict, check: dict) -> bool:
    """Return whether a check expects the alert to fire with all labels of its rule."""
    return any(alert["labels"].items() <= expected["exp_labels"].items() for expected in check["exp_alerts"])


def test_rules_are_valid():
    assert "rules found" in run("promtool", "check", "rules", MONITORING / "rules.yaml")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_as_the_cases_expect(path: Path):
    run("promtool", "test", "rules", path)


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_an_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: dict):
    own = [check for check in CHECKS if check["alertname"] == alert["alert"]]

    assert any(fires(alert, check) for check in own), "no case in which it fires"
    assert not all(fires(alert, check) for check in own), "no case in which it does not"


@pytest.mark.parametrize("alert", ALERTS, ids=name_of)
def test_an_alert_has_a_severity_a_description_and_a_section_of_the_runbook(alert: dict):
    notes = alert["annotations"]

    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert notes.keys() == {"summary", "description", "runbook_url"}
    assert "$value" in notes["description"]
    assert notes["runbook_url"] == f"docs/operations/runbook.md#{alert['alert'].lower()}"


@pytest.mark.parametrize("path", derived(), ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path):
    assert path.read_text() == derived()[path], "run: make monitoring"


def test_the_prometheus_rule_has_the_groups_of_the_rule_file():
    assert yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())["spec"] == RULES


def built(*components: str) -> dict[tuple[str, str], dict]:
    """Return the objects of an overlay with these components, by kind and name."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, and Debian's is too old for components")
    overlay = ROOT / "out" / "monitoring-overlay"  # kustomize accepts components by relative paths only
    overlay.mkdir(parents=True, exist_ok=True)
    paths = [f"../../k8s/components/{component}" for component in components]
    (overlay / "kustomization.yaml").write_text(json.dumps({"components": paths, "namespace": "demo"}))
    made = yaml.safe_load_all(run("kubectl", "kustomize", overlay))
    return {(one["kind"], one["metadata"]["name"]): one for one in made}


def test_the_component_adds_rules_scrape_targets_and_the_dashboard():
    made = built("monitoring")

    assert made.keys() == {
        ("ConfigMap", "edgesam-dashboard"),
        ("PrometheusRule", "edgesam"),
        ("ServiceMonitor", "edgesam"),
        ("ServiceMonitor", "edgesam-redis"),
    }
    board = made["ConfigMap", "edgesam-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["edgesam.json"])["uid"] == "edgesam"


def test_the_exporter_of_redis_gets_the_job_that_the_rules_select():
    made = built("monitoring", "redis-exporter")

    monitor = made["ServiceMonitor", "edgesam-redis"]["spec"]
    service = made["Service", "edgesam-redis-metrics"]
    pods = made["Deployment", "edgesam-redis-exporter"]["spec"]["template"]
    (container,) = pods["spec"]["containers"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "edgesam-redis"
    assert service["spec"]["selector"].items() <= pods["metadata"]["labels"].items()
    assert {end["port"] for end in monitor["endpoints"]} == {port["name"] for port in service["spec"]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= {port["name"] for port in container["ports"]}


def test_rules_name_metrics_that_exist():
    ours = {re.search(r"`(\w+)`", row)[1] for row in metric_rows()}

    named = set(re.findall(r"(?<![:\w-])(edgesam_\w+)", (MONITORING / "rules.yaml").read_text()))

    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in named} <= ours


def test_objectives_are_bucket_boundaries():
    edges = {str(edge) for edge in Metrics(CollectorRegistry()).http_request_duration_seconds._upper_bounds}

    objectives = set(re.findall(r'le="([\d.]+)"', (MONITORING / "rules.yaml").read_text()))

    assert objectives == {"0.15", "2.5", "10.0"}
    assert objectives <= edges


def test_promtool_accepts_configuration_and_metrics(watched):
    metrics = httpx.get(f"{watched.replicas[0].url}/metrics", trust_env=False).text

    assert "SUCCESS" in run("promtool", "check", "config", watched.prometheus.config)
    assert run("promtool", "check", "metrics", input=metrics) == ""


def test_every_rule_is_evaluated_without_an_error(watched):
    groups = watched.prometheus.ask("rules")["groups"]

    rules = [rule for group in groups for rule in group["rules"]]

    assert len(rules) == sum(len(group["rules"]) for group in RULES["groups"])
    assert [rule["name"] for rule in rules if rule["health"] != "ok" or rule.get("lastError")] == []

"""Rules and alerts of k8s/components/monitoring as objects, and a function that runs promtool or amtool."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from support.manifests import K8S

MONITORING = K8S / "components" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


def name_of(alert: dict[str, Any]) -> str:
    """Return the name of an alert with its window, because some alerts have a rule for each window."""
    return "-".join([alert["alert"], *filter(None, [alert["labels"].get("window")])])


def run(*command: str | Path, **options: Any) -> str:
    """Run a program, which has to succeed, and return its output."""
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)

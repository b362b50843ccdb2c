"""Rules and alerts of k8s/components/monitoring as objects, and the programs that judge them."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from support.manifests import K8S

MONITORING = K8S / "components" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


def name_of(alert: dict[str, Any]) -> str:
    """Some alerts have a rule for each window."""
    return "-".join([alert["alert"], *filter(None, [alert["labels"].get("window")])])


def run(*command: str | Path, **options: Any) -> str:
    """What a program says; it must succeed."""
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, timeout=120, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)

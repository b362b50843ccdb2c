"""The runbook and the page on monitoring: a section for every alert, and commands that work as written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.alert_rules import ALERTS, run
from support.manifest_redis import make_secrets, manifest_redis
from support.manifests import K8S, ROOT, Manifests, labels_of, rendered, rendered_variant, selects, why_not
from support.redis_server import free_port

RUNBOOK = (ROOT / "docs" / "operations" / "runbook.md").read_text()
MONITORING_PAGE = (ROOT / "docs" / "how-to" / "monitoring.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", RUNBOOK, re.DOTALL) for line in block.splitlines()]
# Commands that need a cluster, and all others without the line that sets the addresses.
CLUSTER_COMMANDS = list(dict.fromkeys(line for line in COMMANDS if line.startswith("kubectl ")))
LOCAL_COMMANDS = list(dict.fromkeys(line for line in COMMANDS if not line.startswith(("kubectl ", "EDGESAM="))))


def shell(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in bash, as an operator does."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        check=False, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_runbook_has_a_section_for_every_alert_and_no_other():
    pages = re.findall(r"^## (Edgesam\w+)$", RUNBOOK, re.MULTILINE)

    assert sorted(pages) == sorted({alert["alert"] for alert in ALERTS})


def test_a_section_of_the_runbook_has_meaning_effect_commands_and_remedy():
    for page in re.split(r"^## (?=Edgesam)", RUNBOOK, flags=re.MULTILINE)[1:]:
        name = page.split("\n", 1)[0]
        assert [word for word in ("**Means**", "**Users see**", "**Look**", "**Do**") if word not in page] == [], name
        (commands,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
        assert len([line for line in commands.splitlines() if line and not line.startswith((" ", "#"))]) == 3, name


def test_the_commands_run(watched):
    addresses = {
        "EDGESAM": watched.replicas[0].url,
        "METRICS": watched.replicas[0].url,
        "PROM": watched.prometheus.url,
        "REDIS": watched.redis.url,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    failed = [(command, done.stderr) for command in LOCAL_COMMANDS if (done := shell(command, **addresses)).returncode]

    assert len(LOCAL_COMMANDS) > len(COMMANDS) / 2
    assert failed == []


@pytest.mark.parametrize("options", [[], ["--tls"]], ids=["plain", "tls"])
def test_the_user_metrics_may_run_all_redis_commands_of_the_runbook(tmp_path: Path, options: list[str]):
    if reason := why_not():
        pytest.skip(reason)
    secrets = make_secrets(*options)
    text = rendered_variant("tls", tmp_path) if options else rendered(K8S / "overlays" / "cpu")
    deployment = Manifests("runbook", text).named("Deployment", "edgesam-redis")
    asked = [command for command in LOCAL_COMMANDS if command.startswith("redis-cli ")]
    with manifest_redis(deployment, secrets, tmp_path / "redis") as url:
        address = f"metrics:{secrets['edgesam-redis']['metrics-password']}@127.0.0.1:{urlsplit(url).port}"
        there = f"rediss://{address} --cacert {tmp_path}/redis/tls/ca.crt" if options else f"redis://{address}"
        answers = {command: shell(command, REDIS=there) for command in asked}

    # redis-cli also exits with 0 if Redis refuses the command.
    refused = {
        command: done.stdout + done.stderr
        for command, done in answers.items()
        if done.returncode or re.search(r"\b(NOPERM|NOAUTH|WRONGPASS|ERR)\b", done.stdout + done.stderr)
    }
    assert len(asked) > 8
    assert refused == {}


def test_kubectl_accepts_the_commands_of_the_runbook(tmp_path: Path):
    """Without a cluster kubectl fails to connect. It refuses wrong options before."""
    if reason := why_not():
        pytest.skip(reason)
    unreachable = f"http://127.0.0.1:{free_port()}"
    config = tmp_path / "config"
    config.write_text(json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "none",
        "clusters": [{"name": "none", "cluster": {"server": unreachable}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "users": [{"name": "none", "user": {}}],
    }))  # fmt: skip

    said = {command: shell(command.split(" | ")[0], KUBECONFIG=str(config)).stderr for command in CLUSTER_COMMANDS}

    assert said.pop("kubectl config set-context --current --namespace=edgesam") == ""
    assert len(said) > 10
    assert {command: text for command, text in said.items() if "was refused" not in text} == {}


def test_the_commands_name_objects_of_the_manifests():
    if reason := why_not():
        pytest.skip(reason)
    manifests = Manifests("cpu", rendered(K8S / "overlays" / "cpu"))
    text = "\n".join(line for line in CLUSTER_COMMANDS if "--namespace=monitoring" not in line)

    for key, value in re.findall(r" -l (\S+)=(\S+)", text):
        assert [one for one in manifests.of("Deployment") if selects({key: value}, labels_of(one))], value
    for name, port in re.findall(r" service/(\S+) (?:\d+:)?(\d+)", text):
        assert port in {str(one["port"]) for one in manifests.named("Service", name)["spec"]["ports"]}
    made = make_secrets() | {"edgesam-api-keys": {"keys.json": ""}}
    for name, key in re.findall(r"secret (\S+) -o jsonpath='\{\.data\.(.*?)\}'", text):
        assert key.replace("\\", "") in made[name]


def test_prometheus_accepts_the_documented_configuration(tmp_path: Path):
    """The commands run in a folder with the checkout's manifests."""
    (block,) = [
        block
        for block in re.findall(r"```sh\n(.*?)```", MONITORING_PAGE, re.DOTALL)
        if "promtool check config" in block
    ]
    *lines, start = block.splitlines()
    (tmp_path / "k8s").symlink_to(K8S)

    assert start.startswith("prometheus --config.file=prometheus.yml")
    assert "SUCCESS" in run("bash", "-euc", "\n".join(lines), cwd=tmp_path)

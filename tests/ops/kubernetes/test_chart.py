"""The Helm chart: it has the objects of the overlays, its values do what they say, and the pod of its defaults runs."""

import json
import re
import subprocess
import tarfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.helm_chart import CHART, HelmRefused, Values, lint, objects, package, templates, text_of
from support.helm_chart import why_not as why_no_helm
from support.image_builder import why_not as why_no_image
from support.kube_pod import play
from support.manifests import Manifest, bytes_of, chooses, container_of, labels_of, references
from support.noise_images import noise_file
from support.service_client import embed, point, segment

import service

PRODUCTION = yaml.safe_load((CHART / "values-production.yaml").read_text())
GATEWAY = {"ingress": {"enabled": False}, "gateway": {"enabled": True}}
# Values with which the chart has the objects of an overlay or a variant.
SAME: dict[str, Values] = {
    "dev": {},
    "cpu": PRODUCTION,
    "gpu": {**PRODUCTION, "gpu": True, "autoscaling": {"kind": "hpa", "maxReplicas": 4}},
    "gateway": {**PRODUCTION, **GATEWAY},
    "keda": {**PRODUCTION, "apiKeys": {"secret": ""}, "autoscaling": {"kind": "keda"}},
    "monitored": {
        **PRODUCTION,
        "redis": {"mode": "bundled", "exporter": True},
        "monitoring": {"enabled": True},
    },
}
EVERYTHING = {
    **SAME["monitored"],
    **GATEWAY,
    "gpu": True,
    "image": {"repository": "registry.example/edgesam", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"EDGESAM_MAX_ENCODE_QUEUE": 16},
    "extraEnv": [{"name": "EDGESAM_LOG_LEVEL", "value": "info"}],
    "model": {"volume": {"persistentVolumeClaim": {"claimName": "models"}}, "names": "one,two"},
    "extraVolumes": [{"name": "embeddings", "persistentVolumeClaim": {"claimName": "embeddings"}}],
    "extraVolumeMounts": [{"name": "embeddings", "mountPath": "/embeddings"}],
    "nodeSelector": {"pool": "gpus"},
    "tolerations": [{"key": "pool", "operator": "Exists"}],
    "gateway": {"enabled": True, "annotations": {"cert-manager.io/cluster-issuer": "letsencrypt"}},
}


@pytest.fixture(autouse=True)
def _helm():
    if reason := why_no_helm():
        pytest.skip(reason)


def comparable(found: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return objects by kind and name, without what the two ways of installing do differently.

    Kustomize makes the namespace and its default policy, and puts a hash into the name of the ConfigMap. Helm puts one
    into an annotation of the pods. Lists of named things have no order.
    """
    result = {}
    for one in deepcopy(found):
        if one["kind"] == "Deployment":
            one["spec"]["template"]["metadata"].pop("annotations", None)
        text = re.sub(r"(edgesam-settings)-\w{10}\b", r"\1", json.dumps(ordered(one)))
        one = json.loads(text)  # noqa: PLW2901
        name = one["metadata"]["name"]
        if (one["kind"], name) not in {("Namespace", "edgesam"), ("NetworkPolicy", "default-deny")}:
            result[one["kind"], name] = one
    return result


def ordered(value: Any) -> Any:
    """Return a value with lists of named things sorted by name."""
    if isinstance(value, dict):
        return {key: ordered(inner) for key, inner in value.items()}
    if isinstance(value, list):
        inner = [ordered(one) for one in value]
        has_names = all(isinstance(one, dict) and "name" in one for one in inner)
        return sorted(inner, key=lambda one: one["name"]) if has_names else inner
    return value


@pytest.mark.parametrize("name", SAME)
def test_the_chart_has_the_same_objects_as_the_overlay(every, name):
    overlay, chart = comparable(every[name].objects), comparable(objects(SAME[name]).objects)

    assert chart.keys() == overlay.keys()
    for key, one in chart.items():
        assert one == overlay[key]


@pytest.mark.parametrize("values", [{}, PRODUCTION, EVERYTHING], ids=["default", "production", "everything"])
def test_helm_finds_nothing_wrong(values):
    assert [one for one in lint(values) if one["severity"] > 1] == []


def test_the_schemas_of_the_api_server_and_checkov_accept_every_object(tmp_path):
    cases = {"default": {}, "everything": EVERYTHING, "ingress": {**PRODUCTION, "redis": {"mode": "external"}}}
    for name, values in cases.items():
        (tmp_path / f"{name}.yaml").write_text(text_of(values))
    config = Path(__file__).with_name("checkov.yaml")

    for command in (
        ["kubernetes-validate", "--strict", "-k", "1.37", *map(str, tmp_path.iterdir())],
        ["checkov", "--config-file", str(config), "--directory", str(tmp_path)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"redis": {"mode": "bundeled"}}, "redis.mode"),
        ({"ingres": {"enabled": True}}, "ingres"),
        ({"settings": {"max pixels": 1}}, "max pixels"),
        ({"ingress": {"enabled": True}, "gateway": {"enabled": True}}, "either `ingress` or `gateway`"),
    ],
)
def test_wrong_values_are_refused_with_their_name(values, said):
    with pytest.raises(HelmRefused) as refused:
        templates(values)

    assert said in str(refused.value).replace("/", ".").strip(".")


def test_values_change_the_replicas():
    manifests = objects(EVERYTHING)
    (deployment,) = manifests.services()
    pod, container = deployment["spec"]["template"]["spec"], container_of(deployment)
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    environment = manifests.environment(deployment)

    assert container["image"] == "registry.example/edgesam:1.2.3"
    assert container["imagePullPolicy"] == "Always"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert environment["EDGESAM_MAX_ENCODE_QUEUE"] == "16"
    assert environment["EDGESAM_LOG_LEVEL"] == "info"
    assert (environment["EDGESAM_MODELS_DIR"], environment["EDGESAM_MODELS"]) == ("/models", "one,two")
    assert mounts.keys() >= {"/models", "/embeddings", "/tmp", "/etc/edgesam/keys"}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts.values())
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true", "pool": "gpus"}
    assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu", "pool"]


def test_a_changed_setting_restarts_the_pods():
    def annotations(values: Values) -> dict[str, str]:
        (deployment,) = objects(values).services()
        return deployment["spec"]["template"]["metadata"]["annotations"]

    assert annotations({}) != annotations({"settings": {"EDGESAM_LOG_LEVEL": "debug"}})
    assert annotations({}) == annotations({"replicas": 3})


def test_names_of_secrets_and_hosts_are_values():
    own = {
        "apiKeys": {"secret": "my-keys"},
        "redis": {"mode": "bundled", "secret": "my-redis", "exporter": True},
        "ingress": {
            "enabled": True,
            "host": "sam.example",
            "tlsSecret": "my-tls",
            "className": "traefik",
            "nginx": False,
        },
    }
    manifests = objects({**PRODUCTION, **own})
    (ingress,) = manifests.of("Ingress")

    secrets = {one["secretName"] for one in references(manifests.objects, "secret")}
    keys = {(one["name"], one["key"]) for one in references(manifests.objects, "secretKeyRef")}
    assert secrets == {"my-keys", "my-redis"}
    assert keys == {("edgesam-api-keys", "keys"), ("my-redis", "url"), ("my-redis", "metrics-password")}
    assert ingress["spec"]["tls"] == [{"hosts": ["sam.example"], "secretName": "my-tls"}]
    assert (ingress["spec"]["ingressClassName"], ingress["metadata"]["annotations"]) == ("traefik", {})


@pytest.mark.parametrize("peers", [[], [{"ipBlock": {"cidr": "10.0.0.5/32"}}]])
def test_an_external_redis_is_reached_by_the_address_of_a_secret(peers):
    redis = {"mode": "external", "secret": "cloud-redis", "external": {"port": 6380, "peers": peers}}
    manifests = objects({"redis": redis})
    (deployment,) = manifests.services()
    (address,) = [one for one in container_of(deployment)["env"] if one["name"] == "EDGESAM_REDIS_URL"]

    assert address["valueFrom"] == {"secretKeyRef": {"name": "cloud-redis", "key": "url"}}
    assert manifests.named("NetworkPolicy", "edgesam")["spec"]["egress"] == [
        {"ports": [{"port": 6380, "protocol": "TCP"}], **({"to": peers} if peers else {})}
    ]


def test_monitoring_has_the_label_of_the_prometheus_operator():
    manifests = objects({"monitoring": {"enabled": True, "labels": {"release": "mine"}}})
    monitored = [*manifests.of("ServiceMonitor"), *manifests.of("PrometheusRule")]

    assert [one["metadata"]["labels"]["release"] for one in monitored] == ["mine"] * 3
    assert json.loads(manifests.named("ConfigMap", "edgesam-dashboard")["data"]["edgesam.json"])["uid"] == "edgesam"


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "everything"])
def test_every_pod_has_a_network_policy_for_both_directions(values):
    """The chart has no policy for all pods of the namespace, which may belong to others."""
    manifests = objects(values)

    for deployment in manifests.of("Deployment"):
        directions = {
            direction
            for policy in manifests.of("NetworkPolicy")
            if chooses(policy["spec"]["podSelector"], labels_of(deployment))
            for direction in policy["spec"]["policyTypes"]
        }
        assert directions == {"Ingress", "Egress"}
    assert objects({**values, "networkPolicies": {"enabled": False}}).of("NetworkPolicy") == []


def test_the_notes_give_commands_for_objects_of_the_chart():
    notes = templates({})["NOTES.txt"]
    manifests = objects({})

    (forwarded,) = re.findall(r"kubectl -n edgesam port-forward service/(\S+) 8000:80", notes)
    (rolled,) = re.findall(r"kubectl -n edgesam rollout status deployment/(\S+)", notes)
    assert manifests.named("Service", forwarded)["spec"]["ports"][0]["port"] == 80
    assert manifests.named("Deployment", rolled)
    assert "need no API key" in notes
    secured = templates(PRODUCTION)["NOTES.txt"]
    assert "https://edgesam.example/" in secured
    assert "need no API key" not in secured


def test_the_package_has_the_version_of_the_service_and_fits_into_a_secret(tmp_path):
    archive = package(tmp_path)

    with tarfile.open(archive) as files:
        names = files.getnames()
        assert all(member.isfile() for member in files.getmembers())
    assert archive.name == f"edgesam-{service.__version__}.tgz"
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == service.__version__
    assert templates(EVERYTHING, chart=archive) == templates(EVERYTHING)
    assert [name for name in names if name.endswith((".py", "kustomization.yaml"))] == []
    assert archive.stat().st_size < 100_000  # Helm keeps it in a Secret, which may have 1 MiB


def test_the_pod_of_the_default_values_segments_an_image(tmp_path):
    if reason := why_no_image():
        pytest.skip(reason)
    manifests = objects({})
    resources = container_of(manifests.services()[0])["resources"]

    with play(manifests, tmp_path / "pod", secrets={}) as pod, pod.open_client() as client:
        masks = segment(client, embed(client, noise_file((300, 400), seed=5)), point(200, 150))
        everything = client.post(
            "/segment/everything", json={"image_hash": embed(client, noise_file((4000, 4000), seed=6))}
        )
        threads = client.get("/models").json()["models"][0]["threads"]
        memory = int(pod.inspect("{{.HostConfig.Memory}}"))
        is_killed = pod.inspect("{{.State.OOMKilled}}")

    assert masks[0]
    assert (everything.status_code, is_killed) == (200, "false"), everything.text[:500]
    assert (resources["requests"]["cpu"], threads) == ("500m", 1)
    assert memory == bytes_of(resources["limits"]["memory"])

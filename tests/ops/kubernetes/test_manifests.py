"""The manifests without a cluster: the API's schemas, checkov, and references between objects."""

import re
import subprocess
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client import CollectorRegistry
from support.manifests import K8S, OVERLAYS, ROOT, VARIANTS, chooses, container_of, labels_of, references, selects

from service.settings import Settings
from service.telemetry.metrics import Metrics

NAMES = (*OVERLAYS, *VARIANTS)
MINORS = ("1.35", "1.36", "1.37")
# Kinds of custom resources, for which the tool has no schema.
FOREIGN_KINDS = {
    *("ScaledObject", "ServiceMonitor", "PrometheusRule"),
    *("Gateway", "HTTPRoute", "BackendTrafficPolicy", "ClientTrafficPolicy"),
}
CHECKOV = ROOT / "tests" / "ops" / "kubernetes" / "checkov.yaml"


def run(*command):
    """Run a tool, and return its exit status and output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("minor", MINORS)
def test_the_schemas_of_the_api_server_accept_every_object(files, minor):
    status, said = run("kubernetes-validate", "--strict", "-k", minor, *map(str, files.values()))

    unknown = set(re.findall(r"WARN .* for kind (\w+) ", said))  # the tool skips these with status 0
    assert status == 0, said
    assert said.count("WARN") == len(re.findall(r"WARN .* for kind \w+ ", said)), said
    assert {"ScaledObject"} <= unknown <= FOREIGN_KINDS, said


def test_the_schemas_refuse_a_misspelled_field(files, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(files["cpu"].read_text().replace("maxUnavailable: 1", "maxUnavailble: 1"))

    status, _ = run("kubernetes-validate", "--strict", "-k", MINORS[-1], str(wrong))

    assert status != 0


def test_checkov_finds_nothing_except_skipped_checks(files):
    folder = files["cpu"].parent

    status, said = run("checkov", "--config-file", str(CHECKOV), "--directory", str(folder))

    assert status == 0, said
    assert "Passed checks:" in said, said


def test_the_scaled_object_names_an_existing_deployment_and_metric(every):
    (scaled,) = every["keda"].of("ScaledObject")
    spec = scaled["spec"]

    assert every["keda"].named("Deployment", spec["scaleTargetRef"]["name"])
    assert not every["keda"].of("HorizontalPodAutoscaler")
    assert [trigger["type"] for trigger in spec["triggers"]] == ["prometheus", "cpu"]
    assert set(re.findall(r"edgesam_\w+", spec["triggers"][0]["metadata"]["query"])) == {"edgesam_in_flight"}
    assert {type(value) for trigger in spec["triggers"] for value in trigger["metadata"].values()} == {str}


@pytest.mark.parametrize("name", NAMES)
def test_selectors_select_exactly_their_pods(every, name):
    manifests = every[name]
    pods = {one["metadata"]["name"]: labels_of(one) for one in manifests.of("Deployment")}

    for deployment in manifests.of("Deployment"):
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert [pod for pod, labels in pods.items() if selects(selector, labels)] == [deployment["metadata"]["name"]]
    for service in manifests.of("Service"):
        assert len([1 for labels in pods.values() if selects(service["spec"]["selector"], labels)]) == 1, service
    budgeted = [
        [pod for pod, labels in pods.items() if selects(budget["spec"]["selector"]["matchLabels"], labels)]
        for budget in manifests.of("PodDisruptionBudget")
    ]
    assert sorted(budgeted) == sorted([one["metadata"]["name"]] for one in manifests.services())
    for constraint in references(manifests.objects, "topologySpreadConstraints"):
        selectors = [one["labelSelector"]["matchLabels"] for one in constraint]
        assert all(any(selects(selector, labels) for labels in pods.values()) for selector in selectors)


@pytest.mark.parametrize("name", NAMES)
def test_port_names_agree(every, name):
    manifests = every[name]

    for deployment in manifests.of("Deployment"):
        container = container_of(deployment)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        probed = {action["port"] for kind in ("httpGet", "tcpSocket") for action in references(container, kind)}
        assert probed <= set(ports)
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        for service in manifests.of("Service"):
            if selects(service["spec"]["selector"], labels_of(deployment)):
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
    for deployment in manifests.services():
        environment = manifests.environment(deployment)
        ports = {port["name"]: str(port["containerPort"]) for port in container_of(deployment)["ports"]}
        assert ports == {"http": environment["EDGESAM_PORT"], "metrics": environment["EDGESAM_METRICS_PORT"]}


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_is_a_setting_and_the_settings_are_valid(every, name, monkeypatch):
    for deployment in every[name].services():
        with monkeypatch.context() as environment:
            for variable, value in every[name].environment(deployment).items():
                environment.setenv(variable, value)

            settings = Settings()
            unknown = Settings.unknown_variables()

        assert unknown == []
        assert settings.host == "0.0.0.0"
        assert settings.role == labels_of(deployment).get("app.kubernetes.io/component", "all")


@pytest.mark.parametrize("name", NAMES)
def test_referenced_objects_exist_and_secrets_are_not_included(every, name):
    manifests = every[name]
    made = {
        "edgesam-redis": {"url", "users.acl", "metrics-password"},
        "edgesam-redis-tls": {"ca.crt", "tls.crt", "tls.key"},
        "edgesam-redis-client": {"tls.crt", "tls.key"},
        "edgesam-api-keys": {"keys.json"},
        "edgesam-label-studio": {"token"},
    }

    assert manifests.of("Secret") == []
    for reference in references(manifests.objects, "secretKeyRef"):
        assert reference.get("optional") or reference["key"] in made[reference["name"]]
    for secret in references(manifests.objects, "secret"):
        assert {item["key"] for item in secret.get("items", [])} <= made[secret["secretName"]]
    for account in references(manifests.objects, "serviceAccountName"):
        assert manifests.named("ServiceAccount", account)["automountServiceAccountToken"] is False
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        assert manifests.named("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
    for backend in references(manifests.of("Ingress"), "service"):
        ports = manifests.named("Service", backend["name"])["spec"]["ports"]
        assert backend["port"]["name"] in {port["name"] for port in ports}
    assert {one["metadata"].get("namespace", "edgesam") for one in manifests.objects} == {"edgesam"}


@pytest.mark.parametrize("name", NAMES)
def test_pods_conform_to_the_restricted_pod_security_standard(every, name):
    manifests = every[name]
    (namespace,) = manifests.of("Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for deployment in manifests.of("Deployment"):
        pod, container = deployment["spec"]["template"]["spec"], container_of(deployment)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 10000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        volumes = pod.get("volumes", [])
        assert all({"emptyDir", "secret"} & set(volume) for volume in volumes)
        assert all("sizeLimit" in volume for volume in references(volumes, "emptyDir"))
        # Secrets that only a group may read belong to the pod's group.
        closed = [secret for secret in references(volumes, "secret") if not secret.get("defaultMode", 0o644) & 0o004]
        assert not closed or pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


# Allowed egress: ports and protocols by the label of the pods.
DNS = {(53, "UDP"), (53, "TCP")}
EGRESS = {
    "edgesam": {(6379, "TCP"), *DNS},
    "edgesam-redis": {(6379, "TCP"), *DNS},
    "redis": set(),
}
# What a component adds for the replicas, by variant.
ADDED_EGRESS = {"traced": {(4318, "TCP")}, "label-studio": {(8080, "TCP")}}


def policies_for(manifests, deployment):
    """Return the specs of the policies that select a Deployment's pods, without the one that denies everything."""
    return [
        policy["spec"]
        for policy in manifests.of("NetworkPolicy")
        if policy["metadata"]["name"] != "default-deny"
        and chooses(policy["spec"]["podSelector"], labels_of(deployment))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_policies_allow_only_the_expected_connections(every, name):
    manifests = every[name]
    (deny,) = [one["spec"] for one in manifests.of("NetworkPolicy") if one["metadata"]["name"] == "default-deny"]

    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for deployment in manifests.of("Deployment"):
        chosen = policies_for(manifests, deployment)
        ports = {port["name"]: port["containerPort"] for port in container_of(deployment)["ports"]}
        ingress = [rule for spec in chosen for rule in spec.get("ingress", [])]
        egress = [rule for spec in chosen for rule in spec.get("egress", [])]
        kind = labels_of(deployment)["app.kubernetes.io/name"]
        expected = EGRESS[kind] | (ADDED_EGRESS.get(name, set()) if kind == "edgesam" else set())

        assert all(rule["from"] for rule in ingress)
        assert all(rule["to"] for rule in egress)
        opened = {port["port"] for rule in ingress for port in rule["ports"]}
        assert {ports.get(port, port) for port in opened} == set(ports.values())
        assert {(port["port"], port["protocol"]) for rule in egress for port in rule["ports"]} == expected


# DNS servers: pods of kube-dns, and NodeLocal DNSCache. The latter is a pod under Cilium. Otherwise it is a process in
# the node's network, at its own address or at that of the Service.
DNS_SERVERS = [{"k8s-app": "kube-dns"}, {"k8s-app": "node-local-dns"}, "169.254.20.10", "10.96.0.10"]


def admits(peer, server):
    """Return whether a peer of a policy selects a pod of kube-system with these labels, or an IP address."""
    if isinstance(server, str):
        return "ipBlock" in peer and ip_address(server) in ip_network(peer["ipBlock"]["cidr"])
    system = {"kubernetes.io/metadata.name": "kube-system"}
    return peer.get("namespaceSelector") == {"matchLabels": system} and chooses(peer["podSelector"], server)


@pytest.mark.parametrize("name", NAMES)
def test_policies_allow_all_dns_servers_of_clusters_and_nothing_else(every, name):
    for deployment in every[name].of("Deployment"):
        kind = labels_of(deployment)["app.kubernetes.io/name"]
        rules = [rule for spec in policies_for(every[name], deployment) for rule in spec.get("egress", [])]
        asking = [rule for rule in rules if DNS & {(one["port"], one["protocol"]) for one in rule["ports"]}]

        for port, protocol in DNS & EGRESS[kind]:
            peers = [
                peer for rule in asking if {"port": port, "protocol": protocol} in rule["ports"] for peer in rule["to"]
            ]
            assert [server for server in DNS_SERVERS if not any(admits(peer, server) for peer in peers)] == []
        blocks = [ip_network(cidr) for cidr in references(asking, "cidr")]
        assert [block for block in blocks if block.num_addresses > 1] == []


@pytest.mark.parametrize(
    ("variant", "policy", "variable"),
    [
        ("traced", "edgesam-to-collector", "EDGESAM_OTLP_ENDPOINT"),
        ("label-studio", "edgesam-and-label-studio", "EDGESAM_LABEL_STUDIO_URL"),
    ],
)
def test_only_replicas_may_connect_to_another_namespace(every, variant, policy, variable):
    manifests = every[variant]
    spec = manifests.named("NetworkPolicy", policy)["spec"]
    ((rule,), replicas) = spec["egress"], manifests.services()

    addresses = {urlsplit(manifests.environment(one)[variable]).netloc for one in replicas}
    chosen = [one for one in manifests.of("Deployment") if chooses(spec["podSelector"], labels_of(one))]

    assert replicas
    assert chosen == replicas
    (peer,) = rule["to"]  # one peer with both selectors; one selector alone would allow much more
    assert peer.keys() == {"namespaceSelector", "podSelector"}
    service = peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
    namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    (port,) = rule["ports"]
    assert addresses == {f"{service}.{namespace}:{port['port']}"}


def test_the_autoscaler_uses_a_metric_of_the_service(every):
    metrics = Metrics(CollectorRegistry())
    adapter = yaml.safe_load((K8S / "components" / "hpa" / "prometheus-adapter-values.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]

    for name in ("cpu", "gpu", "split"):
        for scaler in every[name].of("HorizontalPodAutoscaler"):
            pods, cpu = scaler["spec"]["metrics"]
            assert pods["pods"]["metric"]["name"] == rule["name"]["as"] == "edgesam_in_flight"
            assert cpu["resource"]["name"] == "cpu"
    assert metrics.in_flight.describe()[0].name in rule["metricsQuery"]

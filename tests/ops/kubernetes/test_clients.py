"""How clients get to the replicas: Ingress and Gateway with HTTPS, API keys, and clients in the cluster."""

import re
import subprocess

import pytest
import yaml
from support.manifest_redis import secrets_and_api_key, values_of
from support.manifests import K8S, OVERLAYS, ROOT, VARIANTS, container_of, labels_of, references, selects

from service.api.access.key_file import parse_entries
from service.api.access.keys import digest_of, new_key

NAMES = (*OVERLAYS, *VARIANTS)
HOST = "edgesam.example"
CLIENT = {"matchLabels": {"edgesam-client": "true"}}


@pytest.mark.parametrize("name", [name for name in OVERLAYS if name != "dev"])
def test_the_first_two_lines_of_an_overlay_are_https_and_api_keys(name):
    overlay = yaml.safe_load((K8S / "overlays" / name / "kustomization.yaml").read_text())

    listed = [path.rpartition("/")[2] for path in overlay["components"]]

    https = ["ingress.yaml", *listed] if overlay["resources"][0] == "ingress.yaml" else listed
    assert https[0] in {"ingress", "ingress.yaml"}
    assert https[1] == "api-keys"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"dev", "keda"}])
def test_requests_need_https_and_an_api_key(every, name):
    manifests = every[name]
    secured = [one for one in manifests.of("Ingress") if "tls" in one["spec"]]
    listeners = [listener for one in manifests.of("Gateway") for listener in one["spec"]["listeners"]]

    for ingress in secured:
        assert ingress["spec"]["tls"] == [{"hosts": [HOST], "secretName": "edgesam-tls"}]
        assert [rule["host"] for rule in ingress["spec"]["rules"]] == [HOST]
    assert [one["metadata"]["name"] for one in secured] == ([] if listeners else ["edgesam"])
    for deployment in manifests.services():
        # Without the Secret, or without this key in it, a pod does not start.
        (volume,) = [one for one in deployment["spec"]["template"]["spec"]["volumes"] if one["name"] == "api-keys"]
        folder = {mount["name"]: mount["mountPath"] for mount in container_of(deployment)["volumeMounts"]}["api-keys"]
        assert volume["secret"]["secretName"] == "edgesam-api-keys"
        assert "optional" not in volume["secret"]
        assert manifests.environment(deployment)["EDGESAM_API_KEYS_FILE"] == f"{folder}/keys.json"


def test_make_secrets_makes_an_api_key_and_a_certificate_for_the_host():
    text, api_key = secrets_and_api_key("--self-signed", HOST)
    secrets = values_of(text)

    (entry,) = parse_entries(secrets["edgesam-api-keys"]["keys.json"].encode())
    checked = subprocess.run(
        ["openssl", "x509", "-noout", "-checkhost", HOST],
        input=secrets["edgesam-tls"]["tls.crt"], capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert entry.sha256 == digest_of(api_key.encode()).hex()
    assert entry.roles == {"admin"}
    assert len(api_key) == len(new_key())
    assert "does match" in checked.stdout


def test_the_gateway_serves_https_and_redirects_http(every):
    manifests = every["gateway"]
    (gateway,) = manifests.of("Gateway")
    https, http = gateway["spec"]["listeners"]
    routes = {one["spec"]["parentRefs"][0]["sectionName"]: one["spec"] for one in manifests.of("HTTPRoute")}

    assert (https["protocol"], https["tls"]["certificateRefs"]) == ("HTTPS", [{"name": "edgesam-tls"}])
    assert "backendRefs" in routes[https["name"]]["rules"][0]
    assert routes[http["name"]]["rules"] == [
        {"filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]}
    ]
    assert {one["parentRefs"][0]["name"] for one in routes.values()} == {gateway["metadata"]["name"]}
    assert {host for one in routes.values() for host in one["hostnames"]} == {https["hostname"], http["hostname"]}
    assert {one["spec"]["targetRefs"][0]["name"] for one in manifests.of("ClientTrafficPolicy")} == {"edgesam"}


@pytest.mark.parametrize("name", NAMES)
def test_clients_in_the_cluster_are_let_in_by_a_label(every, name):
    rules = every[name].named("NetworkPolicy", "edgesam")["spec"]["ingress"]

    (rule,) = [one for one in rules if CLIENT in references(one, "podSelector")]

    # Pods with the label in any namespace, and all pods of namespaces with the label.
    assert rule["from"] == [{"namespaceSelector": {}, "podSelector": CLIENT}, {"namespaceSelector": CLIENT}]
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]


@pytest.mark.parametrize("name", NAMES)
def test_the_ingress_hashes_by_the_header_that_clients_send(every, name):
    ingresses = every[name].of("Ingress")
    if name in {"dev", "gateway"}:
        assert ingresses == []
        return
    (by_image,) = [one for one in ingresses if one["metadata"]["name"] == "edgesam-by-image"]
    noted = {key.rpartition("/")[2]: value for key, value in by_image["metadata"]["annotations"].items()}
    header = noted["canary-by-header"]

    assert f'"{header}": imageId.split("~")[0]' in (ROOT / "service" / "web" / "client" / "addresses.js").read_text()
    assert f'"{header}": image_id.partition("~")[0]' in (ROOT / "service" / "client" / "messages.py").read_text()
    assert noted["upstream-hash-by"] == "$http_" + header.lower().replace("-", "_")
    assert re.search(noted["canary-by-header-pattern"], "0123456789abcdef" * 4)
    assert not re.search(noted["canary-by-header-pattern"], "always")


def test_the_gateway_hashes_by_the_same_header(every):
    manifests = every["gateway"]
    route, policy = manifests.named("HTTPRoute", "edgesam"), manifests.named("BackendTrafficPolicy", "edgesam")
    (rule,) = route["spec"]["rules"]
    (backend,) = rule["backendRefs"]
    (target,) = policy["spec"]["targetRefs"]

    assert backend["port"] in {port["port"] for port in manifests.named("Service", backend["name"])["spec"]["ports"]}
    assert (target["kind"], target["name"]) == ("HTTPRoute", route["metadata"]["name"])
    assert policy["spec"]["loadBalancer"]["consistentHash"]["header"]["name"] == "X-Image-Hash"
    (policy,) = [one for one in manifests.of("NetworkPolicy") if one["metadata"]["name"] == "edgesam"]
    gateways = [one["namespaceSelector"]["matchLabels"] for one in policy["spec"]["ingress"][0]["from"]]
    assert gateways == [{"kubernetes.io/metadata.name": "envoy-gateway-system"}]  # where Envoy Gateway runs its proxies


def test_split_routes_each_path_to_the_replicas_of_its_role(every):
    manifests = every["split"]
    main = manifests.named("Ingress", "edgesam")
    routes = {path["path"]: path["backend"]["service"]["name"] for path in main["spec"]["rules"][0]["http"]["paths"]}

    roles = {
        path: manifests.environment(deployment)["EDGESAM_ROLE"]
        for path, name in routes.items()
        for deployment in manifests.services()
        if selects(manifests.named("Service", name)["spec"]["selector"], labels_of(deployment))
    }

    assert roles == {"/embed": "embed", "/": "segment"}

"""The Kubernetes manifests, rendered by kustomize and read as objects."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
OVERLAYS = ("cpu", "gpu", "split", "dev")

# Kustomizations that an operator may write: overlays with additional components, or with others.
VARIANTS: dict[str, str] = {
    "tls": """
resources: [{k8s}/overlays/cpu]
components: [{k8s}/components/redis-exporter, {k8s}/components/redis-tls]
""",
    "client-certificates": """
resources: [{k8s}/overlays/split]
components: [{k8s}/components/redis-exporter, {k8s}/components/redis-tls, {k8s}/components/redis-client-certificates]
""",
    "traced": """
resources: [{k8s}/overlays/split]
components: [{k8s}/components/tracing]
""",
    "keda": """
resources: [{k8s}/base]
components: [{k8s}/components/redis, {k8s}/components/ingress, {k8s}/components/keda]
""",
    "label-studio": """
resources: [{k8s}/overlays/cpu]
components: [{k8s}/components/label-studio]
""",
    "small": """
resources: [{k8s}/overlays/cpu]
components: [{k8s}/components/small]
""",
    "gateway": """
resources: [{k8s}/base]
components: [{k8s}/components/gateway, {k8s}/components/api-keys, {k8s}/components/redis, {k8s}/components/hpa]
""",
}

for name, overlay in (("watched", "split"), ("monitored", "cpu")):
    VARIANTS[name] = f"""
namespace: edgesam
resources: [{{k8s}}/overlays/{overlay}]
components: [{{k8s}}/components/monitoring, {{k8s}}/components/redis-exporter]
"""

Manifest: TypeAlias = dict[str, Any]


def why_not() -> str | None:
    """Return the reason why nothing can be rendered on this machine, or None if it can."""
    return (
        None if shutil.which("kubectl") else "kubectl is not installed, and no package registry has one with kustomize"
    )


@functools.cache
def rendered(folder: Path) -> str:
    """Return the output of `kubectl kustomize` for a folder."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # warnings about deprecated fields
    return done.stdout


def rendered_variant(name: str, folder: Path) -> str:
    """Return the output of `kubectl kustomize` for a variant, whose kustomization is written below `folder`."""
    own = folder / f"kustomize-{name}"
    own.mkdir()
    (own / "kustomization.yaml").write_text(VARIANTS[name].format(k8s=os.path.relpath(K8S, own.resolve())))
    return rendered(own)


def render_all(folder: Path) -> dict[str, Path]:
    """Render every overlay and variant into `folder`, and return the files by name."""
    texts = {name: rendered(K8S / "overlays" / name) for name in OVERLAYS}
    texts |= {name: rendered_variant(name, folder) for name in VARIANTS}
    files = {name: folder / f"{name}.yaml" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    return files


class Manifests:
    """The objects of one overlay."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.objects: Sequence[Manifest] = [one for one in yaml.safe_load_all(text) if one]

    def of(self, kind: str) -> list[Manifest]:
        """Return the objects of a kind."""
        return [one for one in self.objects if one["kind"] == kind]

    def named(self, kind: str, name: str) -> Manifest:
        """Return the object of a kind and name."""
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        return found

    def services(self) -> list[Manifest]:
        """Return the Deployments of the service, without those of Redis and its exporter."""
        return [one for one in self.of("Deployment") if labels_of(one)["app.kubernetes.io/name"] == "edgesam"]

    def environment(self, deployment: Manifest) -> dict[str, str]:
        """Return the environment variables of the container, with $(NAME) replaced as by a kubelet.

        Values from Secrets are placeholders that are valid settings. The pod's name is `edgesam-0`.
        """
        container = container_of(deployment)
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.named("ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in container.get("env", []):
            value = self._value(variable, container)
            found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), value)
        return found

    def _value(self, variable: Manifest, container: Manifest) -> str:
        if "value" in variable:
            return str(variable["value"])
        source = variable["valueFrom"]
        if "resourceFieldRef" in source:
            assert source["resourceFieldRef"]["resource"] == "requests.cpu"
            return str(cores_of(container["resources"]["requests"]["cpu"]))
        if "fieldRef" in source:
            return {"metadata.name": "edgesam-0", "metadata.namespace": "edgesam"}[source["fieldRef"]["fieldPath"]]
        return {"EDGESAM_REDIS_URL": "redis://edgesam-redis:6379", "EDGESAM_API_KEYS": "[]"}[variable["name"]]


def labels_of(workload: Manifest) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def container_of(workload: Manifest) -> Manifest:
    """Return the only container of a workload's pods."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    found: Manifest = container
    return found


def references(value: Any, key: str) -> Iterator[Any]:
    """Yield every value of a key, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from references(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner, key)


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Return whether labels contain all labels of a selector. An empty selector selects everything."""
    return selector.items() <= labels.items()


def chooses(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Return whether a policy's selector, with its expressions, selects these labels."""
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in expressions)
    return selects(selector.get("matchLabels", {}), labels) and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


def cores_of(quantity: str) -> int:
    """Return a quantity of CPUs, such as 500m, as a whole number: rounded up, as a kubelet does."""
    return -(-int(quantity[:-1]) // 1000) if quantity.endswith("m") else int(quantity)


def bytes_of(quantity: str) -> int:
    """Return a quantity of memory, such as 1792Mi, in bytes."""
    factor = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}[quantity[-2:]]
    return int(quantity[:-2]) * factor

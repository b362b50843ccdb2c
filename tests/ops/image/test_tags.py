"""The names that `make image` gives to images, and those that the manifests and docker/compose.yaml run."""

import re
import subprocess

import pytest
import yaml
from support.image_builder import ROOT, TARGETS
from support.manifests import K8S, OVERLAYS, rendered, why_not

from service import __version__

REGISTRY_IMAGE = "registry.example:5000/team/edgesam:7"


def names(target: str, **variables: str) -> list[str]:
    """Return the names that `make image` gives to a target. Nothing is built."""
    given = [f"{name}={value}" for name, value in {"TARGET": target, **variables}.items()]
    command = subprocess.run(["make", "-n", "image", *given], cwd=ROOT, capture_output=True, text=True, check=True)
    return re.findall(r"\s-t (\S+)", command.stdout)


def test_the_default_image_has_the_version_as_its_tag():
    assert names("cpu") == [f"edgesam:{__version__}", "edgesam:cpu"]


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "cpu"])
def test_other_images_have_version_and_target_in_their_tag(target: str):
    assert names(target) == [f"edgesam:{__version__}-{target}", f"edgesam:{target}"]


def test_an_image_for_another_platform_leaves_the_default_one_alone():
    other = names("cpu", PLATFORM="linux/arm64")

    assert other == [f"edgesam:{__version__}-arm64", "edgesam:cpu-arm64"]


def test_a_name_with_a_registry_replaces_that_with_the_version():
    assert names("gpu", TAG=REGISTRY_IMAGE) == [REGISTRY_IMAGE, "edgesam:gpu"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_run_what_make_image_builds(overlay: str):
    if reason := why_not():
        pytest.skip(reason)

    images = set(re.findall(r"image: (edgesam\S*)", rendered(K8S / "overlays" / overlay)))

    (cpu, _), (gpu, _) = names("cpu"), names("gpu")
    assert images == {"gpu": {gpu}, "split": {cpu, gpu}}.get(overlay, {cpu})


def test_compose_runs_and_builds_what_make_image_builds():
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]

    ours = {name: service for name, service in services.items() if name.startswith("edgesam")}

    assert len(ours) == 3
    for service in ours.values():
        (default,) = re.findall(r"^\$\{IMAGE(?:_GPU)?:-(.*)\}$", service["image"])
        assert default in names(service["build"]["target"])


def test_the_documents_name_the_images_of_this_version():
    versions = {
        version
        for page in (ROOT / "docs" / "how-to").glob("*.md")
        for version in re.findall(r"edgesam:(\d+\.\d+\.\d+)", page.read_text())
    }

    assert versions == {__version__}

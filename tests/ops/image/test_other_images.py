"""The container images of other targets. They need hundreds of megabytes of packages: IMAGE_TARGETS=all builds them.

The code for the CUDA base image is always built. The tests replace that base image by one without CUDA, so `gpu` serves
on the CPU. This tests everything except the GPU.
"""

import os
from collections.abc import Callable

import pytest
from support.container import ServiceContainer
from support.image_builder import ROOT, podman
from support.service_client import embed, open_client, point, segment

PHOTO = (ROOT / "service/web/samples/dahlia.jpg").read_bytes()
with_all = pytest.mark.skipif(os.environ.get("IMAGE_TARGETS") != "all", reason="large; IMAGE_TARGETS=all builds it")


def serve(image: str, settings: dict[str, str]) -> dict:
    """Start a container, embed an image, send a prompt, and return the model of GET /models."""
    with ServiceContainer(image, settings) as container, open_client(container.url) as client:
        (model,) = client.get("/models").json()["models"]
        masks = segment(client, embed(client, PHOTO), point(270, 210))
        assert masks[0][0]["area"] > 0
        assert container.stop() == 0
    return dict(model)


@with_all
def test_openvino_serves(build: Callable[[str], str]):
    model = serve(build("openvino"), {"EDGESAM_PROVIDER": "openvino"})

    assert model["provider"] == "openvino+cpu"
    assert model["decoder"].startswith("native")


def test_the_code_for_the_cuda_base_has_the_decoder_in_c(build: Callable[[str], str]):
    options = ["--rm", "--pull", "never", "--network", "host", "--entrypoint", "sh"]

    assert ".so" in podman("run", *options, build("gpu-code"), "-c", "ls /opt/app/service/native/*.so").stdout


@with_all
def test_gpu_serves_on_a_cpu_if_the_provider_is_cpu(build: Callable[[str], str]):
    model = serve(build("gpu"), {"EDGESAM_PROVIDER": "cpu"})

    assert model["provider"] == "cpu"
    assert model["decoder"].startswith("native")


@with_all
def test_store_converts_without_torch(build: Callable[[str], str]):
    options = ["--rm", "--pull", "never", "--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
    image = build("store")
    checkpoints = ROOT / "model_store" / "checkpoints"

    listed = podman("run", *options, image).stdout
    imported = podman(
        "run", *options, "-v", f"{checkpoints}:/in:ro", image, "import", "/in/edgesam-lite.safetensors", "--name",
         "mine", "--licence", "own", "--models-dir", "/tmp/models",
    ).stdout  # fmt: skip

    assert "mobile-sam" in listed
    assert "mine is at /tmp/models/mine" in imported


@with_all
def test_model_exports(build: Callable[[str], str]):
    options = ["--rm", "--pull", "never", "--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
    image = build("model")
    checkpoints = ROOT / "model_store" / "checkpoints"

    exported = podman(
        "run", *options, "-v", f"{checkpoints}:/in:ro", image, "export", "/in/edgesam-lite.safetensors", "--name",
        "mine", "--licence", "own", "--out", "/tmp/mine", timeout_s=900,
    ).stdout  # fmt: skip

    assert "mine is at /tmp/mine" in exported

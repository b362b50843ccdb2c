"""The image for arm64, built and run under emulation: its masks are those of this machine. `make arm64-image-test`.

QEMU stands in for the processor, and it shows programs the host's /proc/cpuinfo, on which ONNX Runtime crashes. So the
container gets the file of the processor that QEMU emulates.
"""

import os
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from pycocotools import mask as coco
from support.container import ServiceContainer
from support.example_masks import iou
from support.image_builder import ROOT, build, podman, why_not
from support.service_client import embed, point, segment
from support.service_process import ServiceProcess
from tools.arm64.root import PROCESSOR, cpuinfo, register_emulation

pytestmark = pytest.mark.skipif(
    os.environ.get("IMAGE_TARGETS") != "arm64", reason="a quarter of an hour; IMAGE_TARGETS=arm64 runs it"
)

PHOTO = (ROOT / "service/web/samples/dahlia.jpg").read_bytes()
# The prompts of README.md.
PROMPTS = (point(270, 210), {"box": [165, 80, 450, 360]})
LEAST_IOU = 0.99
# Emulation is 20 times as slow, and other programs may use this machine.
TIMEOUT_S = 1800.0
SETTINGS = {
    "QEMU_CPU": PROCESSOR,
    "EDGESAM_PROVIDER": "cpu",
    "EDGESAM_EMBED_TIMEOUT_S": str(TIMEOUT_S),
    "EDGESAM_SEGMENT_TIMEOUT_S": str(TIMEOUT_S),
}


@pytest.fixture(scope="module")
def image() -> str:
    if reason := why_not():
        pytest.fail(reason)
    register_emulation()
    return build("cpu", architecture="arm64")


@pytest.fixture(scope="module")
def url(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the service in the container."""
    file = tmp_path_factory.mktemp("processor") / "cpuinfo"
    file.write_text(cpuinfo())
    options = ["--platform", "linux/arm64", "-v", f"{file}:/proc/cpuinfo:ro"]
    with ServiceContainer(image, SETTINGS, options=options, start_s=TIMEOUT_S) as container:
        yield container.url


def masks(url: str) -> list[np.ndarray]:
    """Return the masks of all prompts, (H, W), 0 and 1."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:
        found = segment(client, embed(client, PHOTO), *PROMPTS)
    return [coco.decode(mask["rle"]) for of_prompt in found for mask in of_prompt]


def test_the_image_is_for_arm64(image: str):
    assert podman("image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image).stdout.strip() == "linux/arm64"


def test_it_serves_with_the_decoder_in_c(url: str):
    (model,) = httpx.get(f"{url}/models", timeout=TIMEOUT_S, trust_env=False).json()["models"]

    assert model["decoder"] == "native armv8-a"


def test_its_masks_are_those_of_this_machine(url: str):
    with ServiceProcess({}) as here:
        expected = masks(here.url)

    found = masks(url)

    assert len(found) == len(expected)
    assert min(map(iou, found, expected)) >= LEAST_IOU

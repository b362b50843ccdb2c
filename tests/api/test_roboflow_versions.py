"""Roboflow's names of models mean the same models of this service, and the default model where they are not served."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.noise_images import noise_file
from support.renamed_model import with_name
from support.service_client import assert_problem, open_client
from support.service_process import ServiceProcess
from support.tool_images import as_base64

from service.errors import EmbeddingNotFound, InvalidRequest
from service.settings import BUNDLED_MODEL

PROMPTS = {"prompts": {"prompts": [{"points": [{"x": 40, "y": 15, "positive": True}]}]}}


@pytest.fixture(scope="module")
def service(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with the bundled model, and the one of `artifact` under the name of SAM 2.1 tiny."""
    folder = with_name(artifact, tmp_path_factory.mktemp("models") / "tiny", "sam2.1-tiny")
    settings = {"EDGESAM_MODELS": f"{BUNDLED_MODEL},{folder}", "EDGESAM_ADAPTERS": "roboflow"}
    with ServiceProcess(settings) as process, open_client(process.url) as client:
        yield client


@pytest.mark.parametrize(
    ("member", "index"),
    [
        ({}, 0),
        ({"sam2_version_id": "hiera_tiny"}, 1),
        ({"model_id": "sam2/hiera_tiny"}, 1),
        ({"model_id": "sam2/hiera_tiny", "sam2_version_id": "hiera_large"}, 1),
        ({"model_id": "edgesam-lite", "sam2_version_id": "hiera_tiny"}, 0),
        ({"sam2_version_id": "sam2.1-tiny"}, 1),
        ({"sam2_version_id": "hiera_small"}, 0),  # not served
        ({"sam2_version_id": "hiera_b_plus"}, 0),
        ({"sam_version_id": "vit_h"}, 0),
        ({"model_id": "sam3/sam3_final"}, 0),
    ],
)
def test_a_version_means_the_model_of_that_name(service, next_seed, member, index):
    """The image is embedded by one model, so the other one does not find it."""
    names = [model["name"] for model in service.get("/models").json()["models"]]
    image = {"type": "base64", "value": as_base64(noise_file((60, 80), next_seed))}

    image_id = service.post("/sam2/embed_image", json={"image": image, **member}).json()["image_id"]
    answers = {
        name: service.post("/sam2/segment_image", json={"image_id": image_id, "model_id": name, **PROMPTS})
        for name in names
    }

    assert answers[names[index]].status_code == 200
    assert_problem(answers[names[1 - index]], EmbeddingNotFound)


@pytest.mark.parametrize("name", ["sam-vit-h", "hiera", "hiera-tiny", "sam4/hiera_tiny"])
def test_other_names_are_refused(service, next_seed, name):
    image = {"type": "base64", "value": as_base64(noise_file((60, 80), next_seed))}

    refused = service.post("/sam2/embed_image", json={"image": image, "sam2_version_id": name})

    assert "sam2.1-tiny" in assert_problem(refused, InvalidRequest)["detail"]

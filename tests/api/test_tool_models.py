"""The adapters on a service with two models: each tool lists both, and names the one that answers."""

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pycocotools.mask
import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem, open_client
from support.studio_requests import body as studio_body
from support.studio_requests import keypoint
from support.tool_images import as_base64, as_data_uri

from service.errors import EmbeddingNotFound, InvalidRequest

HEIGHT, WIDTH = 60, 80
PROMPT = {"points": [{"x": 40, "y": 15, "label": 1}]}
MARK = {"type": "point", "data": [40, 15], "label": 1}


@pytest.fixture(scope="module")
def tools(two_models_url: str) -> Iterator[httpx.Client]:
    with open_client(two_models_url) as client:
        yield client


@pytest.fixture(scope="module")
def names(tools):
    return [model["name"] for model in tools.get("/models").json()["models"]]


@pytest.fixture(scope="module")
def data():
    return noise_file((HEIGHT, WIDTH), seed=603)


@pytest.fixture(scope="module")
def expected(tools, names, data):
    """The best mask (H, W) of each model for the click, as /segment answers it."""
    found = {}
    for name in names:
        image_hash = tools.post(f"/embed?model={name}", content=data).json()["image_hash"]
        request = {"image_hash": image_hash, "prompts": [PROMPT], "model": name, "cleanup": "auto"}
        (result,) = tools.post("/segment", json=request).json()["results"]
        found[name] = pycocotools.mask.decode(result["masks"][0]["rle"]).astype(np.bool_)
    first, second = found.values()
    assert not np.array_equal(first, second)
    return found


def overlap(rings, mask):
    """IoU of polygons with a mask."""
    flat = [np.asarray(ring, np.float64).ravel().tolist() for ring in rings]
    drawn = pycocotools.mask.decode(pycocotools.mask.merge(pycocotools.mask.frPyObjects(flat, HEIGHT, WIDTH)))
    return (drawn.astype(bool) & mask).sum() / (drawn.astype(bool) | mask).sum()


def closest(rings, expected):
    """Name of the model whose mask is closest to polygons."""
    return max(expected, key=lambda name: overlap(rings, expected[name]))


def test_x_anylabeling_lists_both_and_the_first_answers_without_a_name(tools, names, data, expected):
    listed = tools.get("/v1/models").json()["data"]

    assert list(listed) == names
    assert all(name in listed[name]["display_name"] for name in names)
    for asked, answering in ((names[0], names[0]), (names[1], names[1]), (None, names[0])):
        request = {"image": as_data_uri(data), "params": {"marks": [MARK], "epsilon_factor": 0.0}}
        answer = tools.post("/v1/predict", json={**request, **({"model": asked} if asked else {})}).json()
        assert answer["success"] is True, answer
        assert closest([shape["points"] for shape in answer["data"]["shapes"]], expected) == answering


def test_x_anylabeling_is_told_which_models_there_are(tools, names, data):
    refused = tools.post("/v1/predict", json={"model": "mobile", "image": as_data_uri(data)})
    described = tools.get("/v1/models/mobile/info")

    assert refused.status_code == 200
    assert refused.json()["success"] is False
    assert all(name in refused.json()["error"]["message"] for name in names)
    assert all(name in assert_problem(described, InvalidRequest)["detail"] for name in names)


def test_cvat_finds_one_function_for_each(tools, names, data, expected):
    listed = tools.get("/api/functions").json()

    assert list(listed) == ["edgesam", f"edgesam-{names[1]}"]
    for (function_id, function), name in zip(listed.items(), names, strict=True):
        assert function["metadata"]["name"] == function_id
        assert name in function["metadata"]["annotations"]["name"]
        assert tools.get(f"/api/functions/{function_id}").json() == function
    for function_id, name in (*zip(listed, names, strict=True), (f"edgesam-{names[0]}", names[0])):
        answer = tools.post(
            "/api/function_invocations",
            json={"image": as_base64(data), "pos_points": [[40, 15]], "neg_points": [], "obj_bbox": None},
            headers={"x-nuclio-function-name": function_id},
        ).json()
        left, top, right, bottom = answer["bounds"]
        pixels = np.zeros((HEIGHT, WIDTH), np.bool_)
        pixels[top : bottom + 1, left : right + 1] = answer["mask"]
        assert np.array_equal(pixels, expected[name])


@pytest.mark.parametrize("function_id", ["edgesam-mobile", "sam"])
def test_cvat_is_refused_a_function_that_is_not_there(tools, function_id):
    assert_problem(tools.get(f"/api/functions/{function_id}"), InvalidRequest)


@pytest.mark.parametrize(
    ("member", "index"),
    [
        ({}, 0),
        ({"sam2_version_id": "hiera_tiny"}, 0),  # what the SDK sends by itself
        ({"sam_version_id": "vit_h"}, 0),
        ({"model_id": "sam2/hiera_b_plus"}, 0),
        ({"sam2_version_id": 1}, 1),
        ({"sam_version_id": 1}, 1),
        ({"model_id": 1, "sam2_version_id": "hiera_tiny"}, 1),
    ],
)
def test_roboflows_requests_choose_by_model_or_version(tools, names, data, expected, member, index):
    named = {key: names[value] if isinstance(value, int) else value for key, value in member.items()}
    request = {"image": {"type": "base64", "value": as_base64(data)}, "format": "rle", **named}
    prompts = {"prompts": {"prompts": [{"points": [{"x": 40, "y": 15, "positive": True}]}]}}

    embedded = tools.post("/sam2/embed_image", json=request).json()
    answers = [
        tools.post("/sam2/segment_image", json={**request, **prompts}).json(),
        tools.post(
            "/sam2/segment_image", json={"image_id": embedded["image_id"], "format": "rle", **named, **prompts}
        ).json(),
    ]

    for answer in answers:
        mask = pycocotools.mask.decode(answer["predictions"][0]["masks"]).astype(np.bool_)
        assert np.array_equal(mask, expected[names[index]])


def test_roboflows_sdk_lists_the_models_and_is_told_of_unknown_ones(tools, names, next_seed):
    listed = tools.get("/model/registry").json()["models"]
    image = {"type": "base64", "value": as_base64(noise_file((HEIGHT, WIDTH), next_seed))}
    refused = tools.post("/sam2/embed_image", json={"image": image, "model_id": "sam-vit-b"})

    image_id = tools.post("/sam2/embed_image", json={"image": image, "model_id": names[1]}).json()["image_id"]
    prompts = {"prompts": [{"points": [{"x": 40, "y": 15, "positive": True}]}]}
    not_of_the_first = tools.post("/sam2/segment_image", json={"image_id": image_id, "prompts": prompts})

    assert [model["model_id"] for model in listed] == names
    assert all((model["input_height"], model["input_width"]) == (1024, 1024) for model in listed)
    assert all(name in assert_problem(refused, InvalidRequest)["detail"] for name in names)
    assert_problem(not_of_the_first, EmbeddingNotFound)


def test_label_studio_names_a_model_by_the_address_of_its_project(tools, names, data, expected):
    for address, name in (("/label-studio", names[0]), *((f"/label-studio/{name}", name) for name in names)):
        assert tools.get(f"{address}/health").json()["status"] == "UP"
        assert tools.post(f"{address}/setup", json={"project": "3.17", "schema": ""}).json() == {"model_version": name}
        assert tools.get(f"{address}/versions").json() == {"versions": [name]}
        request = studio_body(as_data_uri(data), keypoint(50, 25), config=POLYGONS)
        (prediction,) = tools.post(f"{address}/predict", json=request).json()["results"]
        rings = [np.multiply(region["value"]["points"], (WIDTH / 100, HEIGHT / 100)) for region in prediction["result"]]
        assert prediction["model_version"] == name
        assert closest(rings, expected) == name


POLYGONS = """
<View>
  <Image name="img" value="$image"/>
  <PolygonLabels name="polygon" toName="img"><Label value="Cat"/></PolygonLabels>
</View>"""


@pytest.mark.parametrize(
    ("method", "route"), [("GET", "health"), ("POST", "setup"), ("POST", "predict"), ("GET", "versions")]
)
def test_label_studio_learns_at_once_that_a_model_is_not_there(tools, names, method, route):
    response = tools.request(method, f"/label-studio/mobile/{route}", content=json.dumps({"project": "3.17"}))

    assert all(name in assert_problem(response, InvalidRequest)["detail"] for name in names)

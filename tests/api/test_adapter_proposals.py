"""Proposals of the CVAT, Label Studio and X-AnyLabeling adapters: all objects of an image without prompts."""

import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.brush_regions import brush_pixels
from support.noise_images import as_file, noise_file, noise_image
from support.renamed_model import with_changes
from support.service_client import assert_problem, embed, open_client
from support.service_process import ServiceProcess
from support.studio_requests import HEIGHT, WIDTH, body, keypoint, predict
from support.tool_images import as_base64, as_data_uri

from service.errors import InvalidRequest, RateLimited
from service.mask_rules import EverythingDefaults

MOST = 5
KEY = "a key of at least sixteen characters"
POLYGONS = """
<View>
  <Image name="img" value="$image"/>
  <PolygonLabels name="outline" toName="img"><Label value="Cell"/></PolygonLabels>
</View>"""


@pytest.fixture(scope="module")
def model(artifact, tmp_path_factory):
    """The untrained model with defaults of everything mode under which it has many masks."""
    directory = tmp_path_factory.mktemp("proposing") / "model"
    defaults = EverythingDefaults(
        points_per_side=6, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0
    )
    return with_changes(artifact, directory, everything=defaults, format_version=7)


@pytest.fixture(scope="module")
def proposing(model) -> Iterator[httpx.Client]:
    """A service whose adapters propose a few objects."""
    settings = {
        "EDGESAM_MODEL_DIR": str(model),
        "EDGESAM_ADAPTERS": "cvat,label-studio,x-anylabeling",
        "EDGESAM_ADAPTER_PROPOSALS": str(MOST),
    }
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        yield client


@pytest.fixture(scope="module")
def data():
    return noise_file((HEIGHT, WIDTH), seed=431)


@pytest.fixture(scope="module")
def expected(proposing, data):
    """The records that the route gives."""
    asked = {"image_hash": embed(proposing, data), "max_masks": MOST, "fast": True}
    masks = proposing.post("/segment/everything", json=asked).raise_for_status().json()["masks"]
    assert len(masks) == MOST
    return masks


def prediction(response):
    assert response.status_code == 200, response.text
    (answer,) = response.json()["results"]
    return answer


def pixels_of(record):
    return coco.decode(record["segmentation"]).astype(bool)


def test_a_task_that_is_opened_gets_all_objects_as_brush_regions(proposing, data, expected):
    answer = prediction(predict(proposing, as_data_uri(data), context=False))

    assert answer["model_version"] == "random"
    assert answer["score"] == max(region["score"] for region in answer["result"])
    assert [region["score"] for region in answer["result"]] == [record["predicted_iou"] for record in expected]
    for region, record in zip(answer["result"], expected, strict=True):
        assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "brush", "img")
        assert region["value"]["brushlabels"] == []  # the person chooses one of two labels
        assert np.array_equal(brush_pixels(region["value"]["rle"], (HEIGHT, WIDTH)), pixels_of(record))


def test_the_only_label_of_an_interface_is_that_of_the_proposals(proposing, data):
    answer = prediction(predict(proposing, as_data_uri(data), context=False, config=POLYGONS))

    assert answer["result"]
    for region in answer["result"]:
        assert region["type"] == "polygonlabels"
        assert region["value"]["polygonlabels"] == ["Cell"]
        assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in region["value"]["points"])


def test_the_smart_tools_still_get_one_region(proposing, data):
    click = prediction(predict(proposing, as_data_uri(data), keypoint(50, 25)))
    nothing = predict(proposing, as_data_uri(data))

    assert len(click["result"]) == 1
    assert nothing.json() == {"results": [[]]}


def test_several_tasks_are_asked_for_one_by_one(proposing, data):
    asked = body(as_data_uri(data), context=False)
    asked["tasks"] *= 3

    assert proposing.post("/label-studio/predict", json=asked).json() == {"results": [[]]}


def test_a_task_without_an_image_is_a_problem(proposing):
    asked = body("", context=False)
    asked["tasks"][0]["data"] = {"text": "no image"}

    assert_problem(proposing.post("/label-studio/predict", json=asked), InvalidRequest)


def test_the_application_finds_each_model_twice(proposing):
    described = proposing.get("/v1/models").json()["data"]
    info = proposing.get("/v1/models/random:all-objects/info").json()["data"]

    assert described.keys() == {"random", "random:all-objects"}
    assert described["random:all-objects"]["batch_processing_mode"] == "default"
    assert "button_run" in {widget["name"] for widget in described["random:all-objects"]["widgets"]}
    assert info == {"model_id": "random:all-objects", **described["random:all-objects"]}


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_button_of_the_application_gives_all_objects_as_polygons(proposing, orientation):
    pixels = noise_image((HEIGHT, WIDTH), seed=432)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = as_file(pixels, "PNG", exif=exif)
    asked = {"image_hash": embed(proposing, data), "max_masks": MOST, "fast": True}
    records = proposing.post("/segment/everything", json=asked).json()["masks"]

    answer = proposing.post(
        "/v1/predict",
        json={"model": "random:all-objects", "image": as_data_uri(data), "params": {"epsilon_factor": 0.0}},
    ).json()

    shapes = answer["data"]["shapes"]
    scores = list(dict.fromkeys(shape["score"] for shape in shapes))
    assert answer["success"] is True
    assert "replace" not in answer["data"]
    assert scores == list(dict.fromkeys(record["predicted_iou"] for record in records))
    for shape in shapes:
        assert (shape["label"], shape["shape_type"]) == ("object", "polygon")
        assert shape["points"][0] == shape["points"][-1]
        assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in shape["points"])
    groups = [shape["group_id"] for shape in shapes if shape["group_id"] is not None]
    assert all(groups.count(group) > 1 for group in groups)


def test_a_detector_of_cvat_gives_all_objects_as_polygons(proposing, data, expected):
    functions = proposing.get("/api/functions").json()
    function = functions["all-objects-random"]
    headers = {"x-nuclio-function-name": "all-objects-random"}

    shapes = proposing.post("/api/function_invocations", json={"image": as_base64(data)}, headers=headers).json()

    assert functions.keys() == {"edgesam", "all-objects-random"}
    assert proposing.get("/api/functions/all-objects-random").json() == function
    assert function["metadata"]["annotations"]["type"] == "detector"
    (label,) = json.loads(function["metadata"]["annotations"]["spec"])
    scores = list(dict.fromkeys(float(shape["confidence"]) for shape in shapes))
    assert scores == list(dict.fromkeys(record["predicted_iou"] for record in expected))
    for shape in shapes:
        assert (shape["label"], shape["type"]) == (label["name"], "polygon")
        assert len(shape["points"]) >= 6
        assert all(0 <= x <= WIDTH for x in shape["points"][::2])
        assert all(0 <= y <= HEIGHT for y in shape["points"][1::2])


def test_a_detector_needs_an_image_and_a_known_model(proposing):
    for body_of, name in (({}, "all-objects-random"), ({"image": "aGk="}, "all-objects-none")):
        headers = {"x-nuclio-function-name": name}
        response = proposing.post("/api/function_invocations", json=body_of, headers=headers)
        assert_problem(response, InvalidRequest)


def test_without_the_setting_nothing_is_proposed(tools):
    described = tools.get("/v1/models").json()["data"]
    asked = {"model": "random:all-objects", "image": as_data_uri(noise_file((HEIGHT, WIDTH), seed=433)), "params": {}}

    assert not any(":" in name for name in described)
    assert not any(name.startswith("all-objects") for name in tools.get("/api/functions").json())
    assert tools.post("/v1/predict", json=asked).json()["error"]["code"] == "invalid-request"


def test_an_api_key_has_one_everything_request_at_a_time_also_by_its_tools(model):
    settings = {
        "EDGESAM_MODEL_DIR": str(model),
        "EDGESAM_ADAPTERS": "label-studio",
        "EDGESAM_ADAPTER_PROPOSALS": "300",
        "EDGESAM_API_KEYS": f'["{KEY}"]',
    }
    data = noise_file((HEIGHT, WIDTH), seed=434)
    headers = {"Authorization": f"Bearer {KEY}"}
    with ServiceProcess(settings) as service, open_client(service.url, headers=headers) as client:
        asked = {"image_hash": embed(client, data), "points_per_side": 64}
        accept = {"Accept": "application/x-ndjson"}
        with client.stream("POST", "/segment/everything", json=asked, headers=accept) as running:
            lines = running.iter_lines()  # to drop it would close the stream
            assert next(lines)
            refused = predict(client, as_data_uri(data), context=False)

    assert_problem(refused, RateLimited)
    assert refused.headers["retry-after"] == "1"

"""POST /segment/everything: answers in all formats, and refusals that say what to do."""

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.everything_requests import NDJSON, ROUTE, ask, find_all, masks_of, stream
from support.noise_images import noise_file
from support.service_client import Scrape, assert_problem, embed, open_client, request_line
from support.service_process import ServiceProcess

from service.api.routes.everything import MAX_BODY_BYTES
from service.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    EmbeddingNotFound,
    InvalidRequest,
    MalformedBody,
    ModelNotFound,
    NotAcceptable,
)

SIZE = (43, 53)


@pytest.fixture(scope="module")
def service(artifact) -> Iterator[ServiceProcess]:
    with ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact)}) as running:
        yield running


@pytest.fixture(scope="module")
def client(service) -> Iterator[httpx.Client]:
    with open_client(service.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def image(client) -> str:
    return embed(client, noise_file(SIZE, 4711))


@pytest.fixture(scope="module")
def answer(client, image):
    return find_all(client, image)


def decoded(record) -> np.ndarray:
    rle = record["segmentation"]
    return coco.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)


def test_an_answer_has_the_masks_of_the_image_best_first_as_coco_states_them(answer, image):
    assert answer["masks"]
    assert (answer["image_hash"], answer["image_id"], answer["cached"]) == (image, image, None)
    assert (answer["height"], answer["width"]) == SIZE
    stabilities = [record["stability_score"] for record in answer["masks"]]
    assert stabilities == sorted(stabilities, reverse=True)  # the model of the tests orders by stability
    for record in answer["masks"]:
        pixels = decoded(record)
        assert pixels.shape == SIZE
        assert record["area"] == pixels.sum()
        rle = {"size": list(SIZE), "counts": record["segmentation"]["counts"].encode()}
        assert record["bbox"] == coco.toBbox(rle).tolist()
        assert record["crop_box"] == [0, 0, SIZE[1], SIZE[0]]
        ((x, y),) = record["point_coords"]
        assert 0 <= x <= SIZE[1]
        assert 0 <= y <= SIZE[0]
    assert len({record["id"] for record in answer["masks"]}) == len(answer["masks"])


def test_an_answer_states_the_values_of_all_parameters(client, answer, image):
    response = client.post(ROUTE, json={"image_hash": image, "points_per_side": 2})

    (model,) = client.get("/models").json()["models"]
    defaults = {name: value for name, value in model["everything"].items() if name not in ("outputs", "quality")}
    rest = {"max_masks": 300, "fast": False, "format": "rle", "tolerance_pixels": 0.0}
    assert response.json()["parameters"] == {**defaults, **rest, "points_per_side": 2}
    assert answer["parameters"]["box_nms_thresh"] == 0.9


def test_all_formats_show_the_same_masks(client, answer, image):
    of_format = {name: find_all(client, image, format=name)["masks"] for name in ("polygon", "png", "none")}

    for index, record in enumerate(answer["masks"]):
        pixels = decoded(record)
        file = base64.b64decode(of_format["png"][index]["segmentation"])
        assert (np.asarray(Image.open(io.BytesIO(file))) == pixels).all()
        area = sum(
            polygon_area(part["exterior"]) - sum(polygon_area(hole) for hole in part["holes"])
            for part in of_format["polygon"][index]["segmentation"]
        )
        assert area == pixels.sum()
        numbers = {name: value for name, value in record.items() if name != "segmentation"}
        assert of_format["none"][index] == numbers


def polygon_area(ring):
    x, y = np.array(ring).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


def test_polygons_can_be_simplified(client, image):
    exact, simple = (find_all(client, image, format="polygon", tolerance_pixels=t)["masks"] for t in (0, 3))

    assert corners(simple) < corners(exact)


def corners(masks):
    return sum(len(part["exterior"]) for mask in masks for part in mask["segmentation"])


def test_a_stream_leads_to_the_masks_of_the_answer(client, answer, image):
    start, *rest = lines = list(stream(client, image))

    assert start["event"] == "start"
    assert start["prompts"] == 16
    assert {name: start[name] for name in answer if name != "masks"} == {
        name: value for name, value in answer.items() if name != "masks"
    }
    done = [line["done"] for line in rest if line["event"] == "progress"]
    assert done == sorted(done)
    assert done[-1] == 16
    assert masks_of(lines) == answer["masks"]


def test_fewer_masks_are_the_best_ones(client, answer, image):
    best = find_all(client, image, max_masks=2)

    assert [mask["id"] for mask in best["masks"]] == [mask["id"] for mask in answer["masks"]][:2]


def test_log_metrics_and_objective_have_prompts_and_masks(service, client, image):
    before = Scrape(client)
    response = ask(client, image)
    after = Scrape(client)

    line = request_line(service, response.headers["x-request-id"])
    masks = len(response.json()["masks"])
    assert (line["route"], line["prompts"], line["masks"]) == (ROUTE, 16, masks)

    def added(name, **labels):
        return after.value(name, **labels) - before.value(name, **labels)

    assert added("edgesam_everything_prompts_total") == 16
    assert added("edgesam_everything_masks_total", source="decoded") == masks
    assert added("edgesam_objective_duration_seconds_count", objective="everything") == 1
    assert added("edgesam_http_request_duration_seconds_count", route=ROUTE, method="POST", status="200") == 1


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"points_per_side": 0}, "/points_per_side"),
        ({"points_per_side": 65}, "/points_per_side"),
        ({"points_per_side": "8"}, "/points_per_side"),
        ({"points_per_side": 8.5}, "/points_per_side"),
        ({"points_per_side": True}, "/points_per_side"),
        ({"pred_iou_thresh": -0.1}, "/pred_iou_thresh"),
        ({"stability_score_thresh": 1.1}, "/stability_score_thresh"),
        ({"stability_score_offset": 11}, "/stability_score_offset"),
        ({"box_nms_thresh": "all"}, "/box_nms_thresh"),
        ({"min_mask_region_area": -1}, "/min_mask_region_area"),
        ({"max_masks": 1001}, "/max_masks"),
        ({"max_masks": None}, "/max_masks"),
        ({"format": "logits"}, "/format"),
        ({"tolerance_pixels": 101}, "/tolerance_pixels"),
        ({"fast": 1}, "/fast"),
        ({"crop_n_layers": 1}, "/crop_n_layers"),
        ({"image_hash": "0" * 63}, "/image_hash"),
    ],
)
def test_a_wrong_value_is_refused_and_named(client, image, asked, where):
    document = assert_problem(ask(client, image, **asked), InvalidRequest)

    assert [error["where"] for error in document["errors"]] == [where]


def test_whole_numbers_may_be_written_with_a_fraction_of_zero(client, answer, image):
    same = find_all(client, image, points_per_side=4.0, max_masks=300.0)

    assert same["masks"] == answer["masks"]


def test_bodies_that_are_no_request_are_refused(client, image):
    assert_problem(client.post(ROUTE, content=b"{"), MalformedBody)
    assert_problem(client.post(ROUTE, content=b" " * (MAX_BODY_BYTES + 1)), BodyTooLarge)
    assert_problem(ask(client, image, accept="text/html"), NotAcceptable)
    assert_problem(ask(client, "0" * 64), EmbeddingNotFound)
    assert_problem(ask(client, "0" * 64, accept=NDJSON), EmbeddingNotFound)
    assert_problem(ask(client, image, model="none"), ModelNotFound)


def test_only_post_is_answered(client):
    for method in ("GET", "HEAD", "DELETE"):
        response = client.request(method, ROUTE)
        assert response.status_code == 405
        assert response.headers["allow"] == "POST"


def test_settings_bound_the_grid_and_the_time(artifact):
    settings = {"EDGESAM_MAX_POINTS_PER_SIDE": "3", "EDGESAM_EVERYTHING_TIMEOUT_S": "0.001"}
    with (
        ServiceProcess({"EDGESAM_MODEL_DIR": str(artifact), **settings}) as service,
        open_client(service.url) as client,
    ):
        image_hash = embed(client, noise_file(SIZE, 1))

        document = assert_problem(ask(client, image_hash), InvalidRequest)
        assert document["limit"] == 3
        assert client.get("/models").json()["models"][0]["limits"]["max_points_per_side"] == 3
        assert_problem(ask(client, image_hash, points_per_side=3), DeadlineExceeded)
        *_, last = stream(client, image_hash, points_per_side=3)
        assert last["event"] == "error"
        assert last["problem"]["code"] == DeadlineExceeded.code
        assert last["problem"]["status"] == 504
        assert Scrape(client).value("edgesam_http_request_duration_seconds_count", route=ROUTE, status="504") == 2

"""Roboflow's routes for SAM. Requests have the form that inference_sdk 1.8.3 sends. The SDK has no method for /sam, so
these requests have the form of the server's request entities.
"""

import io

import cv2
import httpx
import numpy as np
import pycocotools.mask
import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem, embed, point
from support.tool_images import as_base64, best_mask, best_outlines

from service.errors import EmbeddingNotFound, InvalidRequest, MalformedBody, UnsupportedImage

HEIGHT, WIDTH = 60, 80
POINT = {"points": [{"x": 40, "y": 15, "positive": True}]}


def image(data):
    return {"type": "base64", "value": as_base64(data)}


def sdk_segment(data, *prompts, **members):
    """Send the request of `InferenceHTTPClient(url, api_key="key").sam2_segment_image(image, prompts)`."""
    return {
        "api_key": "key",
        "sam2_version_id": "hiera_tiny",
        "multimask_output": True,
        "format": "json",
        "prompts": {"prompts": list(prompts)},
        "image": image(data),
        **members,
    }


def sam_segment(data, *points, **members):
    """Send a request of the first protocol; each point is (x, y, label)."""
    coordinates, labels = [[x, y] for x, y, _ in points], [label for _, _, label in points]
    return {"image": image(data), "point_coords": coordinates, "point_labels": labels, **members}


@pytest.fixture(scope="module")
def data():
    return noise_file((HEIGHT, WIDTH), seed=501)


@pytest.mark.parametrize("route", ["/sam2/segment_image", "/sam3/visual_segment"])
def test_the_sdks_segmentation_answers_a_prediction_for_each_prompt(tools, data, route):
    box = {"box": {"x": 44, "y": 30, "width": 56, "height": 48}}

    response = tools.post(route, json=sdk_segment(data, POINT, box, {**POINT, **box}))

    answer = response.json()
    assert response.status_code == 200
    assert answer.keys() == {"predictions", "time"}
    assert len(answer["predictions"]) == 3
    for prediction in answer["predictions"]:
        assert prediction.keys() == {"masks", "confidence", "format"}
        assert prediction["format"] == "polygon"
        assert 0 <= prediction["confidence"] <= 1
        for x, y in prediction["masks"][0]:
            assert isinstance(x, int)
            assert isinstance(y, int)


@pytest.mark.parametrize(("multimask_output", "multimask"), [(True, "auto"), (False, 1)])
def test_run_lengths_are_the_mask_that_segment_ranks_first(tools, data, multimask_output, multimask):
    expected = best_mask(tools, data, point(40, 15), multimask=multimask)
    asked = sdk_segment(data, POINT, format="rle", multimask_output=multimask_output)

    (prediction,) = tools.post("/sam2/segment_image", json=asked).json()["predictions"]

    assert prediction["format"] == "rle"
    assert np.array_equal(pycocotools.mask.decode(prediction["masks"]), expected)


def test_boxes_are_given_by_their_centre(tools, data):
    expected = best_mask(tools, data, {"box": [16, 6, 72, 54]})
    asked = sdk_segment(data, {"box": {"x": 44, "y": 30, "width": 56, "height": 48}}, format="rle")

    (prediction,) = tools.post("/sam2/segment_image", json=asked).json()["predictions"]

    assert np.array_equal(pycocotools.mask.decode(prediction["masks"]), expected)


def test_polygons_are_the_outlines_of_the_parts_largest_first(tools, data):
    expected = best_outlines(tools, data, point(40, 15), tolerance_pixels=1.0)

    (prediction,) = tools.post("/sam2/segment_image", json=sdk_segment(data, POINT)).json()["predictions"]

    areas = [cv2.contourArea(np.array(polygon, np.int32)) for polygon in prediction["masks"]]
    assert areas == sorted(areas, reverse=True)
    assert sorted(prediction["masks"]) == sorted(expected)


@pytest.mark.parametrize("route", ["/sam2/embed_image", "/sam3/embed_image"])
def test_an_embedded_image_is_segmented_by_its_image_id_alone(tools, next_seed, route):
    data = noise_file((HEIGHT, WIDTH), seed=next_seed)

    embedded = tools.post(route, json={"image_id": "mine", "image": image(data)}).json()
    asked = sdk_segment(b"", POINT, image_id=embedded["image_id"])
    del asked["image"]
    response = tools.post("/sam2/segment_image", json=asked)

    assert embedded.keys() == {"image_id", "time"}
    assert embedded["image_id"] == embed(tools, data)
    assert len(response.json()["predictions"]) == 1
    assert "encode;dur" not in response.headers["server-timing"]


def test_two_clients_with_the_same_image_id_get_masks_of_their_own_images(tools, data, next_seed):
    other = noise_file((HEIGHT, WIDTH), seed=next_seed)

    answers = [
        tools.post("/sam2/segment_image", json=sdk_segment(one, POINT, image_id="photo", format="rle")).json()
        for one in (data, other, data)
    ]

    counts = [answer["predictions"][0]["masks"]["counts"] for answer in answers]
    assert counts[0] == counts[2] != counts[1]


def test_the_first_protocol_answers_polygons_of_both_sizes(tools, data):
    prompt = {"points": [{"x": 40, "y": 15}, {"x": 5, "y": 50, "label": 0}]}
    expected = best_outlines(tools, data, prompt, multimask=1, tolerance_pixels=1.0)

    answer = tools.post("/sam/segment_image", json=sam_segment(data, (40, 15, 1), (5, 50, 0))).json()

    assert answer.keys() == {"masks", "low_res_masks", "time"}
    assert sorted(answer["masks"]) == sorted(expected)
    assert 0 <= np.concatenate([np.array(polygon) for polygon in answer["low_res_masks"]]).max() <= 256


@pytest.mark.parametrize(
    ("points", "prompt"),
    [
        ([(40, 15, 1), (0, 0, -1)], point(40, 15)),
        ([(40, 15, 1.0), (5, 50, -1)], {"points": [{"x": 40, "y": 15}, {"x": 5, "y": 50, "label": 0}]}),
        ([(72, 54, 3), (16, 6, 2)], {"box": [16, 6, 72, 54]}),
    ],
)
def test_the_first_protocol_accepts_the_labels_of_its_documentation_and_of_sam(tools, data, points, prompt):
    expected = best_mask(tools, data, prompt, multimask=1)

    response = tools.post("/sam/segment_image", json=sam_segment(data, *points, format="binary"))

    assert response.headers["content-type"] == "application/octet-stream"
    arrays = np.load(io.BytesIO(response.content))
    assert np.array_equal(arrays["masks"][0], expected)
    assert (arrays["low_res_masks"].shape, arrays["low_res_masks"].dtype) == ((1, 256, 256), np.float32)


def test_the_first_protocols_embedding_is_channels_first_in_both_forms(tools, data):
    image_hash = embed(tools, data)
    tokens = np.frombuffer(tools.get(f"/embed/{image_hash}").content, "<f2").reshape(64, 64, 256)

    text = tools.post("/sam/embed_image", json={"image": image(data), "image_id": "mine"}).json()
    binary = tools.post("/sam/embed_image", json={"image_id": image_hash, "format": "binary"})

    array = np.load(io.BytesIO(binary.content))
    assert text.keys() == {"embeddings", "image_id", "time"}
    assert text["image_id"] == image_hash
    assert np.array_equal(np.array(text["embeddings"], np.float32), array)
    assert np.array_equal(array, tokens.transpose(2, 0, 1)[None].astype(np.float32))


@pytest.mark.parametrize(
    ("route", "members", "error"),
    [
        ("/sam2/segment_image", {"image": {"type": "url", "value": "http://x/y.png"}}, InvalidRequest),
        ("/sam2/segment_image", {"image": {"type": "numpy", "value": "gASV"}}, InvalidRequest),
        ("/sam2/segment_image", {"image": [{"type": "base64", "value": ""}]}, InvalidRequest),
        ("/sam2/segment_image", {"image": {"type": "base64", "value": "a"}}, MalformedBody),
        ("/sam2/segment_image", {"image": {"type": "base64", "value": as_base64(b"text")}}, UnsupportedImage),
        ("/sam2/segment_image", {"image": None}, InvalidRequest),
        ("/sam2/segment_image", {"image": None, "image_id": "mine"}, InvalidRequest),
        ("/sam2/segment_image", {"image": None, "image_id": "5" * 64}, EmbeddingNotFound),
        ("/sam2/segment_image", {"prompts": {"prompts": []}}, InvalidRequest),
        ("/sam2/segment_image", {"prompts": {"prompts": [POINT] * 5}}, InvalidRequest),
        ("/sam2/segment_image", {"prompts": {"prompts": [{}]}}, InvalidRequest),
        ("/sam2/segment_image", {"prompts": {"prompts": [{"box": {"x": 1, "y": 1, "width": 0, "height": 1}}]}},
         InvalidRequest),
        ("/sam2/segment_image", {"format": "npz"}, InvalidRequest),
        ("/sam2/embed_image", {"image": None, "image_id": None}, InvalidRequest),
        ("/sam/embed_image", {"image": None, "image_id": "5" * 64}, EmbeddingNotFound),
        ("/sam/segment_image", {"point_coords": [[1, 1]], "point_labels": []}, InvalidRequest),
        ("/sam/segment_image", {"point_coords": [[0, 0]], "point_labels": [-1]}, InvalidRequest),
        ("/sam/segment_image", {"point_coords": [[0, 0]], "point_labels": [2]}, InvalidRequest),
        ("/sam/segment_image", {"point_coords": [[0, 0]], "point_labels": [4]}, InvalidRequest),
        ("/sam/segment_image", {"point_coords": [[1, 1]], "point_labels": [1], "has_mask_input": True}, InvalidRequest),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_translated_is_a_problem(tools, data, route, members, error):
    response = tools.post(route, json=sdk_segment(data, POINT, **members))

    assert_problem(response, error)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mask_input", [[0.5]]), ("load_logits_from_cache", True), ("text_prompt", "a dog"), ("text", "a dog")],
)
@pytest.mark.parametrize("route", ["/sam/segment_image", "/sam2/segment_image", "/sam3/visual_segment"])
def test_a_member_that_would_change_the_mask_is_refused_by_name(tools, data, route, name, value):
    accepted = {"point_coords": [[1, 1]], "point_labels": [1], "mask_input": None, "load_logits_from_cache": False}

    response = tools.post(route, json=sdk_segment(data, POINT, **accepted))
    refused = tools.post(route, json=sdk_segment(data, POINT, **accepted | {name: value}))

    assert response.status_code == 200
    assert assert_problem(refused, InvalidRequest)["errors"][0]["where"] == f"/{name}"


@pytest.mark.parametrize(
    ("route", "name", "value"),
    [
        ("/sam/segment_image", "embeddings", [[[[0.5]]]]),
        ("/sam2/segment_image", "use_mask_input_cache", True),
        ("/sam3/visual_segment", "use_mask_input_cache", True),
    ],
)
def test_a_member_of_one_protocol_that_would_change_the_mask_is_refused_by_name(tools, data, route, name, value):
    asked = sdk_segment(data, POINT, point_coords=[[1, 1]], point_labels=[1])

    refused = tools.post(route, json=asked | {name: value})

    assert assert_problem(refused, InvalidRequest)["errors"][0]["where"] == f"/{name}"
    assert tools.post(route, json=asked | {name: None}).status_code == 200


def test_the_default_of_the_first_protocol_to_use_its_cache_says_nothing(tools, data):
    asked = sdk_segment(data, POINT, point_coords=[[1, 1]], point_labels=[1], use_mask_input_cache=True)

    assert tools.post("/sam/segment_image", json=asked).status_code == 200


def test_the_key_is_taken_from_the_sdks_header(tools, data):
    headers = {"Authorization": tools.headers["authorization"]}

    response = httpx.post(
        f"{tools.base_url}/sam2/segment_image", json=sdk_segment(data, POINT), headers=headers, trust_env=False
    )

    assert response.status_code == 200

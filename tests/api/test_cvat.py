"""The CVAT adapter. Requests have the form that cvat/apps/lambda_manager/views.py sends."""

import json
from functools import partial

import numpy as np
import pytest
from support.noise_images import noise_file
from support.service_client import assert_problem
from support.tool_images import as_base64, best_mask

from service.api.adapters.cvat import _RowsRenderer
from service.errors import InvalidRequest, MalformedBody, PromptOutsideImage, UnsupportedImage
from service.inference.segmentation_builder import SegmentedMask
from service.sam.alpha import soft_alpha
from service.sam.decoded_image import ImageInfo
from service.sam.frame import Frame
from service.sam.masks import BinaryMask

HEIGHT, WIDTH = 60, 80
# What CVAT's LambdaGateway sends with every call.
HEADERS = {
    "x-nuclio-project-name": "cvat",
    "x-nuclio-function-namespace": "nuclio",
    "x-nuclio-invoke-via": "domain-name",
    "X-Nuclio-Invoke-Timeout": "120s",
    "x-nuclio-function-name": "edgesam",
    "x-nuclio-path": "/",
}
PREFIXES = ("", "/cvat")


@pytest.fixture(scope="module")
def data():
    return noise_file((HEIGHT, WIDTH), seed=602)


def payload(data, pos_points=(), neg_points=(), obj_bbox=None):
    return {
        "image": as_base64(data), "pos_points": list(pos_points), "neg_points": list(neg_points), "obj_bbox": obj_bbox,
    }  # fmt: skip


def invoke(tools, body, prefix=""):
    return tools.post(f"{prefix}/api/function_invocations", json=body, headers=HEADERS)


def placed(answer):
    """Return the mask (H, W) as CVAT's page places it: rows inside `bounds`, which are inclusive."""
    left, top, right, bottom = answer["bounds"]
    rows = np.array(answer["mask"])
    assert rows.shape == (bottom - top + 1, right - left + 1)
    assert set(np.unique(rows)) <= {0, 1}
    pixels = np.zeros((HEIGHT, WIDTH), np.bool_)
    pixels[top : bottom + 1, left : right + 1] = rows
    return pixels


@pytest.mark.parametrize("prefix", PREFIXES)
def test_cvat_finds_one_interactor(tools, prefix):
    listed = tools.get(f"{prefix}/api/functions", headers=HEADERS).json()

    ((function_id, function),) = listed.items()
    assert function_id == function["metadata"]["name"] == "edgesam"
    assert function_id != "pth-facebookresearch-sam-vit-h"  # this one CVAT's page decodes itself
    assert tools.get(f"{prefix}/api/functions/{function_id}", headers=HEADERS).json() == function
    annotations = function["metadata"]["annotations"]
    assert all(isinstance(value, str) for value in annotations.values())
    assert annotations["type"] == "interactor"
    assert int(annotations["version"]) >= 2
    assert json.loads(annotations["spec"] or "[]") == []
    assert (int(annotations["min_pos_points"]), int(annotations["min_neg_points"])) == (0, 0)
    # CVAT reads the text "false" as true.
    assert bool(annotations.get("startswith_box", False)) is False
    assert bool(annotations.get("startswith_box_optional", False)) is True
    assert function["spec"]["description"]
    assert "status" in function


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        ({"pos_points": [[40, 15]]}, {"points": [{"x": 40, "y": 15, "label": 1}]}),
        ({"pos_points": [[40, 15]], "obj_bbox": []}, {"points": [{"x": 40, "y": 15, "label": 1}]}),
        (
            {"pos_points": [[40.5, 15]], "neg_points": [[8, 54]], "obj_bbox": [[16, 6], [72, 54]]},
            {"points": [{"x": 40.5, "y": 15, "label": 1}, {"x": 8, "y": 54, "label": 0}], "box": [16, 6, 72, 54]},
        ),
        ({"obj_bbox": [[72, 54], [16, 6]]}, {"box": [16, 6, 72, 54]}),
    ],
)
def test_points_and_boxes_become_the_mask_that_segment_gives(tools, data, prefix, asked, prompt):
    expected = best_mask(tools, data, prompt)

    response = invoke(tools, payload(data, **asked), prefix)

    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    np.testing.assert_array_equal(placed(response.json()), expected)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"image": None}, InvalidRequest),
        ({"image": "no base64!"}, MalformedBody),
        ({"image": as_base64(b"text")}, UnsupportedImage),
        ({"pos_points": [[81, 5]]}, PromptOutsideImage),
        ({"pos_points": [[1, 2, 3]]}, InvalidRequest),
        ({"pos_points": [[1, 2]] * 65}, InvalidRequest),
        ({"pos_points": [[1, 2]] * 40, "neg_points": [[1, 2]] * 40}, InvalidRequest),
        ({"pos_points": [], "neg_points": [[1, 2]]}, InvalidRequest),
        ({"pos_points": [], "obj_bbox": [[1, 2]]}, InvalidRequest),
        ({"obj_bbox": [[1, 2], [3, 4], [5, 6]]}, InvalidRequest),
    ],
)
def test_a_request_that_cannot_be_translated_is_a_problem(tools, data, change, error):
    assert_problem(invoke(tools, {**payload(data, [[40, 15]]), **change}), error)


@pytest.mark.parametrize("name", ["", "pth-facebookresearch-sam-vit-h"])
def test_another_function_is_a_problem(tools, data, name):
    headers = {**HEADERS, "x-nuclio-function-name": name}

    called = tools.post("/api/function_invocations", json=payload(data, [[40, 15]]), headers=headers)

    assert_problem(called, InvalidRequest)
    assert_problem(tools.get(f"/api/functions/{name or 'other'}"), InvalidRequest)


def test_the_answer_has_the_size_of_the_box(tools, data):
    answer = invoke(tools, payload(data, obj_bbox=[[16, 6], [72, 54]]))

    left, top, right, bottom = answer.json()["bounds"]
    width, height = right - left + 1, bottom - top + 1
    assert len(answer.content) <= 2 * (width + 1) * height + 60


@pytest.mark.parametrize(
    ("crop", "rows", "bounds"),
    [
        ([[1]], [[1]], [3, 2, 3, 2]),
        ([[1, 0, 1]], [[1, 0, 1]], [3, 2, 5, 2]),
        ([[1], [0], [1]], [[1], [0], [1]], [3, 2, 3, 4]),
        ([[0, 1], [1, 0]], [[0, 1], [1, 0]], [3, 2, 4, 3]),
    ],
)
def test_rows_are_json_of_every_shape(crop, rows, bounds):
    assert rendered(BinaryMask((20, 30), 3, 2, np.array(crop, np.bool_))) == {"mask": rows, "bounds": bounds}


def test_an_empty_mask_is_an_answer_that_the_page_can_read():
    empty = BinaryMask((20, 30), 0, 0, np.zeros((0, 0), np.bool_))

    # The page takes the width of the first row, and finds the outline itself unless there are points.
    assert rendered(empty) == {"mask": [[0]], "bounds": [0, 0, 0, 0], "points": []}


def rendered(mask):
    renderer = _RowsRenderer()
    logits = np.zeros((256, 256), np.float16)
    alpha = partial(soft_alpha, logits.astype(np.float32), Frame(mask.size, "letterbox"), mask)
    renderer.add(0, SegmentedMask(mask, logits, "id", 0.5, 0.5, 0.5, alpha))
    return json.loads(bytes(renderer.finish(ImageInfo(mask.size, 1, "full")).body))

"""The X-AnyLabeling adapter. Requests have the form that the application's remote_server.py sends."""

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from support.noise_images import as_file, noise_file, noise_image
from support.service_client import assert_problem, embed, point
from support.tool_images import as_base64, as_data_uri, best_mask, best_outlines

from service.errors import InvalidRequest, Unauthorized
from service.sam.orientation import stored_to_upright, upright_to_stored

HEIGHT, WIDTH = 60, 80


@pytest.fixture(scope="module")
def data():
    return noise_file((HEIGHT, WIDTH), seed=601)


@pytest.fixture(scope="module")
def model(tools):
    return tools.get("/models").json()["models"][0]["name"]


def with_orientation(pixels, orientation):
    """Return a JPEG file whose stored pixels are these."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return as_file(pixels, "JPEG", exif=exif)


def mark(x, y, label=1):
    return {"type": "point", "data": [x, y], "label": label}


def body(model, image, *marks, **params):
    return {
        "model": model,
        "image": image,
        "params": {
            "conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, "marks": list(marks), **params,
        },
    }  # fmt: skip


def predict(tools, *arguments, **params):
    response = tools.post("/v1/predict", json=body(*arguments, **params))
    assert response.status_code == 200, response.text
    assert response.json()["success"] is True
    return response.json()["data"]


def area(ring):
    return cv2.contourArea(np.array(ring, np.float32))


def test_the_application_finds_one_model_with_the_buttons_for_marks(tools, model):
    answer = tools.get("/v1/models").json()
    info = tools.get(f"/v1/models/{model}/info").json()

    described = answer["data"][model]
    assert answer["success"] is True
    assert model in described["display_name"]
    assert described["batch_processing_mode"] is None
    names = {widget["name"]: widget["value"] for widget in described["widgets"]}
    assert {"button_add_point", "button_remove_point", "button_add_rect", "button_clear"} <= names.keys()
    assert names["toggle_preserve_existing_annotations"] is True
    assert 1 <= names["mask_fineness_slider"] <= 100
    assert info["data"] == {"model_id": model, **described}


def test_marks_become_polygons_of_the_mask_that_segment_gives(tools, model, data):
    points = [{"x": 40, "y": 15, "label": 1}, {"x": 8, "y": 54, "label": 0}]
    expected = best_outlines(tools, data, {"points": points, "box": [16, 6, 72, 54]})
    marks = [mark(40, 15), mark(8, 54, 0), {"type": "rectangle", "data": [72, 54, 16, 6], "label": 1}]

    answer = predict(tools, model, as_data_uri(data), *marks, epsilon_factor=0.0)

    assert answer.keys() == {"shapes", "description", "replace"}
    assert answer["replace"] is False
    for shape in answer["shapes"]:
        assert shape["label"] == "AUTOLABEL_OBJECT"
        assert shape["shape_type"] == "polygon"
        assert shape["points"][0] == shape["points"][-1]
        assert len(shape["points"]) > 3
    # Small parts beside an object are left out.
    least = 0.1 * max(area(ring) for ring in expected)
    assert sorted(shape["points"][:-1] for shape in answer["shapes"]) == sorted(
        ring for ring in expected if area(ring) >= least
    )


def test_a_finer_outline_has_more_points(tools, model, data):
    fine, coarse = (
        predict(tools, model, as_data_uri(data), mark(40, 15), epsilon_factor=factor)["shapes"]
        for factor in (0.0001, 1 / 280)  # of the image's circumference: one pixel
    )

    assert sum(len(shape["points"]) for shape in fine) > sum(len(shape["points"]) for shape in coarse)


def test_a_request_without_marks_embeds_the_image(tools, model, next_seed):
    image = as_base64(noise_file((HEIGHT, WIDTH), seed=next_seed))

    opened = predict(tools, model, image)
    clicked = tools.post("/v1/predict", json=body(model, image, mark(9, 9)))

    assert opened == {"shapes": [], "description": "", "replace": False}
    assert "encode;dur" not in clicked.headers["server-timing"]


def test_the_embedding_of_the_same_file_is_shared_with_other_tools(tools, model, next_seed):
    data = noise_file((HEIGHT, WIDTH), seed=next_seed)

    predict(tools, model, as_data_uri(data))

    assert tools.post("/embed", content=data).json()["cached"] == "memory"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_marks_and_polygons_are_those_of_the_stored_pixels(tools, model, orientation):
    stored = noise_image((HEIGHT, WIDTH), seed=orientation)
    file = with_orientation(stored, orientation)
    upright_size = (WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH)
    point_of_file, box_of_file = (50.0, 18.5), [(10.0, 6.0), (72.0, 51.0)]
    ((x, y),) = stored_to_upright([point_of_file], orientation, upright_size)
    corners = np.array(stored_to_upright(box_of_file, orientation, upright_size))
    prompt = {"points": [{"x": x, "y": y, "label": 1}], "box": [*corners.min(0), *corners.max(0)]}
    expected = [upright_to_stored(ring, orientation, upright_size) for ring in best_outlines(tools, file, prompt)]

    box = {"type": "rectangle", "data": [*box_of_file[0], *box_of_file[1]], "label": 1}
    shapes = predict(tools, model, as_data_uri(file), mark(*point_of_file), box, epsilon_factor=0.0)["shapes"]

    found = [[tuple(corner) for corner in shape["points"][:-1]] for shape in shapes]
    assert found
    assert all(ring in expected for ring in found)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for ring in found for x, y in ring)


def test_an_unknown_model_is_a_problem(tools):
    assert_problem(tools.get("/v1/models/other/info"), InvalidRequest)


def test_the_key_may_come_as_token(tools):
    key = tools.headers["authorization"].removeprefix("Bearer ")

    answers = [
        httpx.get(f"{tools.base_url}/v1/models", headers={"Token": token}, trust_env=False) for token in (key, "x")
    ]

    assert answers[0].status_code == 200
    assert_problem(answers[1], Unauthorized)


def test_the_adapter_and_the_embed_route_share_embeddings(tools, model, data):
    embed(tools, data)

    response = tools.post("/v1/predict", json=body(model, as_data_uri(data), mark(40, 15)))

    assert "encode;dur" not in response.headers["server-timing"]
    assert best_mask(tools, data, point(40, 15)).any()

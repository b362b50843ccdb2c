"""The Label Studio adapter: the labelling interface decides about the regions, and rectangles may be rotated."""

import time

import numpy as np
import pytest
from skimage.draw import polygon2mask
from support.brush_regions import brush_pixels
from support.noise_images import noise_file
from support.service_client import open_client, point
from support.service_process import ServiceProcess
from support.studio_requests import CONFIG, HEIGHT, WIDTH, keypoint, predict, rectangle
from support.tool_images import as_data_uri, best_mask

from service.api.adapters.label_studio_interface import read_interface


@pytest.fixture(scope="module")
def data():
    return noise_file((HEIGHT, WIDTH), seed=401)


def test_the_service_finds_polygons_where_the_interface_has_no_brush(tools, data):
    expected = best_mask(tools, data, point(40, 15))
    config = CONFIG.replace("BrushLabels", "PolygonLabels").replace('"brush"', '"shape"')

    response = predict(tools, as_data_uri(data), keypoint(50, 25), config=config)

    (prediction,) = response.json()["results"]
    assert prediction["result"]
    drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
    for region in prediction["result"]:
        assert (region["type"], region["from_name"], region["to_name"]) == ("polygonlabels", "shape", "img")
        assert region["value"]["polygonlabels"] == ["Cat"]
        assert region["value"]["closed"] is True
        points = np.array(region["value"]["points"])
        assert points.min() >= 0
        assert points.max() <= 100
        drawn |= polygon2mask((WIDTH, HEIGHT), points / 100 * (WIDTH, HEIGHT) - 0.5).T
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.6  # of noise: parts are left out, holes are filled


@pytest.mark.parametrize(
    ("label", "kind"),
    [("Cat", "brushlabels"), ("Dog", "polygonlabels"), ("d", "polygonlabels"), ("Cow", "brushlabels")],
)
def test_a_label_chooses_between_brushes_and_polygons(tools, data, label, kind):
    config = """<View><Image name="img" value="$image"/>
      <PolygonLabels name="shape" toName="img"><Label value="Dog" alias="d"/><Label value="Cat"/></PolygonLabels>
      <BrushLabels name="brush" toName="img"><View><Label value="Cat"/></View></BrushLabels>
      <BrushLabels name="far" toName="other"><Label value="Dog"/></BrushLabels>
      <KeyPointLabels name="kp" toName="img"><Label value="Cow"/></KeyPointLabels></View>"""

    response = predict(tools, as_data_uri(data), keypoint(50, 25, label=label), config=config)

    assert {region["type"] for region in response.json()["results"][0]["result"]} == {kind}


@pytest.mark.parametrize("degrees", [0, 90, -90, 180, 30])
def test_a_rotated_rectangle_is_the_box_around_it(tools, data, degrees):
    """Label Studio rotates clockwise about the corner (x, y); the sides are in per cent of width and height."""
    turn = np.exp(1j * np.radians(degrees))
    corners = 40 + 30j + turn * np.array([0, 16, 16 + 12j, 12j])  # in pixels
    box = [corners.real.min(), corners.imag.min(), corners.real.max(), corners.imag.max()]
    expected = best_mask(tools, data, {"box": box})
    value = {"x": 50, "y": 50, "width": 20, "height": 20, "rotation": degrees, "rectanglelabels": ["Dog"]}

    response = predict(tools, as_data_uri(data), rectangle(0, 0, 0, 0, value=value))

    (region,) = response.json()["results"][0]["result"]
    assert np.array_equal(brush_pixels(region["value"]["rle"], (HEIGHT, WIDTH)), expected)


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        (
            "<View><Image name='i' value='$image'/><RectangleLabels name='r' toName='i'/></View>",
            "no BrushLabels or Poly",
        ),
        ("<View", "is not XML"),
        (CONFIG, None),
    ],
)
def test_a_project_that_cannot_get_masks_is_warned_of_in_the_log(artifact, config, warning):
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_ADAPTERS": "label-studio"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        response = client.post("/label-studio/setup", json={"project": "1.2", "schema": config})
        client.post("/label-studio/setup", content=b"")

        line = service.wait_for("label studio setup")

    assert response.status_code == 200
    assert line["level"] == "warning"
    assert "Neither EDGESAM_LABEL_STUDIO_FILES nor EDGESAM_LABEL_STUDIO_URL is set" in line["detail"]
    assert warning is None or warning in line["detail"]


def test_many_labels_are_found_in_many_controls_soon():
    interface = read_interface(
        "<View>" + "<BrushLabels/>" * 70_000 + '<PolygonLabels><Label value="9"/></PolygonLabels></View>'
    )
    began = time.process_time()

    control = interface.control("", [str(label) for label in range(60_000)])

    assert control.region_type == "polygonlabels"
    assert time.process_time() - began < 5

"""Two models that differ in their manifest's ranking rule alone give the same masks in the order of their rules."""

import pytest
from support.answered_masks import full_mask
from support.noise_images import noise_file
from support.ranked_model import with_ranking
from support.service_client import embed, open_client, point, segment
from support.service_process import ServiceProcess
from support.tool_images import as_base64, as_data_uri

from service.manifest import load_manifest
from service.mask_rules import Ranking
from service.sam.masks import AGREEMENT

SIZE = (60, 80)
CLICKS = [point(x, y) for x in (10, 40, 70) for y in (15, 45)]
BOX = {"box": [16, 6, 72, 54]}
# Output 0 comes first wherever its score is not far behind; the predicted IoU counts, and not the stability alone.
# All scores lie in 0..1, so that answers state the numbers that decide the order.
RULE = Ranking(bias=(0.9, 0.6, 0.65, 0.6), stability=-0.5, predicted_iou=0.25)


@pytest.fixture(scope="module")
def data() -> bytes:
    return noise_file(SIZE, seed=901)


@pytest.fixture(scope="module")
def ranked(artifact, tmp_path_factory):
    """A client of a process with all adapters, whose model has the ranking rule `RULE`."""
    model = with_ranking(artifact, tmp_path_factory.mktemp("ranked") / "model", RULE)
    settings = {"EDGESAM_MODEL_DIR": str(model), "EDGESAM_ADAPTERS": "label-studio,roboflow,x-anylabeling"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        yield client


def of_rule(mask, output):
    """Return the score that `RULE` gives a mask of the decoder's `output`."""
    total = RULE.bias[output] + RULE.stability * mask["stability"] + RULE.predicted_iou * mask["predicted_iou"]
    return min(1.0, max(0.0, total))


def test_the_same_masks_come_in_the_order_of_each_models_rule(client, ranked, data):
    by_stability = segment(client, embed(client, data), *CLICKS)
    by_rule = segment(ranked, embed(ranked, data), *CLICKS)

    orders = [[[mask["mask_id"] for mask in masks] for masks in answer] for answer in (by_stability, by_rule)]
    assert [sorted(ids) for ids in orders[0]] == [sorted(ids) for ids in orders[1]]
    assert all(first != second for first, second in zip(*orders, strict=True))
    for masks in by_stability:
        assert [mask["score"] for mask in masks] == [mask["stability"] for mask in masks]
    for click, *answers in zip(CLICKS, by_stability, by_rule, strict=True):
        (at,) = click["points"]
        for masks in answers:
            size = tuple(masks[0]["rle"]["size"])
            order_by = [mask["score"] + AGREEMENT * full_mask(mask, size)[at["y"], at["x"]] for mask in masks]
            assert order_by == sorted(order_by, reverse=True)


def test_one_three_and_four_masks_are_scored_by_the_same_rule(ranked, data):
    image_hash = embed(ranked, data)
    ones, threes, fours = (segment(ranked, image_hash, *CLICKS, multimask=count) for count in (1, 3, 4))

    for (one,), three, four in zip(ones, threes, fours, strict=True):
        assert one["score"] == pytest.approx(of_rule(one, 0), abs=1e-9)
        assert one in four
        assert [mask for mask in four if mask != one] == three
        # The answer does not state the output of a mask; outputs 1 and 3 have the same bias.
        for mask in three:
            assert min(abs(mask["score"] - of_rule(mask, output)) for output in (1, 2)) < 1e-9


def test_png_answers_and_adapters_return_the_first_mask_and_its_score(ranked, data):
    image_hash = embed(ranked, data)
    (best, *_), (of_box,) = segment(ranked, image_hash, CLICKS[0], BOX)
    body = {"image_hash": image_hash, "prompts": [CLICKS[0]]}

    png = ranked.post("/segment", json=body, headers={"Accept": "image/png"})
    confidences = [prediction["confidence"] for prediction in ask_roboflow(ranked, data)]

    assert png.headers["x-mask-id"] == best["mask_id"]
    assert float(png.headers["x-mask-score"]) == pytest.approx(best["score"], abs=1e-6)
    assert confidences == [best["score"], of_box["score"]]
    assert ask_label_studio(ranked, data) == best["score"]
    assert set(ask_x_anylabeling(ranked, data)) == {best["score"]}


def test_models_states_encoder_licence_and_rule(client, ranked, artifact):
    manifest = load_manifest(artifact)

    (plain,), (calibrated,) = (one.get("/models").json()["models"] for one in (client, ranked))

    for model in (plain, calibrated):
        assert (model["architecture"], model["encoder"]) == (manifest.architecture, "RepViT-M1")
        assert model["licence"] == manifest.licence
    assert plain["ranking"] == {"bias": [0, 0, 0, 0], "stability": 1, "predicted_iou": 0, "agreement": 0.1}
    assert calibrated["ranking"] == RULE.model_dump(mode="json")
    assert calibrated["fingerprint"] == plain["fingerprint"], "embeddings are the same"


def ask_roboflow(client, data):
    """Return the predictions for the first click and for the box."""
    click, box = CLICKS[0]["points"][0], BOX["box"]
    centre = {"x": (box[0] + box[2]) / 2, "y": (box[1] + box[3]) / 2}
    prompts = [
        {"points": [{"x": click["x"], "y": click["y"], "positive": True}]},
        {"box": {**centre, "width": box[2] - box[0], "height": box[3] - box[1]}},
    ]
    image = {"type": "base64", "value": as_base64(data)}
    answer = client.post("/sam2/segment_image", json={"image": image, "prompts": {"prompts": prompts}})
    return answer.json()["predictions"]


def ask_label_studio(client, data):
    """Return the score of the region for the first click."""
    click = CLICKS[0]["points"][0]
    config = (
        '<View><Image name="img" value="$image"/><BrushLabels name="brush" toName="img"><Label value="Cat"/>'
        '</BrushLabels><KeyPointLabels name="kp" toName="img" smart="true"><Label value="Cat"/></KeyPointLabels></View>'
    )
    value = {"x": 100 * click["x"] / SIZE[1], "y": 100 * click["y"] / SIZE[0], "keypointlabels": ["Cat"]}
    region = {"value": value, "is_positive": True, "from_name": "kp", "to_name": "img", "type": "keypointlabels"}
    body = {
        "tasks": [{"id": 7, "data": {"image": as_data_uri(data)}}],
        "label_config": config,
        "params": {"context": {"result": [region]}},
    }
    (prediction,) = client.post("/label-studio/predict", json=body).json()["results"]
    assert prediction["result"][0]["score"] == prediction["score"]
    return prediction["score"]


def ask_x_anylabeling(client, data):
    """Return the scores of the shapes for the first click."""
    click = CLICKS[0]["points"][0]
    mark = {"type": "point", "data": [click["x"], click["y"]], "label": 1}
    params = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, "marks": [mark]}
    body = {"model": "random", "image": as_data_uri(data), "params": params}
    return [shape["score"] for shape in client.post("/v1/predict", json=body).json()["data"]["shapes"]]

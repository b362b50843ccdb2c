"""Answers of the real process over HTTP equal those of the official predictors of the SAM family.

Each model is a checkpoint that was converted without torch, as users do it.

The image is uploaded, and prompts are in its pixels. The reference arrays hold the official masks at the image's size.
"""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.answered_masks import full_mask
from support.family_model import convert_family_model
from support.made_once import made_once
from support.sam_family_reference import COMMITTED_NAMES, FULL_NAMES, family_image_file, open_family
from support.service_client import embed, open_client, segment
from support.service_process import ServiceProcess

from model_store.architectures import architecture

MIN_IOU = 0.999
SCORE_TOLERANCE = 2e-3
FEEDBACK = "box_point_mask_multi"  # its mask prompt is the first mask of point_multi

EVERY_MODEL = [pytest.param(("committed", name), marks=pytest.mark.slow) for name in COMMITTED_NAMES] + [
    pytest.param(("full", name), marks=[pytest.mark.fixtures, pytest.mark.slow])
    for name in FULL_NAMES
    if name not in {"sam-vit-b", "efficientvit-sam-xl0"}  # they take minutes and gigabytes
]


@pytest.fixture(scope="module", params=EVERY_MODEL, ids="-".join)
def served(request, tmp_path_factory):
    """A client of a process that serves a model, the model's name, and the official answers."""
    part, name = request.param
    reference = open_family(name, part)
    folder = made_once(tmp_path_factory, f"{name}-model", lambda folder: convert_family_model(name, folder))
    settings = {"EDGESAM_MODEL_DIR": str(folder / "model"), "EDGESAM_EMBEDDING_DTYPE": "float32"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        yield client, name, reference


@pytest.fixture(scope="module")
def image_id(served):
    return embed(served[0], family_image_file())


def test_every_call_gives_the_official_masks(served, image_id):
    client, name, reference = served
    calls = [call for call in reference.calls() if call != FEEDBACK]

    assert {"points_single", "box_single"} <= set(calls)
    for call in calls:
        arrays = reference.call(call)
        (masks,) = segment(client, image_id, prompt_of(arrays), multimask=len(arrays["scores"]), format="rle")
        assert_official(masks, arrays, f"{name} {call}")


def test_a_mask_of_an_answer_is_refined_as_the_official_predictor_does(served, image_id):
    client, name, reference = served
    if FEEDBACK not in reference.calls():
        pytest.skip("the committed arrays have no call with a mask prompt")
    first = reference.call("point_multi")
    (masks,) = segment(client, image_id, prompt_of(first), multimask=3)
    refined = min(masks, key=lambda mask: abs(mask["predicted_iou"] - first["scores"][0]))
    arrays = reference.call(FEEDBACK)

    prompt = prompt_of(arrays) | {"mask_id": refined["mask_id"]}
    (masks,) = segment(client, image_id, prompt, multimask=3, format="rle")

    assert_official(masks, arrays, f"{name} {FEEDBACK}")


def test_auto_gives_the_outputs_that_the_architecture_names(served, image_id):
    client, name, reference = served
    entry = architecture(name)
    point, box = (prompt_of(reference.call(call)) for call in ("points_single", "box_single"))
    best = float(reference.call("box_single")["scores"].max())

    (offered,) = segment(client, image_id, {"points": point["points"][:1]})
    answers = [segment(client, image_id, box, **options)[0] for options in ({}, {"multimask": 1})]

    assert len(offered) == len(entry.ambiguous)
    if "point_multi" in reference.calls():
        scores = sorted(reference.call("point_multi")["scores"].tolist())
        assert sorted(mask["predicted_iou"] for mask in offered) == pytest.approx(scores, abs=SCORE_TOLERANCE)
    for masks in answers:
        assert [mask["predicted_iou"] for mask in masks] == pytest.approx([best], abs=SCORE_TOLERANCE)
    for mask in (*offered, *answers[0]):
        assert mask["score"] == pytest.approx(min(max(mask["predicted_iou"], 0.0), 1.0), abs=1e-6)


def test_masks_are_ordered_by_their_predicted_iou_also_where_it_is_negative(served, image_id):
    client, _, reference = served
    prompt = prompt_of(reference.call("box_single"))  # no point, so no mask agrees with one

    (masks,) = segment(client, image_id, prompt, multimask=4, format="none")

    found = [mask["predicted_iou"] for mask in masks]
    assert found == sorted(found, reverse=True)
    assert sum(iou < 0 for iou in found) > 1, "fewer than two would have the order of the limited scores too"


def test_the_model_is_described_with_its_rules(served):
    client, name, _ = served
    entry = architecture(name)

    (model,) = client.get("/models").json()["models"]

    assert (model["image_size"], model["norm_epsilon"]) == (entry.image_size, entry.norm_epsilon)
    masks = {"ambiguous": list(entry.ambiguous), "other": list(entry.other), "fallback": []}
    assert model["auto_masks"] == masks
    assert model["ranking"] == {"bias": [0.0] * 4, "stability": 0.0, "predicted_iou": 1.0, "agreement": 0.0}
    assert "not trained" in model["summary"], "generated weights have no use to state"
    assert model["card"] == ""


def test_the_narrowest_image_follows_the_side_of_the_encoder_s_input(served):
    client, name, _ = served
    most = 2 * architecture(name).image_size

    refused = client.post("/embed", content=png(most + 1), headers={"Content-Type": "image/png"})

    assert embed(client, png(most))
    assert (refused.status_code, refused.json()["code"]) == (422, "unusable-aspect-ratio")
    assert f"at most {most} times" in refused.json()["detail"]


def prompt_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the points and the box of a call, as JSON."""
    prompt: dict[str, Any] = {}
    if "point_coords" in arrays:
        pairs = zip(arrays["point_coords"].tolist(), arrays["point_labels"].tolist(), strict=True)
        prompt["points"] = [{"x": x, "y": y, "label": label} for (x, y), label in pairs]
    if "box" in arrays:
        prompt["box"] = arrays["box"].tolist()
    return prompt


def assert_official(masks: list[dict[str, Any]], arrays: dict[str, np.ndarray], about: str) -> None:
    """Check that an answer has the official masks. Which one is which, their predicted IoUs tell."""
    count, height, width = (int(side) for side in arrays["mask_shape"])
    official = np.unpackbits(arrays["mask_bits"], axis=-1, count=height * width).astype(bool)
    left = set(range(count))
    assert len(masks) == count, about
    for mask in masks:
        output = min(left, key=lambda index: abs(arrays["scores"][index] - mask["predicted_iou"]))
        left.remove(output)
        assert mask["predicted_iou"] == pytest.approx(float(arrays["scores"][output]), abs=SCORE_TOLERANCE), about
        found, expected = full_mask(mask, (height, width)).ravel(), official[output]
        overlap = (found & expected).sum() / (found | expected).sum()
        assert overlap >= MIN_IOU, f"{about}, output {output}: mask IoU {overlap:.5f}"


def png(width: int) -> bytes:
    """Return a grey image of one row."""
    file = io.BytesIO()
    Image.new("RGB", (width, 1), (90, 90, 90)).save(file, "PNG")
    return file.getvalue()

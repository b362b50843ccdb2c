"""Answers of the real process over HTTP equal those of the official predictors of EdgeTAM and SAM 2.1.

Each model is a checkpoint that the command `import` converts where torch is absent.

The image is uploaded, and prompts are in its pixels. The reference arrays hold the official masks at the image's size.
"""

import functools
from typing import Any

import numpy as np
import pytest
from support.answered_masks import as_mask_logits, full_mask, logits_of
from support.made_once import made_once
from support.sam2_artifacts import import_sam2_model
from support.sam2_prompts import mask_iou
from support.sam2_reference import COMMITTED_CALLS, DECODER_NAMES, open_sam2
from support.sam_family_reference import family_image_file
from support.service_client import embed, open_client, segment
from support.service_process import ServiceProcess

MIN_IOU = 0.999
SCORE_TOLERANCE = 2e-3
LOGITS_TOLERANCE = 2e-2  # the answer has them as float16, up to 32
FEEDBACK = "box_point_mask_multi"  # its mask prompt is the first mask of point_multi
START_S = 300.0  # for a busy machine
# Only EdgeTAM's committed arrays have calls of the predictor.
EVERY_MODEL = [
    pytest.param(("committed", "edgetam"), marks=pytest.mark.slow),
    *(pytest.param(("full", name), marks=[pytest.mark.fixtures, pytest.mark.slow]) for name in DECODER_NAMES),
]


@pytest.fixture(scope="module", params=EVERY_MODEL, ids="-".join)
def reference(request):
    part, name = request.param
    return name, open_sam2(name, part)


@pytest.fixture(scope="module", params=["native", "onnx"])
def served(request, reference, tmp_path_factory):
    """A client of a process that serves a model, the image's id, and the official answers."""
    name, arrays = reference
    folder = made_once(tmp_path_factory, f"{name}-imported", functools.partial(import_sam2_model, name))
    settings = {
        "EDGESAM_MODEL_DIR": str(folder / name),
        "EDGESAM_EMBEDDING_DTYPE": "float32",
        "EDGESAM_DECODER": request.param,
        "EDGESAM_EMBED_TIMEOUT_S": str(START_S),
    }
    with ServiceProcess(settings, wait_s=START_S) as service, open_client(service.url) as client:
        client.timeout = START_S
        yield client, embed(client, family_image_file()), arrays


def test_every_call_gives_the_official_masks(served):
    client, image_id, reference = served
    calls = [call for call in reference.calls() if call != FEEDBACK]

    assert set(COMMITTED_CALLS) <= set(calls)
    for call in calls:
        arrays = reference.call(call)
        prompts = prompts_of(arrays)
        count = 3 if arrays["multimask_output"] else 1
        answers = segment(client, image_id, *prompts, multimask=count, format="rle")
        for number, masks in enumerate(answers):
            assert_official(masks, of_prompt(arrays, number), f"{call}, prompt {number}")


def test_low_resolution_logits_are_the_official_ones(served):
    client, image_id, reference = served
    for call in COMMITTED_CALLS:
        arrays = reference.call(call)
        ((mask,),) = segment(client, image_id, *prompts_of(arrays), multimask=1, format="logits")

        np.testing.assert_allclose(logits_of(mask)[::16, ::16], arrays["low_res_slice"][0], atol=LOGITS_TOLERANCE)


@pytest.mark.parametrize("is_by_id", [True, False], ids=["mask_id", "mask_logits"])
def test_a_mask_of_an_answer_is_refined_as_the_official_predictor_does(served, is_by_id):
    client, image_id, reference = served
    if FEEDBACK not in reference.calls():
        pytest.skip("the committed arrays have no call with a mask prompt")
    first = reference.call("point_multi")
    (masks,) = segment(client, image_id, *prompts_of(first), multimask=3)
    refined = min(masks, key=lambda mask: abs(mask["predicted_iou"] - first["scores"][0]))
    logits = as_mask_logits(reference.arrays["predict/feedback_low_res_f32"][0])
    arrays = reference.call(FEEDBACK)

    (prompt,) = prompts_of(arrays)
    prompt |= {"mask_id": refined["mask_id"]} if is_by_id else {"mask_logits": logits}
    (masks,) = segment(client, image_id, prompt, multimask=3, format="rle")

    assert_official(masks, of_prompt(arrays, 0), FEEDBACK)


def test_auto_is_what_the_official_calls_amount_to(served):
    """A click gets the masks of `multimask_output=True`, every other prompt the one of `multimask_output=False`."""
    client, image_id, reference = served
    if "point_multi" in reference.calls():
        arrays = reference.call("point_multi")
        (masks,) = segment(client, image_id, *prompts_of(arrays), format="rle")
        assert_official(masks, of_prompt(arrays, 0), "auto for a click")
    for call in COMMITTED_CALLS:
        arrays = reference.call(call)
        (masks,) = segment(client, image_id, *prompts_of(arrays), format="rle")
        assert_official(masks, of_prompt(arrays, 0), f"auto for {call}")


def prompts_of(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the prompts of a call as JSON: one for each box."""
    shared: dict[str, Any] = {}
    if "point_coords" in arrays:
        pairs = zip(arrays["point_coords"].tolist(), arrays["point_labels"].tolist(), strict=True)
        shared["points"] = [{"x": x, "y": y, "label": label} for (x, y), label in pairs]
    if "box" not in arrays:
        return [shared]
    return [shared | {"box": box} for box in arrays["box"].reshape(-1, 4).tolist()]


def of_prompt(arrays: dict[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    """Return the scores (C,) and the masks (C, H, W) of one prompt of a call."""
    count, height, width = (int(side) for side in arrays["mask_shape"][-3:])
    pixels = np.unpackbits(arrays["mask_bits"].ravel(), count=int(arrays["mask_shape"].prod()))
    masks = pixels.reshape(-1, count, height, width)[number].astype(bool)
    return {"scores": arrays["scores"].reshape(-1, count)[number], "masks": masks}


def assert_official(masks: list[dict[str, Any]], official: dict[str, np.ndarray], about: str) -> None:
    """Check that an answer has the official masks, best first. Which one is which, their predicted IoUs tell."""
    scores, left = official["scores"], set(range(len(official["scores"])))
    assert [mask["predicted_iou"] for mask in masks] == pytest.approx(sorted(scores, reverse=True), abs=SCORE_TOLERANCE)
    for mask in masks:
        output = min(left, key=lambda index: abs(scores[index] - mask["predicted_iou"]))
        left.remove(output)
        overlap = mask_iou(full_mask(mask, official["masks"].shape[1:]), official["masks"][output])
        assert overlap >= MIN_IOU, f"{about}, output {output}: mask IoU {overlap:.5f}"

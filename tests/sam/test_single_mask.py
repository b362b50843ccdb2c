"""The mask of a prompt that gets one, for models of SAM 2: output 0 if it is stable, else the best of the others.

`cases/single_mask.npz` has the answers of the official code with generated weights, eleven prompts for each model:
predicted IoUs and stability of output 0 at ±0.05, the selected output, and the same for changed inputs.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store.architectures import ARCHITECTURES
from service.sam.masks import MaskChoice, candidates, mask_count, narrow_stability, rank
from service.sam.prompts import Prompt

CASES = np.load(Path(__file__).parent / "cases" / "single_mask.npz")
SAM2 = MaskChoice(ambiguous=(1, 2, 3), other=(0,), fallback=(1, 2, 3))
BOX = Prompt(box=np.array([10.0, 20.0, 90.0, 80.0]))
POINT = Prompt(np.array([[5.0, 6.0]]), np.array([1]))
POINTS = Prompt(np.array([[5.0, 6.0], [7.0, 8.0]]), np.array([1, 0]))
MASK = Prompt(mask_logits=np.zeros((256, 256), np.float32))


def selected(architecture, predicted_iou, stability, multimask=1, prompt=BOX):
    """Return the output that comes first for each of P prompts, by the rules of an architecture."""
    rules = ARCHITECTURES[architecture]
    masks = rules.auto_masks
    choice = MaskChoice(masks.ambiguous, masks.other, rules.ranking.compares_all, masks.fallback)
    return [
        rank(rules.ranking.scores([0.5] * 4, ious.tolist()), candidates(multimask, prompt, choice, float(narrow)))[0]
        for ious, narrow in zip(predicted_iou, stability, strict=True)
    ]


@pytest.mark.parametrize("name", ["edgetam", "sam2.1-tiny"])
def test_the_single_mask_is_the_one_of_the_official_code(name):
    case = {key.partition("/")[2]: CASES[key] for key in CASES.files if key.startswith(f"{name}/")}
    ious, stability = case["predicted_iou"], case["stability"]
    empty = np.ones(len(ious), np.float32)

    assert len(ious) == 11
    assert selected(name, ious, stability) == case["single_index"].tolist()
    assert selected(name, ious, case["stability_times_12"]) == case["single_index_times_12"].tolist()
    assert selected(name, ious[:, ::-1], stability) == case["single_index_iou_reversed"].tolist()
    assert selected(name, ious, empty) == case["single_index_mask0_empty"].tolist()
    # The cases reach both branches of the rule.
    assert {0} < set(selected(name, np.concatenate((ious, ious)), np.concatenate((stability, empty))))


@pytest.mark.parametrize("prompt", [BOX, POINTS, MASK], ids=["box", "points", "mask"])
def test_auto_selects_for_prompts_that_mean_one_object_as_for_a_single_mask(prompt):
    ious = np.array([[0.9, 0.2, 0.7, 0.6]] * 2, np.float32)

    assert selected("edgetam", ious, np.array([0.97, 0.99]), "auto", prompt) == [2, 0]
    assert mask_count("auto", prompt, SAM2) == 1


def test_auto_offers_three_masks_for_a_single_point_whatever_the_stability():
    for stability in (0.0, 1.0):
        assert candidates("auto", POINT, SAM2, stability) == (1, 2, 3)
        assert candidates(3, POINT, SAM2, stability) == (1, 2, 3)
        assert candidates(4, POINT, SAM2, stability) == (0, 1, 2, 3)
    assert mask_count("auto", POINT, SAM2) == 3


def test_one_mask_for_a_single_point_follows_the_rule():
    assert candidates(1, POINT, SAM2, 0.97) == (1, 2, 3)
    assert candidates(1, POINT, SAM2, 0.98) == (0,)


def test_the_bound_is_reached_by_the_float32_nearest_to_it():
    """49 of 50 pixels: the official code compares the same two numbers."""
    reached = float(np.float32(49) / np.float32(50))

    assert candidates(1, BOX, SAM2, reached) == (0,)
    assert candidates(1, BOX, SAM2, float(np.nextafter(np.float32(0.98), np.float32(0.0)))) == (1, 2, 3)
    assert candidates(1, BOX, SAM2, float("nan")) == (1, 2, 3)


def test_of_equal_predicted_ious_the_first_output_is_selected():
    ious = np.array([[0.1, 0.5, 0.5, 0.5], [0.9, 0.2, 0.6, 0.6]], np.float32)

    assert selected("edgetam", ious, np.zeros(2)) == [1, 2]


def test_models_without_a_fallback_ignore_the_stability():
    sam = replace(SAM2, fallback=())

    assert candidates(1, BOX, sam, 0.0) == candidates("auto", BOX, sam, 0.0) == (0,)


def test_narrow_stability_compares_the_thresholds_around_zero():
    """Logits exactly at a threshold are below it. A mask without a logit above -0.05 is stable."""
    logits = np.full((4, 256, 256), -1.0, np.float32)
    logits[0, :7, :7] = 0.06  # 49 pixels, above both thresholds
    logits[0, 9, 9] = 0.0
    logits[1, 0, :4] = np.float32(0.05)
    logits[2, 5, :] = np.float32(-0.05)
    logits[3, :2, :] = 20.0

    assert narrow_stability(logits).tolist() == [np.float32(0.98), 0.0, 1.0, 1.0]
    assert narrow_stability(logits).dtype == np.float32

"""Answers of the real process to random prompts equal those that PyTorch computes, for models of the SAM family.

Each model is a checkpoint that was converted without torch, as users do it.
"""

import io
import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.answered_masks import full_mask
from support.family_model import convert_family_model, family_model
from support.made_once import made_once
from support.sam_family_reference import family_image_file
from support.service_client import embed, open_client, segment
from support.service_process import ServiceProcess

from model_store.architectures import architecture
from model_store.network.predictor import EmbeddedImage, Prediction, TorchPredictor

PROMPTS = 100
MIN_IOU = 0.999
SCORE_TOLERANCE = 2e-3
KINDS = ["point", "points", "box", "box and points"]
MULTIMASKS = ["auto", 1, 3, 4]
NAMES = [
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobile-sam", "tiny-sam", "efficientvit-sam-l0")),
    *(
        pytest.param(name, marks=[pytest.mark.large, pytest.mark.fixtures])  # they need their running statistics
        for name in ("repvit-sam", "efficientvit-sam-xl0")
    ),
    pytest.param("sam-vit-b", marks=pytest.mark.large),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_random_prompts_give_the_masks_of_torch(tmp_path_factory, name):
    data = family_image_file()
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    size = image.shape[:2]
    reference = TorchPredictor(family_model(name))
    embedded = reference.embed(image)
    folder = made_once(tmp_path_factory, f"{name}-model", lambda folder: convert_family_model(name, folder))
    settings = {"EDGESAM_MODEL_DIR": str(folder / "model"), "EDGESAM_EMBEDDING_DTYPE": "float32"}
    prompts = random_prompts(np.random.default_rng(19), size)
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        image_hash = embed(client, data)
        for number, (kind, prompt) in enumerate(prompts):
            multimask = MULTIMASKS[number // len(KINDS) % len(MULTIMASKS)]
            (masks,) = segment(client, image_hash, sent(prompt), multimask=multimask, format="rle")
            prediction = predict(reference, embedded, prompt)
            expected = official_outputs(name, prediction, kind, multimask)
            assert_equal(masks, prediction, expected, size, f"{name} prompt {number}: {kind}, {multimask}")


def random_prompts(rng, size) -> list[tuple[str, dict[str, Any]]]:
    """Return prompts with their kind: points (N, 2), labels (N,) and box (4,), inside the image."""
    height, width = size
    prompts = []
    for kind in itertools.islice(itertools.cycle(KINDS), PROMPTS):
        prompt: dict[str, Any] = {}
        if "point" in kind:
            count = 1 if kind == "point" else int(rng.integers(2, 7))
            prompt["points"] = rng.uniform((0, 0), (width, height), (count, 2)).round(2)
            prompt["labels"] = np.concatenate([[1], rng.integers(0, 2, count - 1)])
        if "box" in kind:
            corners = np.sort(rng.uniform(0.0, 1.0, (2, 2)), axis=0).ravel()
            prompt["box"] = corners * (width, height, width, height) + (0, 0, 0.5, 0.5)
            prompt["box"] = np.clip(prompt["box"], 0, (width, height, width, height))
        prompts.append((kind, prompt))
    return prompts


def sent(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt as JSON."""
    found: dict[str, Any] = {}
    if "points" in prompt:
        pairs = zip(prompt["points"].tolist(), prompt["labels"].tolist(), strict=True)
        found["points"] = [{"x": x, "y": y, "label": label} for (x, y), label in pairs]
    if "box" in prompt:
        found["box"] = prompt["box"].tolist()
    return found


def predict(reference: TorchPredictor, embedded: EmbeddedImage, prompt: dict[str, Any]) -> Prediction:
    return reference.predict(embedded, **prompt)


def official_outputs(name: str, prediction: Prediction, kind: str, multimask) -> list[int]:
    """Return the outputs that callers of the official predictor take, best first."""
    entry = architecture(name)
    is_ambiguous = multimask == "auto" and kind == "point"
    offered = {"auto": entry.ambiguous if is_ambiguous else entry.other, 1: entry.other, 3: (1, 2, 3), 4: (0, 1, 2, 3)}
    ordered = sorted(offered[multimask], key=lambda output: -prediction.iou_predictions[output])
    return ordered[: 3 if is_ambiguous else 1 if multimask == "auto" else multimask]


def assert_equal(masks, prediction: Prediction, expected: list[int], size, about: str) -> None:
    """Check masks and their order, which is free where scores differ by less than their tolerance."""
    assert len(masks) == len(expected), about
    found = [mask["predicted_iou"] for mask in masks]
    np.testing.assert_allclose(found, prediction.iou_predictions[expected], atol=SCORE_TOLERANCE, err_msg=about)
    left = set(expected)
    for mask in masks:
        output = min(left, key=lambda index: abs(prediction.iou_predictions[index] - mask["predicted_iou"]))
        left.remove(output)
        ours, theirs = full_mask(mask, size), prediction.logits[output] > 0
        union = (ours | theirs).sum()
        assert union == 0 or (ours & theirs).sum() / union >= MIN_IOU, about

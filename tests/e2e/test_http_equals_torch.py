"""Answers of the real process over HTTP equal those that PyTorch computes from the same image and prompts.

The path: docs/explanation/model.md, section 1.
"""

import io
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.answered_masks import as_mask_logits, full_mask, logits_of
from support.noise_images import noise_file
from support.random_model import random_model
from support.service_client import embed, open_client, segment
from support.service_process import ServiceProcess

from model_store.network.predictor import EmbeddedImage, Prediction, TorchPredictor
from service.sam.frame import Frame
from service.sam.mask_pieces import filter_pieces
from service.sam.masks import AGREEMENT
from service.sam.prompts import Prompt
from service.sam.refinement import with_box_of_mask

# ONNX Runtime and torch add in different orders, so pixels are compared only where the logit is not close to 0.
TOLERANCE = 1e-4
PROMPTS = 100
SIZES = [(480, 640), (700, 300), (1, 1), (3, 700), (97, 61), (768, 1024)]
KINDS = ["point", "points", "box", "box and points", "mask", "mask and point", "mask_id"]
FORMATS = ["rle", "png", "polygon", "logits", "none"]
MULTIMASKS = ["auto", 1, 3, 4]


@dataclass(frozen=True)
class EmbeddedImage:
    """One image, embedded by the service and by the reference."""

    size: tuple[int, int]
    image_hash: str
    embedded: EmbeddedImage


@pytest.fixture(scope="module")
def reference() -> TorchPredictor:
    return TorchPredictor(random_model())


@pytest.fixture(scope="module")
def exact_client(artifact):
    """A client of a process that keeps tokens in float32, as the encoder returns them."""
    settings = {"EDGESAM_MODEL_DIR": str(artifact), "EDGESAM_EMBEDDING_DTYPE": "float32"}
    with ServiceProcess(settings) as service, open_client(service.url) as client:
        yield client


def embedded_on_both_sides(client, reference, size, seed) -> EmbeddedImage:
    """Upload the file to the service, and embed the pixels that Pillow decodes from it by the reference."""
    data = noise_file(size, seed)
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return EmbeddedImage(size, embed(client, data), reference.embed(image))


def test_a_hundred_random_prompts_give_the_masks_of_torch(exact_client, reference):
    rng = np.random.default_rng(2024)
    images = [embedded_on_both_sides(exact_client, reference, size, seed=200) for size in SIZES]
    combinations = itertools.islice(itertools.cycle(itertools.product(KINDS, range(len(SIZES)))), PROMPTS)

    for i, (kind, which) in enumerate(combinations):
        image, output, multimask = images[which], FORMATS[i % 5], MULTIMASKS[i // 3 % 4]
        prompt = random_prompt(rng, kind, image, exact_client)
        prediction = predict(reference, image, prompt)
        (masks,) = segment(exact_client, image.image_hash, sent(prompt), multimask=multimask, format=output)

        is_ambiguous = kind == "point"
        chosen = {"auto": (0, 1, 2, 3) if is_ambiguous else (0,), 1: (0,), 3: (1, 2, 3), 4: (0, 1, 2, 3)}[multimask]
        about = f"prompt {i}: {kind} on {image.size}, {multimask}, {output}"
        order = order_of(prediction, chosen, prompt, image.size)
        assert_masks_are_those_of_torch(masks, prediction, order, image.size, about)


def test_rounding_embeddings_to_float16_changes_few_pixels(service_url, reference):
    rng = np.random.default_rng(7)
    overlaps = []
    with open_client(service_url) as client:
        image = embedded_on_both_sides(client, reference, (480, 640), seed=201)
        for kind in itertools.islice(itertools.cycle(["point", "points", "box", "box and points"]), 12):
            prompt = random_prompt(rng, kind, image, client)
            expected = predict(reference, image, prompt).masks[0]
            (mask,) = segment(client, image.image_hash, sent(prompt), multimask=1)[0]
            found = full_mask(mask, image.size)
            union = (found | expected).sum()
            overlaps.append(1.0 if union == 0 else float((found & expected).sum() / union))

    print(f"mask IoU with float16 embeddings: mean {np.mean(overlaps):.5f}, least {min(overlaps):.5f}")
    assert np.mean(overlaps) >= 0.99


def random_prompt(rng, kind: str, image: EmbeddedImage, client) -> dict[str, Any]:
    """Return a prompt of a kind: points (N, 2), labels (N,), box (4,), mask_logits (256, 256) and mask_id."""
    height, width = image.size
    prompt: dict[str, Any] = {}
    if "point" in kind:
        count = 1 if kind in {"point", "mask and point"} else int(rng.integers(2, 9))
        prompt["points"] = rng.uniform((0, 0), (width, height), (count, 2)).round(2)
        prompt["labels"] = rng.integers(0, 2, count)
    if "box" in kind:
        prompt["box"] = np.sort(rng.uniform((-0.1, -0.1), (1.1, 1.1), (2, 2)), axis=0).ravel()
        prompt["box"] = prompt["box"] * (width, height, width, height) + (-0.5, -0.5, 0.5, 0.5)
    if kind.startswith("mask"):
        y, x = np.mgrid[:256, :256]
        centre_y, centre_x, radius = rng.uniform((30, 30, 10), (220, 220, 100))
        prompt["mask_logits"] = rounded(np.clip((radius - np.hypot(y - centre_y, x - centre_x)) / 4, -12, 12))
    if kind == "mask_id":  # the mask of an earlier answer, with its logits for the reference
        earlier = {"points": [{"x": float(width) / 3, "y": float(height) / 3}]}
        mask = segment(client, image.image_hash, earlier, format="logits")[0][int(rng.integers(0, 4))]
        prompt.update(mask_id=mask["mask_id"], mask_logits=logits_of(mask))
    return prompt


def rounded(logits):
    """Return the logits rounded to float16, as float32."""
    return logits.astype(np.float16).astype(np.float32)


def sent(prompt: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt as JSON."""
    found: dict[str, Any] = {}
    if "points" in prompt:
        pairs = zip(prompt["points"].tolist(), prompt["labels"].tolist(), strict=True)
        found["points"] = [{"x": x, "y": y, "label": label} for (x, y), label in pairs]
    if "box" in prompt:
        found["box"] = prompt["box"].tolist()
    if "mask_id" in prompt:
        found["mask_id"] = prompt["mask_id"]
    elif "mask_logits" in prompt:
        found["mask_logits"] = as_mask_logits(prompt["mask_logits"])
    return found


def predict(reference: TorchPredictor, image: EmbeddedImage, prompt: dict[str, Any]) -> Prediction:
    """Return all four masks of the reference, for the box inside the image; an earlier mask lends its box."""
    arrays = {key: value for key, value in prompt.items() if key != "mask_id"}
    height, width = image.size
    if "box" in arrays:
        arrays["box"] = np.clip(arrays["box"], 0, (width, height, width, height))
    elif "mask_logits" in arrays and "labels" in arrays and not arrays["labels"].any():
        refined = Prompt(arrays["points"], arrays["labels"], mask_logits=arrays["mask_logits"])
        arrays["box"] = with_box_of_mask(refined, Frame(image.size), filter_pieces).box
    return reference.predict(image.embedded, **arrays)


def order_of(prediction: Prediction, chosen, prompt, size) -> list[int]:
    """Return the outputs by the reference's stability; masks that agree with all points count as more stable."""
    points = [(min(int(x), size[1] - 1), min(int(y), size[0] - 1)) for x, y in prompt.get("points", ())]

    def order_by(index: int) -> float:
        pixels = [prediction.logits[index][y, x] > 0 for x, y in points]
        agrees = bool(points) and pixels == prompt["labels"].astype(bool).tolist()
        return float(-prediction.stability[index] - AGREEMENT * agrees)

    return sorted(chosen, key=order_by)


def assert_masks_are_those_of_torch(masks, prediction: Prediction, order, size, about) -> None:
    """Check that the masks are those outputs of the reference, in this order."""
    assert len(masks) == len(order), about
    left = set(order)
    for mask, expected in zip(masks, order, strict=True):
        slack = stability_slack(prediction.mask_logits[expected])
        assert mask["stability"] == pytest.approx(prediction.stability[expected], abs=slack), about
        index = min(left, key=lambda i: abs(prediction.iou_predictions[i] - mask["predicted_iou"]))
        left.remove(index)
        assert index == expected or abs(prediction.stability[index] - prediction.stability[expected]) <= slack, about
        assert mask["predicted_iou"] == pytest.approx(prediction.iou_predictions[index], abs=TOLERANCE), about
        assert_pixels_are_those_of_torch(mask, prediction.logits[index], prediction.mask_logits[index], size, about)


def stability_slack(mask_logits) -> float:
    """Return the tolerance of the stability, which counts every pixel whose logit is close to a threshold."""
    near = margin(mask_logits)
    undecided = sum(int((np.abs(mask_logits - threshold) < near).sum()) for threshold in (-1.0, 1.0))
    return TOLERANCE + undecided / max(1, int((mask_logits > -1.0).sum()))


def margin(logits) -> float:
    """Return the distance from a threshold within which a logit may lie on either side."""
    return TOLERANCE * max(1.0, float(np.abs(logits).max()))


def assert_pixels_are_those_of_torch(mask, logits, mask_logits, size, about) -> None:
    """Check a mask of any format against logits (H, W) and (256, 256) of the reference."""
    is_undecided = np.abs(logits) < margin(logits)
    assert abs(mask["area"] - (logits > 0).sum()) <= is_undecided.sum(), about
    if "logits" in mask:
        np.testing.assert_allclose(logits_of(mask), mask_logits, rtol=2**-10, atol=margin(mask_logits), err_msg=about)
    elif {"rle", "png", "polygon"} & set(mask):
        differs = full_mask(mask, size) != (logits > 0)
        assert not (differs & ~is_undecided).any(), f"{about}: {int(differs.sum())} pixels differ"

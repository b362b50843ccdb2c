"""The modules that decode in the browser, in Node: `decoding.test.mjs` with what the service makes of the same."""

import base64
import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco
from support.browser import needed_program

from service.mask_rules import AutoMasks, Ranking, limited_score
from service.sam.cleanup import MaskCleaner
from service.sam.enlarged_pieces import MarkedPixels, filter_enlarged, marked_pixels
from service.sam.frame import Frame
from service.sam.mask_pieces import filter_pieces
from service.sam.masks import BinaryMask, MaskChoice, binary_mask, candidates, mask_count, prefer_agreeing, rank
from service.sam.point_agreement import point_taps
from service.sam.prompts import Prompt, decoder_inputs
from service.sam.refinement import needs_box_of_mask, with_box_of_mask
from service.sam.rle import encode_rle
from service.sam.transforms import TAPS, Upsampling, upsampling

TESTS = Path(__file__).parent / "decoding.test.mjs"
TIMEOUT_S = 120
# Sizes (H, W) with either side the longer, larger and smaller than the frame, square, and as narrow as can be.
SIZES = [(240, 320), (1500, 1100), (1024, 1024), (37, 53), (3, 1700), (900, 1)]
POINTS = [(10.5, 3.0), (1.0, 2.9)]


def text(array):
    """An array's bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def unrounded():
    """float32 numbers of every size, and those that are hard to round: halfway between two, and at the ends."""
    random = np.random.default_rng(8)
    spread = random.normal(size=20000) * 10.0 ** random.integers(-9, 7, 20000)
    float16_numbers = random.integers(0, 0x7C00, 4000, dtype=np.uint16).view(np.float16).astype(np.float64)
    next_ones = np.nextafter(float16_numbers.astype(np.float16), np.float16(np.inf)).astype(np.float64)
    ends = [65504, 65519.996, 65520, 65536, 1e38, np.inf, 0.0, 2.0**-14, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 1e-45]
    numbers = np.concatenate((spread, (float16_numbers + next_ones) / 2, ends)).astype(np.float32)
    return np.concatenate((numbers, -numbers))


def prompt_cases():
    """Prompts of every kind, with the table that the service makes of each."""
    box = (-4.0, 2.5, 12.0, 40.25)
    cases = []
    for height, width in SIZES:
        for points, with_box in ((POINTS, False), (POINTS[:1], True), ([], True), ([], False)):
            labels = [number % 2 for number in range(len(points))]
            prompt = Prompt(
                points=np.array(points, np.float64).reshape(-1, 2),
                labels=np.array(labels, np.int64),
                box=np.array(box) if with_box else None,
            )
            tokens, kinds = decoder_inputs([prompt], Frame((height, width)))
            sent = {"points": [{"x": x, "y": y, "label": kind} for (x, y), kind in zip(points, labels, strict=True)]}
            cases.append(
                {
                    "prompt": {**sent, **({"box": box} if with_box else {})},
                    "size": {"width": width, "height": height},
                    "points": tokens.ravel().astype(float).tolist(),
                    "labels": kinds.ravel().tolist(),
                }
            )
    return cases


def matrix(axis: Upsampling):
    """An axis's operator as (n, 256)."""
    operator = np.zeros((len(axis.first), 256))
    for tap in range(TAPS):
        operator[np.arange(len(axis.first)), axis.first + tap] = axis.weights[:, tap]
    return operator


def mask_cases():
    """Logits like those of objects, and their masks; `unsure` counts pixels whose logit is 0 but for rounding."""
    random = np.random.default_rng(9)
    fields = [cv2.GaussianBlur(random.normal(0, 90, (256, 256)), (0, 0), blur) for blur in (9.0, 1.2)]
    fields += [np.full((256, 256), -3.0), np.full((256, 256), 3.0)]
    cases = []
    for size in SIZES:
        for field in fields:
            logits = field.astype(np.float32)
            drawn = described(binary_mask(logits, Frame(size)), logits)
            cases.append({"logits": text(logits), "size": {"width": size[1], "height": size[0]}, **drawn})
    return cases


def described(mask, logits):
    """Return what the service says of the mask of some logits; `unsure` as in `mask_cases`."""
    rows, columns = upsampling(Frame(mask.size))
    exact = matrix(rows) @ logits @ matrix(columns).T
    unsure = int(np.count_nonzero(np.abs(exact) < 1e-5 * np.abs(logits).max()))
    return {"rle": encode_rle(mask), "area": mask.area, "box": mask.box, "unsure": unsure}


def enlarged_piece_cases():
    """Masks of noise, boards, nothing and everything with pixels at points, and the same without small pieces."""
    random = np.random.default_rng(13)
    cases = []
    for height, width in [(1, 1), (1, 40), (40, 1), (19, 31), (60, 45)]:
        pixels = [random.random((height, width)) < share for share in (0.0, 0.3, 0.5, 0.6, 0.9)]
        pixels += [np.ones((height, width), bool), np.indices((height, width)).sum(0) % 4 < 2]
        for each in pixels:
            positive, negative = random.integers(0, height * width, (2, random.integers(0, 4)))
            mask = BinaryMask.cut((height, width), 0, 0, each)
            cases.append(
                {
                    "size": {"width": width, "height": height},
                    "counts": encode_rle(mask)["counts"],
                    "marked": {"positive": positive.tolist(), "negative": negative.tolist()},
                    "filtered": encode_rle(filter_enlarged(mask, MarkedPixels(positive, negative)))["counts"],
                }
            )
    return cases


def candidate_cases():
    """Prompts of every kind and rules of every kind, with the outputs and the number of masks that they may get."""
    rules = [
        (ranking, masks)
        for ranking in (Ranking(), Ranking(bias=(0.2, 0.0, 0.0, 0.0)))
        for masks in (AutoMasks(), AutoMasks(ambiguous=(1, 2, 3)), AutoMasks(ambiguous=(3, 1), other=(2, 1)))
    ]
    box, mask_logits = (2.0, 3.0, 9.0, 8.0), np.zeros((256, 256), np.float32)
    cases = []
    for points in (POINTS, POINTS[:1], []):
        for has_box, has_mask in ((False, False), (True, False), (False, True)):
            sent = {"points": [{"x": x, "y": y} for x, y in points]} if points else {}
            sent |= {"box": box} if has_box else {}
            prompt = Prompt(
                points=np.array(points, np.float64).reshape(-1, 2),
                labels=np.ones(len(points), np.int64),
                box=np.array(box) if has_box else None,
                mask_logits=mask_logits if has_mask else None,
            )
            for mask in ({"mask_id": "0" * 32}, {"mask_logits": text(mask_logits)}) if has_mask else ({},):
                cases += [
                    {
                        "multimask": multimask,
                        "prompt": sent | mask,
                        "rules": {
                            "ranking": ranking.model_dump(mode="json"),
                            "auto_masks": masks.model_dump(mode="json"),
                        },
                        "indices": candidates(multimask, prompt, choice),
                        "count": mask_count(multimask, prompt, choice),
                    }
                    for multimask in ("auto", 1, 3, 4)
                    for ranking, masks in rules
                    for choice in (MaskChoice(masks.ambiguous, masks.other, ranking.compares_all),)
                ]
    return cases


def ranking_cases():
    """Rules of every kind on what four outputs may be, also on ties and on what is no number."""
    random = np.random.default_rng(11)
    rules = [Ranking(), Ranking(stability=0.0, agreement=0.0), Ranking(bias=(0.1, 0.0, 0.0, 0.0), predicted_iou=0.3)]
    rules += [
        Ranking(bias=tuple(random.normal(0, 0.3, 4)), stability=random.normal(), predicted_iou=random.normal())
        for _ in range(40)
    ]
    special = np.array([0.0, 0.5, 0.5, 1.0, -2.0, np.nan, np.inf, -np.inf], np.float32)
    cases = []
    for rule in rules:
        drawn = random.random((2, 4)).astype(np.float32)
        for stability, predicted_iou in (drawn, random.choice(special, (2, 4))):
            scores = rule.scores(stability.tolist(), predicted_iou.tolist())
            indices = random.permutation(4)[: random.integers(1, 5)].tolist()
            cases.append(
                {
                    "ranking": rule.model_dump(mode="json"),
                    "stability": text(stability),
                    "predictedIou": text(predicted_iou),
                    "scores": text(np.array(scores)),
                    "limited": text(np.array([limited_score(score) for score in scores])),
                    "indices": indices,
                    "order": rank(scores, indices),
                    "agrees": (agrees := random.random(4) < 0.5).tolist(),
                    "preferred": rank(prefer_agreeing(scores, agrees.tolist(), rule.agreement), indices),
                }
            )
    return cases


def cleanup_cases():
    """Blobs with islands and holes, prompts of every kind, and the cleaned logits; `box` is that of the prompt."""
    random = np.random.default_rng(12)
    cases = []
    for size in SIZES:
        for _ in range(4):
            logits = cv2.GaussianBlur(random.normal(0, 90, (256, 256)), (0, 0), 4.0).astype(np.float32)
            points = random.uniform(0, 1, (random.integers(0, 4), 2)) * size[::-1]
            labels = random.integers(0, 2, len(points))
            corners = np.sort(random.uniform(-0.2, 1.2, (2, 2)), axis=0) * size[::-1]
            box = corners.reshape(4) if random.random() < 0.5 else None
            prompt = Prompt(points, labels, box, mask_logits=logits)
            completed = with_box_of_mask(prompt, Frame(size), filter_pieces) if needs_box_of_mask(prompt) else prompt
            cleaner = MaskCleaner(completed, Frame(size), filter_pieces)
            cleaned = cleaner.clean(logits)
            mask = filter_enlarged(binary_mask(cleaned, Frame(size)), marked_pixels(completed, size))
            sent = {
                "points": [
                    {"x": x, "y": y, "label": int(kind)} for (x, y), kind in zip(points.tolist(), labels, strict=True)
                ]
            }
            cases.append(
                {
                    "logits": text(logits),
                    "size": {"width": size[1], "height": size[0]},
                    "prompt": {**sent, **({} if box is None else {"box": box.tolist()})},
                    "box": None if completed.box is None else completed.box.tolist(),
                    "cleaned": text(cleaned),
                    "mask": described(mask, cleaned),
                    "agrees": bool(point_taps(completed, Frame(size)).agree(logits).all()),
                }
            )
    return cases


def pair_cases():
    """Pairs of masks of one size, and how far they agree."""
    random = np.random.default_rng(10)
    masks = [random.random((19, 31)) < share for share in (0.0, 0.1, 0.5, 0.97)] + [np.ones((19, 31), bool)]
    cases = []
    for one in masks:
        for other in masks:
            union = np.count_nonzero(one | other)
            agreement = np.count_nonzero(one & other) / union if union else 1.0
            rles = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in (one, other)]
            first, second = ({"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles)
            cases.append({"one": first, "other": second, "agreement": agreement})
    return cases


def test_the_decoding_modules_in_node(tmp_path):
    node = needed_program("node", "nodejs")
    numbers = unrounded()
    with np.errstate(over="ignore"):
        rounded = numbers.astype(np.float16)
    made = {
        "singles": text(np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)),
        "unrounded": text(numbers),
        "rounded": text(rounded),
        "prompts": prompt_cases(),
        "candidates": candidate_cases(),
        "rankings": ranking_cases(),
        "masks": mask_cases(),
        "enlargedPieces": enlarged_piece_cases(),
        "cleanups": cleanup_cases(),
        "pairs": pair_cases(),
    }
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps(made))

    ran = subprocess.run(
        [node, "--test", str(TESTS)],
        env={**os.environ, "EDGESAM_TEST_CASES": str(cases)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]

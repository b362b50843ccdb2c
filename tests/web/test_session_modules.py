"""The page's objects, prompts, masks, handles, brush and regions in Node: `session`, `editing` and `regions`."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
from pycocotools import mask as coco
from support.browser import needed_program
from support.mask_cases import mask_cases

TESTS = [Path(__file__).parent / name for name in ("session.test.mjs", "editing.test.mjs", "regions.test.mjs")]
TIMEOUT_S = 120


def rle_of(mask):
    """The run lengths of a mask (H, W) bool, as the service writes them."""
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def with_area_and_box(mask):
    """A mask with what pycocotools says about it; the box is exclusive at its end."""
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    x, y, width, height = map(int, coco.toBbox(rle))
    return {"rle": rle_of(mask), "area": int(coco.area(rle)), "box": [x, y, x + width, y + height]}


def union_cases():
    """Masks of one size and their union."""
    random = np.random.default_rng(12)
    groups = [[random.random((19, 31)) < share for share in shares] for shares in [(0.1, 0.5), (0.02,) * 5, (0.9, 0.9)]]
    full, empty, left = np.ones((5, 7), bool), np.zeros((5, 7), bool), np.zeros((5, 7), bool)
    left[:, :3] = True
    groups += [[empty, empty], [full, empty], [left, ~left], [empty, left, full]]
    return [{"parts": [rle_of(mask) for mask in group], "rle": rle_of(np.any(group, axis=0))} for group in groups]


def test_the_session_modules_in_node(tmp_path):
    node = needed_program("node", "nodejs")
    masks = [*mask_cases().values(), np.zeros((6, 8), bool)]
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps({"masks": [with_area_and_box(mask) for mask in masks], "unions": union_cases()}))

    ran = subprocess.run(
        [node, "--test", *map(str, TESTS)],
        env={**os.environ, "EDGESAM_TEST_CASES": str(cases)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]

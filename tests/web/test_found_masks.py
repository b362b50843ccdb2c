"""The look-up of found masks in Node: `found_masks.test.mjs` with masks made here."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
from pycocotools import mask as coco
from support.browser import needed_program

TESTS = Path(__file__).parent / "found_masks.test.mjs"
TIMEOUT_S = 120
SIZE = (23, 31)  # height and width of the image


def masks():
    """Masks (H, W) bool that overlap and nest: noise, a disc, a ring, the whole image, and single pixels."""
    random = np.random.default_rng(7)
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(rows - 11, columns - 15)
    corners = np.zeros(SIZE, bool)
    corners[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    noise = [random.random(SIZE) < share for share in (0.1, 0.5, 0.9)]
    return [*noise, distance < 8, (distance > 4) & (distance < 10), np.ones(SIZE, bool), corners]


def test_the_look_up_of_found_masks(tmp_path):
    node = needed_program("node", "nodejs")
    made = masks()
    written = []
    for index, mask in enumerate(made):
        rle = coco.encode(np.asfortranarray(mask, np.uint8))
        x, y, width, height = map(int, coco.toBbox(rle))
        written.append(
            {
                "id": 10 + index,
                "rle": {"size": rle["size"], "counts": rle["counts"].decode()},
                "area": int(mask.sum()),
                "box": [x, y, x + width, y + height],
            }
        )
    by_area = sorted(range(len(made)), key=lambda index: written[index]["area"])
    inside = [[[10 + index for index in by_area if made[index][y, x]] for x in range(SIZE[1])] for y in range(SIZE[0])]
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps({"masks": written, "inside": inside}))

    ran = subprocess.run(
        [node, "--test", str(TESTS)],
        env={**os.environ, "EDGESAM_TEST_CASES": str(cases)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]

"""Masks with holes, islands, thin parts and pixels that touch only at a corner."""

import cv2
import numpy as np


def mask_cases():
    """Masks by name, (H, W) bool."""
    random = np.random.default_rng(11)
    rows, columns = np.indices((60, 80))
    distance = np.hypot(rows - 30, columns - 40)
    rings = (distance.astype(int) // 5) % 2 == 0
    frames = np.ones((23, 31), bool)
    frames[3:20, 3:28], frames[5:18, 5:26], frames[7:16, 7:14], frames[7:16, 16:24] = False, True, False, False
    blob = cv2.GaussianBlur(random.normal(size=(90, 120)), (0, 0), 6) > 0
    noise = {f"noise {share}": random.random((24, 33)) < share for share in (0.1, 0.5, 0.7, 0.95)}
    return {
        "one pixel": np.ones((1, 1), bool),
        "column": np.ones((9, 1), bool),
        "full": np.ones((7, 5), bool),
        "diagonal": np.eye(9, dtype=bool),
        "holes that touch at corners": ~np.eye(9, dtype=bool),
        "chequers": np.indices((12, 14)).sum(0) % 2 == 0,
        "rings": rings,
        "frames": frames,
        "blob": blob,
        "not the blob": ~blob,
        **noise,
    }

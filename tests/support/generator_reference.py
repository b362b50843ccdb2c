"""Steps of SAM's official generator on made-up answers of a decoder: four scenes and small tables.

Arrays: docs/explanation/everything.md, section "Conformance". The folder is not part of the repository.
"""

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from support.reference_file import ReferenceFile
from support.sam_family_weights import FAMILY_FULL

FILE = FAMILY_FULL / "amg.npz"
SCENES = ("plain", "regions", "crops", "loose")


class GeneratorReference(ReferenceFile):
    """The arrays of all scenes and tables, read on first use."""

    def __init__(self) -> None:
        super().__init__(FILE, ())

    def scene(self, name: str) -> "Scene":
        """Return a scene by its name."""
        return Scene(name, self.group(name))

    def tables(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of a small table by their names in it."""
        return self.group(name)


class Scene:
    """A scene with the options of its generator.

    Args:
        name: Name of the scene.
        arrays: Arrays of the scene by their names.
    """

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        self.name, self.arrays = name, arrays
        options = json.loads(str(arrays["options"]))
        self.points_per_side: int = options["points_per_side"]
        self.layers: int = options.get("crop_n_layers", 0)
        self.downscale: int = options.get("crop_n_points_downscale_factor", 1)
        self.overlap_ratio: float = options.get("crop_overlap_ratio", 512 / 1500)
        self.crop_nms_thresh: float = options.get("crop_nms_thresh", 0.7)
        self.pred_iou_thresh: float = options.get("pred_iou_thresh", 0.88)
        self.stability_score_thresh: float = options.get("stability_score_thresh", 0.95)
        self.stability_score_offset: float = options.get("stability_score_offset", 1.0)
        self.box_nms_thresh: float = options.get("box_nms_thresh", 0.7)
        self.min_mask_region_area: int = options["min_mask_region_area"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        height, width = self.arrays["size"].tolist()
        return height, width

    @cached_property
    def crops(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Logits (3 N, h, w), predicted IoU (3 N,) and points (N, 2) of each crop; made anew, and compared by hash."""
        digest = hashlib.sha256()
        found = []
        for index, box in enumerate(self.arrays["crop_boxes"]):
            x0, y0, x1, y1 = box.tolist()
            points = self.arrays[f"crop{index}/points"]
            logits, scores = _answers(self.name, index, points, (y1 - y0, x1 - x0))
            digest.update(logits.tobytes())
            digest.update(scores.tobytes())
            found.append((logits.reshape(-1, y1 - y0, x1 - x0), scores.ravel(), points))
        assert digest.hexdigest() == str(self.arrays["inputs_sha256"]), "the inputs are not those of the arrays"
        return found

    def of_crop(self, index: int, name: str) -> np.ndarray:
        """Return an array of a crop."""
        return self.arrays[f"crop{index}/{name}"]

    def records(self, name: str) -> np.ndarray:
        """Return a member of the records of the scene."""
        return self.arrays[f"records/{name}"]

    def run_lengths(self) -> list[list[int]]:
        """Return the uncompressed run lengths of the records."""
        return json.loads(str(self.arrays["records/rle_counts"]))


def _answers(scene: str, crop: int, points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    path = FAMILY_FULL / "amg_inputs.py"
    spec = importlib.util.spec_from_file_location("amg_inputs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.answers(scene, crop, points, size)

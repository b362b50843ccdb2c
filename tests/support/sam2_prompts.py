"""Random prompts of every kind for models of SAM 2's family, as JSON and as arguments of the predictor in PyTorch."""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from support.answered_masks import as_mask_logits, logits_of
from support.sam_family_reference import family_image
from support.service_client import segment

SIZES = ((600, 800), (600, 200), (180, 900))
"""Heights and widths of the images: 4:3, 1:3 and 5:1."""
KINDS = (
    "point", "points", "box", "box and point", "box and points",
    "mask id", "mask id and points", "mask logits", "mask logits and box",
)  # fmt: skip
MULTIMASKS: tuple[int | str, ...] = ("auto", 1, 3, 4)


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt.

    Attributes:
        number: Number in the sequence.
        image: Number of the image in `SIZES`.
        kind: Kind in `KINDS`.
        multimask: Number of masks, or "auto".
        arrays: Points (N, 2), labels (N,), box (4,) and mask logits (256, 256), those that the kind has.
    """

    number: int
    image: int
    kind: str
    multimask: int | str
    arrays: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"prompt {self.number}, {self.kind}, multimask {self.multimask}, image {SIZES[self.image]}"

    def document(self) -> dict[str, Any]:
        """Return the prompt as JSON. A mask by its id is added by `refining`."""
        found: dict[str, Any] = {}
        if "points" in self.arrays:
            pairs = zip(self.arrays["points"].tolist(), self.arrays["labels"].tolist(), strict=True)
            found["points"] = [{"x": x, "y": y, "label": label} for (x, y), label in pairs]
        if "box" in self.arrays:
            found["box"] = self.arrays["box"].tolist()
        if "mask_logits" in self.arrays:
            found["mask_logits"] = as_mask_logits(self.arrays["mask_logits"])
        return found


def image_arrays() -> list[np.ndarray]:
    """Return the images of `SIZES`, (H, W, 3) uint8: parts of the image for which the seeded weights are made."""
    whole = family_image()
    return [np.ascontiguousarray(whole[:height, :width]) for height, width in SIZES]


def png_file(image: np.ndarray) -> bytes:
    """Return an image as PNG, which is lossless."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def random_prompts(count: int, *, seed: int, kinds: tuple[str, ...] = KINDS) -> Iterator[Asked]:
    """Yield prompts of all kinds, on all images and with all numbers of masks, in turn."""
    rng = np.random.default_rng(seed)
    combinations = itertools.cycle(itertools.product(MULTIMASKS, range(len(SIZES)), kinds))
    for number, (multimask, image, kind) in enumerate(itertools.islice(combinations, count)):
        yield Asked(number, image, kind, multimask, _arrays(rng, kind, SIZES[image]))


def refining(client: Any, image_id: str, asked: Asked) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON of a prompt and the predictor's arguments, for "mask id" with a mask that the service made."""
    arrays, document = dict(asked.arrays), asked.document()
    if "mask id" in asked.kind:
        height, width = SIZES[asked.image]
        first = {"box": [width / 5, height / 6, width * 0.7, height * 0.8]}
        masks = segment(client, image_id, first, multimask=4, format="logits")[0]
        mask = masks[asked.number % len(masks)]
        document["mask_id"] = mask["mask_id"]
        arrays["mask_logits"] = logits_of(mask)
    return document, arrays


def mask_iou(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the IoU of two masks, 1.0 where both are empty."""
    union = int((found | expected).sum())
    return 1.0 if union == 0 else int((found & expected).sum()) / union


def _arrays(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    arrays: dict[str, Any] = {}
    if "point" in kind:
        count = int(rng.integers(2, 7)) if "points" in kind else 1
        arrays["points"] = rng.uniform((0, 0), (width, height), (count, 2)).round(2)
        # With negative points alone, the service adds the box of the earlier mask.
        arrays["labels"] = np.concatenate([[1], rng.integers(0, 2, count - 1)])
    if "box" in kind:
        corners = np.sort(rng.uniform(0.0, 1.0, (2, 2)), axis=0).ravel()
        arrays["box"] = np.clip(corners * (width, height, width, height) + (0, 0, 2, 2), 0, (width, height) * 2)
    if "mask logits" in kind:
        y, x = np.mgrid[:256, :256]
        center_y, center_x, radius = rng.uniform((30, 30, 20), (220, 220, 100))
        logits = np.clip((radius - np.hypot(y - center_y, x - center_x)) / 4, -12, 12)
        arrays["mask_logits"] = logits.astype(np.float16).astype(np.float32)
    return arrays

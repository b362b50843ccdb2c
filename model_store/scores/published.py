"""Answers that others state for the published checkpoints, as data.

They are numbers that the tests of the library transformers assert. That library rounds the resized image to grey
levels, which SAM 2's own code does not. So scores agree within about 0.01 and logits within some tenths, and the
tolerances are about twice that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Corner = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """The image of the answers.

    Args:
        file_name: Name of the file.
        url: Address of the file.
        width: Width in pixels.
        height: Height in pixels.
        origin: Source and licence of the image, one sentence.
    """

    file_name: str
    url: str
    width: int
    height: int
    origin: str


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """One prompt and the answer that is stated for it.

    Args:
        title: Name of the prompt in tables.
        masks: Number of masks that are asked for: 1, or 3 for outputs 1 to 3.
        scores: Predicted IoU of each mask, highest first.
        point: Positive point (x, y), pixels; None for a box.
        box: Box (x0, y0, x1, y1), pixels; None for a point.
        corner: First two logits of the first row of the best mask, not limited; None where they are not stated.
    """

    title: str
    masks: Literal[1, 3]
    scores: tuple[float, ...]
    point: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    corner: Corner | None = None


@dataclass(frozen=True, slots=True)
class PublishedScores:
    """Answers of one model.

    Args:
        image: Image of the prompts.
        prompts: Prompts and answers.
        source: Document that states the answers.
        score_tolerance: Largest difference of a score.
        logit_tolerance: Largest difference of a logit.
    """

    image: ScoredImage
    prompts: tuple[ScoredPrompt, ...]
    source: str
    score_tolerance: float = 0.02
    logit_tolerance: float = 1.0


_TRUCK: Final = ScoredImage(
    "truck.jpg",
    "https://huggingface.co/datasets/hf-internal-testing/sam2-fixtures/resolve/main/truck.jpg",
    1800,
    1200,
    "truck.jpg is an image of the example notebooks of SAM and SAM 2, whose repositories are under Apache-2.0.",
)
_CLICK: Final = (500.0, 375.0)
_BOXES: Final = (
    (75.0, 275.0, 1725.0, 850.0),
    (425.0, 600.0, 700.0, 875.0),
    (1375.0, 550.0, 1650.0, 800.0),
    (1240.0, 675.0, 1400.0, 750.0),
)


def _truck(
    model: str,
    three: tuple[float, float, float],
    three_corner: Corner,
    single: float,
    single_corner: Corner,
    boxes: tuple[float, float, float, float],
) -> PublishedScores:
    point = f"point ({_CLICK[0]:g}, {_CLICK[1]:g})"
    return PublishedScores(
        _TRUCK,
        (
            ScoredPrompt(f"{point}, three masks", 3, three, point=_CLICK, corner=three_corner),
            ScoredPrompt(f"{point}, one mask", 1, (single,), point=_CLICK, corner=single_corner),
            *(
                ScoredPrompt(f"box {tuple(map(int, box))}", 1, (score,), box=box)
                for box, score in zip(_BOXES, boxes, strict=True)
            ),
        ),
        f"tests of the library transformers 5.24 (tests/models/{model})",
    )


PUBLISHED_SCORES: Final[Mapping[str, PublishedScores]] = {
    "edgetam": _truck(
        "edgetam",
        (0.7621, 0.4859, 0.0461),
        (-19.55, -22.35),
        0.7621,
        (-19.55, -22.35),
        (0.9773, 0.9415, 0.9683, 0.8792),
    ),
    "sam2.1-tiny": _truck(
        "sam2",
        (0.9547, 0.4932, 0.0427),
        (-24.93, -41.75),
        0.9364,
        (-7.05, -13.39),
        (0.9904, 0.9689, 0.9770, 0.9079),
    ),
}
"""Answers by the name of the published model, which is that of its architecture."""

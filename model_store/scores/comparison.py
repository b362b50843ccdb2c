"""Compares the answers of an installed model with published ones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_store.architectures import ARCHITECTURES
from model_store.catalogue.published import PUBLISHED
from model_store.errors import UsageError
from model_store.scores.answers import Answer, answers
from model_store.scores.published import PUBLISHED_SCORES, PublishedScores, ScoredPrompt
from service.manifest import Manifest
from service.sam.decoded_image import DecodedImage
from service.sam.prompts import POSITIVE, Prompt


@dataclass(frozen=True, slots=True)
class ComparedNumber:
    """One published number beside the one that the model gives.

    Args:
        title: Name of the prompt.
        number: Name of the number, such as "score of mask 2".
        expected: Published value.
        found: Value of the model.
        tolerance: Largest difference that is no fault.
    """

    title: str
    number: str
    expected: float
    found: float
    tolerance: float

    @property
    def difference(self) -> float:
        return self.found - self.expected

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; False for a value that is no number."""
        return math.isfinite(self.found) and abs(self.difference) <= self.tolerance


def published_name(manifest: Manifest) -> str:
    """Return the name under which scores of a model's architecture are published.

    Raises:
        UsageError: There are none.
    """
    names = (name for name, entry in ARCHITECTURES.items() if entry.title == manifest.architecture)
    name = next((name for name in names if name in PUBLISHED_SCORES), None)
    if name is None:
        known = ", ".join(PUBLISHED_SCORES)
        raise UsageError(
            f"no scores are published for {manifest.name}, whose architecture is {manifest.architecture}; there are "
            f"scores for {known}"
        )
    return name


def is_other_checkpoint(manifest: Manifest, name: str) -> bool:
    """Return whether a model was not made from the checkpoint whose scores are published.

    Args:
        manifest: Manifest of the model.
        name: Name of the published model.
    """
    return name not in PUBLISHED or manifest.source_sha256 != PUBLISHED[name].sha256


def compared(
    directory: Path, manifest: Manifest, image: DecodedImage, published: PublishedScores
) -> list[ComparedNumber]:
    """Return all published numbers beside those of a model.

    Args:
        directory: Folder of an artifact in the served layout.
        manifest: Its manifest.
        image: Image of the published answers.
        published: The published answers.

    Raises:
        UsageError: The artifact has another layout.
    """
    if manifest.layout != "served":
        raise UsageError(f"{manifest.name} has the layout {manifest.layout}; scores need the layout served")
    prompts = [_prompt(each) for each in published.prompts]
    found = answers(directory, manifest, image, prompts, [each.masks for each in published.prompts])
    return [
        number
        for prompt, answer in zip(published.prompts, found, strict=True)
        for number in _numbers(prompt, answer, published)
    ]


def _prompt(scored: ScoredPrompt) -> Prompt:
    box = None if scored.box is None else np.array(scored.box, np.float64)
    if scored.point is None:
        return Prompt(box=box)
    return Prompt(np.array([scored.point], np.float64), np.array([POSITIVE], np.int64), box)


def _numbers(prompt: ScoredPrompt, answer: Answer, published: PublishedScores) -> Iterator[ComparedNumber]:
    for place, (expected, score) in enumerate(zip(prompt.scores, answer.scores, strict=True), start=1):
        number = "score" if prompt.masks == 1 else f"score of mask {place}"
        yield ComparedNumber(prompt.title, number, expected, score, published.score_tolerance)
    if prompt.corner is not None:
        for column, (expected, logit) in enumerate(zip(prompt.corner, _corner(answer), strict=True)):
            number = f"logit (0, {column}) of the best mask"
            yield ComparedNumber(prompt.title, number, expected, logit, published.logit_tolerance)


def _corner(answer: Answer) -> Sequence[float]:
    """Return the first two logits of the first row."""
    return [float(logit) for logit in answer.mask_logits[0, :2]]

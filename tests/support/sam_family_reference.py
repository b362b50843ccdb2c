"""Outputs of the official codes of the SAM family with the weights of `sam_family_weights`.

Arrays: docs/explanation/sam-family.md. The committed part has some arrays of two architectures, whose epsilons differ.
Their exact embeddings are restored from our own, see `official_reference.float16_with_parity`.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from support.official_reference import float16_with_parity
from support.reference_file import ReferenceFile
from support.sam_family_weights import FAMILY_COMMITTED, FAMILY_FULL, family_file

from service.sam.prompts import Prompt

# Architectures with reference arrays of prompts, not of the encoder alone.
FULL_NAMES = ("sam-vit-b", "mobile-sam", "tiny-sam", "repvit-sam", "efficientvit-sam-l0", "efficientvit-sam-xl0")
COMMITTED_NAMES = ("mobile-sam", "efficientvit-sam-l0")

CASES = ("point1", "point2_posneg", "box", "box_points", "point_mask", "mask_only", "no_prompt", "boxes3")
COMMITTED_CASES = ("point1", "box_points", "point_mask", "boxes3")
CALLS = ("point_multi", "points_single", "box_single", "box_point_mask_multi")


@dataclass(frozen=True, slots=True)
class Case:
    """A case of the decoder.

    Attributes:
        name: Name of the case.
        prompts: P prompts in the frame of 1024 pixels.
        expected: Arrays of the case by their names.
    """

    name: str
    prompts: list[Prompt]
    expected: Mapping[str, np.ndarray]


class FamilyReference(ReferenceFile):
    """The reference arrays of one architecture, read on first use."""

    @property
    def has_embedding(self) -> bool:
        """Whether the exact embedding is stored, and not only its last bits."""
        return "embedding_f16" in self.arrays

    def embedding(self, computed: np.ndarray | None = None) -> np.ndarray:
        """Return the embedding (1, 256, 64, 64) of the decoder's cases, float16 values as float32.

        Args:
            computed: Our own embedding of the image; needed where the exact one is not stored.
        """
        if self.has_embedding:
            return self.arrays["embedding_f16"].astype(np.float32)
        assert computed is not None, "the committed arrays need our own embedding"
        return float16_with_parity(computed, np.unpackbits(self.arrays["embedding_parity"])).astype(np.float32)

    def cases(self) -> Iterator[Case]:
        """Return the cases of the decoder."""
        for name in map(str, self.arrays["case_names"]):
            yield Case(name, list(_prompts(self.group(name))), self.group(name))


def open_family(name: str, part: str) -> FamilyReference:
    """Return the "committed" or the "full" reference of an architecture; skip the test where the latter is missing.

    Args:
        name: Name of the architecture, for instance ``mobile-sam``.
        part: "committed" or "full".
    """
    path = (FAMILY_COMMITTED if part == "committed" else FAMILY_FULL) / family_file(name)
    if part == "full" and not path.is_file():
        pytest.skip("the full conformance fixtures are not beside the repository")
    return FamilyReference(path, CALLS)


def family_image_file() -> bytes:
    """Return the file of the image of all reference arrays, lossless WebP."""
    return (FAMILY_COMMITTED / "image.webp").read_bytes()


def family_image() -> np.ndarray:
    """Return the image of all reference arrays, (600, 900, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(family_image_file())).convert("RGB"))


def mask_prompt() -> np.ndarray:
    """Return the logits of the cases with a mask prompt, (256, 256) float32: a disc."""
    rows, columns = np.indices((256, 256), np.float64)
    return (6.0 - np.hypot(rows - 96.0, columns - 120.0) / 12.0).astype(np.float32)


def _prompts(arrays: Mapping[str, np.ndarray]) -> Iterator[Prompt]:
    mask_logits = mask_prompt() if arrays["has_mask"] else None
    points, labels, boxes = (arrays.get(key) for key in ("points", "labels", "boxes"))
    for row in range(max((len(given) for given in (points, boxes) if given is not None), default=1)):
        given = {} if points is None else {"points": points[row].astype(np.float64), "labels": labels[row].astype(int)}
        yield Prompt(**given, box=None if boxes is None else boxes[row].astype(np.float64), mask_logits=mask_logits)

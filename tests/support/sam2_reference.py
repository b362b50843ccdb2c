"""Outputs of the official codes of SAM 2's family with the weights of `sam2_weights`.

Arrays: docs/explanation/sam2.md. The full files have all of them, the committed files some.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from support.reference_file import ReferenceFile
from support.reference_weights import uniform
from support.sam2_weights import SAM2_COMMITTED, SAM2_FULL, sam2_file

# Models with reference arrays of prompts. Only EdgeTAM's committed file has arrays of the predictor.
DECODER_NAMES = ("edgetam", "sam2.1-tiny")
COMMITTED_NAMES = DECODER_NAMES

CASES = ("point1", "point2_posneg", "box", "box_points", "point_mask", "mask_only", "no_prompt", "boxes3", "outside")
COMMITTED_CASES = ("point1", "box_points", "point_mask", "boxes3")
CALLS = ("point_multi", "points_single", "box_single", "box_point_mask_multi", "boxes3_multi")
COMMITTED_CALLS = ("points_single", "box_single")
COMMITTED_TAPS = (
    "stages_0", "stages_1", "stages_2", "stages_3",
    "pos_embed", "block0", "block2", "block3", "block4_attn_windows", "block9", "block11",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A case of the decoder.

    Attributes:
        name: Name of the case.
        expected: Arrays of the case by their names, its prompts among them: points (P, N, 2), labels (P, N) and boxes
            (P, 2, 2) in the frame of 1024 pixels. One point of "outside" has the label -1, which `Prompt` refuses.
    """

    name: str
    expected: Mapping[str, np.ndarray]


class SAM2Reference(ReferenceFile):
    """The reference arrays of one model, read on first use."""

    @cached_property
    def maps(self) -> Mapping[str, np.ndarray]:
        """The maps of the decoder's cases, see `decoder_maps`. They are not those of the image."""
        return decoder_maps(int(self.arrays["decoder_inputs_seed"]))

    def cases(self) -> Iterator[Case]:
        """Return the cases of the decoder."""
        for name in map(str, self.arrays["case_names"]):
            yield Case(name, self.group(f"case/{name}"))


def open_sam2(name: str, part: str) -> SAM2Reference:
    """Return the "committed" or the "full" reference of a model; skip the test where the latter is missing.

    Args:
        name: Name of the architecture, for instance ``edgetam``. The sizes of SAM 2.1 above tiny have arrays of the
            encoder only, and only in the full fixtures.
        part: "committed" or "full".
    """
    folder = SAM2_COMMITTED if part == "committed" else SAM2_FULL
    for suffix in (".npz", "_encoder.npz"):
        if (path := folder / sam2_file(name, suffix)).is_file():
            return SAM2Reference(path, CALLS)
    assert part == "full", f"no committed arrays of {name}"
    pytest.skip("the full conformance fixtures are not beside the repository")


def decoder_maps(seed: int) -> dict[str, np.ndarray]:
    """Return the maps of the reference's decoder cases: squares of four sizes on top of one another.

    Args:
        seed: Seed of the maps, the ``decoder_inputs_seed`` of a reference.

    Returns:
        float32: ``embedding`` (1, 256, 64, 64), ``high_res_s1`` (1, 64, 128, 128), ``high_res_s0`` (1, 32, 256, 256).
    """
    return {
        "embedding": _squares("embedding", 256, 64, 0.8, seed),
        "high_res_s1": _squares("high_res_s1", 64, 128, 0.6, seed),
        "high_res_s0": _squares("high_res_s0", 32, 256, 0.6, seed),
    }


def _squares(name: str, channels: int, side: int, scale: float, seed: int) -> np.ndarray:
    total = np.zeros((1, channels, side, side), np.float32)
    for cells, deviation in ((4, 0.9), (16, 0.7), (64, 0.5), (side, 0.3)):
        bound = scale * deviation * math.sqrt(3)
        values = uniform(f"{name}/{cells}", seed, (1, channels, cells, cells), -bound, bound)
        total += np.kron(values, np.ones((side // cells, side // cells), np.float32))
    return total

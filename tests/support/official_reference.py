"""Outputs of the official EdgeSAM with the weights of seed 0: the full fixtures, or the committed part of them.

Both have the same files and array names (docs/explanation/model.md, section 11); the committed part has fewer arrays,
and stores the image as lossless WebP and the embedding as one bit an element. ``tests/tools/cut_conformance_data.py``
lists the arrays that are left out.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

COMMITTED = Path(__file__).resolve().parents[1] / "model_store" / "reference_data"
FULL = Path(__file__).resolve().parents[2].parent / "shared" / "fixtures"

# The parts of decoder.npz and onnx_decoder.npz that are committed.
COMMITTED_CASES = ("point1", "box_2points", "point_ignored_point", "point_mask", "boxes3_points_boxlabel", "no_prompt")
COMMITTED_PROMPTS = ("point1", "box_as_2_3")

BOTH = ["committed", pytest.param("full", marks=pytest.mark.fixtures)]


class Reference:
    """Arrays of one folder, read on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def encoder(self) -> Mapping[str, np.ndarray]:
        return self._read("encoder")

    @cached_property
    def decoder(self) -> Mapping[str, np.ndarray]:
        return self._read("decoder")

    @cached_property
    def onnx_decoder(self) -> Mapping[str, np.ndarray]:
        return self._read("onnx_decoder")

    @cached_property
    def predictor(self) -> Mapping[str, np.ndarray]:
        return self._read("predictor")

    def embedding(self, computed: np.ndarray) -> torch.Tensor:
        """Return the embedding (1, 256, 64, 64) of the decoder's cases, float16 values as float32.

        Args:
            computed: Our own embedding of the image, only used where the exact one is not stored.
        """
        if "embedding_f16" in self.encoder:
            exact = self.encoder["embedding_f16"]
        else:
            exact = float16_with_parity(computed, np.unpackbits(self.encoder["embedding_parity"]))
        return torch.from_numpy(exact.astype(np.float32))

    def _read(self, name: str) -> Mapping[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as arrays:
            return dict(arrays)


def open_reference(name: str) -> Reference:
    """Return the "committed" or the "full" reference; skip the test when the latter is not on this machine."""
    if name == "committed":
        return Reference(COMMITTED)
    if not (FULL / "encoder.npz").is_file():
        pytest.skip(
            f"the full conformance fixtures are not beside the repository ({FULL.name}/ in {FULL.parent.name}/)"
        )
    return Reference(FULL)


def assert_parts_agree(parts: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Assert that parts and expected arrays of the same name are equal within an absolute tolerance."""
    for name, part in parts.items():
        if name in expected:
            np.testing.assert_allclose(part, expected[name], rtol=0, atol=tolerance, err_msg=name)


def reference_image() -> np.ndarray:
    """Return the image of the encoder's arrays, (1024, 1024, 3) uint8."""
    return np.asarray(Image.open(COMMITTED / "image.webp").convert("RGB"))


def float16_with_parity(values: np.ndarray, parity: np.ndarray) -> np.ndarray:
    """Return the float16 numbers nearest to ``values`` whose last bits are ``parity``.

    Our embedding is more exact than the distance of two float16 numbers. So one bit an element is enough to restore the
    official embedding from ours. Below 0.01 float16 is finer than our error, and a wrong choice is as small as that
    error.
    """
    rounded = values.astype(np.float16)
    direction = np.where(values > rounded.astype(np.float32), np.inf, -np.inf).astype(np.float16)
    other = np.nextafter(rounded, direction)
    is_right = (rounded.view(np.uint16) & 1) == parity.reshape(values.shape)
    return np.where(is_right, rounded, other)


def assert_masks_agree(logits: np.ndarray, bits: np.ndarray) -> None:
    """Assert that masks of ``logits`` (..., H, W) are those packed in ``bits`` (..., n), but for logits next to 0.

    Source: docs/explanation/model.md, section 11.
    """
    height, width = logits.shape[-2:]
    flat = logits.reshape(*logits.shape[:-2], height * width)
    expected = np.unpackbits(bits, axis=-1, count=height * width).astype(bool)
    differs = (flat > 0) != expected
    assert differs.shape == flat.shape
    assert np.abs(flat[differs]).max(initial=0.0) < 1e-4


def assert_stability_agrees(scores: np.ndarray, expected: np.ndarray, mask_logits: np.ndarray) -> None:
    """Assert stability scores (..., C) of ``mask_logits`` (..., C, H, W), but for pixels next to a threshold."""
    near = sum((np.abs(mask_logits - threshold) < 1e-4).sum((-2, -1)) for threshold in (-1.0, 1.0))
    pixels = np.maximum((mask_logits > -1).sum((-2, -1)), 1)
    assert scores.shape == expected.shape
    assert (np.abs(scores - expected) <= 1e-6 + near / pixels).all()


def stats(values: np.ndarray) -> np.ndarray:
    """Return [mean, standard deviation, sum of magnitudes, minimum, maximum], float64."""
    values = values.astype(np.float64)
    return np.array([values.mean(), values.std(), np.abs(values).sum(), values.min(), values.max()])


def assert_stats_agree(values: np.ndarray, expected: np.ndarray, *, extremes: float = 5e-5) -> None:
    """Assert the statistics of values; the sum is compared per element, like the others.

    Args:
        values: Array of any shape.
        expected: Its `stats`.
        extremes: Absolute tolerance of minimum and maximum, which are single elements.
    """
    scale = np.array([1.0, 1.0, values.size, 1.0, 1.0])
    ours, theirs = stats(values) / scale, expected / scale
    np.testing.assert_allclose(ours[:3], theirs[:3], rtol=0, atol=5e-5)
    np.testing.assert_allclose(ours[3:], theirs[3:], rtol=0, atol=extremes)

"""Reference arrays of the image encoders of the SAM family: every tap and the embedding of the reference image."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from support.official_reference import assert_stats_agree
from support.sam_family_weights import FAMILY_COMMITTED, FAMILY_FULL, family_file
from torch import nn


def open_encoder_reference(name: str, part: str) -> dict[str, np.ndarray]:
    """Return the "committed" or the "full" arrays of an architecture; skip the test where the latter are missing."""
    folder, suffixes = (
        (FAMILY_COMMITTED, ["_encoder.npz"]) if part == "committed" else (FAMILY_FULL, [".npz", "_encoder.npz"])
    )
    found = [path for suffix in suffixes if (path := folder / family_file(name, suffix)).is_file()]
    if part == "full" and not found:
        pytest.skip("the full conformance fixtures are not beside the repository")
    path = found[0]
    with np.load(path) as arrays:
        return dict(arrays)


def taps_of(encoder: nn.Module, modules: Mapping[str, nn.Module], image: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the outputs of modules by their names, and the "embedding", for one frame; each is (C, H, W)."""
    taken: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: taken.update({name: output}))
        for name, module in modules.items()
    ]
    with torch.inference_mode():
        taken["embedding"] = encoder(image)
    for hook in hooks:
        hook.remove()
    return {name: output[0].numpy() for name, output in taken.items()}


def assert_encoder_agrees(taps: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Assert that every tap of a reference and the embedding are equal within an absolute tolerance."""
    named = {key.removeprefix("tap/").removesuffix("_slice") for key in expected if key.startswith("tap/")}
    compared = sorted(name for name in named if not name.endswith(("_shape", "_stats", "_steps")))
    assert compared
    for name in compared:
        assert taps[name].shape == tuple(expected[f"tap/{name}_shape"])
        assert_part_agrees(taps[name], expected[f"tap/{name}_slice"], expected[f"tap/{name}_steps"], tolerance, name)
        assert_stats_agree(taps[name], expected[f"tap/{name}_stats"], extremes=tolerance)
    assert_embedding_agrees(taps["embedding"], expected, tolerance)


def assert_embedding_agrees(embedding: np.ndarray, expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Assert that an embedding (256, 64, 64) is that of a reference."""
    steps = expected.get("embedding_steps", np.array([1, 8, 8]))
    assert_part_agrees(embedding, expected["embedding_slice"], steps, tolerance, "embedding")
    assert_stats_agree(embedding, expected["embedding_stats"], extremes=tolerance)
    if "embedding_row63" in expected:
        np.testing.assert_allclose(embedding[:, 63], expected["embedding_row63"], rtol=0, atol=tolerance)


def assert_part_agrees(tap: np.ndarray, expected: np.ndarray, steps: np.ndarray, tolerance: float, name: str) -> None:
    """Assert that every n-th element of a tap along its axes, with the n of ``steps``, is as expected."""
    part = tap[tuple(slice(None, None, int(step)) for step in steps)]
    np.testing.assert_allclose(part, expected, rtol=0, atol=tolerance, err_msg=name)

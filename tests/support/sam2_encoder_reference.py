"""Comparison of an image encoder of SAM 2's family with the official one: taps of the trunk, neck and three maps."""

from collections.abc import Mapping

import numpy as np
import torch
from support.encoder_reference import assert_part_agrees
from support.official_reference import assert_stats_agree
from torch import nn
from torch.nn import functional

from model_store.network.encoders.sam2_neck import SAM2Encoder

MAPS = ("embedding", "high_res_s1", "high_res_s0")


class Maps(nn.Module):
    """An encoder as a module whose outputs are the three maps."""

    def __init__(self, encoder: SAM2Encoder) -> None:
        super().__init__()
        self.image_encoder = encoder

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        encoded = self.image_encoder.encode(image)
        assert encoded.high_res is not None
        return encoded.embedding, *encoded.high_res


def sam2_taps(encoder: SAM2Encoder, modules: Mapping[str, nn.Module], image: torch.Tensor) -> dict[str, np.ndarray]:
    """Return outputs of modules, of the neck's levels and the three maps for one frame, each (C, H, W).

    The encoder composes the neck's convolutions with those behind them. So the levels ``neck_conv0``, the deepest one,
    to ``neck_conv3`` and ``fpn0`` to ``fpn3`` are computed here from the trunk's outputs.

    Args:
        encoder: Encoder in eval mode.
        modules: Modules of the encoder by the names of their outputs. Each answers with (1, C, H, W).
        image: Frame, (1, 3, S, S).
    """
    taken: dict[str, torch.Tensor] = {}
    of_trunk: list[torch.Tensor] = []
    hooks = [encoder.trunk.register_forward_hook(lambda _module, _inputs, output: of_trunk.extend(output))]
    hooks += [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: taken.update({name: output}))
        for name, module in modules.items()
    ]
    with torch.inference_mode():
        encoded = encoder.encode(image)
        levels = [conv(tap) for conv, tap in zip(encoder.neck.convs, reversed(of_trunk), strict=True)]
        taken |= {f"neck_conv{index}": level for index, level in enumerate(levels)}
        levels[1] = levels[1] + functional.interpolate(levels[0], scale_factor=2, mode="nearest")
        taken |= {f"fpn{3 - index}": level for index, level in enumerate(levels)}
    for hook in hooks:
        hook.remove()
    assert encoded.high_res is not None
    taken |= dict(zip(MAPS, (encoded.embedding, *encoded.high_res), strict=True))
    return {name: output[0].numpy() for name, output in taken.items()}


def assert_maps_agree(maps: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Assert that the three maps (C, H, W) are those of a reference, within an absolute tolerance."""
    for name in MAPS:
        found = maps[name]
        assert found.shape == tuple(expected[f"{name}_shape"])
        assert_part_agrees(found, expected[f"{name}_slice"], expected[f"{name}_steps"], tolerance, name)
        assert_stats_agree(found, expected[f"{name}_stats"], extremes=tolerance)
        for statistic, of in (("mean", found.mean((1, 2), np.float64)), ("std", found.std((1, 2), np.float64))):
            if (key := f"{name}_chan_{statistic}") in expected:
                np.testing.assert_allclose(of, expected[key], rtol=0, atol=tolerance, err_msg=key)
        if (key := f"{name}_last_row") in expected:
            row = found[:: len(found) // len(expected[key]), -1]  # of every channel, or of every fourth one
            np.testing.assert_allclose(row, expected[key], rtol=0, atol=tolerance, err_msg=key)


def assert_sam2_taps_agree(
    taps: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float
) -> None:
    """Assert that every tap of a reference and the three maps are equal within an absolute tolerance."""
    named = [
        key.removeprefix("tap/").removesuffix("_shape") for key in expected if key.endswith("_shape") and "tap/" in key
    ]
    assert named
    for name in named:
        assert taps[name].shape == tuple(expected[f"tap/{name}_shape"])
        assert_part_agrees(taps[name], expected[f"tap/{name}_slice"], expected[f"tap/{name}_steps"], tolerance, name)
        assert_stats_agree(taps[name], expected[f"tap/{name}_stats"], extremes=tolerance)
    assert_maps_agree(taps, expected, tolerance)

"""Keys of SAM 2's family: those of the official files, and those that the networks of this project have.

The networks reuse SAM's prompt encoder and mask decoder, and EdgeSAM's RepViT blocks for EdgeTAM, so that one set of
modules and graphs serves both families. Files have the official keys; messages name these.

Source: docs/explanation/sam2.md, section "Checkpoint files".
"""

import re
from collections.abc import Iterable
from typing import Final

# Pairs of official and own text. Each official key contains at most one of them, and no own key contains one.
_PROMPT_ENCODER: Final = ("sam_prompt_encoder.", "prompt_encoder.")
_MASK_DECODER: Final = ("sam_mask_decoder.", "mask_decoder.")
_NO_MEMORY: Final = ("no_mem_embed", "image_encoder.no_mem_embed")
# Their results belong to the image, so the encoder computes them.
_OF_ENCODER: Final = tuple(
    (f"sam_mask_decoder.{name}.", f"image_encoder.{name}.") for name in ("conv_s0", "conv_s1")
)  # fmt: skip
_MLP: Final = ((".mlp.layers.0.", ".mlp.lin1."), (".mlp.layers.1.", ".mlp.lin2."))
# Parts of EdgeTAM's trunk, behind the name of a block, of a downsampling block, or of the stem.
_REPVIT: Final = (
    (".token_mixer.conv.", ".token_mixer.0.conv."),
    (".token_mixer.conv1.", ".token_mixer.0.conv1."),
    (".se.", ".token_mixer.1."),
    (".channel_mixer.conv1.", ".channel_mixer.m.0."),
    (".channel_mixer.conv2.", ".channel_mixer.m.2."),
    (".downsample.spatial_downsample.", ".downsample.token_mixer.0."),
    (".downsample.channel_downsample.", ".downsample.token_mixer.2."),
    (".downsample.ffn.conv1.", ".downsample.channel_mixer.m.0."),
    (".downsample.ffn.conv2.", ".downsample.channel_mixer.m.2."),
    (".stem.conv1.", ".stem.0."),
    (".stem.conv2.", ".stem.2."),
)
_REPVIT_TRUNK: Final = "image_encoder.trunk.body."
_TRANSFORMER_LAYER: Final = re.compile(r"mask_decoder\.transformer\.layers\.\d+\.mlp\.")


def our_name(key: str) -> str:
    """Return the key of this project's networks for a key of an official file; other keys stay as they are."""
    for official, ours in _OF_ENCODER:
        if key.startswith(official):
            return ours + key.removeprefix(official)
    if key == _NO_MEMORY[0]:
        return _NO_MEMORY[1]
    if key.startswith(_PROMPT_ENCODER[0]):
        return _PROMPT_ENCODER[1] + key.removeprefix(_PROMPT_ENCODER[0])
    if key.startswith(_MASK_DECODER[0]):
        own = _MASK_DECODER[1] + key.removeprefix(_MASK_DECODER[0])
        return _replaced(own, _MLP) if _TRANSFORMER_LAYER.match(own) else own
    if key.startswith(_REPVIT_TRUNK):
        return _replaced(key, _REPVIT)
    return key


def official_name(key: str) -> str:
    """Return the key of an official file for a key of this project's networks, the inverse of `our_name`."""
    for official, ours in _OF_ENCODER:
        if key.startswith(ours):
            return official + key.removeprefix(ours)
    if key == _NO_MEMORY[1]:
        return _NO_MEMORY[0]
    if key.startswith(_PROMPT_ENCODER[1]):
        return _PROMPT_ENCODER[0] + key.removeprefix(_PROMPT_ENCODER[1])
    if key.startswith(_MASK_DECODER[1]):
        own = _replaced(key, _inverse(_MLP)) if _TRANSFORMER_LAYER.match(key) else key
        return _MASK_DECODER[0] + own.removeprefix(_MASK_DECODER[1])
    if key.startswith(_REPVIT_TRUNK):
        # The names inside a downsampling block are also those of plain blocks: the longer, more exact ones come first.
        return _replaced(key, _inverse(sorted(_REPVIT, key=lambda pair: -len(pair[1]))))
    return key


def _inverse(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(ours, official) for official, ours in pairs]


def _replaced(key: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return a key with the first of these texts that it contains replaced."""
    for old, new in pairs:
        if old in key:
            return key.replace(old, new, 1)
    return key

"""Recognises the checkpoints of SAM 2's family by their keys, and names files of related models.

The files do not state windows, heads and global blocks of Hiera: they follow from its width and depth. A size that is
not in the table is therefore refused.

Source: docs/explanation/sam2.md, section "Checkpoint files".
"""

import re
from collections.abc import Mapping
from typing import Final

from model_store.checkpoint_files.errors import CheckpointError
from model_store.hiera_shape import HIERA_SHAPES

EDGETAM: Final = "edgetam"
_FAMILY: Final = re.compile(
    r"sam_mask_decoder\.|sam_prompt_encoder\.|memory_encoder\.|memory_attention\.|maskmem_tpos_enc$"
    r"|(image_encoder\.)?no_mem_embed$|image_encoder\.trunk\."
)
_TRUNK: Final = "image_encoder.trunk."
_QKV: Final = f"{_TRUNK}blocks.0.attn.qkv.weight"
_POSITIONS: Final = f"{_TRUNK}pos_embed"
_WINDOW_POSITIONS: Final = f"{_TRUNK}pos_embed_window"
_BLOCK: Final = re.compile(rf"{re.escape(_TRUNK)}blocks\.(\d{{1,4}})\.")
_EDGETAM_TRUNK: Final = f"{_TRUNK}body.stem."
_HIGH_RESOLUTION: Final = ("sam_mask_decoder.conv_s0.weight", "image_encoder.conv_s0.weight")

_TAKE_OFFICIAL: Final = "Take the checkpoint of SAM 2.1 or EdgeTAM instead: 'models list' shows them"
# Pattern of a key, and the sentence about files that contain such a key.
_RELATED: Final[tuple[tuple[str, str], ...]] = (
    (
        r"sam_mask_decoder\.(hf_token|hf_mlp|embedding_maskfeature|compress_vit_feat|embedding_encoder)\.",
        f"SAM-HQ 2: its decoder has one more mask token and further layers. {_TAKE_OFFICIAL}",
    ),
    (
        r"image_encoder\.neck\.convs\.\d+\.(conv_1x1|conv_3x3|norm_[01])\.",
        f"EfficientTAM: its image encoder is a plain ViT with one feature level. {_TAKE_OFFICIAL}",
    ),
    (
        r"(detector|tracker|detector_model|tracker_model)\.",
        f"SAM 3: it has another image encoder, and prompts of text. {_TAKE_OFFICIAL}",
    ),
    (
        r"vision_encoder\.backbone\.|no_memory_embedding$",
        (
            "SAM 2 or EdgeTAM as the library transformers renames it. Take the .pt file of the original authors, such "
            "as sam2.1_hiera_tiny.pt, which Meta publishes beside model.safetensors, or edgetam.pt"
        ),
    ),
)


def is_of_sam2_family(shapes: Mapping[str, object]) -> bool:
    """Return whether the keys of a file are those of SAM 2, or of a model made from it."""
    return any(_FAMILY.match(key) for key in shapes)


def related_model(shapes: Mapping[str, object]) -> tuple[str, str] | None:
    """Return a key that only other models than SAM 2.1 and EdgeTAM have, and a sentence about it; None without one."""
    for pattern, sentence in _RELATED:
        if key := next((key for key in shapes if re.match(pattern, key)), None):
            return key, sentence
    return None


def sam2_architecture_name(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the name of the architecture of a checkpoint of SAM 2's family.

    Files of SAM 2.0 have the keys of SAM 2.1 but for three that only the video mode uses. Both are the same network
    for single images.

    Args:
        shapes: Shapes of the arrays by key, official or own.

    Raises:
        CheckpointError: The file has another image encoder, a size that is not published, or no high-resolution
            features.
    """
    if any(key.startswith(_EDGETAM_TRUNK) for key in shapes):
        name = EDGETAM
    elif _QKV in shapes:
        name = _hiera(shapes)
    else:
        raise CheckpointError(
            "of SAM 2's family by its keys, but its image encoder is neither Hiera nor that of EdgeTAM. "
            f"{_TAKE_OFFICIAL}"
        )
    if not any(key in shapes for key in _HIGH_RESOLUTION):
        raise CheckpointError(
            f"{name} without {_HIGH_RESOLUTION[0]}: it was trained without high-resolution features, which no "
            f"published model lacks. {_TAKE_OFFICIAL}"
        )
    return name


def _hiera(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the name of the SAM 2.1 with Hiera of a size."""
    if _WINDOW_POSITIONS not in shapes:
        raise CheckpointError(
            f"of SAM 2's family by its keys, but without {_WINDOW_POSITIONS} its image encoder is a plain ViT, as in "
            f"EfficientTAM. {_TAKE_OFFICIAL}"
        )
    qkv, positions = shapes[_QKV], shapes.get(_POSITIONS, ())
    width = qkv[1] if len(qkv) == 2 else 0
    depth = 1 + max(int(match[1]) for match in map(_BLOCK.match, shapes) if match)
    name, shape = next(
        ((name, shape) for name, shape in HIERA_SHAPES.items() if (shape.channels, shape.depth) == (width, depth)),
        ("", None),
    )
    if shape is None:
        known = ", ".join(f"{name} {shape.channels} and {shape.depth}" for name, shape in HIERA_SHAPES.items())
        raise CheckpointError(
            f"a SAM 2 whose Hiera has a width of {width} and {depth} blocks; there are {known}. The windows and heads "
            "of other sizes are not in the file"
        )
    side = shape.position_side
    if positions != (1, width, side, side):
        raise CheckpointError(
            f"a SAM 2 with width and depth of {name}, but {_POSITIONS} has the shape {list(positions)}, not "
            f"{[1, width, side, side]}"
        )
    return name

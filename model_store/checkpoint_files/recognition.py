"""Recognises the architecture of a checkpoint by its keys, and names files of other models.

Keys that identify: docs/explanation/sam-family.md.
"""

import re
from collections.abc import Mapping, Sequence

from model_store.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, Architecture
from model_store.checkpoint_files.comparison import used_keys
from model_store.checkpoint_files.errors import CheckpointError
from model_store.checkpoint_files.expected import ENCODER, expected_arrays
from model_store.checkpoint_files.sam2_recognition import is_of_sam2_family, related_model, sam2_architecture_name
from model_store.vit_shape import VIT_B, VIT_H, VIT_L, image_side_problem

_POSITIONS = "image_encoder.pos_embed"
_VIT_WIDTHS: Mapping[int, str] = {
    VIT_B.channels: "sam-vit-b", VIT_L.channels: "sam-vit-l", VIT_H.channels: "sam-vit-h"
}  # fmt: skip
# Keys that only one architecture has. The names of RepViT-M1 are also those of RepViT-M2.3, so EdgeSAM comes first.
_MARKS: Mapping[str, str] = {
    "image_encoder.layers.1.blocks.0.attn.attention_biases": "mobile-sam",
    "image_encoder.fuse_stage2.weight": "edgesam",
    "image_encoder.features.54.channel_mixer.m.0.c.weight": "repvit-sam",
}
_EFFICIENT_VIT = "image_encoder.backbone.stages.0.op_list.0.conv.weight"

# Pattern of a key, and the sentence about files that contain such a key.
_FOREIGN: tuple[tuple[str, str], ...] = (
    (
        r"mask_decoder\.(hf_token|hf_mlp|compress_vit_feat)\.",
        "HQ-SAM: its decoder has a fifth token and reads inner features of the encoder.",
    ),
    (
        r"mask_decoder\.final_output_upscaling_layers\.|prompt_encoder\.invalid_points",
        "EfficientSAM: its prompt encoder and its upscaling differ from SAM's.",
    ),
    (
        r"vision_encoder\.|shared_image_embedding\.",
        "a SAM of the library transformers, under other names. Take the file of the original authors.",
    ),
    (
        r"(model\.)?\d+\.(conv|bn|m|cv\d|dfl|proto|upsample)\b",
        "a YOLO or FastSAM model, which has no prompt decoder.",
    ),
)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """Return the architecture of a checkpoint.

    TinySAM's files have MobileSAM's keys and shapes, so they are recognised as MobileSAM. Files of SAM 2.0 are those of
    SAM 2.1 for single images. Files with too few keys to tell are compared with EdgeSAM, the architecture of files that
    state none.

    Args:
        shapes: Shapes of the arrays by key, see `CheckpointFile.shapes`.

    Raises:
        CheckpointError: The file is of another family, or of a size of this family that is not supported.
    """
    if foreign := related_model(shapes) or _foreign_model(shapes):
        key, sentence = foreign
        raise CheckpointError(f"not a checkpoint of the SAM family: by its key {key[:100]} it is {sentence}")
    if is_of_sam2_family(shapes):
        return ARCHITECTURES[sam2_architecture_name(shapes)]
    if _POSITIONS in shapes:
        return ARCHITECTURES[_vit(shapes)]
    if name := next((name for key, name in _MARKS.items() if key in shapes), None):
        return ARCHITECTURES[name]
    if _EFFICIENT_VIT in shapes:
        return _likeliest(shapes, [name for name in ARCHITECTURES if name.startswith("efficientvit-")])
    return _likeliest(shapes, [DEFAULT_ARCHITECTURE, *ARCHITECTURES])


def _foreign_model(shapes: Mapping[str, object]) -> tuple[str, str] | None:
    """Return a key that only models of other families have, and a sentence about it; None without one."""
    for pattern, sentence in _FOREIGN:
        if key := next((key for key in shapes if re.match(pattern, key)), None):
            return key, sentence
    return None


def _vit(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the name of the SAM with a plain ViT."""
    shape = shapes[_POSITIONS]
    width = shape[-1] if len(shape) == 4 else 0
    if width not in _VIT_WIDTHS:
        raise CheckpointError(
            f"a SAM whose ViT has {width} channels; there are {', '.join(map(str, _VIT_WIDTHS))} (B, L, H). Pruned "
            "models (SlimSAM) are not supported"
        )
    if problem := image_side_problem(shapes):
        raise CheckpointError(problem)
    qkv = shapes.get("image_encoder.blocks.0.attn.qkv.weight", (3 * width, width))
    if qkv != (3 * width, width):
        raise CheckpointError(
            f"a pruned SAM (SlimSAM): its first attention has the shape {list(qkv)}, not {[3 * width, width]}; pruned "
            "models are not supported"
        )
    return _VIT_WIDTHS[width]


def _likeliest(shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> Architecture:
    """Return the architecture whose encoder shares most keys with a file, then differs least; else the first one."""
    keys = {key for key in used_keys(shapes) if key.startswith(ENCODER)}

    def likeness(name: str) -> tuple[int, int]:
        expected = {key for key in expected_arrays(ARCHITECTURES[name]) if key.startswith(ENCODER)}
        return len(keys & expected), -len(keys - expected) - len(expected - keys)

    if not any(likeness(name)[0] for name in names):
        return ARCHITECTURES[names[0]]
    return ARCHITECTURES[max(names, key=likeness)]

"""SAM as a teacher: its keys, its sizes, and its attention against a plain reference."""

import math

import pytest
import torch
from torch.nn import functional

from model_store.checkpoint import save_checkpoint, seeded_model
from model_store.network.model import PromptableModel
from model_store.training.teacher import (
    SAM,
    SHAPES,
    RelativeAttention,
    TeacherError,
    ViTBlock,
    ViTEncoder,
    ViTShape,
    load_teacher,
    sam_from_state_dict,
)

# Of the published checkpoints: number of keys, and of parameters (the Gaussian matrix is none).
PUBLISHED = {"vit_b": (314, 93_735_472), "vit_l": (482, 312_342_832), "vit_h": (594, 641_090_608)}


@pytest.mark.parametrize("variant", SHAPES)
def test_the_networks_have_the_size_of_the_published_ones(variant):
    with torch.device("meta"):
        model = SAM(SHAPES[variant])

    assert (len(model.state_dict()), sum(value.numel() for value in model.parameters())) == PUBLISHED[variant]


def randomised(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return module.eval()


def plain_attention(attention, x):
    """Pair by pair: the product of query and key, and the query's with the distances down and to the right."""
    side, channels = x.shape[0], x.shape[2]
    width = channels // attention.heads
    tokens = x.reshape(-1, channels)
    q, k, v = (part.reshape(-1, attention.heads, width) for part in attention.qkv(tokens).split(channels, dim=1))
    heads = []
    for head in range(attention.heads):
        scores = torch.zeros(side * side, side * side)
        for one in range(side * side):
            for other in range(side * side):
                down = attention.rel_pos_h[one // side - other // side + side - 1]
                right = attention.rel_pos_w[one % side - other % side + side - 1]
                query = q[one, head]
                scores[one, other] = query @ k[other, head] / math.sqrt(width) + query @ down + query @ right
        heads.append(scores.softmax(1) @ v[:, head])
    return attention.proj(torch.cat(heads, dim=1)).reshape(x.shape)


def test_attention_adds_distances_along_both_axes():
    attention = randomised(RelativeAttention(8, 2, 4))
    x = torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        torch.testing.assert_close(attention(x)[0], plain_attention(attention, x[0]), atol=1e-5, rtol=1e-5)


def test_windows_attend_to_themselves_and_to_zeros_beyond_the_grid():
    block = randomised(ViTBlock(8, 2, 3, is_windowed=True))
    x = torch.randn(1, 5, 4, 8, generator=torch.Generator().manual_seed(1))

    with torch.no_grad():
        found = block(x)
        normed = functional.pad(block.norm1(x), (0, 0, 0, 2, 0, 1))
        corner = plain_attention(block.attn, normed[0, 3:6, 3:6])[:2, :1]
        expected = x[0, 3:5, 3:4] + corner
        expected = expected + block.mlp(block.norm2(expected))

    torch.testing.assert_close(found[0, 3:5, 3:4], expected, atol=1e-5, rtol=1e-5)


def test_an_embedding_has_the_grid_of_edgesam():
    shape = ViTShape(channels=32, depth=2, heads=2, global_blocks=(1,))
    encoder = randomised(ViTEncoder(shape, frame_size=256))

    with torch.no_grad():
        embedding = encoder(torch.randn(1, 3, 256, 256))

    assert embedding.shape == (1, 256, 16, 16)
    assert [block.window for block in encoder.blocks] == [14, 0]


def test_an_edgesam_checkpoint_may_teach(tmp_path):
    save_checkpoint(seeded_model(0), tmp_path / "teacher.pth")

    teacher = load_teacher(tmp_path / "teacher.pth")

    assert isinstance(teacher, PromptableModel)
    assert not any(value.requires_grad for value in teacher.parameters())


def test_what_is_no_teacher_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")

    with pytest.raises(TeacherError, match="missing"):
        load_teacher(tmp_path / "other.pth")
    with pytest.raises(TeacherError, match="not a readable"):
        load_teacher(tmp_path / "broken.pth")
    with pytest.raises(TeacherError, match="100 channels"):
        sam_from_state_dict({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 100)})
    with pytest.raises(TeacherError, match="not a SAM checkpoint"):
        sam_from_state_dict({"image_encoder.pos_embed": torch.zeros(1, 4, 4, 768)})

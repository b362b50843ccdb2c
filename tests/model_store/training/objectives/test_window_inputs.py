"""A window is seen as its part of the whole frame is: pixels, positional code and prompts."""

import dataclasses

import numpy as np
import pytest
import torch
from support.disc_windows import WINDOW, disc_windows

from model_store.network.frames import frame
from model_store.network.model import build_model
from model_store.network.prompt_encoder import PromptEncoder
from model_store.training.data.windows.dataset import WindowBatch
from model_store.training.objectives.window_inputs import (
    FramePrompts,
    normalised_frames,
    valid_cells,
    window_code,
)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return PromptEncoder()


def test_a_whole_frame_equals_the_input_of_the_service_s_encoder():
    image = np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8)
    frames = torch.randint(0, 256, (1, 3, 1024, 1024), dtype=torch.uint8)  # outside the photo it is arbitrary
    frames[:, :, :768] = torch.from_numpy(image).permute(2, 0, 1)
    inside = torch.zeros(1, 512, 512, dtype=torch.uint8)
    inside[:, :384] = 255
    batch = dataclasses.replace(disc_windows((0, 0)), frames=frames, inside=inside)

    found = normalised_frames(batch)

    torch.testing.assert_close(found, frame(image), rtol=0, atol=1e-5)
    assert valid_cells(batch)[0, :192].eq(1).all()
    assert valid_cells(batch)[0, 192:].eq(0).all()


def test_the_code_of_a_window_is_that_of_its_position_in_the_frame(encoder):
    batch = disc_windows((0, 0), (60, 17))
    side = WINDOW // 16

    code = window_code(encoder, batch)

    whole = encoder.dense_positional_code()[0]  # (256, 64, 64)
    expected = torch.stack([whole[:, 0:side, 0:side], whole[:, 17 : 17 + side, 60 : 60 + side]])
    assert torch.equal(code, expected.flatten(2).transpose(1, 2))


def test_prompts_are_those_of_the_frame(encoder):
    batch = disc_windows((0, 0), (60, 17))
    shift = torch.tensor([960.0, 272.0])
    clicks, labels = torch.rand(8, 2) * 1024, torch.tensor([1, 0, -2, 1, 0, 1, -2, 1])

    first = FramePrompts.of(batch).tokens(encoder)
    later = FramePrompts.of(batch).with_correction(clicks, labels).tokens(encoder)

    box, _ = encoder(None, batch.boxes[1, 1:] + shift.repeat(2))
    click, _ = encoder((batch.points[1, :1, None] + shift, torch.ones(1, 1)))
    torch.testing.assert_close(first[5:6], box)
    torch.testing.assert_close(first[6:7], click)
    corrected_box, _ = encoder((clicks[5:6, None], labels[5:6, None]), batch.boxes[1, 1:] + shift.repeat(2))
    both = torch.stack([batch.points[1, 0] + shift, clicks[6]])[None]
    corrected_click, _ = encoder((both, torch.tensor([[1, -2]])))
    torch.testing.assert_close(later[5:6], corrected_box)
    torch.testing.assert_close(later[6:7], corrected_click)


@pytest.mark.parametrize("kept", ["boxes", "points"])
def test_a_batch_may_have_prompts_of_one_kind_alone(encoder, kept):
    batch = disc_windows((3, 4))
    other = {"boxes": "points", "points": "boxes"}[kept]
    alone: WindowBatch = dataclasses.replace(batch, **{other: getattr(batch, other)[:, :0]})

    prompts = FramePrompts.of(alone)

    rows = slice(0, 2) if kept == "boxes" else slice(2, 4)
    assert prompts.count == 2
    torch.testing.assert_close(prompts.tokens(encoder), FramePrompts.of(batch).tokens(encoder)[rows])


def test_positions_keep_their_precision_in_bfloat16(encoder):
    batch = disc_windows((60, 17))

    with torch.autocast("cpu", torch.bfloat16):
        tokens, code = FramePrompts.of(batch).tokens(encoder), window_code(encoder, batch)

    assert torch.equal(tokens, FramePrompts.of(batch).tokens(encoder))
    assert torch.equal(code, window_code(encoder, batch))


def test_a_window_that_is_larger_than_the_frame_is_refused():
    small = build_model("edgesam", frame_size=32).prompt_encoder

    with pytest.raises(ValueError, match="does not fit"):
        window_code(small, disc_windows((0, 0)))

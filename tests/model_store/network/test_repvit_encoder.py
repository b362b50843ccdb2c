"""The image encoder gives what the official one gives, at every stage."""

import numpy as np
import pytest
import torch
from support.official_reference import BOTH, assert_parts_agree, assert_stats_agree, open_reference, reference_image

from model_store.export.graphs.official import OfficialEncoder
from model_store.network.frames import frame

TOLERANCE = 5e-5  # docs/explanation/model.md, section 2.6: above every rounding effect, below every known mistake
TAPS = (
    "stem", "block1", "stage0", "block4_down", "stage1", "block9_se", "stage2", "stage3",
    "lateral2", "top_up", "neck0", "neck1",
)  # fmt: skip
# Arrays of the encoder's file that are inputs.
READ_ELSEWHERE = {"image_u8_hwc", "embedding_f16"}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("tap", TAPS)
def test_every_stage_agrees(name, tap, taps):
    expected = open_reference(name).encoder

    step = taps[tap].shape[3] // 16
    part = taps[tap][0, ::8, ::step, ::step]

    assert taps[tap].shape == tuple(expected[f"{tap}_shape"])
    assert_parts_agree({f"{tap}_slice": part}, expected, TOLERANCE)
    assert_stats_agree(taps[tap], expected[f"{tap}_stats"])


@pytest.mark.parametrize("name", BOTH)
def test_the_input_agrees(name, taps):
    expected = open_reference(name).encoder

    part = taps["input"][0, :, ::128, ::128]

    np.testing.assert_allclose(part, expected["input_slice"], rtol=0, atol=1e-6)
    assert_stats_agree(taps["input"], expected["input_stats"])


@pytest.mark.parametrize("name", BOTH)
def test_the_embedding_agrees(name, embedding):
    expected = open_reference(name).encoder

    channels = embedding[0].astype(np.float64).reshape(256, -1)

    np.testing.assert_allclose(embedding[0, :, ::8, ::8], expected["embedding_slice"], rtol=0, atol=TOLERANCE)
    assert_stats_agree(embedding, expected["embedding_stats"])
    np.testing.assert_allclose(channels.mean(1), expected["embedding_chan_mean"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(channels.std(1), expected["embedding_chan_std"], rtol=0, atol=TOLERANCE)


@pytest.mark.fixtures
def test_the_whole_embedding_agrees(embedding):
    expected = open_reference("full").encoder

    half_ulp = 2.0**-11  # the whole embedding is kept in float16

    np.testing.assert_allclose(embedding, expected["embedding_f16"].astype(np.float32), rtol=half_ulp, atol=TOLERANCE)
    np.testing.assert_allclose(embedding[0, :, 0], expected["embedding_row0"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(embedding[0, :, 63], expected["embedding_row63"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", BOTH)
def test_a_batch_is_encoded_image_by_image(name, model, taps):
    expected = open_reference(name).encoder
    image = torch.from_numpy(taps["input"])
    batch = torch.cat([image.flip(3), torch.zeros_like(image)])

    with torch.inference_mode():
        embeddings = model.image_encoder(batch).numpy()

    np.testing.assert_allclose(embeddings[:, ::4, ::8, ::8], expected["batch2_slice"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", BOTH)
def test_the_published_bilinear_variant_agrees(name, make_model, embedding):
    expected = open_reference(name).encoder
    encoder = OfficialEncoder(make_model(0, upsample_mode="bilinear"))

    with torch.inference_mode():
        bilinear = encoder(frame(reference_image())).numpy()

    assert_parts_agree({"bilinear_embedding_slice": bilinear[0, :, ::8, ::8]}, expected, TOLERANCE)
    assert_stats_agree(bilinear, expected["bilinear_embedding_stats"])
    assert np.abs(bilinear - embedding).max() == pytest.approx(expected["bilinear_minus_bicubic_absmax"], abs=1e-4)


@pytest.mark.fixtures
def test_no_array_is_left_out():
    compared = {f"{tap}_{kind}" for tap in TAPS for kind in ("shape", "stats", "slice")}
    compared |= {"input_slice", "input_stats", "embedding_slice", "embedding_stats", "batch2_slice"}
    compared |= {"embedding_chan_mean", "embedding_chan_std", "embedding_row0", "embedding_row63"}
    compared |= {"bilinear_embedding_slice", "bilinear_embedding_stats", "bilinear_minus_bicubic_absmax"}

    arrays = set(open_reference("full").encoder)

    assert arrays == compared | READ_ELSEWHERE


@pytest.mark.fixtures
def test_the_committed_image_is_the_official_one():
    expected = open_reference("full").encoder["image_u8_hwc"]

    image = reference_image()

    assert np.array_equal(image, expected)


@pytest.mark.fixtures
def test_the_committed_embedding_is_the_official_one(embedding):
    exact = open_reference("full").embedding(embedding).numpy()

    kept = open_reference("committed").embedding(embedding).numpy()

    # Where float16 is coarser than our error the bits are equal, elsewhere the difference is below that error.
    np.testing.assert_allclose(kept, exact, rtol=0, atol=TOLERANCE)
    assert np.mean(kept != exact) < 0.01

"""The graphs in ONNX Runtime: refusals at start, and prompts that share a call decode as they do alone.

Tolerances: the same sums in another order differ by some 1e-6 where logits are of size 1 to 10.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.cache_values import in_int8

from service.inference.backends.image_state import StateArrays
from service.inference.backends.runtime import Runtime
from service.manifest import STATE_NAMES, ManifestError
from service.sam.embedding import ImageEmbedding
from service.sam.prompts import ABSENT, BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, NEGATIVE, PADDING, POSITIVE

TOLERANCE = 1e-5


def random_embedding(seed=0, dtype=np.float32):
    tokens = np.random.default_rng(seed).normal(0, 0.3, (4096, 256)).astype(dtype)
    return ImageEmbedding(tokens, (768, 1024))


def random_masks(count, seed=0):
    return np.random.default_rng(seed).normal(0, 4, (count, 256, 256)).astype(np.float32)


def joined(prompts):
    """Return the prompts as one batch, with absent tokens after the shorter ones."""
    longest = max(labels.shape[1] for _, labels in prompts)
    points = [np.pad(each, ((0, 0), (0, longest - each.shape[1]), (0, 0))) for each, _ in prompts]
    labels = [np.pad(row, ((0, 0), (0, longest - row.shape[1])), constant_values=ABSENT) for _, row in prompts]
    return np.concatenate(points), np.concatenate(labels)


def prompts_of_several_lengths(seed=0):
    """Return (points (1, N, 2), labels (1, N)) of a click, three clicks, a box with a click, and no token."""
    random = np.random.default_rng(seed)
    rows = [
        [POSITIVE, PADDING],
        [POSITIVE, NEGATIVE, POSITIVE, PADDING],
        [POSITIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT],
        [ABSENT],
    ]
    return [(random.uniform(0, 1024, (1, len(row), 2)).astype(np.float32), np.array([row], np.int64)) for row in rows]


def assert_close(decoded, expected):
    assert_allclose(decoded.mask_logits, expected.mask_logits, rtol=0, atol=TOLERANCE)
    assert_allclose(decoded.iou_predictions, expected.iou_predictions, rtol=0, atol=TOLERANCE)
    # A logit within rounding of a threshold may be on its other side.
    assert_allclose(decoded.stability, expected.stability, rtol=0, atol=1e-3)


def copy_of(artifact, tmp_path):
    return shutil.copytree(artifact, tmp_path / "copy")


def test_a_damaged_graph_is_refused_by_name(artifact, tmp_path):
    copy = copy_of(artifact, tmp_path)
    data = bytearray((copy / "decoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "decoder.onnx").write_bytes(data)

    with pytest.raises(ManifestError, match=r"decoder\.onnx.*SHA-256"):
        Runtime(copy, provider="cpu", threads=1)


def test_a_graph_that_was_cut_off_is_refused_by_name(artifact, tmp_path):
    copy = copy_of(artifact, tmp_path)
    data = (copy / "encoder.onnx").read_bytes()
    (copy / "encoder.onnx").write_bytes(data[:-1])

    with pytest.raises(ManifestError, match=rf"encoder\.onnx: {len(data) - 1} bytes.*{len(data)} bytes"):
        Runtime(copy, provider="cpu", threads=1)


def test_a_missing_graph_is_refused_by_name(artifact, tmp_path):
    copy = copy_of(artifact, tmp_path)
    (copy / "prepare.onnx").unlink()

    with pytest.raises(ManifestError, match=r"prepare\.onnx: cannot be read"):
        Runtime(copy, provider="cpu", threads=1)


def test_a_folder_without_a_manifest_is_refused_by_name(tmp_path):
    with pytest.raises(ManifestError, match=r"manifest\.json: no readable manifest"):
        Runtime(tmp_path, provider="cpu", threads=1)


def test_an_artifact_of_the_official_layout_is_refused_with_the_layout_to_export(artifact, tmp_path):
    copy = copy_of(artifact, tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["graphs"]["prepare"]
    (copy / "manifest.json").write_text(json.dumps(manifest | {"layout": "official"}))

    with pytest.raises(ManifestError, match=rf"{copy}: layout 'official'.*'served'"):
        Runtime(copy, provider="cpu", threads=1)


def test_images_get_the_same_tokens_in_a_batch_as_alone(runtime):
    frames = np.random.default_rng(0).normal(0, 1, (2, 3, 1024, 1024)).astype(np.float32)

    together = runtime.encode(frames).tokens

    assert together.shape == (2, 4096, 256)
    assert_allclose(together[1:], runtime.encode(frames[1:]).tokens, rtol=0, atol=1e-4)


def test_padding_with_absent_tokens_does_not_change_masks(runtime):
    state = runtime.prepare(random_embedding()).arrays
    prompts = prompts_of_several_lengths()

    together = runtime.decode(state, *joined(prompts))

    assert together.mask_logits.shape == (4, 4, 256, 256)
    for row, (points, labels) in enumerate(prompts):
        assert_close(together.rows(row, row + 1), runtime.decode(state, points, labels))


def test_the_coordinates_of_an_absent_token_have_no_effect(runtime):
    state = runtime.prepare(random_embedding()).arrays
    points, labels = joined(prompts_of_several_lengths())
    others = np.where((labels == ABSENT)[..., None], np.float32(500.0), points)

    assert_close(runtime.decode(state, others, labels), runtime.decode(state, points, labels))


def test_one_state_for_all_prompts_equals_one_state_each(runtime):
    state = runtime.prepare(random_embedding()).arrays
    points, labels = joined(prompts_of_several_lengths())
    each = StateArrays(*(np.repeat(getattr(state, name), len(labels), axis=0) for name in STATE_NAMES))

    assert_close(runtime.decode(each, points, labels), runtime.decode(state, points, labels))


def test_states_of_several_masks_are_those_of_each_mask(runtime):
    state, masks = runtime.prepare(random_embedding()), random_masks(3)

    states = runtime.prepare_masks(state, masks)

    for name in STATE_NAMES:
        alone = getattr(runtime.prepare_masks(state, masks[1:2]), name)
        assert_allclose(getattr(states, name)[1:2], alone, rtol=0, atol=TOLERANCE)


def test_the_native_decoder_and_the_graphs_agree(artifact):
    """The graph is the reference of the native decoder; both get the same embedding."""
    native, onnx = (Runtime(artifact, provider="cpu", threads=1, decoder=decoder) for decoder in ("native", "onnx"))
    embedding, (points, labels) = random_embedding(), prompts_of_several_lengths()[0]

    states = [runtime.prepare(embedding).arrays for runtime in (native, onnx)]
    answers = [runtime.decode(state, points, labels) for runtime, state in zip((native, onnx), states, strict=True)]

    assert native.decoder.startswith("native x86-64-v")
    assert onnx.decoder == "onnx"
    for name in ("mask_logits", "iou_predictions"):
        assert_allclose(*(getattr(answer, name) for answer in answers), rtol=0, atol=TOLERANCE)


def test_a_mask_prompt_changes_the_answer(runtime):
    embedding, (points, labels) = random_embedding(), prompts_of_several_lengths()[0]

    state = runtime.prepare(embedding)
    without = runtime.decode(state.arrays, points, labels)
    refined = runtime.decode(runtime.prepare_masks(state, random_masks(1)), points, labels)

    assert np.abs(without.mask_logits - refined.mask_logits).max() > 0.1


def test_float16_tokens_are_decoded_as_the_equal_float32_tokens(runtime):
    half = random_embedding(dtype=np.float16)
    single = ImageEmbedding(half.tokens.astype(np.float32), half.original_size)
    points, labels = prompts_of_several_lengths()[0]

    found, expected = (runtime.decode(runtime.prepare(each).arrays, points, labels) for each in (half, single))

    assert_allclose(found.mask_logits, expected.mask_logits, rtol=0, atol=TOLERANCE)
    assert_allclose(found.iou_predictions, expected.iou_predictions, rtol=0, atol=TOLERANCE)


def test_float32_tokens_get_a_state_in_float32(runtime):
    arrays = runtime.prepare(random_embedding(dtype=np.float32)).arrays

    assert {array.dtype for array in (arrays.keys, arrays.keys0, arrays.queries0)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("decoder", ["native", "onnx"])
def test_int8_tokens_are_decoded_as_the_equal_float16_tokens(artifact, decoder):
    runtime = Runtime(artifact, provider="cpu", threads=1, decoder=decoder)
    small = in_int8(random_embedding())
    equal = replace(small, scales=None)

    states = [runtime.prepare(embedding) for embedding in (small, equal)]
    refined = [runtime.prepare_masks(state, random_masks(2)) for state in states]

    for name in STATE_NAMES:
        assert_array_equal(*(getattr(state.arrays, name) for state in states))
        assert_array_equal(*(getattr(arrays, name) for arrays in refined))
    assert states[0].nbytes == states[1].nbytes + 1024


def test_stability_is_the_ratio_of_the_areas_at_two_thresholds(runtime):
    state = runtime.prepare(random_embedding()).arrays
    decoded = runtime.decode(state, *joined(prompts_of_several_lengths()))

    sure, likely = (decoded.mask_logits > 1).sum((2, 3)), (decoded.mask_logits > -1).sum((2, 3))

    assert sure.min() < sure.max()
    assert_allclose(decoded.stability, sure / np.maximum(likely, 1), rtol=1e-6)

"""The decoder in C equals SAM 2's official decoder and torch's modules, in every build that this machine can run."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.native_builds import build_in_use, runnable_levels
from support.official_reference import assert_masks_agree
from support.sam2_decoder import (
    Arrays,
    Floats,
    State,
    decoder_parameters,
    high_res_of,
    model_of,
    prepare_masks,
    prompt_tokens,
    tokens_of,
)
from support.sam2_reference import CASES, COMMITTED_CASES, DECODER_NAMES, SAM2Reference, decoder_maps, open_sam2
from support.sam_family_reference import mask_prompt

from model_store.export.graphs.decoder import PromptTokens
from model_store.network.encoders.image_encoder import HighResTensors
from model_store.network.model import PromptableModel
from service.native.decoder import MAX_POINTS, NativeDecoder
from service.sam.prompts import ABSENT

LOGITS_TOLERANCE = 5e-5
SCORE_TOLERANCE = 1e-5
THREADS = 4
EPSILON = 1e-5
NAME = "edgetam"
OBJECT_SCORE = "mask_decoder.obj_score_token.weight"


def random_prompts(seed: int, prompts: int, length: int) -> tuple[Floats, NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    points = random.uniform(-30, 1054, (prompts, length, 2)).astype(np.float32)
    return points, random.integers(-2, 4, (prompts, length))


@pytest.fixture(scope="module", params=runnable_levels())
def make_decoder(request) -> Iterator[Callable[[Arrays], NativeDecoder]]:
    """A function that makes a decoder of every build, not only of the best one."""
    with build_in_use(request.param):
        yield lambda parameters: NativeDecoder(parameters, norm_epsilon=EPSILON, threads=THREADS)


@pytest.fixture(scope="module")
def decoder(make_decoder) -> NativeDecoder:
    return make_decoder(decoder_parameters(NAME))


@pytest.fixture(scope="module")
def model() -> PromptableModel:
    return model_of(NAME)


@pytest.fixture(scope="module")
def maps() -> Arrays:
    return decoder_maps(7)


@pytest.fixture(scope="module")
def state(decoder, maps) -> State:
    return decoder.prepare(tokens_of(maps), threads=1)


@pytest.mark.parametrize(
    ("part", "name"),
    [("committed", name) for name in DECODER_NAMES]
    + [pytest.param("full", name, marks=pytest.mark.fixtures) for name in DECODER_NAMES],
)
def test_all_masks_and_scores_equal_the_official_ones(part, name, make_decoder):
    reference = open_sam2(name, part)
    decoder, maps = make_decoder(decoder_parameters(name)), reference.maps
    tokens, high_res = tokens_of(maps), high_res_of(maps)
    without_mask = decoder.prepare(tokens, threads=1)
    compared = set()

    for case, arrays in cases_of(reference):
        state = prepare_masks(model_of(name), tokens, mask_prompt()[None]) if arrays["has_mask"] else without_mask
        for threads in (1, THREADS):
            mask_logits, iou_predictions, stability, narrow = decoder.decode(
                *state, *prompt_tokens(arrays), threads=threads, high_res=high_res
            )

            np.testing.assert_allclose(
                mask_logits[:, :, ::8, ::8], arrays["mask_logits_slice"], rtol=0, atol=LOGITS_TOLERANCE, err_msg=case
            )
            np.testing.assert_allclose(iou_predictions, arrays["iou_pred"], rtol=0, atol=SCORE_TOLERANCE, err_msg=case)
            assert_shares_agree(narrow, arrays["stability_005"][:, 0], mask_logits[:, 0], 0.05)
            assert_shares_agree(stability, share_above(mask_logits, 1.0), mask_logits, 1.0)
            if part == "full":
                assert_masks_agree(mask_logits, arrays["mask_bits"].reshape(len(mask_logits), 4, -1))
        compared.add(case)
    assert compared == set(CASES if part == "full" else COMMITTED_CASES)


def cases_of(reference: SAM2Reference) -> Iterator[tuple[str, Arrays]]:
    for case in map(str, reference.arrays["case_names"]):
        prefix = f"case/{case}/"
        arrays = reference.arrays.items()
        yield case, {key.removeprefix(prefix): array for key, array in arrays if key.startswith(prefix)}


def share_above(mask_logits: Floats, offset: float) -> NDArray[np.float64]:
    return (mask_logits > offset).sum((-2, -1)) / np.maximum((mask_logits > -offset).sum((-2, -1)), 1)


def assert_shares_agree(shares: Floats, expected: np.ndarray, mask_logits: Floats, offset: float) -> None:
    """Assert shares of pixels (...) of logits (..., H, W), but for pixels next to a threshold."""
    near = (np.abs(np.abs(mask_logits) - offset) < 1e-4).sum((-2, -1))
    pixels = np.maximum((mask_logits > -offset).sum((-2, -1)), 1)
    assert shares.shape == expected.shape
    assert (np.abs(shares - expected) <= 1e-6 + near / pixels).all()


def by_torch(model: PromptableModel, maps: Arrays, points: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    high_res = HighResTensors(torch.from_numpy(maps["high_res_s1"]), torch.from_numpy(maps["high_res_s0"]))
    with torch.inference_mode():
        _, dense = model.prompt_encoder(None, None, None)
        sparse = PromptTokens(model.prompt_encoder)(torch.from_numpy(points), torch.from_numpy(labels))
        decoded = model.mask_decoder.decode(
            torch.from_numpy(maps["embedding"]),
            model.prompt_encoder.dense_positional_code(),
            sparse,
            dense.expand(len(points), -1, -1, -1),
            high_res=high_res,
        )
    return decoded.mask_logits.numpy(), decoded.iou_predictions.numpy()


@pytest.mark.parametrize(("prompts", "length"), [(1, 2), (1, MAX_POINTS), (2, 3), (5, 2), (3, 17), (4, 0)])
def test_random_prompts_on_random_maps_give_the_masks_of_torch(decoder, model, maps, state, prompts, length):
    points, labels = random_prompts(length, prompts, length)
    expected_logits, expected_iou = by_torch(model, maps, points, labels)

    mask_logits, iou_predictions, stability, narrow = decoder.decode(
        *state, points, labels, threads=2, high_res=high_res_of(maps)
    )

    assert np.abs(mask_logits - expected_logits).max() < 2 * LOGITS_TOLERANCE
    assert np.abs(iou_predictions - expected_iou).max() < SCORE_TOLERANCE
    assert np.abs(stability - share_above(mask_logits, 1.0)).max() < 1e-6
    assert np.abs(narrow - share_above(mask_logits[:, 0], 0.05)).max() < 1e-6


def test_threads_and_other_prompts_of_a_call_change_no_bit(decoder, maps, state):
    points, labels = random_prompts(1, 5, 4)
    labels[1, 2:] = ABSENT
    high_res = high_res_of(maps, np.float16)
    together = decoder.decode(*state, points, labels, threads=1, high_res=high_res)

    for threads in range(2, THREADS + 1):
        for same, one in zip(
            decoder.decode(*state, points, labels, threads=threads, high_res=high_res), together, strict=True
        ):
            assert np.array_equal(same, one)
    for i in range(len(labels)):
        present = labels[i] != ABSENT
        alone = decoder.decode(
            *state, points[i : i + 1, present], labels[i : i + 1, present], threads=THREADS, high_res=high_res
        )
        for one, all_of_them in zip(alone, together, strict=True):
            assert np.array_equal(one[0], all_of_them[i])


def test_wanted_masks_are_those_of_all_masks_bit_for_bit(decoder, maps, state):
    points, labels = random_prompts(5, 4, 2)
    high_res = high_res_of(maps, np.float16)
    all_logits, all_iou, all_stability, _ = decoder.decode(*state, points, labels, threads=1, high_res=high_res)
    middle = float(np.median(all_iou[:, 1:]))

    logits, iou, stability = decoder.decode_selected(
        *state, points, labels, outputs=(1, 2, 3), least_iou=middle, threads=1, high_res=high_res
    )

    wanted = all_iou > middle
    wanted[:, 0] = False
    assert wanted.sum() == 6
    assert np.array_equal(iou, all_iou)
    assert np.array_equal(logits[wanted], all_logits[wanted])
    assert np.array_equal(stability[wanted], all_stability[wanted])


def test_states_of_several_masks_share_the_maps(decoder, model, maps):
    masks = np.stack([mask_prompt(), -mask_prompt(), mask_prompt()[::-1]])
    state = prepare_masks(model, tokens_of(maps), masks)
    points, labels = random_prompts(2, 3, 2)
    high_res = high_res_of(maps)

    together = decoder.decode(*state, points, labels, threads=2, high_res=high_res)

    for i in range(len(masks)):
        own = tuple(array[i : i + 1] for array in state)
        alone = decoder.decode(*own, points[i : i + 1], labels[i : i + 1], threads=1, high_res=high_res)
        for one, all_of_them in zip(alone, together, strict=True):
            assert np.array_equal(one[0], all_of_them[i])


@pytest.mark.parametrize("dtypes", [(np.float16, np.float16), (np.float16, np.float32), (np.float32, np.float16)])
def test_float16_maps_give_the_masks_of_the_same_numbers_in_float32(decoder, maps, state, dtypes):
    points, labels = random_prompts(3, 1, 2)
    rounded = high_res_of(maps, np.float16)
    stored = tuple(array.astype(dtype) for array, dtype in zip(rounded, dtypes, strict=True))
    widened = tuple(array.astype(np.float32) for array in rounded)

    found, expected = (
        decoder.decode(*state, points, labels, threads=1, high_res=high_res) for high_res in (stored, widened)
    )

    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_arrays_with_gaps_or_at_odd_addresses_give_the_same_masks(decoder, maps, state, dtype):
    points, labels = random_prompts(4, 2, 3)
    high_res = high_res_of(maps, dtype)
    expected = decoder.decode(*state, points, labels, threads=1, high_res=high_res)

    for change in (at_odd_address, with_gaps):
        changed = [change(array) for array in (*state, points, labels)]
        found = decoder.decode(*changed, threads=1, high_res=tuple(map(change, high_res)))

        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one, other)


def at_odd_address(array: np.ndarray) -> np.ndarray:
    buffer = np.empty(array.nbytes + 1, np.uint8)
    moved = buffer[1:].view(array.dtype).reshape(array.shape)
    moved[...] = array
    assert moved.ctypes.data % 2 == 1 - buffer.ctypes.data % 2
    return moved


def with_gaps(array: np.ndarray) -> np.ndarray:
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def test_maps_of_another_shape_or_type_and_missing_ones_are_refused(decoder, make_decoder, maps, state):
    points, labels = random_prompts(5, 1, 2)
    s1, s0 = high_res_of(maps)
    sam = make_decoder({key: array for key, array in decoder_parameters(NAME).items() if key != OBJECT_SCORE})

    for wrong in (
        (s0, s1),
        (s1[1:], s0),
        (s1[None], s0),
        (s1, s0[:, 1:]),
        (s1, s0.reshape(-1)),
        (s1.astype(np.float64), s0),
        (s1, s0.astype(">f2")),
        (s1, s0.astype(np.float16).view(np.uint16)),
        (),
        (s1,),
        (s1, s0, s0),
    ):
        with pytest.raises(ValueError, match="High-resolution maps are"):
            decoder.decode(*state, points, labels, threads=1, high_res=wrong)
    with pytest.raises(ValueError, match="needs the high-resolution maps"):
        decoder.decode(*state, points, labels, threads=1)
    with pytest.raises(ValueError, match="takes no high-resolution maps"):
        sam.decode(*state, points, labels, threads=1, high_res=(s1, s0))
    assert decoder.needs_maps
    assert not sam.needs_maps


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_number_that_is_none_in_a_map_stays_in_its_pixels(decoder, maps, state, dtype):
    points, labels = random_prompts(6, 1, 2)
    high_res = high_res_of(maps, dtype)
    expected, *_ = decoder.decode(*state, points, labels, threads=1, high_res=high_res)
    token, dy, dx, channel = 64 * 10 + 20, 1, 0, 5
    high_res[1].reshape(4096, 2, 2, 32, 2, 2)[token, dy, dx, channel, 0, 1] = np.nan

    mask_logits, iou_predictions, stability, narrow = decoder.decode(
        *state, points, labels, threads=1, high_res=high_res
    )

    is_nan = np.isnan(mask_logits)
    assert np.argwhere(is_nan[0, 0]).tolist() == [[10 * 4 + 2 * dy, 20 * 4 + 2 * dx + 1]]
    assert np.array_equal(mask_logits[~is_nan], expected[~is_nan])
    assert all(np.isfinite(scores).all() for scores in (iou_predictions, stability, narrow))


def test_maps_without_any_number_give_empty_masks(decoder, maps, state):
    points, labels = random_prompts(6, 1, 2)
    high_res = tuple(np.full_like(array, np.nan) for array in high_res_of(maps, np.float16))

    mask_logits, _, stability, narrow = decoder.decode(*state, points, labels, threads=1, high_res=high_res)

    assert np.isnan(mask_logits).all()
    assert not stability.any()
    assert narrow.tolist() == [1.0]


@pytest.mark.parametrize(("bias", "expected"), [(-1.0, 1.0), (0.0, 0.0), (1.0, 1.0)])
def test_an_empty_mask_is_stable_and_one_on_the_threshold_is_not(make_decoder, maps, state, bias, expected):
    """With a constant output of the hypernetwork, the logits of output 0 have the sign of its bias."""
    last = "mask_decoder.output_hypernetworks_mlps.0.layers.2."
    parameters = decoder_parameters(NAME)
    constant = {
        f"{last}weight": np.zeros_like(parameters[f"{last}weight"]),
        f"{last}bias": np.full_like(parameters[f"{last}bias"], bias),
    }
    s1, s0 = high_res_of(maps)

    mask_logits, _, _, narrow = make_decoder(parameters | constant).decode(
        *state, *random_prompts(8, 1, 2), threads=1, high_res=(s1, s0 + 30.0)
    )

    assert (np.sign(mask_logits[:, 0]) == np.sign(bias)).all()
    assert narrow.tolist() == [expected]


def test_predicted_ious_stay_within_0_and_1(make_decoder, maps, state):
    name = "mask_decoder.iou_prediction_head.layers.2.bias"
    extreme = decoder_parameters(NAME) | {name: np.array([-300.0, 300.0, 0.0, -20.0], np.float32)}

    _, iou_predictions, _, _ = make_decoder(extreme).decode(
        *state, *random_prompts(9, 1, 2), threads=1, high_res=high_res_of(maps)
    )

    assert iou_predictions[0, 0] == 0.0
    assert iou_predictions[0, 1] == 1.0
    assert 0.0 < iou_predictions[0, 3] < iou_predictions[0, 2] < 1.0

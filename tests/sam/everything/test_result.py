"""The everything result does not depend on the order of candidates, and equals the plain way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from support import everything_reference as plain
from support.whole_masks import full

from service.sam.everything.candidates import Candidate, SearchedPart, candidates_of
from service.sam.everything.duplicates import inclusive_boxes
from service.sam.everything.found_mask import EverythingMask
from service.sam.everything.options import EverythingOptions
from service.sam.everything.result import CLEANED_NMS_THRESH, EverythingResult
from service.sam.everything.selection import MaskSelection, selected_masks
from service.sam.frame import Frame
from service.sam.mask_runs import RunMask, as_runs
from service.sam.masks import BinaryMask, binary_mask
from service.sam.transforms import used_cells

SIZE = (12, 12)


def candidate(number, quality, pixels):
    mask = as_runs(BinaryMask.cut(pixels.shape, 0, 0, pixels))
    box = tuple(inclusive_boxes([mask.box])[0].tolist())
    return Candidate(EverythingMask(number, mask, quality, 1.0, (0.5, 0.5), (0, 0, 12, 12)), quality, box)


def square(number, quality, x, y, side, image=40):
    pixels = np.zeros((image, image), np.bool_)
    pixels[y : y + side, x : x + side] = True
    return candidate(number, quality, pixels)


drawn_candidates = st.lists(
    st.tuples(
        st.sampled_from([0.25, 0.5, 0.75, 1.0]), stn.arrays(np.bool_, SIZE, elements=st.booleans()).filter(np.any)
    ),
    max_size=8,
)
drawn_options = st.builds(
    EverythingOptions,
    box_nms_thresh=st.sampled_from([0.3, 0.7]),
    min_mask_region_area=st.sampled_from([0, 4, 30]),
    max_masks=st.sampled_from([1, 3, 300]),
)


@settings(deadline=None)
@given(drawn_candidates, drawn_options, st.randoms(use_true_random=False))
def test_a_result_equals_the_plain_way_in_any_order_of_candidates(drawn, options, random):
    numbered = [(3 * i, quality, pixels) for i, (quality, pixels) in enumerate(drawn)]
    shuffled = [candidate(*one) for one in numbered]
    random.shuffle(shuffled)
    result = EverythingResult(options)
    shown = set()

    for one in shuffled:
        result.add([one])
        change = result.update()
        assert shown.isdisjoint(mask.id for mask in change.found)
        assert shown.issuperset(change.dropped)
        shown = (shown | {mask.id for mask in change.found}) - set(change.dropped)
        assert shown == {mask.id for mask in result.masks}

    assert [mask.id for mask in result.masks] == plain.result_ids(numbered, options, CLEANED_NMS_THRESH)


def test_a_better_mask_drops_the_one_that_it_covers():
    result = EverythingResult(EverythingOptions())

    result.add([square(3, 0.5, 0, 0, 20), square(9, 0.4, 25, 25, 9)])
    first = result.update()
    result.add([square(6, 0.9, 0, 0, 20)])
    second = result.update()

    assert ([mask.id for mask in first.found], first.dropped) == ([3, 9], [])
    assert ([mask.id for mask in second.found], second.dropped) == ([6], [3])
    assert [mask.id for mask in result.masks] == [6, 9]


def test_a_dropped_mask_comes_back_when_the_one_that_covered_it_is_dropped():
    # Boxes in a row: each overlaps the next by more than the threshold, and the first and last less.
    left, middle, right = square(0, 0.3, 0, 0, 20), square(3, 0.6, 2, 0, 20), square(6, 0.9, 4, 0, 20)
    result = EverythingResult(EverythingOptions(box_nms_thresh=0.75))

    events = []
    for one in (left, middle, right):
        result.add([one])
        change = result.update()
        events.append(([mask.id for mask in change.found], list(change.dropped)))

    assert events == [([0], []), ([3], [0]), ([6, 0], [3])]


def test_only_the_best_masks_are_kept():
    result = EverythingResult(EverythingOptions(max_masks=2))

    result.add([square(3 * i, 0.1 * i, 8 * i, 0, 6) for i in range(5)])
    result.update()

    assert [mask.id for mask in result.masks] == [12, 9]


def test_the_worst_candidates_go_when_they_take_too_much_memory():
    squares = [square(3 * i, 0.1 * i, 8 * i, 0, 6) for i in range(5)]
    each = squares[0].found.mask.transitions.nbytes
    result = EverythingResult(EverythingOptions(), max_bytes=4 * each)

    result.add(squares)
    result.update()

    assert [mask.id for mask in result.masks] == [12, 9, 6]


def test_small_regions_are_removed_from_the_masks_of_a_result():
    pixels = np.zeros((40, 40), np.bool_)
    pixels[5:25, 5:25] = True
    pixels[10, 10] = False
    pixels[35, 35] = True
    result = EverythingResult(EverythingOptions(min_mask_region_area=4))

    result.add([candidate(0, 0.9, pixels)])
    (mask,) = result.update().found

    assert (mask.mask.area, mask.bbox) == (400, (5, 5, 20, 20))


def with_hole(number, quality, x):
    pixels = np.zeros((40, 40), np.bool_)
    pixels[5:25, x : x + 9] = True
    pixels[10, x + 4] = False
    return candidate(number, quality, pixels)


def test_masks_without_small_regions_are_kept_as_runs_too():
    result = EverythingResult(EverythingOptions(min_mask_region_area=4))
    one = with_hole(0, 0.9, 5)

    result.add([one])
    (mask,) = result.update().found

    # 300 masks of pixels would take 15 GB at 52 megapixels.
    assert isinstance(mask.mask, RunMask)
    assert mask.mask.transitions.nbytes < one.found.mask.transitions.nbytes


def test_removing_small_regions_stops_between_two_masks():
    result = EverythingResult(EverythingOptions(min_mask_region_area=4))
    result.add([with_hole(3 * i, 0.9 - 0.1 * i, 10 * i) for i in range(3)])
    checks = iter([True, True, False])

    def check():
        if not next(checks):
            raise TimeoutError

    with pytest.raises(TimeoutError):
        result.update(check)

    assert result.masks == ()


@pytest.mark.parametrize("quality", ["predicted_iou", "stability"])
def test_the_selection_keeps_the_outputs_above_the_threshold(quality):
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 4, 256, 256)).astype(np.float32)
    predicted, stability = random.random((2, 3, 4), np.float32)
    compared = predicted if quality == "predicted_iou" else stability

    selected = selected_masks(MaskSelection((0, 2), quality, 0.5), logits, predicted, stability)

    expected = [(p, k) for p in range(3) for k in range(2) if compared[p, (0, 2)[k]] > 0.5]
    assert list(zip(selected.prompts.tolist(), selected.positions.tolist(), strict=True)) == expected
    for row, (p, k) in enumerate(expected):
        output = (0, 2)[k]
        assert np.array_equal(selected.mask_logits[row], logits[p, output])
        assert selected.predicted_iou[row] == predicted[p, output]
        assert selected.quality[row] == compared[p, output]


def hill(centre, radius, steep):
    """Return logits that fall off from a point of the image, given in cells."""
    y, x = np.mgrid[0:256, 0:256]
    return ((radius - np.hypot(x - centre[0], y - centre[1])) * steep).astype(np.float32)


def selected(*logits):
    four = np.zeros((1, 4, 256, 256), np.float32)
    four[0, 1 : 1 + len(logits)] = logits
    quality = np.array([[0.0, 0.9, 0.8, 0.7]], np.float32)
    outputs = tuple(range(1, 1 + len(logits)))
    return selected_masks(MaskSelection(outputs, "predicted_iou", 0.0), four, quality, quality)


def test_candidates_are_the_stable_masks_with_pixels_at_the_resolution_of_the_image():
    frame = Frame((300, 400))
    sharp, flat, empty = hill((60, 60), 20, 20.0), hill((60, 60), 20, 0.05), hill((60, 60), -1, 20.0)

    (one,) = candidates_of(
        selected(sharp, flat, empty), [7], np.array([[90.5, 91.5]]), SearchedPart.whole(frame), EverythingOptions(),
        outputs=3, enlarge=binary_mask, place=lambda mask: mask,
    )  # fmt: skip

    assert (one.found.id, one.quality, one.found.predicted_iou) == (21, np.float32(0.9), np.float32(0.9))
    assert np.array_equal(full(one.found.mask), full(binary_mask(sharp, frame)))
    assert (one.found.point, one.found.crop_box) == ((90.5, 91.5), (0, 0, 400, 300))
    x, y, width, height = one.found.bbox
    assert one.box == (x, y, x + width - 1, y + height - 1)


def test_padding_of_the_frame_does_not_count_for_the_stability():
    frame = Frame((200, 400))
    rows, _ = used_cells(frame)
    logits = hill((60, 60), 20, 20.0)
    logits[rows:] = 0.5  # between the two thresholds

    (one,) = candidates_of(
        selected(logits), [0], np.array([[1.0, 1.0]]), SearchedPart.whole(frame), EverythingOptions(),
        outputs=1, enlarge=binary_mask, place=lambda mask: mask,
    )  # fmt: skip

    assert one.found.stability_score > 0.95


def test_masks_of_a_region_are_stated_in_pixels_of_the_image_and_go_where_its_edge_cuts_them_off():
    frame = Frame((300, 400))
    part = SearchedPart(frame, 1000, 2000, (5000, 5000))
    inside, at_the_edge = hill((100, 100), 20, 20.0), hill((0, 100), 20, 20.0)

    def place(mask):
        y, x = np.nonzero(full(mask))
        whole = np.zeros((5000, 5000), np.bool_)
        whole[y + 2000, x + 1000] = True
        return BinaryMask.cut((5000, 5000), 0, 0, whole)

    (one,) = candidates_of(
        selected(inside, at_the_edge), [0], np.array([[10.0, 20.0]]), part, EverythingOptions(),
        outputs=2, enlarge=binary_mask, place=place,
    )  # fmt: skip

    assert one.found.id == 0
    assert (one.found.point, one.found.crop_box) == ((1010.0, 2020.0), (1000, 2000, 400, 300))
    assert one.box[0] > 1000
    assert one.box[1] > 2000
    assert one.found.mask.size == (5000, 5000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"points_per_side": 0},
        {"points_per_side": 65},
        {"pred_iou_thresh": 1.5},
        {"stability_score_thresh": float("nan")},
        {"stability_score_offset": -1},
        {"box_nms_thresh": 2},
        {"min_mask_region_area": -1},
        {"max_masks": 0},
        {"max_masks": 1001},
    ],
    ids=str,
)
def test_options_out_of_their_bounds_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EverythingOptions(**wrong)

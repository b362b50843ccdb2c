"""Figures of measurements, compared with values computed by hand, and their tables."""

import math

import pytest
from support.fixed_segmenter import EMPTY, FixedSegmenter, measured

from model_store.evaluation.protocol import Measurement, Protocol
from model_store.evaluation.summary import figures_of, summary
from model_store.evaluation.tables import tables
from model_store.training.data.annotations import read_annotations


def measurement(iou=0.5, **changed):
    about = {
        "method": "m", "start": "box", "step": 0, "choice": "single", "photo": 0, "mask": 0, "source": "a",
        "area": 2000, "pieces": 1,
    }  # fmt: skip
    return Measurement(**{**about, **changed}, iou=iou)


def test_empty_masks_of_empty_objects_do_not_count():
    figures = summary([measurement(0.5), measurement(math.nan, pieces=0), measurement(1.0)])["m"]

    assert figures["miou"] == {"box": 0.75}
    assert figures["good"] == {"box": 0.5}
    assert figures["by_size"]["medium"]["miou"] == {"box": 0.75}


def test_a_mask_is_good_from_an_iou_of_0_8_on():
    ious = [0.79, 0.8, 1.0, math.nan, 0.1]

    figures = figures_of(
        [measurement(iou) for iou in ious] + [measurement(iou, choice="auto", start="point") for iou in ious]
    )

    assert figures["good"] == {"box": 2 / 4, "auto": 2 / 4}
    assert figures["instances"] == 5


def test_pieces_are_the_median_of_masks_that_have_any():
    counts = [1, 9, 0, 4, 0, 2]

    figures = figures_of([measurement(pieces=count) for count in counts] + [measurement(step=1, pieces=0)])

    assert figures["pieces"] == {"box": 3.0, "box+1": None}


def test_corrections_are_obeyed_by_step_and_start_and_ignored_ones_do_not_count():
    obeyed = {("box", 1): [True, None, False, True], ("box", 2): [None], ("point", 1): [False], ("point", 2): [True]}
    measurements = [
        measurement(start=start, step=step, is_obeyed=one) for (start, step), found in obeyed.items() for one in found
    ]

    figures = figures_of([measurement(), *measurements])

    assert figures["obeyed"] == {"box+1": 2 / 3, "box+2": None, "point+1": 0.0, "point+2": 1.0, "all": 3 / 5}


def test_there_are_figures_of_each_size_and_source():
    measurements = [
        measurement(0.2, area=1000, source="b"),
        measurement(0.4, area=5000, source="b"),
        measurement(0.9, area=99999, source="a"),
    ]

    figures = summary(measurements)["m"]

    assert figures["miou"] == {"box": pytest.approx(0.5)}
    assert {size: found["miou"]["box"] for size, found in figures["by_size"].items()} == {
        "small": 0.2, "medium": 0.4, "large": 0.9
    }  # fmt: skip
    assert list(figures["by_source"]) == ["a", "b"]
    assert figures["by_source"]["a"]["good"] == {"box": 1.0}
    assert figures["by_source"]["b"]["miou"] == {"box": pytest.approx(0.3)}
    assert figures["by_source"]["b"]["instances"] == 2


def test_the_score_of_the_first_mask_is_compared_with_its_iou():
    measurements = [measurement(0.6, choice="auto", score=0.9), measurement(0.2, choice="auto", score=0.3)]

    (found,) = summary(measurements)["m"]["score_calibration"].values()

    assert found["error"] == pytest.approx((0.3 + 0.1) / 2)
    assert found["correlation"] == pytest.approx(1.0)


def test_the_calibration_error_of_an_overconfident_model_is_its_distance_from_the_truth(data):
    photos = read_annotations(data)[:2]

    figures = summary(measured(photos, FixedSegmenter(EMPTY, predicted=0.5), Protocol()))["fixed"]

    assert figures["calibration"]["box"]["error"] == pytest.approx(0.5)
    assert figures["calibration"]["box"]["correlation"] is None, "a score that does not vary goes with nothing"
    assert figures["score_calibration"]["auto"]["error"] == pytest.approx(0.9)
    assert figures["miou"]["auto"] == 0.0
    assert figures["instances"] == 2


def of_two_objects(*, auto, stability):
    """A box, corrected once, and four masks of a point, each for two objects of two sources."""
    return [
        one
        for source, area in (("first", 500), ("second", 50000))
        for one in (
            measurement(0.9, source=source, area=area),
            measurement(0.85, source=source, area=area, step=1, is_obeyed=source == "first"),
            measurement(auto, source=source, area=area, start="point", choice="auto", score=auto, pieces=3),
            measurement(stability, source=source, area=area, start="point", choice="stability", pieces=3),
            measurement(0.95, source=source, area=area, start="point", choice="oracle"),
            measurement(0.6, source=source, area=area, start="point"),
        )
    ]


def test_tables_have_titles_and_show_the_stability_where_it_is_not_the_rule():
    by_other_rule, by_stability = (tables(summary(of_two_objects(auto=auto, stability=0.5))) for auto in (0.85, 0.5))

    assert by_other_rule[0].markdown() == (
        "## Mean IoU, %\n\n"
        "| method | objects | box | box+1 | point | auto | point (stability of 4) | point (oracle of 4) |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| m | 2 | 90.0 | 85.0 | 60.0 | 85.0 | 50.0 | 95.0 |"
    )
    assert "point (stability of 4)" not in by_stability[0].header
    assert [table.title.split(":")[0] for table in by_other_rule] == [
        "Mean IoU, %", "Right masks, %; pieces of a mask, median; corrections obeyed, %", "By size", "By source",
        "IoU of outlines, %; scores against the true IoU",
    ]  # fmt: skip


def test_tables_show_right_masks_and_pieces_as_a_whole_and_by_source():
    _, right, _, by_source, scores = tables(summary(of_two_objects(auto=0.85, stability=0.5)))

    assert dict(zip(right.header, *right.rows, strict=True)) == {
        "method": "m", "box, IoU ≥ 0.8": "100.0", "point, IoU ≥ 0.8": "0.0", "auto, IoU ≥ 0.8": "100.0",
        "box, pieces": "1", "point, pieces": "1", "auto, pieces": "3", "box+1, obeyed": "50.0",
    }  # fmt: skip
    first, second = (dict(zip(by_source.header, row, strict=True)) for row in by_source.rows)
    assert (first["source"], second["source"]) == ("first", "second")
    assert (first["obeyed"], second["obeyed"]) == ("100.0", "0.0")
    assert first["auto, pieces"] == "3"
    assert dict(zip(scores.header, *scores.rows, strict=True)) == {
        "method": "m", "auto, score: error": "0.00", "auto, score: correlation": "–"
    }  # fmt: skip


def test_objects_of_one_source_have_no_table_by_source():
    titles = [table.title for table in tables(summary([measurement(area=500), measurement(area=5000)]))]

    assert titles == [
        "Mean IoU, %", "Right masks, %; pieces of a mask, median; corrections obeyed, %",
        "By size: mean IoU, %, and more",
    ]  # fmt: skip

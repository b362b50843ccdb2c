"""Any JSON sent to /segment or /segment/everything is parsed or refused with a problem. Its numbers are bounded."""

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.routes import everything
from service.api.routes.segment import _parse
from service.errors import InvalidRequest, MalformedBody

NAMES = st.sampled_from(
    ["image_hash", "prompts", "points", "x", "y", "label", "box", "mask_id", "mask_logits", "multimask", "format", "a"]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([1e6, -1e6, 1e308, 5e-324, 2**63, -(2**70)])
LEAVES = (
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | st.sampled_from(["0" * 64, "0" * 32, "rle", "auto"])
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES, inner), max_leaves=30
)
POINTS = st.fixed_dictionaries({"x": NUMBERS, "y": NUMBERS}, optional={"label": LEAVES})
PROMPTS = st.fixed_dictionaries(
    {"points": st.lists(POINTS, max_size=4)}, optional={"box": st.lists(NUMBERS, min_size=4, max_size=4)}
)
NEARLY = st.fixed_dictionaries({"image_hash": st.just("0" * 64), "prompts": st.lists(PROMPTS | ANYTHING, max_size=4)})


@given(ANYTHING | NEARLY)
def test_any_json_is_a_request_or_a_refusal(document):
    try:
        asked, queries = _parse(json.dumps(document).encode(), 64)
    except (InvalidRequest, MalformedBody):
        return

    assert len(asked.prompts) == len(queries)
    for query in queries:
        assert np.isfinite(query.prompt.points).all()
        assert query.prompt.box is None or np.isfinite(query.prompt.box).all()


PARAMETERS = (
    *("points_per_side", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset", "box_nms_thresh"),
    *("min_mask_region_area", "max_masks", "format", "tolerance_pixels", "fast", "model"),
)
NEARLY_EVERYTHING = st.fixed_dictionaries(
    {"image_hash": st.just("0" * 64)}, optional=dict.fromkeys(PARAMETERS, LEAVES | NUMBERS)
)


@settings(deadline=None)  # a busy machine
@given(ANYTHING | NEARLY_EVERYTHING)
def test_any_json_is_an_everything_request_within_its_bounds_or_a_refusal(document):
    try:
        asked = everything._parse(json.dumps(document).encode(), 32)
    except (InvalidRequest, MalformedBody):
        return

    assert asked.points_per_side is None or 1 <= asked.points_per_side <= 32
    assert 1 <= asked.max_masks <= 1000
    assert asked.min_mask_region_area is None or 0 <= asked.min_mask_region_area <= 1 << 30
    assert 0 <= asked.tolerance_pixels <= 100
    for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"):
        value = getattr(asked, name)
        assert value is None or 0 <= value <= 1

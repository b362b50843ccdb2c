"""Whether a mask agrees with points is decided by the pixels of the mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sam.reference import upsampled
from sam.sample_values import frames, logits

from service.sam.point_agreement import point_taps
from service.sam.prompts import Prompt

shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(logits(), frames(), shares)
def test_agreement_is_that_of_the_pixel_at_the_point(values, frame, shares):
    size = frame.size
    points = np.array([(x * size[1], y * size[0]) for x, y, _ in shares])
    labels = np.array([label for *_, label in shares], np.int64)
    taps = point_taps(Prompt(points, labels), frame)

    found, agrees = taps.values(np.stack([values, -values])), taps.agree(np.stack([values, -values]))

    expected = upsampled(values, frame)
    for i, (x, y) in enumerate(points):
        pixel = expected[min(int(y), size[0] - 1), min(int(x), size[1] - 1)]
        tolerance = 1e-4 * max(1.0, float(np.abs(values).max()))
        assert found[:, i] == pytest.approx([pixel, -pixel], abs=tolerance)
        if abs(pixel) > tolerance:
            assert agrees[:, i].tolist() == [(pixel > 0) == labels[i], (pixel < 0) == labels[i]]

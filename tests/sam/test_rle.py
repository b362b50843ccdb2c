"""Run lengths equal those of pycocotools."""

import io

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco
from sam.reference import rasterised
from sam.sample_values import logits, margins, masks, placed
from support.whole_masks import full

from service.sam.frame import Frame
from service.sam.masks import BinaryMask, binary_mask
from service.sam.png import encode_png
from service.sam.polygons import encode_polygons
from service.sam.rle import encode_rle


@settings(deadline=None)
@given(masks(), margins)
@example(np.ones((5, 4), bool), (0, 0, 0, 0))
@example(np.ones((5, 1), bool), (3, 0, 2, 0))
@example(np.zeros((5, 4), bool), (0, 0, 0, 0))
@example(np.ones((1, 1), bool), (0, 0, 0, 0))
def test_run_lengths_are_those_of_pycocotools_on_the_full_image(pixels, around):
    full, mask = placed(pixels, around)

    rle = encode_rle(mask)

    expected = coco.encode(np.asfortranarray(full.view(np.uint8)))
    assert rle == {"size": list(expected["size"]), "counts": expected["counts"].decode()}


def test_a_run_that_continues_in_the_next_column_is_one_run():
    pixels = np.array([[0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 0, 1]], bool)

    rle = encode_rle(BinaryMask.cut((3, 4), 0, 0, pixels))

    raw = coco.frPyObjects({"size": [3, 4], "counts": [2, 6, 2, 2]}, 3, 4)
    assert rle["counts"].encode() == raw["counts"]


@settings(max_examples=15, deadline=None)
@given(logits(), st.sampled_from([(150, 200), (400, 12), (1, 2048), (2048, 1)]))
def test_all_forms_of_a_decoded_mask_agree(values, size):
    mask = binary_mask(values, Frame(size))

    whole = full(mask)
    assert encode_rle(mask)["counts"].encode() == coco.encode(np.asfortranarray(whole.view(np.uint8)))["counts"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(mask, crop=False)))), whole)
    assert np.array_equal(rasterised(encode_polygons(mask), size), whole)

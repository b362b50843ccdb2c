"""Binary masks as logits and boxes, and their run lengths against pycocotools."""

import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from support.whole_masks import full

from service.errors import InvalidRequest
from service.sam.decoded_image import ImageInfo
from service.sam.frame import Frame
from service.sam.mask_prompts import PngMask, RleMask, held_to_mask, stability
from service.sam.mask_prompts import with_mask as with_mask_of
from service.sam.masks import binary_mask
from service.sam.prompts import Prompt
from service.sam.region import Region
from service.sam.rle import decode_counts


def ellipse(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return ((rows - height / 3) / (height / 4)) ** 2 + ((columns - width / 2) / (width / 5)) ** 2 < 1


def encoded(pixels: np.ndarray) -> RleMask:
    packed = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
    return RleMask(pixels.shape, packed["counts"].decode())


def with_mask(prompt: Prompt, mask: RleMask, frame: Frame) -> Prompt:
    """Return the prompt with a mask of the whole image in the frame."""
    return with_mask_of(prompt, mask, frame, ImageInfo(frame.size, 1, "full"))


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 300), (1500, 40)])
def test_run_lengths_are_read_as_pycocotools_writes_them(size):
    generator = np.random.default_rng(size)
    for share in (0.0, 0.01, 0.5, 1.0):
        pixels = generator.random(size) < share

        assert np.array_equal(encoded(pixels).rows() > 0, pixels)


def test_text_of_any_content_is_read_or_refused():
    generator = np.random.default_rng(3)
    for length in range(1, 400):
        text = generator.integers(32, 128, length, np.uint8).tobytes().decode("ascii")
        try:
            runs = decode_counts(text)
        except InvalidRequest:
            continue
        assert len(runs) <= length


@pytest.mark.parametrize(
    "frame",
    [
        *(Frame(size) for size in [(300, 400), (1024, 1024), (2400, 1600), (90, 1800)]),
        *(Frame(size, "stretch") for size in [(300, 400), (1024, 1024), (2400, 1600), (90, 1800), (3000, 120)]),
    ],
    ids=str,
)
def test_the_logits_of_a_mask_give_the_mask_back(frame):
    size = frame.size
    pixels = ellipse(*size)

    prompt = with_mask(Prompt(), encoded(pixels), frame)

    assert (prompt.mask_logits.shape, prompt.mask_logits.dtype) == ((256, 256), np.float32)
    assert iou(full(binary_mask(prompt.mask_logits, frame)), pixels) > 0.97
    assert np.abs(prompt.mask_logits).max() == pytest.approx(10.0)


def test_the_box_of_a_mask_holds_its_pixels_and_the_positive_points():
    pixels = np.zeros((100, 200), np.bool_)
    pixels[20:40, 50:90] = True
    points = Prompt(points=np.array([[120.0, 30.0], [10.0, 90.0]]), labels=np.array([1, 0]))
    box = Prompt(box=np.array([0.0, 0.0, 30.0, 30.0]))

    alone, with_points, with_box = (
        with_mask(prompt, encoded(pixels), Frame((100, 200))) for prompt in (Prompt(), points, box)
    )

    assert alone.box.tolist() == [50, 20, 90, 40]
    assert with_points.box.tolist() == [50, 20, 120, 40]
    assert with_box.box.tolist() == [0, 0, 30, 30]
    assert [prompt.is_held for prompt in (alone, with_points, with_box)] == [True, False, False]


REGIONS = [Region(0, 0, 90, 60), Region(30, 0, 62, 60), Region(0, 20, 90, 52), Region(41, 13, 88, 60)]


@pytest.mark.parametrize("region", REGIONS, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_the_mask_of_a_region_is_a_part_of_the_mask(region, share):
    pixels = np.random.default_rng(7).random((60, 90)) < share
    part = pixels[region.y0 : region.y1, region.x0 : region.x1]
    file, palette = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    Image.fromarray(pixels).convert("P").save(palette, "PNG", transparency=0)

    assert np.array_equal(encoded(pixels).rows(region) > 0, part)
    assert np.array_equal(PngMask.of(file.getvalue()).rows(region) > 0, part)
    assert np.array_equal(PngMask.of(palette.getvalue()).rows(region) > 0, part)


def test_a_mask_prompt_on_a_region_is_that_of_the_part_alone():
    pixels, region = ellipse(600, 900), Region(200, 50, 700, 450)
    part = np.ascontiguousarray(pixels[region.y0 : region.y1, region.x0 : region.x1])
    frame = Frame(region.size)

    found = with_mask_of(Prompt(), encoded(pixels), frame, ImageInfo((600, 900), 1, "full", region))
    expected = with_mask(Prompt(), encoded(part), frame)

    assert np.array_equal(found.mask_logits, expected.mask_logits)
    assert (found.box.tolist(), found.is_held) == (expected.box.tolist(), True)


def test_a_mask_prompt_without_a_pixel_in_the_region_is_refused():
    image = ImageInfo((600, 900), 1, "full", Region(0, 500, 100, 600))

    with pytest.raises(InvalidRequest, match=r"inside the region 0,500,100,600"):
        with_mask_of(Prompt(), encoded(ellipse(600, 900)), Frame((100, 100)), image)
    with pytest.raises(InvalidRequest, match="Send a mask of the image's size"):
        with_mask_of(Prompt(), encoded(ellipse(100, 100)), Frame((100, 100)), image)


@pytest.mark.parametrize("pixels", [[(200, 300)], [(10, column) for column in range(1600)]])
def test_masks_that_fill_no_cell_of_the_logits_do_not_vanish(pixels):
    mask = np.zeros((2400, 1600), np.bool_)
    for row, column in pixels:
        mask[row, column] = True

    prompt = with_mask(Prompt(), encoded(mask), Frame(mask.shape))

    assert prompt.mask_logits.max() == pytest.approx(10.0)


def test_a_colour_png_of_too_many_pixels_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    Image.new("RGB", (4001, 4000)).save(file, "PNG", compress_level=1)
    grey = io.BytesIO()
    Image.fromarray(ellipse(4000, 4001)).save(grey, "PNG", compress_level=1)

    assert np.count_nonzero(PngMask.of(grey.getvalue()).rows()) == np.count_nonzero(ellipse(4000, 4001))
    with pytest.raises(InvalidRequest, match="Save it in grey"):
        PngMask.of(file.getvalue()).rows()


def test_an_answer_that_is_held_follows_the_mask_unless_the_decoder_is_sure():
    mask_logits = np.full((256, 256), -10.0, np.float32)
    mask_logits[:128] = 10.0
    decoded = np.full((4, 256, 256), -4.0, np.float32)
    decoded[:, 192:] = 20.0

    held = held_to_mask(decoded, mask_logits)

    inside = held[0] > 0
    assert inside[:128].all()
    assert not inside[128:192].any()
    assert inside[192:].all()
    assert stability(held).tolist() == [1.0] * 4
    assert stability(np.full((1, 256, 256), -5.0, np.float32)).tolist() == [0.0]

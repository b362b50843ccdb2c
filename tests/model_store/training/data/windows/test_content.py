"""What windows are cut from: photos as they are read, objects pasted in front, drawn scenes, other colours."""

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from model_store.training.data.annotated_images import LONGEST_SIDE, AnnotatedImage, UnreadablePhoto, read_image
from model_store.training.data.annotations import AnnotationError, MaskRecord, PhotoRecord
from model_store.training.data.windows.colour_jitter import colour_jittered, degraded
from model_store.training.data.windows.copy_paste import Cutout, cut_out, donor_numbers, paste
from model_store.training.data.windows.synthetic_scenes import synthetic_scene


def a_disc(height, width, x, y, radius):
    rows, columns = np.mgrid[:height, :width]
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2).astype(np.uint8)


def run_lengths(mask):
    return coco_mask.encode(np.asfortranarray(mask))


def an_image(*masks):
    boxes = np.array([cv2.boundingRect(mask) for mask in masks], float)
    boxes[:, 2:] += boxes[:, :2]
    pixels = np.full((*masks[0].shape, 3), 60, np.uint8)
    return AnnotatedImage(pixels, boxes, np.ones(len(masks)), masks.__getitem__)


def a_red_square(side):
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[..., 0] = 255
    return Cutout(pixels, np.full((side, side), 255, np.uint8))


def test_a_pasted_object_hides_what_lies_behind():
    everywhere, small = np.ones((200, 240), np.uint8), a_disc(200, 240, 60, 60, 15)
    image = an_image(everywhere, small)
    hidden_once = shown_once = False
    for seed in range(40):
        pasted = paste(image, a_red_square(40), np.random.default_rng(seed))
        if pasted is None:
            continue

        front = pasted.mask(0)

        assert pasted.required == 0
        np.testing.assert_array_equal((pasted.pixels == [255, 0, 0]).all(2), front)
        np.testing.assert_array_equal(pasted.mask(1), 1 - front if front.mean() <= 0.5 else 0 * front)
        rest = pasted.mask(2)
        assert not (rest & front).any()
        share = (small & ~front & 1).sum() / small.sum()
        np.testing.assert_array_equal(rest, small & ~front & 1 if share >= 0.5 else 0 * small)
        hidden_once, shown_once = hidden_once or share < 0.5, shown_once or 0.5 <= share < 1
        x, y, width, height = cv2.boundingRect(front)
        assert pasted.boxes[0].tolist() == [x, y, x + width, y + height]
        assert pasted.weights.tolist() == [1.5, 1.0, 1.0]
    assert hidden_once
    assert shown_once
    assert (image.pixels == 60).all(), "the image itself is unchanged"


def test_objects_are_cut_out_along_their_mask(tmp_path):
    mask = a_disc(80, 100, 40, 30, 20)
    photo = np.where(mask[..., None] > 0, [10, 200, 30], [90, 90, 90]).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    stuff = MaskRecord(run_lengths(1 - mask), "stuff")
    records = [
        PhotoRecord(tmp_path / "none.png", (80, 100), "x", masks=(stuff,)),
        PhotoRecord(tmp_path / "photo.png", (80, 100), "x", masks=(stuff, MaskRecord(run_lengths(mask), "object"))),
    ]

    cutout = cut_out(records[1], np.random.default_rng(0))

    assert donor_numbers(records).tolist() == [1]
    assert cutout.opacity.shape == (41, 41)
    assert (cutout.pixels[cutout.opacity > 0] == [10, 200, 30]).all()
    assert (cutout.pixels[cutout.opacity == 0] == 90).all()


def test_synthetic_scenes_have_masks_of_their_visible_shapes():
    counts = set()
    for seed in range(20):
        scene = synthetic_scene(np.random.default_rng(seed))
        masks = np.stack([scene.mask(number) for number in range(len(scene.weights))])

        assert scene.pixels.shape[:2] == masks.shape[1:]
        assert masks.sum(0).max() <= 1, "nothing is seen twice"
        assert masks.sum((1, 2)).min() >= 60
        for mask, box in zip(masks, scene.boxes, strict=True):
            x, y, width, height = cv2.boundingRect(mask)
            assert box.tolist() == [x, y, x + width, y + height]
        counts.add(len(masks))
    assert len(counts) > 3
    again = synthetic_scene(np.random.default_rng(19))
    np.testing.assert_array_equal(again.pixels, scene.pixels)


def test_the_shapes_of_a_scene_are_where_their_masks_are():
    inner_edges = outer_edges = 0.0
    for seed in range(30):
        scene = synthetic_scene(np.random.default_rng(seed))
        grey = cv2.cvtColor(scene.pixels, cv2.COLOR_RGB2GRAY)
        blurred = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0)
        steepness = np.hypot(cv2.Sobel(blurred, cv2.CV_32F, 1, 0), cv2.Sobel(blurred, cv2.CV_32F, 0, 1))
        for number in range(len(scene.weights)):
            mask = np.pad(scene.mask(number), 8)
            rim = cv2.dilate(mask, np.ones((3, 3))) - cv2.erode(mask, np.ones((3, 3)))
            away = cv2.dilate(mask, np.ones((13, 13))) - cv2.dilate(mask, np.ones((9, 9)))
            inner_edges += steepness[rim[8:-8, 8:-8] > 0].mean()
            outer_edges += steepness[away[8:-8, 8:-8] > 0].mean() if away[8:-8, 8:-8].any() else 0.0
    assert inner_edges > 1.5 * outer_edges


def test_new_colours_equal_the_steps_one_by_one():
    window = np.random.default_rng(0).integers(60, 190, (32, 32, 3), np.uint8)

    changed = colour_jittered(window, 1.0, np.random.default_rng(7), is_grey=False)

    saturation, contrast, red, green, blue, brightness = np.random.default_rng(7).uniform(-1, 1, 6)
    grey = window.mean(2, keepdims=True)
    expected = grey + (window - grey) * (1 + 0.4 * saturation)
    middle = window.mean()
    expected = middle + (expected - middle) * (1 + 0.3 * contrast)
    expected = expected * (1 + 0.08 * np.array([red, green, blue])) + 25 * brightness
    np.testing.assert_allclose(changed, expected.clip(0, 255), atol=0.75)  # OpenCV rounds the matrix, too


def test_strength_zero_and_grey():
    window = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)

    same = colour_jittered(window, 0.0, np.random.default_rng(0), is_grey=False)
    grey = colour_jittered(window, 0.0, np.random.default_rng(0), is_grey=True)

    np.testing.assert_array_equal(same, window)
    assert (grey == grey[..., :1]).all()


def test_degraded_windows_keep_their_content_and_lose_detail():
    rows, columns = np.mgrid[:256, :256]
    window = np.where(((rows // 2 + columns // 2) % 2)[..., None] > 0, 230, 20).astype(np.uint8).repeat(3, 2)
    disc = a_disc(256, 256, 90, 140, 40)[..., None] * np.full(3, 255, np.uint8)
    for seed in range(12):
        worse = degraded(disc, np.random.default_rng(seed)).astype(float)[..., 0]
        worse[worse < 60] = 0  # what noise and compression add
        centre = np.array([(columns * worse).sum(), (rows * worse).sum()]) / worse.sum()
        np.testing.assert_allclose(centre, [90, 140], atol=0.6)
        assert degraded(window, np.random.default_rng(seed)).std() < window.std()


@pytest.mark.parametrize(("suffix", "orientation"), [("jpg", 1), ("jpg", 6), ("png", 3), ("png", 8)])
def test_long_photos_are_reduced_with_their_masks(tmp_path, suffix, orientation):
    upright = a_disc(2400, 3300, 900, 1500, 400)
    quarter_rotations = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # quarter quarter_rotations to the left of what is stored
    stored = Image.fromarray(np.rot90(upright, quarter_rotations) * np.uint8(255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    stored.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {"compress_level": 1}))
    record = PhotoRecord(path, (2400, 3300), "x", masks=(MaskRecord(run_lengths(upright)),))

    image = read_image(record, np.ones(1, np.float32))

    assert image.pixels.shape == (round(2400 * LONGEST_SIDE / 3300), LONGEST_SIDE, 3)
    difference = image.mask(0) * 255.0 - image.pixels[..., 0]
    assert np.abs(difference).mean() < 1.0
    assert abs(difference.mean()) < 0.1
    np.testing.assert_allclose(image.boxes[0], cv2.boundingRect(image.mask(0)) @ BOX, atol=1.0)


BOX = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
"""From x, y, width and height to corners."""


def test_what_cannot_be_read_is_named(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "photo.png").read_bytes()[:60])
    mask = MaskRecord(run_lengths(np.ones((48, 64), np.uint8)))
    other = MaskRecord(run_lengths(np.ones((48, 60), np.uint8)))
    weights = np.ones(1, np.float32)

    for name, reason in (("missing.png", "No such file"), ("broken.png", "broken.png cannot be read")):
        with pytest.raises(UnreadablePhoto, match=reason):
            read_image(PhotoRecord(tmp_path / name, (48, 64), "x", masks=(mask,)), weights)
    with pytest.raises(AnnotationError, match=r"\(48, 64\) pixels, its masks are for \(48, 60\)"):
        read_image(PhotoRecord(tmp_path / "photo.png", (48, 60), "x", masks=(other,)), weights)
    image = read_image(PhotoRecord(tmp_path / "photo.png", (48, 64), "x", masks=(other,)), weights)
    with pytest.raises(UnreadablePhoto, match=r"a mask has \(48, 60\) pixels"):
        image.mask(0)

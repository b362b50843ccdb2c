"""Batches of windows: the same for the same seed, without photos that cannot be read."""

import itertools
import json
import warnings
from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from model_store.errors import ModelStoreError
from model_store.training.data.annotations import AnnotationError, read_annotations
from model_store.training.data.windows.augmentation import PLAIN, Augmentation
from model_store.training.data.windows.dataset import (
    SkippedPhotoWarning,
    WindowBatch,
    WindowDataset,
    WindowSize,
    parse_windows,
)

SMALL = WindowSize(256, 3)


@pytest.fixture
def photos(tmp_path):
    """Six photos with two nested masks each."""
    return a_data_set(tmp_path, 6, radius=40)


def a_data_set(folder, count, *, radius):
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    with (folder / "annotations.jsonl").open("w") as lines:
        for number in range(count):
            image = cv2.resize(random.integers(0, 255, (12, 16, 3), np.uint8), (200, 150))
            masks = []
            for part in (1, 3):
                mask = cv2.circle(np.zeros((150, 200), np.uint8), (60 + 10 * number, 70), radius // part, 1, -1)
                encoded = coco_mask.encode(np.asfortranarray(mask))
                masks.append({"size": encoded["size"], "counts": encoded["counts"].decode(), "kind": "object"})
                image[mask > 0] = image[mask > 0] // 2 + (90 if part == 1 else 0)
            Image.fromarray(image).save(folder / "images" / f"{number}.png")
            record = {"file": f"images/{number}.png", "width": 200, "height": 150, "masks": masks}
            lines.write(json.dumps(record) + "\n")
    return read_annotations(folder)


def dataset(records, window=SMALL, *, augmentation=None, boxes=2, points=3):
    return WindowDataset(records, window, boxes=boxes, points=points, augmentation=augmentation or Augmentation())


def batches(records, seed=0, **options):
    """Batches without end."""
    made, random = dataset(records, **options), np.random.default_rng(seed)
    while True:
        yield made.batch(random)


def first(records, **options):
    return next(batches(records, **options))


def equal(one, other):
    return all(torch.equal(getattr(one, entry.name), getattr(other, entry.name)) for entry in fields(WindowBatch))


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_a_batch_has_the_shapes_that_training_expects(photos, side):
    batch = first(photos, window=WindowSize(side, 2))

    assert {entry.name: (tuple(value.shape), value.dtype) for entry, value in values(batch)} == {
        "frames": ((2, 3, side, side), torch.uint8),
        "inside": ((2, side // 2, side // 2), torch.uint8),
        "targets": ((2, 5, 3, side // 4, side // 4), torch.uint8),
        "has_target": ((2, 5, 3), torch.bool),
        "boxes": ((2, 2, 4), torch.float32),
        "points": ((2, 3, 2), torch.float32),
        "origins": ((2, 2), torch.int64),
    }
    assert batch.has_target[:, :, 0].all()
    assert not batch.has_target[:, :2, 1:].any(), "a box is not ambiguous"
    assert batch.has_target[:, 2:, 1:].any(), "the masks are nested"
    assert batch.origins.max() <= (1024 - side) // 16
    assert equal(batch.to("cpu"), batch)


def values(batch):
    return [(entry, getattr(batch, entry.name)) for entry in fields(WindowBatch)]


def test_the_same_seed_gives_the_same_windows_and_another_one_others(photos):
    again = batches(photos)

    some = list(itertools.islice(batches(photos), 3))

    assert all(equal(batch, next(again)) for batch in some)
    assert not equal(some[0], some[1])
    assert not equal(some[0], first(photos, seed=1))


def test_points_and_boxes_fit_the_photo(photos):
    stream = batches(photos, window=WindowSize(512, 2), augmentation=Augmentation(noisy_boxes=0.0))
    for _ in range(10):
        batch = next(stream)
        for window, prompt in itertools.product(range(2), range(5)):
            covered = batch.targets[window, prompt, 0] > 127
            if prompt < 2:
                rows, columns = (torch.nonzero(covered.any(axis))[:, 0] for axis in (1, 0))
                edges = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * 4
                assert (batch.boxes[window, prompt] - edges).abs().max() <= 4
            else:
                x, y = ((batch.points[window, prompt - 2] + 0.5) // 4).long()
                assert covered[y, x]
                for index in (1, 2):
                    target = batch.targets[window, prompt, index]
                    assert (target[y, x] > 127) == batch.has_target[window, prompt, index]


def test_plain_windows_have_the_photo_s_own_colours_at_their_own_position(photos):
    batch = first(photos, augmentation=PLAIN, window=WindowSize(1024, 6))

    assert batch.origins.eq(0).all()
    seen = {tuple(batch.frames[row, :, :768].float().mean((1, 2)).round().tolist()) for row in range(6)}
    means = [tuple(np.round(record.image().mean((0, 1)))) for record in photos]
    assert all(any(np.abs(np.subtract(one, mean)).max() <= 1 for mean in means) for one in seen)
    assert batch.inside[:, :384].eq(255).all()
    assert batch.inside[:, 384:].eq(0).all()


def test_photos_that_cannot_be_read_are_left_out_and_counted(photos):
    photos[1].path.unlink()
    photos[4].path.write_bytes(photos[4].path.read_bytes()[:900])
    stream = batches(photos)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(30):
            next(stream)

    texts = [str(warning.message) for warning in caught if warning.category is SkippedPhotoWarning]
    assert sorted(path.name for path in (photos[1].path, photos[4].path) if any(str(path) in t for t in texts)) == [
        "1.png", "4.png",
    ]  # fmt: skip
    assert ["photo 1 of 6" in texts[0], "photo 2 of 6" in texts[1], len(texts)] == [True, True, 2]


@pytest.mark.filterwarnings("ignore::model_store.training.data.windows.dataset.SkippedPhotoWarning")
def test_a_data_set_of_which_nothing_can_be_read_is_refused(photos):
    for record in photos:
        record.path.write_bytes(b"no photo")

    with pytest.raises(AnnotationError, match="None of 6 photos can be read"):
        first(photos, augmentation=PLAIN)


def test_a_data_set_of_specks_is_refused(tmp_path):
    specks = a_data_set(tmp_path / "specks", 2, radius=0)

    with pytest.raises(AnnotationError, match="no mask that is large enough"):
        first(specks, augmentation=PLAIN)


def test_synthetic_scenes_need_no_readable_photo(photos):
    for record in photos:
        record.path.unlink()

    assert first(photos, augmentation=Augmentation(synthetic=1.0)).has_target[:, :, 0].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": 0, "points": 0}, "at least one prompt"),
        ({"boxes": -1}, "at least one prompt"),
    ],
)
def test_data_sets_of_windows_are_checked(photos, options, message):
    with pytest.raises(ValueError, match=message):
        dataset(photos, **options)
    with pytest.raises(ValueError, match="at least one mask"):
        dataset([])


def test_window_sizes_are_read_from_text():
    assert parse_windows("256:6:0.60,512:2:0.25,1024:1:0.15") == (
        WindowSize(256, 6, 0.6), WindowSize(512, 2, 0.25), WindowSize(1024, 1, 0.15),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "side:batch:share"),
        ("256:6", "side:batch:share"),
        ("256:6:lots", "could not convert"),
        ("250:6:1", "multiple of 64 up to 1024, not 250"),
        ("2048:1:1", "multiple of 64 up to 1024, not 2048"),
        ("256:0:1", "at least one window, not 0"),
        ("256:1:0", "positive number, not 0"),
        ("256:1:nan", "positive number, not nan"),
        ("256:1:1,256:2:1", "twice"),
    ],
)
def test_errors_in_window_sizes_say_what_to_write(text, message):
    with pytest.raises(ModelStoreError, match=message):
        parse_windows(text)

"""Windows of photos and masks come out of the shelf as slow, plain resampling gives them."""

import json
from dataclasses import fields

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from model_store.training.data.annotations import read_annotations
from model_store.training.data.augmentation import PLAIN, Augmentation, make_batch
from model_store.training.data.sampling import source_shares, weights
from model_store.training.data.scenes import Scenes, generated_shelf
from model_store.training.data.shelf import Shelf, build_shelf, open_shelf, sample_masks, sample_photos, shelve
from model_store.training.data.sources import ResidentSource, StreamedSource


def a_picture(height, width, seed=0):
    random = np.random.default_rng(seed)
    image = cv2.resize(random.integers(0, 255, (9, 13, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    mask = cv2.ellipse(np.zeros((height, width), np.uint8), (width // 3, height // 2), (31, 17), 20, 0, 360, 1, -1)
    return image, mask


def a_shelf(*pictures):
    ones = np.ones(len(pictures), np.float32)
    return shelve([(image, [mask]) for image, mask in pictures], ones / len(pictures), ones)


def matrices(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 2, 3)


def test_a_window_of_the_photo_s_own_pixels_is_the_photo():
    image, mask = a_picture(101, 128)
    shelf = a_shelf(a_picture(64, 64, seed=1), (image, mask))
    own = matrices([1, 0, 0, 0, 1, 0])

    pixels, inside = sample_photos(shelf, torch.tensor([1]), own, 128)
    coverage = sample_masks(shelf, torch.tensor([[1, -1]]), own, 128)

    np.testing.assert_array_equal(pixels[0, :, :101].permute(1, 2, 0).numpy(), image)
    np.testing.assert_array_equal(coverage[0, 0, :101].numpy(), mask)
    assert bool(inside[0, 0, :101].all())
    assert not bool(inside[0, 0, 101:].any())
    assert float(coverage[0, 0, 101:].sum()) == float(coverage[0, 1].sum()) == 0.0


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_windows_are_means_over_areas(reduction):
    image, mask = a_picture(256, 256)
    shelf = a_shelf((image, mask))
    window = matrices([reduction, 0, 0, 0, reduction, 0])
    side = 256 // reduction

    pixels, _ = sample_photos(shelf, torch.tensor([0]), window, side)
    coverage = sample_masks(shelf, torch.tensor([[0]]), window, side)

    expected_mask = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(coverage[0, 0].numpy(), expected_mask, atol=0.02)  # levels are rounded to 1/255
    if reduction <= 4:  # photos are kept down to a quarter
        expected = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
        np.testing.assert_allclose(pixels[0].permute(1, 2, 0).numpy(), expected, atol=2.0)


def test_a_shelf_comes_back_from_disk_unchanged(tmp_path):
    shelf = generated_shelf(3, seed=0, scenes=Scenes(size=64))

    shelf.save(tmp_path)
    again = open_shelf(tmp_path)

    for name in [entry.name for entry in fields(Shelf)]:
        assert torch.equal(getattr(again, name), getattr(shelf, name)), name


def test_the_picture_and_its_masks_move_together():
    image, mask = a_picture(200, 160)
    image[mask > 0] = 255
    image[mask == 0] = 0
    shelf = a_shelf((image, mask))
    wild = Augmentation(whole=0.0, colour=0.0, paste=0.0)

    batch = make_batch(
        shelf, torch.zeros(8, dtype=torch.int64), 128, wild, max_masks=1, generator=torch.Generator().manual_seed(0)
    )

    white = torch.nn.functional.avg_pool2d((batch.frames > 0.5).float().mean(1, keepdim=True), 4)
    # Bilinear look-ups of different levels differ at the border of the mask, nowhere else.
    assert float((white - batch.masks).abs().mean()) < 0.01
    assert float(batch.masks.mean()) > 0.02


def test_a_plain_batch_is_the_photo_as_it_is_served():
    image, mask = a_picture(100, 200)
    shelf = a_shelf((image, mask))

    batch = make_batch(shelf, torch.tensor([0]), 256, PLAIN, max_masks=3, generator=torch.Generator())

    assert batch.frames.shape == (1, 3, 256, 256)
    assert not bool(batch.frames[0, :, 128:].any())
    assert batch.valid[0, 0, :32].eq(1).all()
    assert batch.valid[0, 0, 32:].eq(0).all()
    assert batch.weights.tolist() == [[1.0, 0.0, 0.0]]


def test_a_pasted_object_takes_pixels_from_what_it_hides():
    shelf = a_shelf(a_picture(128, 128), a_picture(128, 128, seed=1))
    pasting = Augmentation(whole=1.0, flip=0.0, colour=0.0, paste=1.0)
    plain = Augmentation(whole=1.0, flip=0.0, colour=0.0, paste=0.0)

    def batch(augmentation):
        generator = torch.Generator().manual_seed(0)
        return make_batch(shelf, torch.tensor([0, 1]), 128, augmentation, max_masks=2, generator=generator)

    pasted, before = batch(pasting), batch(plain)

    # Both have their object in the same place: the pasted one covers the other, which is asked for no more.
    assert pasted.weights.tolist() == [[0.0, 1.0], [0.0, 1.0]]
    torch.testing.assert_close(pasted.masks[:, 1], before.masks[[1, 0], 0], atol=0.02, rtol=0)


def test_the_same_generator_gives_the_same_batch():
    shelf = generated_shelf(4, seed=0, scenes=Scenes(size=64))

    first, second = (
        make_batch(shelf, torch.arange(4), 64, Augmentation(), max_masks=4, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )

    assert torch.equal(first.frames, second.frames)
    assert torch.equal(first.masks, second.masks)


@pytest.fixture
def data_folder(tmp_path):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    with (folder / "annotations.jsonl").open("w") as lines:
        for number in range(6):
            image, mask = a_picture(40 + number, 64, seed=number)
            Image.fromarray(image).save(folder / "images" / f"{number}.png")
            rle = coco_mask.encode(np.asfortranarray(mask))
            masks = [{"size": rle["size"], "counts": rle["counts"].decode()}]
            record = {"file": f"images/{number}.png", "width": 64, "height": 40 + number, "masks": masks}
            lines.write(json.dumps(record) + "\n")
    return folder


def test_reading_ahead_in_processes_gives_the_photos_of_the_shelf(data_folder):
    records = read_annotations(data_folder)
    shelf = build_shelf(records, weights)
    streamed = StreamedSource(records, torch.device("cpu"), workers=2)
    in_this_process = StreamedSource(records, torch.device("cpu"), workers=0)

    drawn, chosen = streamed.draw(5, torch.Generator().manual_seed(3))
    same, _ = in_this_process.draw(5, torch.Generator().manual_seed(3))

    assert chosen.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(drawn.photos, same.photos)
    for row in range(5):
        size = drawn.photo_sizes[row]
        (match,) = torch.nonzero((shelf.photo_sizes == size).all(1))[:, 0].tolist()
        window = matrices([1, 0, 0, 0, 1, 0])
        one, _ = sample_photos(drawn, torch.tensor([row]), window, 64)
        other, _ = sample_photos(shelf, torch.tensor([match]), window, 64)
        assert torch.equal(one, other)


def test_packing_in_processes_gives_the_same_shelf(data_folder):
    records = read_annotations(data_folder)

    alone, together = build_shelf(records, weights), build_shelf(records, weights, workers=2)

    assert torch.equal(alone.photos, together.photos)
    assert torch.equal(alone.mask_offsets, together.mask_offsets)


def test_longer_photos_are_reduced_with_their_masks(data_folder):
    shelf = build_shelf(read_annotations(data_folder), weights, max_side=32)

    assert int(shelf.photo_sizes.max()) == 32
    assert int(shelf.masks.max()) == 255


def test_resident_photos_are_drawn_by_weight():
    shelf = generated_shelf(3, seed=0, scenes=Scenes(size=64))
    shelf.photo_weights[:] = torch.tensor([0.0, 1.0, 0.0])

    _, chosen = ResidentSource(shelf, torch.device("cpu")).draw(9, torch.Generator())

    assert set(chosen.tolist()) == {1}


def test_groups_of_sources_have_their_share_whatever_their_number():
    shares = source_shares({"bsds500": 300, "coco128": 10, "coco_mini": 30, "cats": 500, "mug": 500})

    assert shares["bsds500"] == pytest.approx(0.25)
    assert shares["coco128"] + shares["coco_mini"] == pytest.approx(0.25)
    assert shares["coco_mini"] == pytest.approx(3 * shares["coco128"])
    assert shares["cats"] > 3 * shares["mug"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert source_shares({"cats": 3}) == {"cats": 1.0}

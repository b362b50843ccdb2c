"""Photos with masks are read from each way of writing them."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from model_store.training.data.annotations import AnnotationError, read_annotations


def a_mask(height=20, width=30):
    mask = np.zeros((height, width), np.uint8)
    mask[4:12, 6:20] = 1
    return mask


def encoded(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def save_photo(path, height=20, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def a_jsonl(folder, **changes):
    save_photo(folder / "images" / "a.webp")
    record = {
        "file": "images/a.webp", "width": 30, "height": 20, "source": "bsds500", "licence_class": "research-only",
        "masks": [encoded(a_mask()) | {"kind": "region", "votes": 3}],
    }  # fmt: skip
    (folder / "annotations.jsonl").write_text(json.dumps(record | changes) + "\n")


def test_a_jsonl_folder_is_read(tmp_path):
    a_jsonl(tmp_path)

    (photo,) = read_annotations(tmp_path)

    (mask,) = photo.masks
    assert (photo.source, photo.licence_class, photo.size) == ("bsds500", "research-only", (20, 30))
    assert (mask.kind, mask.votes, mask.area, mask.box) == ("region", 3, 112, (6.0, 4.0, 20.0, 12.0))
    np.testing.assert_array_equal(mask.decode(), a_mask())
    assert photo.image().shape == (20, 30, 3)


def test_photos_of_other_licence_classes_are_left_out(tmp_path):
    a_jsonl(tmp_path)

    with pytest.raises(AnnotationError, match="no photo"):
        read_annotations(tmp_path, licence_classes=["public-domain"])


@pytest.mark.parametrize("form", ["polygon", "counts", "compressed"])
def test_coco_is_read_in_all_three_forms_of_a_mask(form, tmp_path):
    save_photo(tmp_path / "photos" / "a.png")
    rle = coco_mask.encode(np.asfortranarray(a_mask()))
    flat = a_mask().flatten(order="F")
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[1 - flat[0]], flat, [1 - flat[-1]]]))))
    segmentation = {
        "polygon": [[6, 4, 20, 4, 20, 12, 6, 12]],
        "counts": {"size": [20, 30], "counts": runs.tolist()},
        "compressed": {"size": rle["size"], "counts": rle["counts"].decode()},
    }[form]
    content = {
        "images": [{"id": 7, "width": 30, "height": 20, "coco_url": "http://images/a.png"}],
        "annotations": [
            {"image_id": 7, "segmentation": segmentation},
            {"image_id": 7, "segmentation": segmentation, "iscrowd": 1},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))

    (photo,) = read_annotations(f"{tmp_path / 'instances.json'}:{tmp_path / 'photos'}")

    (mask,) = photo.masks
    np.testing.assert_array_equal(mask.decode(), a_mask())
    assert photo.path == tmp_path / "photos" / "a.png"


def test_an_sa1b_folder_is_read_with_its_clicks(tmp_path):
    save_photo(tmp_path / "sa_1.jpg")
    content = {
        "image": {"width": 30, "height": 20, "file_name": "sa_1.jpg"},
        "annotations": [{"segmentation": encoded(a_mask()), "point_coords": [[10.5, 6.0]]}],
    }
    (tmp_path / "sa_1.json").write_text(json.dumps(content))

    (photo,) = read_annotations(tmp_path)

    assert photo.masks[0].click == (10.5, 6.0)
    assert photo.image().shape == (20, 30, 3)


def test_a_broken_line_is_named(tmp_path):
    a_jsonl(tmp_path)
    with (tmp_path / "annotations.jsonl").open("a") as file:
        file.write('{"file": "images/b.webp"}\n')

    with pytest.raises(AnnotationError, match=r"annotations\.jsonl:2"):
        read_annotations(tmp_path)


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match="neither"):
        read_annotations(tmp_path / "nothing")


def test_a_photo_of_another_size_than_its_masks_is_refused(tmp_path):
    a_jsonl(tmp_path)
    save_photo(tmp_path / "images" / "a.webp", height=21)

    (photo,) = read_annotations(tmp_path)

    with pytest.raises(AnnotationError, match="masks are for"):
        photo.image()

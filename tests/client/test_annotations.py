"""Exports of the client: COCO as pycocotools and torchvision read it, YOLO segmentation, and labelme."""

import json

import cv2
import numpy as np
import pytest
import yaml
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from support.answered_objects import answered_mask
from support.mask_cases import mask_cases

from service.client import AnnotatedImage, AnnotatedObject, coco_dataset, labelme_document, yolo_files

CASES = mask_cases()
# Names as people type them, and characters that YAML, JSON or files take for something else.
LABELS = [
    "Dahlia",
    "cup & saucer",
    'a "quoted" \\ name: # {1}',
    "花 é 🙂",
    "bell\x07 line\u2028 next\x85",
    "- no",
    "null",
]


def image(name="photo.jpg", cases=("rings", "blob"), labels=LABELS):
    """An image of 120 x 90 pixels with masks at its upper left corner."""
    objects = []
    for label, case in zip(labels, cases, strict=False):
        pixels = np.zeros((90, 120), bool)
        mask = CASES[case]
        pixels[: mask.shape[0], : mask.shape[1]] = mask
        objects.append(AnnotatedObject(label, answered_mask(pixels)))
    return AnnotatedImage(name, 120, 90, objects)


def loaded(dataset, path):
    """The dataset as pycocotools loads it from a file."""
    path.write_text(json.dumps(dataset))
    return COCO(path)


def torchvision_mask(segmentation, height, width):
    """The pixels as the converters of torchvision make them: each polygon is filled, and any of them counts."""
    masks = coco_mask.decode(coco_mask.frPyObjects(segmentation, height, width))
    return (masks if masks.ndim == 2 else masks.any(axis=2)).astype(bool)


@pytest.mark.parametrize("segmentation", ["polygons", "rle"])
def test_coco_gives_the_masks_back_exactly(segmentation, tmp_path):
    images = [image(cases=CASES, labels=[f"label {i % 3}" for i in range(len(CASES))]), image("other.png")]

    dataset = coco_dataset(images, segmentation=segmentation)

    api = loaded(dataset, tmp_path / "coco.json")
    objects = [(number, one) for number, each in enumerate(images, start=1) for one in each.objects]
    assert len(api.anns) == len(objects)
    for (image_id, one), annotation in zip(objects, api.anns.values(), strict=True):
        assert np.array_equal(api.annToMask(annotation), one.mask.pixels)
        assert np.array_equal(torchvision_mask(annotation["segmentation"], 90, 120), one.mask.pixels)
        x, y, width, height = annotation["bbox"]
        assert annotation["area"] == one.mask.area == one.mask.pixels[y : y + height, x : x + width].sum()
        assert (annotation["iscrowd"], annotation["image_id"]) == (0, image_id)
        assert api.cats[annotation["category_id"]]["name"] == one.label
    assert [each["file_name"] for each in api.imgs.values()] == ["photo.jpg", "other.png"]


def test_coco_writes_polygons_of_six_numbers_or_more_unless_told_otherwise():
    for annotation in coco_dataset([image(cases=CASES, labels=["x"] * len(CASES))])["annotations"]:
        assert all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in annotation["segmentation"])


def test_equal_labels_are_one_category_over_all_images():
    dataset = coco_dataset([image(labels=["cup", "cup"]), image("other.jpg", labels=["plate", "cup"])])

    assert [category["name"] for category in dataset["categories"]] == ["cup", "plate"]
    assert [annotation["category_id"] for annotation in dataset["annotations"]] == [1, 1, 2, 1]
    assert [annotation["id"] for annotation in dataset["annotations"]] == [1, 2, 3, 4]


def test_empty_masks_and_their_labels_are_left_out():
    empty = AnnotatedObject("nothing", answered_mask(np.zeros((90, 120), bool)))
    annotated = AnnotatedImage("photo.jpg", 120, 90, [empty])

    assert coco_dataset([annotated])["annotations"] == coco_dataset([annotated])["categories"] == []
    assert labelme_document(annotated)["shapes"] == []
    assert yolo_files([annotated]) == {"data.yaml": "train: images\nval: images\nnames: {}\n", "labels/photo.txt": ""}


def test_yolo_has_one_line_for_each_object_with_all_of_its_parts():
    annotated = image(cases=CASES, labels=["part"] * len(CASES))

    files = yolo_files([annotated])

    lines = files["labels/photo.txt"].splitlines()
    assert len(lines) == len(CASES)
    for one, line in zip(annotated.objects, lines, strict=True):
        number, *shares = line.split()
        points = np.array(shares, float).reshape(-1, 2)
        assert number == "0"
        assert len(points) >= 3
        assert points.min() >= 0
        assert points.max() <= 1
        # At eight times the size, the row and column that fillPoly adds and the lines between parts are thin.
        drawn = np.zeros((90 * 8, 120 * 8), np.uint8)
        cv2.fillPoly(drawn, [np.rint(points * (120 * 8, 90 * 8)).astype(np.int32)], 1)
        mask = one.mask.pixels.repeat(8, 0).repeat(8, 1)
        assert drawn[mask].all()
        assert drawn[4::8, 4::8][~one.mask.pixels].mean() < 0.05  # pixels on a line between two parts


def test_yolo_names_survive_yaml():
    files = yolo_files([image(cases=list(CASES), labels=LABELS)])

    assert yaml.safe_load(files["data.yaml"]) == {
        "train": "images",
        "val": "images",
        "names": dict(enumerate(LABELS)),
    }


@pytest.mark.parametrize("names", [["../photo.jpg"], ["a:b.jpg"], ["photo.jpg", "photo.png"], [".jpg"]])
def test_yolo_refuses_names_that_are_no_files_of_their_own(names):
    with pytest.raises(ValueError, match=r"name|labels"):
        yolo_files([image(name) for name in names])


def test_labelme_gets_the_parts_of_an_object_as_a_group():
    document = json.loads(json.dumps(labelme_document(image(cases=("blob", "frames", "rings")))))

    assert set(document) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
    assert (document["imagePath"], document["imageData"]) == ("photo.jpg", None)
    assert (document["imageHeight"], document["imageWidth"]) == (90, 120)
    by_label = {}
    for shape in document["shapes"]:
        by_label.setdefault(shape["label"], []).append(shape)
        assert shape["shape_type"] == "polygon"
        assert all(0 <= x <= 120 and 0 <= y <= 90 for x, y in shape["points"])
    assert list(by_label) == LABELS[:3]
    for number, (one, shapes) in enumerate(
        zip(image(cases=("blob", "frames", "rings")).objects, by_label.values(), strict=True), start=1
    ):
        assert {shape["group_id"] for shape in shapes} == {number if len(shapes) > 1 else None}
        polygons = [np.ravel(shape["points"]).tolist() for shape in shapes]
        assert np.array_equal(torchvision_mask(polygons, 90, 120), one.mask.pixels)

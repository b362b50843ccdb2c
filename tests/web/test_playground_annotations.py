"""Annotations that the page exports: the real downloads of several objects, reached with the mouse and the keyboard."""

import hashlib
import io
import json
import zipfile
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco
from support.browser import content_of, rules_broken
from support.noise_images import noise_file

SIZE = (240, 320)
CLASSES = ["Cup & saucer", '花 "1": # \\']
NAMES = ["mine", "Object 2"]
HOSTILE = "a'b <c> 花 & x.tar.png"


@pytest.fixture
def two_objects(playground, tmp_path, next_seed):
    """The page with two named objects with classes on an image of 320 x 240 pixels, and the image's bytes."""
    path = tmp_path / HOSTILE
    path.write_bytes(noise_file(SIZE, next_seed))
    playground.open_file(path)
    playground.click(0.45, 0.4)
    playground.page.keyboard.press("n")
    playground.click(0.6, 0.5)
    for position, (name, class_name) in enumerate(zip(NAMES, CLASSES, strict=True)):
        for kind, text in (("name", name), ("class", class_name)):
            field = playground.page.locator(f".object-{kind}").nth(position)
            field.focus()
            field.fill(text)
            field.press("Enter")
    return playground, path.read_bytes()


def drawn(segmentation):
    """The pixels (H, W) inside a segmentation, as loaders of COCO read it."""
    rles = coco.frPyObjects(segmentation, *SIZE)
    return coco.decode(coco.merge(rles) if isinstance(rles, list) else rles).astype(bool)


def saved_masks(playground):
    """The masks of both objects, (H, W) bool each, from mask PNG files."""
    playground.page.check("#only-selected")
    masks = []
    for position in range(len(NAMES)):
        playground.page.locator(".object-select").nth(position).click()
        masks.append(np.asarray(Image.open(io.BytesIO(playground.save("#save-mask"))).convert("L")) > 127)
    playground.page.uncheck("#only-selected")
    return masks


def test_every_format_has_the_objects_with_their_names_and_pixels(two_objects):
    playground, data = two_objects
    masks = saved_masks(playground)

    polygons = json.loads(playground.save("#save-coco"))
    runs = json.loads(playground.save("#save-coco-rle"))
    labelme = json.loads(playground.save("#save-labelme"))
    archive = zipfile.ZipFile(io.BytesIO(playground.save("#save-yolo")))

    for dataset, kind in ((polygons, list), (runs, dict)):
        assert [category["name"] for category in dataset["categories"]] == CLASSES
        assert [annotation["attributes"] for annotation in dataset["annotations"]] == [{"name": name} for name in NAMES]
        assert [image["file_name"] for image in dataset["images"]] == [HOSTILE]
        for annotation, mask in zip(dataset["annotations"], masks, strict=True):
            assert isinstance(annotation["segmentation"], kind)
            assert annotation["iscrowd"] == 0
            assert np.array_equal(drawn(annotation["segmentation"]), mask)
    for name, class_name, mask in zip(NAMES, CLASSES, masks, strict=True):
        shapes = [shape for shape in labelme["shapes"] if shape["label"] == class_name]
        assert {shape["description"] for shape in shapes} == {name}
        assert np.array_equal(drawn([np.ravel(shape["points"]).tolist() for shape in shapes]), mask)
    assert (labelme["imagePath"], labelme["imageWidth"], labelme["imageHeight"]) == (HOSTILE, 320, 240)
    assert archive.testzip() is None
    photo, labels = "images/a'b _c_ 花 & x.tar.png", "labels/a'b _c_ 花 & x.tar.txt"
    assert sorted(archive.namelist()) == ["data.yaml", photo, labels]
    assert hashlib.sha256(archive.read(photo)).digest() == hashlib.sha256(data).digest()
    assert yaml.safe_load(archive.read("data.yaml"))["names"] == dict(enumerate(CLASSES))
    lines = archive.read(labels).decode().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]


def test_annotations_are_reached_and_saved_by_keyboard_alone(two_objects):
    playground, _ = two_objects
    page = playground.page
    page.focus("#save-cut-out")
    names = {}
    while len(names) < 4:
        page.keyboard.press("Tab")
        button = page.evaluate("() => document.activeElement.id")
        if button == "":  # the title of the other formats
            page.keyboard.press("Enter")
        if button in {"save-coco", "save-coco-rle", "save-yolo", "save-labelme"}:
            with page.expect_download() as waiting:
                page.keyboard.press("Enter")
            names[button] = waiting.value.suggested_filename
            assert content_of(waiting.value)
            assert page.evaluate("() => document.activeElement.id") == button

    stem = "a'b _c_ 花 & x.tar"
    assert names == {
        "save-coco": f"{stem}-coco.json",
        "save-coco-rle": f"{stem}-coco-rle.json",
        "save-yolo": f"{stem}-yolo.zip",
        "save-labelme": f"{stem}.json",
    }


def test_objects_without_a_class_are_of_the_class_object(playground, photo):
    playground.open_file(photo)
    playground.click(0.45, 0.4)

    dataset = json.loads(playground.save("#save-coco"))

    assert [category["name"] for category in dataset["categories"]] == ["object"]
    assert [annotation["attributes"] for annotation in dataset["annotations"]] == [{"name": "Object 1"}]


def test_annotations_cannot_be_saved_before_there_is_a_mask(playground, small):
    playground.open_file(small)

    for button in ("#save-coco", "#save-coco-rle", "#save-yolo", "#save-labelme"):
        assert playground.page.is_disabled(button)


def test_the_panel_with_annotations_breaks_no_rule_of_accessibility(two_objects, axe):
    playground, _ = two_objects

    assert rules_broken(playground, axe) == []


def test_names_with_characters_that_xml_forbids_make_a_valid_drawing(two_objects):
    playground, _ = two_objects
    playground.page.evaluate(
        """() => {
            const name = document.querySelector(".object-name");
            name.value = "bell \\u0007 <&>";
            name.dispatchEvent(new Event("change"));
        }"""
    )

    drawing = ET.fromstring(playground.save("#save-svg"))

    titles = [title.text for title in drawing.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["bell \ufffd <&>", NAMES[1]]

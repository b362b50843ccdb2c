"""Exports of the JavaScript client in Node: `annotations.test.mjs`, compared with the Python client's exports."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
from support.answered_objects import answered_mask
from support.browser import needed_program
from support.mask_cases import mask_cases

from service.client import AnnotatedImage, AnnotatedObject, coco_dataset, labelme_document, yolo_files
from service.client.annotations import safe_file_name

TESTS = Path(__file__).parent / "annotations.test.mjs"
TIMEOUT_S = 120
LABELS = ['a "quoted" \\ name: # {1}', "花 é 🙂", "bell\x07 line\u2028 next\x85", "Cup & saucer", "Cup & saucer"]
NAMES = [
    "photo.jpg",
    "a/b\\c.jpg",
    'x:*?"<>|.png',
    "..",
    "",
    ".hidden",
    "two.parts.tif",
    "tab\t.gif",
    "花.webp",
    "plain",
    "end. ",
]


def annotated_images():
    """Two images: one with an object for every kind of mask, one with none but an empty mask."""
    masks = [answered_mask(mask) for mask in mask_cases().values()]
    objects = [AnnotatedObject(LABELS[i % len(LABELS)], mask) for i, mask in enumerate(masks)]
    # Masks of several sizes are no masks of one image, but each is exported by itself.
    sized = AnnotatedImage("花 1.jpg", 160, 128, objects)
    empty = AnnotatedImage("empty.png", 8, 6, [AnnotatedObject("nothing", answered_mask(np.zeros((6, 8), bool)))])
    return [sized, empty]


def as_answered(image):
    """The image as the JavaScript client's functions take it."""
    objects = [
        {
            "label": one.label,
            "mask": {
                "score": one.mask.score,
                "area": one.mask.area,
                "box": one.mask.box,
                "rle": {"size": one.mask.size, "counts": one.mask.counts},
            },
        }
        for one in image.objects
    ]
    return {"name": image.name, "width": image.width, "height": image.height, "objects": objects}


def test_the_exports_of_the_javascript_client_in_node(tmp_path):
    node = needed_program("node", "nodejs")
    images = annotated_images()
    cases, archive = tmp_path / "cases.json", tmp_path / "files.zip"
    made = {
        "images": [as_answered(image) for image in images],
        "coco": coco_dataset(images),
        "rle": coco_dataset(images, segmentation="rle"),
        "yolo": yolo_files(images),
        "labelme": [labelme_document(image) for image in images],
        "names": [(name, safe_file_name(name), Path(safe_file_name(name)).stem) for name in NAMES],
    }
    cases.write_text(json.dumps(made))

    ran = subprocess.run(
        [node, "--test", str(TESTS)],
        env={**os.environ, "EDGESAM_TEST_CASES": str(cases), "EDGESAM_TEST_ARCHIVE": str(archive)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    with zipfile.ZipFile(archive) as written:
        assert written.testzip() is None
        assert written.namelist() == ["data.yaml", "labels/é 花.txt", "images/photo.bin"]
        assert written.read("data.yaml") == b"train: images\n"
        assert written.read("images/photo.bin") == b"\x07" * 70000

"""`python -m service.client --folder … --boxes …`: masks of given boxes equal those of single calls."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from support.noise_images import as_file, noise_file, noise_image
from support.redis_server import wait_until
from support.service_process import ROOT
from typer.testing import CliRunner

from service.client import Client
from service.client.command import app
from service.client.folder_state import state_path

WAIT_S = 120.0
HOLDER = """
import sys
from pathlib import Path
from service.client.folder_state import FolderState

with FolderState(Path(sys.argv[1]), "boxes", {}):
    print("held", flush=True)
    sys.stdin.read()
"""
# A label that needs quotes, a box that reaches beyond the image, and 40 boxes, more than one request takes.
BOXES = [
    ("a.png", (5, 5, 40.5, 30), "cat"),
    ("below/b.jpg", (10, 20, 60, 100), 'a "dog", big'),
    ("a.png", (-10, 20, 30, 90), "cat"),
    *(("c.png", (number, number, 20 + number, 25 + number), "cell") for number in range(40)),
]


@pytest.fixture
def run(service_url, monkeypatch):
    """Runs the command line; the service is the one with default settings."""
    monkeypatch.setenv("EDGESAM_URL", service_url)
    return lambda *arguments: CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images; one lies on its side."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "a.png").write_bytes(noise_file((60, 80), seed=820))
    (folder / "below" / "b.jpg").write_bytes(as_file(noise_image((80, 120), seed=821), "JPEG", exif=exif))
    (folder / "c.png").write_bytes(noise_file((70, 90), seed=822))
    return folder


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def csv_file(path: Path, boxes=BOXES, header: str = "") -> Path:
    """Write a CSV file."""
    rows = [f"{name},{','.join(map(str, corners))},{quoted(label)}" for name, corners, label in boxes]
    path.write_text("\n".join(([header] if header else []) + rows) + "\n", encoding="utf-8")
    return path


def coco_file(path: Path) -> Path:
    """Write a COCO file: ids that do not begin at 1, entries in mixed order, and members of other tools."""
    names = list(dict.fromkeys(name for name, _, _ in BOXES))
    labels = list(dict.fromkeys(label for _, _, label in BOXES))
    dataset = {
        "note": "kept",
        "annotations": [
            {
                "id": 500 - number,
                "image_id": 70 + names.index(name),
                "category_id": 9 + labels.index(label),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
                "by": "somebody",
            }
            for number, (name, (x0, y0, x1, y1), label) in enumerate(BOXES)
        ],
        "images": [{"id": 70 + number, "file_name": name, "license": 3} for number, name in enumerate(names)],
        "categories": [{"id": 9 + number, "name": label} for number, label in enumerate(labels)],
    }
    path.write_text(json.dumps(dataset))
    return path


def expected_masks(service_url: str, folder: Path, boxes=BOXES) -> list:
    """The mask of each box, by one call for each."""
    with Client(service_url) as client:
        return [
            client.segment(client.embed(folder / name), box=corners, cleanup="auto").best for name, corners, _ in boxes
        ]


@pytest.mark.parametrize("header", ["", "file_name,x0,y0,x1,y1,label", "\ufeffFilename,xmin,ymin,xmax,ymax,class"])
def test_boxes_of_a_csv_file_become_png_files_and_a_dataset(run, folder, service_url, tmp_path, header):
    boxes = csv_file(tmp_path / "boxes.csv", header=header)
    masks, dataset, rle = tmp_path / "new" / "masks", tmp_path / "coco.json", tmp_path / "rle.json"

    result = run("--folder", folder, "--boxes", boxes, "--masks", masks, "--coco", dataset, "--coco-rle", rle)

    expected = expected_masks(service_url, folder)
    lines = range(2 if header else 1, 2 + len(BOXES))
    assert result.exit_code == 0, result.output
    for (name, _, _), line, mask in zip(BOXES, lines, expected, strict=False):
        path = masks / Path(name).with_name(f"{Path(name).stem}_{line}.png")
        assert np.array_equal(np.asarray(Image.open(path)) == 255, mask.pixels)
    assert len(list(masks.rglob("*"))) == len(BOXES) + 1  # with the folder "below"
    for path in (dataset, rle):
        api = COCO(path)
        for (name, (x0, y0, x1, y1), label), line, mask in zip(BOXES, lines, expected, strict=False):
            annotation = api.anns[line]
            image = api.imgs[annotation["image_id"]]
            assert np.array_equal(api.annToMask(annotation), mask.pixels)
            assert (annotation["area"], annotation["score"]) == (mask.area, mask.score)
            assert annotation["bbox"] == [x0, y0, x1 - x0, y1 - y0]
            assert (image["file_name"], image["height"], image["width"]) == (name, *mask.size)
            assert api.cats[annotation["category_id"]]["name"] == label
    assert not state_path(dataset).exists()
    assert re.search(rf"^3 images in [\d.]+ s: 3 segmented, {len(BOXES)} masks, 0 known before, 0 failed; 0 refused$",
                     result.stdout, re.MULTILINE)  # fmt: skip


def test_a_coco_file_keeps_everything_and_gets_masks(run, folder, service_url, tmp_path):
    boxes, result_file = coco_file(tmp_path / "boxes.json"), tmp_path / "out.json"

    result = run("--folder", folder, "--boxes", boxes, "--coco-rle", result_file)

    before, after = json.loads(boxes.read_text()), json.loads(result_file.read_text())
    api = COCO(result_file)
    assert result.exit_code == 0, result.output
    for old, new, mask in zip(
        before["annotations"], after["annotations"], expected_masks(service_url, folder), strict=True
    ):
        assert {key: new[key] for key in old} == old
        assert new["area"] == mask.area
        assert np.array_equal(api.annToMask(new), mask.pixels)
    assert [{key: new[key] for key in old} for old, new in zip(before["images"], after["images"], strict=True)] == (
        before["images"]
    )
    assert (list(after), after["note"], after["categories"]) == (list(before), "kept", before["categories"])


def test_broken_rows_and_missing_images_are_named_and_the_others_get_masks(run, folder, tmp_path):
    boxes, masks = tmp_path / "boxes.csv", tmp_path / "masks"
    boxes.write_text(
        "a.png,5,5,40,30,cat\n"
        "absent.png,5,5,40,30\n"
        "a.png,5,5,ten,30\n"
        "\n"
        "a.png,40,5,40,30\n"
        "a.png,5,5\n"
        "a.png,5,inf,40,30\n"
        "../a.png,5,5,40,30\n"
        ",5,5,40,30\n"
        "a.png,500,500,600,600\n"
        "c.png,1,1,30,30\n"
    )

    result = run("--folder", folder, "--boxes", boxes, "--masks", masks)
    again = run("--folder", folder, "--boxes", boxes, "--masks", masks)

    refused = dict(re.findall(rf"^refused: {boxes}, line (\d+): (.+)$", result.stdout, re.MULTILINE))
    assert (result.exit_code, again.exit_code) == (1, 1)
    assert sorted(path.name for path in masks.iterdir()) == ["a_1.png", "c_11.png"]
    assert list(refused) == ["3", "5", "6", "7", "8", "9", "10"]
    assert "four numbers" in refused["3"]
    assert "empty" in refused["5"]
    assert "separated by commas" in refused["6"]
    assert "finite" in refused["7"]
    assert "leads out of the folder" in refused["8"]
    assert "missing" in refused["9"]
    assert "no part inside the image of 80 x 60" in refused["10"]
    assert re.search(rf"^failed: {boxes}, line 2: absent\.png: .*No such file", result.stdout, re.MULTILINE)
    assert "0 segmented, 0 masks, 2 known before, 1 failed; 7 refused" in again.stdout


def test_broken_entries_of_a_coco_file_are_named_and_stay_as_they_are(run, folder, tmp_path):
    dataset = {
        "images": [
            {"id": 1, "file_name": "a.png"},
            {"id": 2, "file_name": "a.png"},
            {"id": "3", "file_name": "c.png"},
            {"id": 4},
            7,
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [5, 5, 30, 30]},
            {"id": 2, "image_id": 9, "bbox": [5, 5, 30, 30]},
            {"id": 3, "image_id": [1], "bbox": [5, 5, 30, 30]},
            {"id": 4, "image_id": 1, "bbox": [5, 5, 30]},
            {"id": 5, "image_id": 1, "bbox": None},
            {"id": 6, "image_id": 1, "bbox": [5, 5, 30, 30], "iscrowd": 1},
            {"id": 7, "image_id": 1, "bbox": [5, 5, 30, 30]},
            {"id": 7, "image_id": 1, "bbox": [5, 5, 30, 30]},
            {"image_id": 1, "bbox": [5, 5, 30, 30]},
            "none",
        ],
    }
    boxes, result_file = tmp_path / "boxes.json", tmp_path / "out.json"
    boxes.write_text(json.dumps(dataset))

    result = run("--folder", folder, "--boxes", boxes, "--coco", result_file)

    refused = re.findall(rf"^refused: {boxes}, ([^:]+): ", result.stdout, re.MULTILINE)
    after = json.loads(result_file.read_text())
    assert result.exit_code == 1
    assert refused == [
        "image 2", "image number 3", "image 4", "image number 5",
        "annotation 2", "annotation 3", "annotation 4", "annotation 5", "annotation 7", "annotation 7",
        "annotation number 9", "annotation number 10",
    ]  # fmt: skip
    assert "segmentation" in after["annotations"][0]
    assert after["annotations"][1:] == dataset["annotations"][1:]


def test_a_corrected_row_is_segmented_and_the_other_images_are_kept(run, folder, service_url, tmp_path):
    boxes, result_file = tmp_path / "boxes.csv", tmp_path / "out.json"
    good = [BOXES[0], BOXES[1]]
    csv_file(boxes, [*good, ("a.png", (30, 5, 10, 40), "cat")])
    arguments = ("--folder", folder, "--boxes", boxes, "--coco-rle", result_file)

    first = run(*arguments)
    corrected = [*good, ("a.png", (10, 5, 30, 40), "cat")]
    csv_file(boxes, corrected)
    second = run(*arguments)

    api = COCO(result_file)
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert "1 segmented, 2 masks, 1 known before" in second.stdout
    for line, mask in enumerate(expected_masks(service_url, folder, corrected), start=1):
        assert np.array_equal(api.annToMask(api.anns[line]), mask.pixels)


def test_png_files_that_were_deleted_are_written_again_from_the_state(run, folder, tmp_path):
    boxes, masks = csv_file(tmp_path / "boxes.csv", [*BOXES[:3], ("absent.png", (1, 1, 9, 9), "cat")]), tmp_path / "out"
    arguments = ("--folder", folder, "--boxes", boxes, "--masks", masks)
    run(*arguments)
    written = (masks / "a_3.png").read_bytes()
    (masks / "a_3.png").unlink()

    result = run(*arguments)

    assert "0 segmented" in result.stdout
    assert (masks / "a_3.png").read_bytes() == written


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not_killed(run, folder, service_url, tmp_path):
    boxes, whole, result_file = coco_file(tmp_path / "boxes.json"), tmp_path / "whole.json", tmp_path / "out.json"
    state = state_path(result_file)
    arguments = ["--folder", str(folder), "--boxes", str(boxes), "--jobs", "1"]
    command = [sys.executable, "-m", "service.client", *arguments, "--coco", str(result_file), "--url", service_url]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: result_file.exists() or (state.exists() and state.read_bytes().count(b"\n") >= 2),
                   timeout_s=WAIT_S)  # fmt: skip
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
    if state.exists():  # the end of the last line is lost, as when the machine stops
        os.truncate(state, state.stat().st_size - 40)

    resumed = run(*arguments, "--coco", result_file)
    uninterrupted = run(*arguments, "--coco", whole)

    assert (resumed.exit_code, uninterrupted.exit_code) == (0, 0), resumed.output
    assert result_file.read_bytes() == whole.read_bytes()
    assert not state.exists()


@pytest.mark.parametrize("kind", ["boxes", "everything"])
def test_a_second_run_on_the_same_result_is_refused_and_changes_nothing(run, folder, tmp_path, kind):
    result_file = tmp_path / "out.json"
    state = state_path(result_file)
    options = ["--boxes", csv_file(tmp_path / "boxes.csv")] if kind == "boxes" else ["--everything"]
    command = [sys.executable, "-c", HOLDER, str(state)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        before = state.read_bytes()

        result = run("--folder", folder, *options, "--coco", result_file)

        assert state.read_bytes() == before
        assert process.stdin is not None
        process.stdin.close()
    assert result.exit_code == 1
    assert f"Another run is working with {state}" in result.stderr
    assert not result_file.exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("boxes.json", b"{", "not JSON"),
        ("boxes.json", b"[]", "no COCO file"),
        ("boxes.json", b'{"images": []}', "no COCO file"),
        ("boxes.csv", b"caf\xe9.png,1,1,9,9\n", "not UTF-8"),
        ("boxes.csv", b"", "no usable box"),
        ("boxes.csv", b"photos;1;1;9;9\n", "no usable box"),
    ],
)
def test_a_file_without_boxes_is_an_error(run, folder, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)

    result = run("--folder", folder, "--boxes", tmp_path / name, "--masks", tmp_path / "masks")

    assert result.exit_code == 1
    assert words in result.stderr
    assert not (tmp_path / "masks").exists()


def test_a_missing_folder_is_one_error(run, tmp_path):
    boxes = csv_file(tmp_path / "boxes.csv")

    result = run("--folder", tmp_path / "nowhere", "--boxes", boxes, "--masks", tmp_path / "masks")

    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path}/nowhere: No such file or directory\n"


def test_the_boxes_are_not_replaced_by_the_result(run, folder, tmp_path):
    boxes = coco_file(tmp_path / "boxes.json")
    before = boxes.read_bytes()

    result = run("--folder", folder, "--boxes", boxes, "--coco", boxes)

    assert result.exit_code == 1
    assert "would replace" in result.stderr
    assert boxes.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.png", "--boxes", "boxes.csv", "--masks", "masks"],
        ["--folder", "images", "--boxes", "boxes.csv"],
        ["--folder", "images", "--masks", "masks"],
        ["--folder", "images", "--boxes", "boxes.csv", "--masks", "masks", "--everything"],
        ["--folder", "images", "--boxes", "boxes.csv", "--masks", "masks", "--point", "1,1"],
        ["--folder", "images", "--boxes", "boxes.csv", "--masks", "masks", "--crop"],
        ["--folder", "images", "--boxes", "boxes.csv", "--masks", "masks", "-o", "cut.png"],
        ["--folder", "images", "--boxes", "boxes.csv", "--yolo", "dataset"],
    ],
)
def test_what_cannot_be_is_refused_with_status_2(run, arguments):
    assert run(*arguments).exit_code == 2

"""`python -m service.client --everything`: one image, and folders whose run is ended at any time and goes on."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO
from support.noise_images import noise_file
from support.redis_server import wait_until
from typer.testing import CliRunner

from service.client import Client
from service.client.command import app

ROOT = Path(__file__).parent.parent.parent
WAIT_S = 120.0
# With an untrained model only masks without a filter are certain to be there.
OPTIONS = ("--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0")
NAMES = ("a.png", "b.png", "below/c.png", "d.png")


@pytest.fixture
def run(service_url, monkeypatch):
    """Runs the command line; the service is the one with default settings."""
    monkeypatch.setenv("EDGESAM_URL", service_url)
    return lambda *arguments, **options: CliRunner().invoke(app, [str(one) for one in arguments], **options)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images of several sizes."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(noise_file((60, 70 + number), seed=700 + number))
    return folder


def state_of(result: Path) -> Path:
    return result.with_name(f"{result.name}.state.jsonl")


def test_one_image_gives_sams_list_of_records_and_annotations(run, folder, service_url, tmp_path):
    masks, dataset, rle = tmp_path / "masks.json", tmp_path / "coco.json", tmp_path / "rle.json"

    result = run(
        folder / "a.png", "--everything", *OPTIONS, "-o", masks, "--coco", dataset, "--coco-rle", rle, "--label", "cell"
    )

    with Client(service_url) as client:
        found = client.segment_everything(
            client.embed(folder / "a.png"), points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0
        ).masks
    records = json.loads(masks.read_text())
    assert result.exit_code == 0, result.output
    assert records == [mask.record for mask in found]
    assert {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"} <= set(
        records[0]
    )
    assert re.search(rf"^objects +{len(found)} in [\d.]+ s$", result.stdout, re.MULTILINE)
    for path in (dataset, rle):
        api = COCO(path)
        assert [api.anns[number + 1]["score"] for number in range(len(found))] == [mask.score for mask in found]
        assert api.cats[1]["name"] == "cell"
        for annotation, mask in zip(api.anns.values(), found, strict=True):
            assert np.array_equal(api.annToMask(annotation), mask.pixels)


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.png", "--everything", "--point", "1,1"],
        ["a.png", "--everything", "--crop"],
        ["a.png", "--everything", "--mask", "mask.png"],
        ["a.png", "--everything", "--candidate", "2"],
        ["a.png", "--point", "1,1", "--points-per-side", "4"],
        ["a.png", "--point", "1,1", "--crops", "1"],
        ["a.png", "--fast"],
        ["a.png", "--everything", "--crops", "5"],
        ["--folder", "images", "--everything"],
        ["--folder", "images", "--everything", "-o", "masks.json"],
        ["--folder", "images", "--everything", "--coco", "out.json", "-o", "masks.json"],
        ["--folder", "images", "--everything", "--coco", "out.json", "--yolo", "dataset"],
    ],
)
def test_what_cannot_be_is_refused_with_status_2(run, arguments):
    assert run(*arguments).exit_code == 2


def test_a_folder_becomes_a_dataset_that_pycocotools_reads(run, folder, service_url, tmp_path):
    result_file, rle_file = tmp_path / "out.json", tmp_path / "rle.json"

    result = run("--folder", folder, "--everything", *OPTIONS, "--coco", result_file, "--coco-rle", rle_file)

    assert result.exit_code == 0, result.output
    with Client(service_url) as client:
        expected = {
            name: client.segment_everything(
                client.embed(folder / name), points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0
            ).masks
            for name in NAMES
        }
    for path in (result_file, rle_file):
        api = COCO(path)
        assert [image["file_name"] for image in api.imgs.values()] == list(NAMES)
        assert list(api.anns) == list(range(1, 1 + sum(map(len, expected.values()))))
        for image in api.imgs.values():
            annotations = api.loadAnns(api.getAnnIds(image["id"]))
            masks = expected[image["file_name"]]
            assert (image["height"], image["width"]) == masks[0].size
            for annotation, mask in zip(annotations, masks, strict=True):
                assert np.array_equal(api.annToMask(annotation), mask.pixels)
                assert annotation["area"] == mask.area
                assert annotation["bbox"] == coco.toBbox(mask.run_lengths).tolist()
    assert not state_of(result_file).exists()
    assert re.search(
        r"^4 images in [\d.]+ s: 4 searched, \d+ objects, 0 known before, 0 failed; 0 skipped$",
        result.stdout,
        re.MULTILINE,
    )
    assert re.search(r"^4 of 4: ", result.stderr, re.MULTILINE)


def test_a_bad_image_does_not_stop_the_run_and_is_tried_again(run, folder, tmp_path):
    result_file = tmp_path / "out.json"
    arguments = ("--folder", folder, "--everything", *OPTIONS, "--coco", result_file)
    (folder / "b.png").write_bytes(b"no image")

    first = run(*arguments)
    failed = COCO(result_file)
    (folder / "b.png").write_bytes(noise_file((60, 71), seed=701))
    second = run(*arguments)

    assert (first.exit_code, second.exit_code) == (1, 0)
    assert re.search(r"^failed: .*b\.png: .*unsupported-image", first.stdout, re.MULTILINE)
    assert [image["file_name"] for image in failed.imgs.values()] == ["a.png", "below/c.png", "d.png"]
    assert "1 searched" in second.stdout
    assert "3 known before" in second.stdout
    assert [image["file_name"] for image in COCO(result_file).imgs.values()] == list(NAMES)


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_killed_run_goes_on_and_ends_as_one_that_was_not_killed(run, folder, service_url, tmp_path, cut):
    whole, result_file = tmp_path / "whole.json", tmp_path / "out.json"
    state = state_of(result_file)
    arguments = ["--folder", str(folder), "--everything", *OPTIONS, "--jobs", "1"]
    command = [sys.executable, "-m", "service.client", *arguments, "--coco", str(result_file), "--url", service_url]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: state.exists() and state.read_bytes().count(b"\n") >= 2, timeout_s=WAIT_S)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
    if state.exists():  # the end of the last line is lost, as when the machine stops
        os.truncate(state, max(state.stat().st_size - cut, 0))

    resumed = run(*arguments, "--coco", result_file)
    uninterrupted = run(*arguments, "--coco", whole)

    assert (resumed.exit_code, uninterrupted.exit_code) == (0, 0), resumed.output
    assert result_file.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.json", "whole.json"]


def test_a_changed_image_is_searched_again(run, folder, tmp_path):
    result_file = tmp_path / "out.json"
    arguments = ("--folder", folder, "--everything", *OPTIONS, "--coco", result_file)
    (folder / "broken.png").write_bytes(b"no image")  # so that the state is kept
    run(*arguments)
    (folder / "a.png").write_bytes(noise_file((64, 64), seed=750))

    result = run(*arguments)

    assert "1 searched" in result.stdout
    assert COCO(result_file).imgs[1] == {"id": 1, "file_name": "a.png", "width": 64, "height": 64}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"edgesam_everything": 1, "options": {}, "crops": 3, "reading": {}, "model": null}\n', "other settings"),
        (b"my notes\n", "no state of a run"),
        (b"my notes", "no state of a run"),
    ],
)
def test_a_state_of_another_run_is_not_touched(run, folder, tmp_path, content, words):
    result_file = tmp_path / "out.json"
    state_of(result_file).write_bytes(content)

    result = run("--folder", folder, "--everything", *OPTIONS, "--coco", result_file)

    assert result.exit_code == 1
    assert words in result.stderr
    assert state_of(result_file).read_bytes() == content
    assert not result_file.exists()


def test_a_run_does_not_go_on_with_the_masks_of_another_default_model(run, folder, service_url, tmp_path):
    (folder / "b.png").write_bytes(b"no image")  # so that the state stays
    arguments = ("--folder", folder, "--everything", *OPTIONS, "--coco", tmp_path / "out.json")
    run(*arguments)
    first, _, rest = state_of(tmp_path / "out.json").read_text().partition("\n")
    with Client(service_url) as client:
        model = client.models()[0].name

    assert json.loads(first)["model"] == model
    state_of(tmp_path / "out.json").write_text(first.replace(json.dumps(model), '"another-model"') + "\n" + rest)
    assert "other settings" in run(*arguments).stderr


def test_an_image_that_is_too_small_for_its_crops_fails_alone(run, folder, tmp_path):
    result = run("--folder", folder, "--everything", "--crops", "2", *OPTIONS, "--coco", tmp_path / "out.json")

    assert result.exit_code == 1
    assert result.stdout.count("too small for 2 layers of crops") == 4

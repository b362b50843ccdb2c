"""The scripts that train on a machine with torch, NumPy and OpenCV alone, from photos to a checkpoint, at tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from support.ellipse_photos import write_ellipse_photos
from tools.gpu_train.packs import PackedMask, encode_mask, read_packs

from model_store.architectures import PIXEL_STD
from model_store.checkpoint import load_checkpoint, save_checkpoint, seeded_model
from model_store.network import frames
from model_store.training.data.set_aside import set_aside_names
from model_store.training.data.windows import geometry
from model_store.training.data.windows.augmentation import PLAIN
from model_store.training.loop.train_log import read_rows

SCRIPTS = Path(__file__).parent / "gpu_train"
# Runs a script where nothing can be imported but torch, what torch itself needs, NumPy, OpenCV and this project.
BARE = """
import runpy, sys
from importlib.metadata import packages_distributions
present = {"torch", "torchgen", "functorch", "numpy", "cv2", "service", "model_store"}
present |= {"typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec"}
sys.modules.update(dict.fromkeys(packages_distributions().keys() - present))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script(name, *arguments, bare=False):
    """Run a script in a process of its own; its output when all is well."""
    command = [sys.executable, *(["-c", BARE] if bare else []), SCRIPTS / name, *arguments]
    # Threads of several test processes would wait for each other.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """Packs of twelve photos, one of which is set aside, and of one for validation."""
    folder = tmp_path_factory.mktemp("packs")
    data, validation = (
        write_ellipse_photos(folder / "data", 12, seed=0),
        write_ellipse_photos(folder / "validation", 1, seed=1),
    )
    annotations, name = data / "annotations.jsonl", min(set_aside_names())
    annotations.write_text(annotations.read_text().replace("images/0.png", f"images/{name}"))
    (data / "images" / "0.png").rename(data / "images" / name)
    script(
        "pack.py", "--data", data, "--validation", validation, "--out", folder / "out", "--packs", 2,
        "--megabytes", 0.0075, "--validation-megabytes", 0.1, "--side", 96,
    )  # fmt: skip
    return folder / "out"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "start.safetensors"
    save_checkpoint(seeded_model(3, "edgesam-lite"), path, float16=True)
    return path


@pytest.fixture(scope="module")
def trained(packs, checkpoint, tmp_path_factory):
    """What three steps leave, in the environment of the machine."""
    out = tmp_path_factory.mktemp("trained")
    script(
        "train.py", packs / "train-1.npz", packs / "train-2.npz", "--validation", packs / "validation.npz",
        "--checkpoint", checkpoint, "--out", out, "--steps", 3, "--windows", "64:2:0.5,128:1:0.5", "--workers", 1,
        "--device", "cpu", "--precision", "bfloat16", "--warm-up", 0, bare=True,
    )  # fmt: skip
    return out


def test_packs_hold_different_photos_and_none_that_is_set_aside(packs):
    first, second = (read_packs([packs / f"train-{number}.npz"]) for number in (1, 2))
    validation = read_packs([packs / "validation.npz"])

    names = [photo.path.name for photo in first + second]
    assert len(set(names)) == len(names) >= 4
    assert set_aside_names().isdisjoint(names)
    assert {photo.path.name for photo in validation} == {"0.png", min(set_aside_names())}


def test_a_pack_has_the_requested_size(packs):
    assert (packs / "train-1.npz").stat().st_size <= 7_500


def test_a_packed_photo_is_reduced_with_its_mask(packs):
    for photo in read_packs([packs / "train-1.npz"]):
        pixels, mask = photo.image(), photo.masks[0].decode().astype(bool)

        assert pixels.shape == (96, 96, 3)
        assert photo.size == mask.shape == (96, 96)
        assert pixels[mask].mean() > 140
        assert pixels[~mask].mean() < 100
        assert (photo.source, photo.masks[0].kind) == ("ellipses", "object")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_run_lengths_say_the_same_as_those_of_coco(share):
    random = np.random.default_rng(0)
    for size in ((7, 5), (1, 9), (9, 1)):
        pixels = (random.random(size) < share).astype(np.uint8)
        mask = PackedMask({"size": size, "counts": encode_mask(pixels)})
        coco = coco_mask.encode(np.asfortranarray(pixels))
        x, y, width, height = coco_mask.toBbox(coco)

        np.testing.assert_array_equal(mask.decode(), pixels)
        assert mask.area == coco_mask.area(coco)
        assert mask.box == (x, y, x + width, y + height)


def test_without_pillow_frames_and_windows_of_packed_photos_are_the_same_within_a_grey_level(packs, monkeypatch):
    photo = read_packs([packs / "train-1.npz"])[0]
    placement = geometry.place_window(photo.size, photo.masks[0].box, 256, PLAIN, np.random.default_rng(0))
    assert placement.scaled_size[0] > photo.size[0]
    with_pillow = frames.frame(photo.image()), geometry.render_photo(photo.image(), placement)

    for module in (frames, geometry):
        monkeypatch.setattr(module, "_HAS_PILLOW", False)
    without = frames.frame(photo.image()), geometry.render_photo(photo.image(), placement)

    assert float((with_pillow[0] - without[0]).abs().max()) <= 1.001 / min(PIXEL_STD)
    assert np.abs(with_pillow[1].astype(int) - without[1]).max() <= 1


def test_training_leaves_small_files_and_figures_before_and_after(trained):
    summary = json.loads((trained / "summary.json").read_text())

    assert {path.name for path in trained.iterdir()} == {"summary.json", "log.csv", *summary["parts"]}
    assert max(path.stat().st_size for path in trained.iterdir()) < 15 * 2**20
    assert summary["steps"] == 3
    assert 3 <= summary["images"] <= 6
    assert summary["before"].keys() == summary["after"].keys()
    assert 0.0 <= summary["after"]["val_box"] <= 1.0
    assert float(read_rows(trained / "log.csv")[-1]["loss"]) == pytest.approx(summary["losses"]["loss"], rel=1e-5)


def test_the_joined_checkpoint_was_trained_from_the_one_before(trained, checkpoint, tmp_path):
    output = script("join.py", trained, "--out", tmp_path)

    before, after = (load_checkpoint(path).state_dict() for path in (checkpoint, tmp_path / "model.safetensors"))
    moved = {key: float((after[key] - before[key]).abs().max()) for key in before if before[key].is_floating_point()}
    assert 0 < max(moved.values()) < 0.1  # other random weights would differ by more
    assert "box_2" in output
    assert str(tmp_path / "model.safetensors") in output
    assert (tmp_path / "curves.png").is_file()


def test_a_part_of_another_run_is_found(trained, tmp_path):
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    part = tmp_path / json.loads((trained / "summary.json").read_text())["parts"][0]
    part.write_bytes(part.read_bytes()[:-1] + b"\0\0")

    command = [sys.executable, SCRIPTS / "join.py", tmp_path, "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "the parts are not those of summary.json" in done.stderr

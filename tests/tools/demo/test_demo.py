"""The demo and the examples of the model card can be made with any model."""

import subprocess
import sys
from pathlib import Path

from PIL import Image
from support.sample_images import sample_images

SCRIPTS = Path(__file__).parent


def test_the_demo_segments_an_object_of_each_sample(service_url, tmp_path):
    printed = run("demo.py", "--url", service_url, "--out", tmp_path / "demo.png")

    assert [line for line in printed if line.endswith(".jpg")] == [sample.file for sample in sample_images()]
    assert sum("mask: score" in line for line in printed) == len(sample_images())
    with Image.open(tmp_path / "demo.png") as drawn:
        assert drawn.width > max(sample.size[0] for sample in sample_images())


def test_the_demo_segments_the_middle_of_another_image(service_url, tmp_path):
    path = tmp_path / "own.png"
    Image.new("RGB", (90, 60), (20, 120, 60)).save(path)

    printed = run("demo.py", "--url", service_url, "--image", path, "--out", tmp_path / "demo.png")

    assert sum("mask: score" in line for line in printed) == 1


def test_the_demo_needs_no_package_that_serving_does_not_need():
    command = [sys.executable, "-X", "importtime", SCRIPTS / "demo.py", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"PIL.Image", "cv2"} <= imported
    assert imported.isdisjoint({"httpx", "pytest", "rich", "skimage", "torch", "typer", "yaml"})


def test_the_examples_of_the_card_have_a_row_for_each_verdict(artifact, tmp_path):
    run("card.py", "--model", artifact, "--out", tmp_path / "examples.jpg")

    with Image.open(tmp_path / "examples.jpg") as drawn:
        assert drawn.height > 3 * 200


def run(script, *arguments):
    """The lines that a script prints."""
    command = [sys.executable, SCRIPTS / script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()

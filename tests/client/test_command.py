"""`python -m service.client` against the real service: what it writes, says and exits with."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from support.client_kinds import KEY
from support.noise_images import as_file, noise_file, noise_image
from typer.testing import CliRunner

from service.client import Client
from service.client.command import app

ROOT = Path(__file__).parent.parent.parent
WAIT_S = 60.0


@pytest.fixture
def run(service_url, monkeypatch):
    """Runs the command line; the service is the one with default settings."""
    monkeypatch.setenv("EDGESAM_URL", service_url)
    return lambda *arguments, **options: CliRunner().invoke(app, [str(one) for one in arguments], **options)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    path.write_bytes(as_file(noise_image((120, 160), seed=92), "JPEG", exif=exif))
    return path


def test_a_cut_out_is_the_image_where_the_mask_is_and_transparent_elsewhere(run, photo, service_url, tmp_path):
    cut, mask = tmp_path / "cut.png", tmp_path / "mask.png"

    result = run(photo, "--point", "60,80", "--point", "5,5:0", "--box", "10,10,110,150", "-o", cut, "--mask", mask)

    with Client(service_url) as client:
        expected = client.segment(
            client.embed(photo), points=[(60, 80), (5, 5)], labels=[1, 0], box=(10, 10, 110, 150), cleanup="auto"
        ).best
    with Image.open(photo) as lying, Image.open(cut) as written, Image.open(mask) as drawn:
        upright = np.asarray(lying.transpose(Image.Transpose.ROTATE_270))
        pixels = np.asarray(written)
        inside = np.asarray(drawn) == 255
    assert result.exit_code == 0, result.output
    assert np.array_equal(inside, expected.pixels)
    assert np.array_equal(pixels[:, :, 3] == 255, expected.pixels)
    assert np.array_equal(pixels[expected.pixels][:, :3], upright[expected.pixels])
    assert re.search(r"^image +.*photo\.jpg: 120 x 160, embedded", result.output, re.MULTILINE)
    assert re.search(r"^segment +[\d.]+ ms round trip; .*decode [\d.]+", result.output, re.MULTILINE)
    assert "not trained" in result.stderr


def test_a_cropped_cut_out_has_the_size_of_the_objects_box(run, photo, service_url, tmp_path):
    cut = tmp_path / "cut.png"

    result = run(photo, "--point", "60,80", "--crop", "--output", cut)

    with Client(service_url) as client:
        x0, y0, x1, y1 = client.segment(client.embed(photo), points=(60, 80)).best.box
    with Image.open(cut) as written:
        assert written.size == (x1 - x0, y1 - y0)
    assert result.exit_code == 0
    assert "known, not uploaded" in result.output


def test_another_of_an_ambiguous_clicks_masks_can_be_chosen(run, photo, service_url, tmp_path):
    mask = tmp_path / "mask.png"

    result = run(photo, "--point", "60,80", "--candidate", "3", "--mask", mask)
    beyond = run(photo, "--point", "60,80", "--candidate", "5", "--mask", tmp_path / "none.png")

    with Client(service_url) as client:
        masks = client.segment(client.embed(photo), points=(60, 80), cleanup="auto").masks
    with Image.open(mask) as drawn:
        assert np.array_equal(np.asarray(drawn) == 255, masks[2].pixels)
    assert result.exit_code == 0
    assert re.findall(r"^mask (\d.) .* mask_id (\w+)$", result.stdout, re.MULTILINE) == [
        (f"{number}{'*' if number == 3 else ' '}", one.mask_id) for number, one in enumerate(masks, start=1)
    ]
    assert beyond.exit_code == 1
    assert "there is no mask 5: the prompt has 4" in beyond.stderr
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["photo.jpg", "--folder", "photos"],
        ["photo.jpg", "-o", "cut.png"],
        ["photo.jpg", "--crop"],
        ["photo.jpg", "--candidate", "2"],
        ["photo.jpg", "--point", "1,1", "--candidate", "0"],
        ["--folder", "photos", "--point", "1,1"],
        ["photo.jpg", "--point", "1"],
        ["photo.jpg", "--point", "1,1:2"],
        ["photo.jpg", "--point", "one,1"],
        ["photo.jpg", "--box", "1,2,3"],
        ["--folder", "photos", "--jobs", "0"],
        ["photo.jpg", "--coco", "photo.json"],
        ["photo.jpg", "--point", "1,1", "--label", " ", "--coco", "photo.json"],
        ["--folder", "photos", "--yolo", "dataset"],
    ],
)
def test_what_cannot_be_is_refused_with_status_2(run, arguments):
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing.jpg"], "nothing.jpg: No such file"),
        (["{photo}", "--point", "9999,1"], "outside the "),
        (["{photo}", "--point", "nan,1"], "finite"),
        (["{photo}", "--url", "http://127.0.0.1:9", "--retry", "0"], "cannot be reached"),
        (["{photo}", "--url", "here"], "not the address"),
        (["{photo}", "--point", "60,80", "-o", "/nowhere/cut.png"], "/nowhere/cut.png: No such file"),
        (["--folder", "/nowhere"], "/nowhere: No such file"),
    ],
)
def test_failures_are_reported_in_one_line_with_status_1(run, photo, arguments, words):
    result = run(*(argument.format(photo=photo) for argument in arguments))

    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert result.exit_code == 1
    assert words in line


def test_a_folder_is_embedded_once_and_failures_are_listed(run, tmp_path):
    for name in ("one.png", "below/two.PNG", "below/deeper/three.png", ".hidden.png", "notes.txt", "broken.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise_file((20, 20), seed=len(name)) if path.suffix.lower() == ".png" else b"no image")

    first = run("--folder", tmp_path, "--jobs", "3")
    (tmp_path / "broken.jpg").unlink()
    second = run("--folder", tmp_path)

    assert (first.exit_code, second.exit_code) == (1, 0)
    assert re.search(r"4 images in [\d.]+ s: 3 embedded, 0 known before, 1 failed", first.stdout)
    assert re.search(r"^failed: .*broken\.jpg: .*unsupported-image", first.stdout, re.MULTILINE)
    assert re.search(r"3 images in [\d.]+ s: 0 embedded, 3 known before, 0 failed", second.stdout)


def test_what_a_folder_has_beside_images_is_skipped_with_the_reason(run, tmp_path):
    image = noise_file((20, 20), seed=301)
    for name in ("photo", "scan.data", "shot.jfif", "first.JPG"):  # recognized by their bytes, or by their names
        (tmp_path / name).write_bytes(image)
    for name in ("notes.txt", "BMW.txt", ".hidden.jpg", "raw.NEF", "logo.svg", "empty"):
        (tmp_path / name).write_bytes(name.encode() if name != "empty" else b"")
    (tmp_path / "old.bmp").symlink_to(tmp_path / "gone.bmp")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "inside.png").write_bytes(image)
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")

    result = run("--folder", tmp_path)

    skipped = dict(re.findall(rf"^skipped: {tmp_path}/([^:]+): (.+)$", result.stdout, re.MULTILINE))
    assert result.exit_code == 0, result.output
    assert re.search(r"^4 images in .*, 0 failed; 10 skipped$", result.stdout, re.MULTILINE)
    assert skipped == {
        ".cache": "a hidden folder",
        ".hidden.jpg": "a hidden file",
        "BMW.txt": "no image",
        "empty": "no image",
        "logo.svg": "a drawing; export it as PNG",
        "loop": "a link to a folder",
        "notes.txt": "no image",
        "old.bmp": "a file that cannot be read: No such file or directory",
        "pipe.png": "no regular file",
        "raw.NEF": "a camera's raw file; export it as JPEG or TIFF",
    }


def test_many_skipped_files_of_one_reason_are_counted(run, tmp_path):
    for number in range(25):
        (tmp_path / f"{number:02}.txt").write_text("label")

    result = run("--folder", tmp_path)

    assert result.exit_code == 1
    assert result.stdout.count("skipped: ") == 21
    assert result.stdout.splitlines()[-1] == "skipped: 5 more: no image"
    assert "contains no image file" in result.stderr


def test_a_file_larger_than_the_service_takes_is_refused_unread_and_the_others_are_embedded(run, narrow, tmp_path):
    (tmp_path / "a.png").write_bytes(noise_file((20, 20), seed=302))
    (tmp_path / "huge.tif").touch()
    os.truncate(tmp_path / "huge.tif", 1 << 40)  # without blocks on the disk; no machine could read it into memory

    result = run("--folder", tmp_path, "--url", narrow.url, env={"EDGESAM_API_KEY": KEY})

    assert result.exit_code == 1
    assert re.search(r"^2 images in .* 1 failed; 0 skipped$", result.stdout, re.MULTILINE)
    assert (
        f"failed: {tmp_path}/huge.tif: The file has {1 << 40} bytes; the service takes 100000 at most." in result.stdout
    )


def test_annotations_are_written_in_every_format(run, photo, service_url, tmp_path):
    folder = tmp_path / "dataset"
    arguments = ("--coco", tmp_path / "coco.json", "--coco-rle", tmp_path / "rle.json", "--yolo", folder)

    result = run(photo, "--point", "60,80", "--label", "cup: 花", "--labelme", tmp_path / "photo.json", *arguments)

    with Client(service_url) as client:
        expected = client.segment(client.embed(photo), points=(60, 80), cleanup="auto").best.pixels
    labelme = json.loads((tmp_path / "photo.json").read_text())
    assert result.exit_code == 0, result.output
    for name in ("coco.json", "rle.json"):
        api = COCO(tmp_path / name)
        (annotation,) = api.anns.values()
        assert np.array_equal(api.annToMask(annotation), expected)
        assert api.cats[1]["name"] == "cup: 花"
        assert api.imgs[1] == {"id": 1, "file_name": "photo.jpg", "width": 120, "height": 160}
    assert (tmp_path / labelme["imagePath"]).resolve() == photo
    assert {shape["label"] for shape in labelme["shapes"]} == {"cup: 花"}
    assert (folder / "images" / "photo.jpg").read_bytes() == photo.read_bytes()
    assert (folder / "labels" / "photo.txt").read_text().startswith("0 ")
    assert 'names:\n  0: "cup: 花"\n' in (folder / "data.yaml").read_text()


def test_a_dataset_is_not_written_over_files(run, photo, tmp_path):
    (tmp_path / "data.yaml").write_text("names: mine")

    result = run(photo, "--point", "60,80", "--yolo", tmp_path)

    assert result.exit_code == 1
    assert "is not empty" in result.stderr
    assert (tmp_path / "data.yaml").read_text() == "names: mine"


def test_a_folder_that_does_not_fit_into_the_cache_is_no_success(run, narrow, tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(noise_file((20, 20), seed=200 + number))

    result = run("--folder", tmp_path, "--jobs", "1", "--url", narrow.url, env={"EDGESAM_API_KEY": KEY})

    assert result.exit_code == 1
    assert "4 embedded, 0 known before, 0 failed" in result.stdout
    assert re.search(r"evicted [123] of the images, first .*0\.png\.", result.stderr)


@pytest.mark.parametrize("mode", ["photo", "folder"])
def test_an_interrupt_ends_it_with_a_word_and_status_130(photo, mode):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WAIT_S)
        arguments = [photo] if mode == "photo" else ["--folder", photo.parent]
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "service.client",
                *arguments,
                "--url",
                f"http://127.0.0.1:{silent.getsockname()[1]}",
            ],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=WAIT_S)

    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("error: interrupted;")
    assert "Traceback" not in said


def test_the_client_loads_nothing_of_the_service_and_no_heavy_package():
    script = "import sys, service.client; print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    loaded = set(process.stdout.split())

    ours = {name for name in loaded if name.startswith("service") and not name.startswith("service.client")}
    assert ours == {"service"}
    assert not loaded & {"cv2", "fastapi", "pydantic", "onnxruntime", "pycocotools", "torch", "PIL", "typer"}

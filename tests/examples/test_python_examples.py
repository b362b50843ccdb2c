"""The Python examples do what their first lines say, against the running service."""

import csv
import json
import os
import socket
import subprocess

import httpx
import numpy as np
import pytest
from pycocotools import mask as coco
from pycocotools.coco import COCO
from support.example_masks import best_mask, iou
from support.redis_server import wait_until

SAMPLES = "service/web/samples"
RUN_NOTEBOOK = """
import sys, nbclient, nbformat
book = nbformat.read("click.ipynb", 4)
nbclient.NotebookClient(book, timeout=120).execute()
nbformat.write(book, sys.argv[1])
"""


def add_masks(python, url, root, *arguments):
    """Run the batch script with the environment's command in the path."""
    return subprocess.run(
        ["sh", "coco_masks.sh", *map(str, arguments)],
        cwd=root / "examples" / "coco-masks",
        env={**os.environ, "EDGESAM_URL": url, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_batch_script_adds_masks_to_a_coco_file(python, url, tmp_path, root):
    boxes = {
        "images": [
            {"id": 1, "file_name": "dahlia.jpg", "width": 640, "height": 427},
            {"id": 2, "file_name": "dogs.jpg", "width": 640, "height": 427},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [285, 370, 167, 57]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [180, 110, 190, 190]},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [100, 60, 200, 300]},
        ],
        "categories": [{"id": 1, "name": "thing"}],
        "note": "kept",
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))

    done = add_masks(python, url, root, tmp_path / "boxes.json", root / SAMPLES, tmp_path / "out.json")

    assert done.returncode == 0, done.stderr
    dataset = json.loads((tmp_path / "out.json").read_text())
    api = COCO(tmp_path / "out.json")
    assert dataset["note"] == "kept"
    for annotation in dataset["annotations"]:
        photo = root / SAMPLES / dataset["images"][annotation["image_id"] - 1]["file_name"]
        x, y, width, height = annotation["bbox"]
        expected = best_mask(url, photo, {"box": [x, y, x + width, y + height]}, cleanup="auto")
        assert iou(api.annToMask(annotation), expected) == 1.0
        assert annotation["area"] == expected.sum()


def test_the_batch_script_names_a_photo_that_is_missing(python, url, tmp_path, root):
    boxes = {
        "images": [{"id": 1, "file_name": "absent.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9]}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))

    done = add_masks(python, url, root, tmp_path / "boxes.json", tmp_path, tmp_path / "out.json")

    assert done.returncode == 1
    assert "absent.jpg" in done.stdout


def answers(client):
    """Whether the backend answers."""
    try:
        return client.get("/openapi.json").is_success
    except httpx.ConnectError:
        return False


@pytest.fixture
def backend(python, url, root):
    """The backend on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python), "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"]
    environment = {**os.environ, "EDGESAM_URL": url, "PYTHONDONTWRITEBYTECODE": "1"}
    with (
        subprocess.Popen(command, cwd=root / "examples" / "backend", env=environment) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            wait_until(lambda: answers(client), timeout_s=60)
            yield client
        finally:
            process.terminate()


def test_the_backend_answers_a_click_and_refines_it(backend, url, root):
    photo = root / SAMPLES / "dahlia.jpg"
    added = backend.post("/photos", files={"photo": photo.read_bytes()}).json()
    clicks = f"/photos/{added['id']}/masks"

    first = backend.post(clicks, json={"points": [[270, 210]]}).json()
    points = [[270, 210], [352, 400]]
    both = backend.post(clicks, json={"points": points, "mask_id": first["mask_id"]}).json()

    assert (added["width"], added["height"]) == (640, 427)
    assert iou(coco.decode(first["rle"]), best_mask(url, photo, {"points": [{"x": 270, "y": 210}]})) == 1.0
    assert coco.decode(both["rle"]).sum() > coco.decode(first["rle"]).sum()


def test_the_backend_passes_refusals_on(backend, root):
    assert backend.post("/photos", files={"photo": b"no image"}).status_code == 422
    assert backend.post("/photos/absent/masks", json={"points": [[1, 1]]}).status_code == 404
    photo = (root / SAMPLES / "dahlia.jpg").read_bytes()
    added = backend.post("/photos", files={"photo": photo}).json()
    refused = backend.post(f"/photos/{added['id']}/masks", json={"points": [[9999, 1]]})
    assert refused.status_code == 422
    assert "9999" in refused.text


def test_the_notebook_runs_from_top_to_bottom(run, tmp_path, root):
    run("notebook", ["-c", RUN_NOTEBOOK, str(tmp_path / "done.ipynb")])

    cells = json.loads((tmp_path / "done.ipynb").read_text())["cells"]
    images = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(images) == 3


def test_the_load_test_clicks_without_failures(run, tmp_path):
    run(
        "load-test",
        ["-m", "locust", "--headless", "--users", "3", "--spawn-rate", "3", "--run-time", "6s",
         "--csv", str(tmp_path / "load")],
    )  # fmt: skip

    with (tmp_path / "load_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert int(rows["click"]["Request Count"]) > 3
    assert int(rows["Aggregated"]["Failure Count"]) == 0
    assert np.isfinite(float(rows["click"]["Median Response Time"]))

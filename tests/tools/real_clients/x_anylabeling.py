"""Drives the real X-AnyLabeling against a service: `python tests/tools/real_clients/x_anylabeling.py`.

The application's own window runs without a screen. It is installed into an environment of its own; `--python` names an
existing one.
"""

import argparse
import json
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from environment import check, run_inside, tool_python  # noqa: E402
from PIL import Image  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

REQUIREMENT = "x-anylabeling-cvhub[cpu]==4.2.1"
SIZE = (480, 320)  # width and height of the stored image
DISC, RADIUS = (340, 110), 60
ORIENTATION_TAG = 0x0112
DRAWN_BEFORE = ("window", "door")


def main() -> None:
    """Check shapes for marks, images with every EXIF orientation, and shapes that survive refusals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, help="Python of an environment that has the application")
    python = parser.parse_args().python or tool_python("x-anylabeling", REQUIREMENT)
    settings = {"EDGESAM_ADAPTERS": "x-anylabeling"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ServiceProcess(settings) as service:
            for orientation in range(1, 9):
                check_orientation(python, service.url, folder, orientation)
            outside = {"type": "point", "data": [SIZE[0] + 9, 5], "label": 1}
            check_survival(python, service.url, folder, "a mark outside the image", "--overwrite", marks=[outside])
        with ServiceProcess({**settings, "EDGESAM_MAX_IMAGE_BYTES": "1024"}) as service:
            check_survival(python, service.url, folder, "an image that is too large", "--overwrite")
        with ServiceProcess({**settings, "EDGESAM_EMBED_TIMEOUT_S": "0.001"}) as service:
            check_survival(python, service.url, folder, "a missed deadline", "--overwrite")
        with ServiceProcess(settings) as service:
            lost = f"http://127.0.0.1:{free_port()}"
            check_survival(python, service.url, folder, "a stopped service", "--lost-server", lost)
            options = ("--lost-server", lost, "--overwrite")
            found = predict(python, service.url, image_with_shapes(folder), *options)
            check("without the preserve button, a stopped service costs all shapes", holds=not found["saved"], seen=0)


def check_orientation(python: Path, url: str, folder: Path, orientation: int) -> None:
    """Check that the polygon lies on the disc, in the pixels that the application shows."""
    path = disc_image(folder, orientation)
    found = predict(python, url, path)
    pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    for shape in found["after"]:
        cv2.fillPoly(pixels, [np.rint(np.array(shape["points"])).astype(np.int32)], 1)
    disc = cv2.circle(np.zeros_like(pixels), DISC, RADIUS, 1, -1)
    iou = float((pixels & disc).sum() / (pixels | disc).sum())
    check(f"orientation {orientation}, IoU with the disc", holds=iou > 0.9 and found["size"] == [*SIZE], seen=iou)


def check_survival(
    python: Path, url: str, folder: Path, case: str, *options: str, marks: list[dict[str, Any]] | None = None
) -> None:
    """Check that earlier shapes stay in the window and on disk when a prediction fails.

    With `--overwrite`, which switches the application's preserve button off, the answer alone protects them.
    """
    found = predict(python, url, image_with_shapes(folder), *options, marks=marks)
    kept = [[shape["label"] for shape in found[place]] for place in ("after", "saved")]
    holds = found["preserves"] is ("--overwrite" not in options) and kept == [[*DRAWN_BEFORE], [*DRAWN_BEFORE]]
    check(f"shapes after {case}", holds=holds, seen=f"{kept}, {found['messages'][-1]!r}")


def predict(
    python: Path, url: str, path: Path, *options: str, marks: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return what the window shows after marks on an image. By default the mark is a click on the disc."""
    asked = json.dumps(marks or [{"type": "point", "data": [*DISC], "label": 1}])
    arguments = ("--server", url, "--image", str(path), "--marks", asked, *options)
    found: dict[str, Any] = run_inside(python, "x_anylabeling_window.py", *arguments)
    return found


def disc_image(folder: Path, orientation: int) -> Path:
    """Write an image whose stored pixels have a bright disc, with this EXIF orientation, and return its path."""
    pixels = np.full((SIZE[1], SIZE[0], 3), (40, 60, 50), np.uint8)
    cv2.circle(pixels, DISC, RADIUS, (230, 200, 90), -1)
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    path = fresh(folder, f"orientation-{orientation}") / "disc.jpg"
    Image.fromarray(pixels).save(path, quality=95, exif=exif)
    return path


def image_with_shapes(folder: Path) -> Path:
    """Write an image with two labelled polygons, as the application saves them, and return its path."""
    path = fresh(folder, "shapes") / "disc.jpg"
    shutil.copy(disc_image(folder, 1), path)
    shapes = [
        {
            "label": label, "score": None, "points": [[x, 20], [x + 60, 20], [x + 60, 90]], "group_id": None,
            "description": "", "difficult": False, "shape_type": "polygon", "flags": {}, "attributes": {},
            "kie_linking": [],
        }
        for label, x in zip(DRAWN_BEFORE, (20, 120), strict=True)
    ]  # fmt: skip
    document = {
        "version": "4.2.1", "flags": {}, "shapes": shapes, "imagePath": path.name, "imageData": None,
        "imageHeight": SIZE[1], "imageWidth": SIZE[0],
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(document))
    return path


def fresh(folder: Path, name: str) -> Path:
    """Return an empty folder."""
    path = folder / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def free_port() -> int:
    """Return a port at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()

"""Reads exports with the real tools: `python tests/tools/real_clients/exports.py`.

The page in a real browser and the Python client export masks of the sample images as COCO, YOLO and labelme files.
datumaro, Label Studio's importer, labelme, torchvision and Ultralytics read them. Each tool has an environment of its
own; torchvision and Ultralytics are installed without dependencies beside this environment's torch.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
# Not the folder of this file: it would hide tools from their names.
sys.path[:] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "tools"), *sys.path[1:]]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from real_clients.environment import check, run_inside, tool_python  # noqa: E402
from support.browser import Playground, open_browser  # noqa: E402
from support.service_process import ServiceProcess  # noqa: E402

from service.client import AnnotatedImage, AnnotatedObject, Client, coco_dataset, labelme_document, yolo_files  # noqa: E402

SAMPLES = ROOT / "service" / "web" / "samples"
TOOLS = {"datumaro": "datumaro==1.13.12", "label_studio": "label-studio-sdk==2.1.2", "labelme": "labelme==6.3.1"}
BESIDE_TORCH = {"torchvision": "torchvision==0.28.0", "ultralytics": "ultralytics==8.4.190"}
# A click and a box in parts of width and height; the fourth mask of a click has many parts and holes.
CLICK, BOX = (0.42, 0.49), (0.2, 0.15, 0.75, 0.9)
LABELS = ["flower: 花", "box & <part>"]
# labelme and Ultralytics draw the pixels on a polygon's line too, one row and column more.
LEAST_IOU = {"datumaro": 1.0, "torchvision": 1.0, "label_studio": 1.0, "labelme": 0.8, "ultralytics": 0.8}


def main() -> None:
    """Export, let each tool read, and compare with the masks."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ServiceProcess({}) as service:
            export_with_client(service.url, folder / "client")
            export_with_page(f"{service.url}/", folder / "page")
        for source in ("client", "page"):
            for tool in (*TOOLS, *BESIDE_TORCH):
                for result in read_with(tool, folder / source):
                    seen = f"least IoU {result['iou']:.3f}, {result['objects']} objects, {result['note']}"
                    holds = result["iou"] >= LEAST_IOU[tool] and result["objects"] == result["expected"]
                    check(f"{tool} {result['version']}, {result['format']} of the {source}", holds=holds, seen=seen)


def export_with_client(url: str, folder: Path) -> None:
    """Write exports of two objects on every sample image."""
    images = []
    with Client(url) as client:
        for path in sorted(SAMPLES.glob("*.jpg")):
            image = client.embed(path)
            width, height = image.width, image.height
            x0, y0, x1, y1 = BOX
            box = (x0 * width, y0 * height, x1 * width, y1 * height)
            click = client.segment(image, points=(CLICK[0] * width, CLICK[1] * height)).masks[-1]
            masks = (click, client.segment(image, box=box).best)
            objects = [AnnotatedObject(label, mask) for label, mask in zip(LABELS, masks, strict=True)]
            images.append(AnnotatedImage(path.name, width, height, objects))
    write(folder / "coco.json", json.dumps(coco_dataset(images)))
    write(folder / "rle.json", json.dumps(coco_dataset(images, segmentation="rle")))
    for path, text in yolo_files(images).items():
        write(folder / "yolo" / path, text)
    for image in images:
        write(folder / "labelme" / f"{Path(image.name).stem}.json", json.dumps(labelme_document(image)))
        for target in ("yolo/images", "labelme"):
            write(folder / target / image.name, (SAMPLES / image.name).read_bytes())
        for number, one in enumerate(image.objects):
            save_mask(folder / "masks" / f"{Path(image.name).stem}-{number}.png", one.mask.pixels)


def export_with_page(url: str, folder: Path) -> None:
    """Press the buttons of the page after two objects on one sample image."""
    with open_browser() as browser:
        playground = Playground(browser.new_context(viewport={"width": 1280, "height": 800}), url)
        playground.visit()
        playground.open_sample("dahlia.jpg")
        playground.click(*playground.place(270, 210))
        for key in ("Shift+Tab", "n"):
            playground.page.keyboard.press(key)
        playground.click(*playground.place(352, 400))
        for number, label in enumerate(LABELS):
            field = playground.page.locator(".object-name").nth(number)
            field.fill(label)
            field.press("Enter")
        playground.page.check("#only-selected")
        for number in range(len(LABELS)):
            playground.page.locator(".object-select").nth(number).click()
            mask = np.asarray(Image.open(io.BytesIO(playground.save("#save-mask"))).convert("L")) > 127
            save_mask(folder / "masks" / f"dahlia-{number}.png", mask)
        playground.page.uncheck("#only-selected")
        write(folder / "coco.json", playground.save("#save-coco"))
        write(folder / "rle.json", playground.save("#save-coco-rle"))
        write(folder / "labelme" / "dahlia.json", playground.save("#save-labelme"))
        write(folder / "labelme" / "dahlia.jpg", (SAMPLES / "dahlia.jpg").read_bytes())
        with zipfile.ZipFile(io.BytesIO(playground.save("#save-yolo"))) as archive:
            archive.extractall(folder / "yolo")


def read_with(tool: str, folder: Path) -> Any:
    """Return what a tool has read: a list with the least IoU and the number of objects for each format."""
    arguments = (tool, str(folder), json.dumps(LABELS))
    if tool in TOOLS:
        return run_inside(tool_python(tool, TOOLS[tool]), "exports_reading.py", *arguments)
    target = packages_beside_torch()
    settings = {"PYTHONPATH": str(target), "YOLO_CONFIG_DIR": str(target), "YOLO_OFFLINE": "true"}
    os.environ.update(settings)
    try:
        return run_inside(Path(sys.executable), "exports_reading.py", *arguments)
    finally:
        for name in settings:
            del os.environ[name]


def packages_beside_torch() -> Path:
    """Install torchvision and Ultralytics without dependencies, and return their folder."""
    target = ROOT / "build" / "real-clients" / "beside-torch"
    if not target.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*command, *BESIDE_TORCH.values()], check=True)
    return target


def write(path: Path, content: str | bytes) -> None:
    """Write a file, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def save_mask(path: Path, pixels: Any) -> None:
    """Write a mask as a PNG file, 255 inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8) * 255).save(path)


if __name__ == "__main__":
    main()

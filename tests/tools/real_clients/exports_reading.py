"""Reads exports with a tool, in that tool's environment; a part of exports.py.

`python exports_reading.py TOOL FOLDER LABELS` prints a JSON list with an entry for each format.
"""

import importlib.util
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SCALE = 8  # polygons of Label Studio have no pixels of their own, so they are drawn large and sampled at pixel centres


def main() -> None:
    """Print what a tool reads."""
    tool, folder, labels = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    print(json.dumps(globals()[f"read_{tool}"](folder, labels)))


def read_datumaro(folder: Path, labels: list[str]) -> list[dict[str, Any]]:
    """Import as COCO instances, and merge the polygons of a group."""
    import datumaro
    from pycocotools import mask as coco

    results = []
    for name in ("coco", "rle"):
        with tempfile.TemporaryDirectory() as place:
            shutil.copytree(folder / "yolo" / "images", Path(place) / "images")
            (Path(place) / "annotations").mkdir()
            shutil.copy(folder / f"{name}.json", Path(place) / "annotations" / "instances_default.json")
            dataset = datumaro.Dataset.import_from(place, "coco_instances")
            names = [category.name for category in dataset.categories()[datumaro.AnnotationType.label]]
            overlaps = []
            for item in dataset:
                for number, label in enumerate(labels):
                    expected = mask_of(folder, item.id, number)
                    found = np.zeros_like(expected)
                    for annotation in item.annotations:
                        if names[annotation.label] != label:
                            continue
                        if annotation.type == datumaro.AnnotationType.polygon:
                            rles = coco.frPyObjects([annotation.points], *expected.shape)
                            found |= coco.decode(coco.merge(rles)).astype(bool)
                        elif annotation.type == datumaro.AnnotationType.mask:
                            found |= annotation.image.astype(bool)
                    overlaps.append(iou(found, expected))
        results.append(result(folder, f"COCO ({name})", overlaps, datumaro.__version__, f"categories {names}"))
    return results


def read_label_studio(folder: Path, labels: list[str]) -> list[dict[str, Any]]:
    """Convert to tasks as `label-studio-converter import coco` does, and draw the polygons."""
    from importlib.metadata import version

    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

    with tempfile.TemporaryDirectory() as place:
        tasks_file = Path(place) / "tasks.json"
        convert_coco_to_ls(str(folder / "coco.json"), str(tasks_file), image_root_url="/images/")
        tasks = json.loads(tasks_file.read_text())
    overlaps, regions = [], 0
    for task in tasks:
        name = Path(task["data"]["image"]).stem
        polygons = [one for one in task["annotations"][0]["result"] if one["type"] == "polygonlabels"]
        regions += len(polygons)
        for number, label in enumerate(labels):
            expected = mask_of(folder, name, number)
            found = np.zeros_like(expected)
            for one in polygons:
                if one["value"]["polygonlabels"] == [label]:
                    points = np.array(one["value"]["points"]) / 100 * expected.shape[::-1]
                    found |= drawn(points, expected.shape)
            overlaps.append(iou(found, expected))
    note = f"{regions} polygon regions"
    return [result(folder, "COCO (coco)", overlaps, version("label-studio-sdk"), note)]


def read_labelme(folder: Path, labels: list[str]) -> list[dict[str, Any]]:
    """Read the files as the window does, and fill the shapes with labelme's own function."""
    import labelme
    from labelme._label_file import read_label_file
    from labelme.utils import shape_to_mask

    overlaps, shapes = [], 0
    for path in sorted((folder / "labelme").glob("*.json")):
        data = read_label_file(str(path))
        shapes += len(data.shapes)
        for number, label in enumerate(labels):
            expected = mask_of(folder, path.stem, number)
            found = np.zeros_like(expected)
            for shape in data.shapes:
                if shape["label"] == label:
                    found |= shape_to_mask(expected.shape, shape["points"], shape["shape_type"])
            overlaps.append(iou(found, expected))
    return [result(folder, "labelme", overlaps, labelme.__version__, f"{shapes} shapes")]


def read_torchvision(folder: Path, labels: list[str]) -> list[dict[str, Any]]:
    """Read with CocoDetection and its wrapper, which makes masks for training."""
    allow_torchvision_without_cuda()
    import torchvision
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

    results = []
    for name in ("coco", "rle"):
        dataset = CocoDetection(str(folder / "yolo" / "images"), str(folder / f"{name}.json"))
        names = {each["id"]: each["name"] for each in dataset.coco.cats.values()}
        wrapped = wrap_dataset_for_transforms_v2(dataset, target_keys=["masks", "labels", "image_id"])
        overlaps = []
        for index in range(len(wrapped)):
            _, target = wrapped[index]
            stem = Path(dataset.coco.imgs[target["image_id"]]["file_name"]).stem
            for mask, category in zip(target["masks"], target["labels"].tolist(), strict=True):
                expected = mask_of(folder, stem, labels.index(names[category]))
                overlaps.append(iou(mask.numpy().astype(bool), expected))
        results.append(result(folder, f"COCO ({name})", overlaps, torchvision.__version__, "through pycocotools"))
    return results


def read_ultralytics(folder: Path, labels: list[str]) -> list[dict[str, Any]]:
    """Read with the dataset class that trains segmentation, and fill its segments."""
    import ultralytics
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    data = check_det_dataset(str(folder / "yolo" / "data.yaml"), autodownload=False)
    dataset = YOLODataset(img_path=data["train"], data=data, task="segment", augment=False)
    overlaps = []
    for found in dataset.labels:
        stem = Path(found["im_file"]).stem
        height, width = found["shape"]
        for segment, category in zip(found["segments"], found["cls"].ravel().tolist(), strict=True):
            expected = mask_of(folder, stem, labels.index(data["names"][int(category)]))
            mask = polygon2mask((height, width), [(segment * (width, height)).ravel()])
            overlaps.append(iou(mask.astype(bool), expected))
    return [result(folder, "YOLO", overlaps, ultralytics.__version__, f"names {data['names']}")]


def allow_torchvision_without_cuda() -> None:
    """Name torchvision's operators. A torch without CUDA cannot load them, and reading datasets uses none."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "_meta_registrations.py").read_text()
    library = torch.library.Library("torchvision", "DEF")
    for one, other in {*re.findall(r'register_meta\("(\w+)"\)|register_fake\("torchvision::(\w+)"\)', source)}:
        library.define(f"{one or other}(Tensor input) -> Tensor")
    globals()["_library"] = library  # the operators vanish with it


def result(folder: Path, form: str, overlaps: list[float], version: str, note: str) -> dict[str, Any]:
    """An entry of the printed list."""
    expected = len(list((folder / "masks").glob("*.png")))
    return {
        "format": form,
        "iou": min(overlaps),
        "objects": len(overlaps),
        "expected": expected,
        "version": version,
        "note": note,
    }


def mask_of(folder: Path, stem: str, number: int) -> Any:
    """The mask of an object, (H, W) bool."""
    return np.asarray(Image.open(folder / "masks" / f"{stem}-{number}.png")) > 127


def drawn(points: Any, size: tuple[int, int]) -> Any:
    """The pixels whose centres are inside a polygon, (H, W) bool."""
    height, width = size
    canvas = Image.new("L", (width * SCALE, height * SCALE))
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in (points * SCALE).tolist()], fill=1)
    return np.asarray(canvas)[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE] > 0


def iou(one: Any, other: Any) -> float:
    """Intersection over union of two masks."""
    return float((one & other).sum() / max(1, (one | other).sum()))


if __name__ == "__main__":
    main()

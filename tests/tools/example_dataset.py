"""Write a small data set to try fine-tuning with: 36 microscopy tiles and their nuclei as COCO JSON.

The tiles are cut out of scikit-image's sample of immunohistochemistry (`skimage.data.immunohistochemistry`). Stained
nuclei are found by their colour. So the annotations are rougher than those of a person, but they all follow one rule,
which is what a model can learn from few images. 30 tiles are for training, 6 for validation.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import skimage.color
import skimage.data
import skimage.filters
import skimage.measure
import skimage.morphology
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

TILES_A_SIDE = 6
ENLARGEMENT = 5
MIN_AREA, MAX_AREA = 60, 1500  # of a nucleus, pixels of the sample
VALIDATION_COLUMN = 5  # all tiles of one column, so that no nucleus is in both parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder for the images, train.json and validation.json.")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    image = skimage.data.immunohistochemistry()
    nuclei = label_nuclei(image)
    side = image.shape[0] // TILES_A_SIDE
    documents = {"train": _document(), "validation": _document()}
    for row in range(TILES_A_SIDE):
        for column in range(TILES_A_SIDE):
            tile = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
            part = "validation" if column == VALIDATION_COLUMN else "train"
            _add(documents[part], folder, f"tile_{row}_{column}.jpg", image[tile], nuclei[tile])
    for part, document in documents.items():
        (folder / f"{part}.json").write_text(json.dumps(document))
        print(f"{folder / part}.json: {len(document['images'])} images, {len(document['annotations'])} nuclei")


def label_nuclei(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the stained nuclei of an image (H, W, 3), numbered from 1 in an array (H, W)."""
    lab = skimage.filters.gaussian(skimage.color.rgb2lab(image), 1.2, channel_axis=2)
    is_blue = lab[..., 2] < skimage.filters.threshold_otsu(lab[..., 2])  # nuclei are blue, the rest is brown
    is_stained = is_blue & (lab[..., 0] < 75)  # and not the white glass
    stained = skimage.morphology.opening(is_stained, skimage.morphology.disk(3))
    labels = skimage.measure.label(skimage.morphology.remove_small_objects(stained, max_size=MIN_AREA))
    return np.asarray(labels, np.int32)


def _document() -> dict[str, list]:
    return {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nucleus"}]}


def _add(document: dict[str, list], folder: Path, name: str, tile: NDArray, labels: NDArray) -> None:
    """Write a tile, enlarged, and add it and its nuclei to a COCO document."""
    size = (tile.shape[1] * ENLARGEMENT, tile.shape[0] * ENLARGEMENT)
    enlarged = cv2.resize(tile, size, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / name), enlarged[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    image_id = len(document["images"]) + 1
    document["images"].append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
    for number in np.unique(labels[labels > 0]):
        nucleus = (labels == number).astype(np.float32)
        if not MIN_AREA <= nucleus.sum() <= MAX_AREA:
            continue
        mask = cv2.resize(nucleus, size, interpolation=cv2.INTER_LINEAR) > 0.5
        run_lengths = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        document["annotations"].append(
            {
                "id": len(document["annotations"]) + 1,
                "image_id": image_id,
                "category_id": 1,
                "segmentation": {"size": run_lengths["size"], "counts": run_lengths["counts"].decode()},
                "area": int(mask.sum()),
                "bbox": [float(value) for value in coco_mask.toBbox(run_lengths)],
                "iscrowd": 0,
            }
        )


if __name__ == "__main__":
    main()

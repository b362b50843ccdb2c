"""Agreement of masks between number formats of embeddings: the IoU with the mask of a float32 embedding.

    python -m tests.tools.number_formats --data DATA [--model edgesam-lite] [--photos 57] [--objects 4]

Prompts are the box and the centre point of each object, as `python -m model_store evaluate` gives them. `auto` is the
mask that the service shows first for the point. The table is that of docs/explanation/caching-and-deletion.md.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.catalogue.entries import DEFAULT_MODELS_DIRECTORY, find_artifact
from model_store.evaluation.instances import image_mask, make_instance
from model_store.evaluation.metrics import iou
from model_store.evaluation.protocol import Protocol, first_prompts, selected_masks, selected_photos
from model_store.evaluation.segmenters.onnx_segmenter import OnnxSegmenter
from model_store.training.data.annotations import PhotoRecord, read_annotations
from service.sam.frame import Frame
from service.sam.number_format import EmbeddingDtype

ROUNDED: tuple[EmbeddingDtype, ...] = ("float16", "int8")
PROMPTS = ("box", "point", "auto")
Masks = dict[str, list[NDArray[np.bool_]]]


def masks_of(segmenter: OnnxSegmenter, photo: PhotoRecord, objects: list[int]) -> Masks:
    """Return the masks of the objects of a photo, by kind of prompt."""
    frame = Frame(photo.size, segmenter.resize)
    instances = [make_instance(photo.masks[mask], frame) for mask in objects]
    embedded = segmenter.embed(photo)
    box = segmenter.predict(embedded, first_prompts(instances, "box"))
    point, four = segmenter.predict_point(embedded, first_prompts(instances, "point"))
    return {
        name: [image_mask(logits[0], frame) for logits in predictions.mask_logits]
        for name, predictions in zip(PROMPTS, (box, point, four), strict=True)
    }


def measure(model: Path, photos: list[PhotoRecord], protocol: Protocol) -> Iterator[tuple[str, str, float]]:
    """Yield number format, prompt and IoU of each mask that is not empty in float32."""
    exact, *others = (OnnxSegmenter(model, threads=1, dtype=dtype) for dtype in ("float32", *ROUNDED))
    for index in selected_photos(photos, protocol):
        objects = selected_masks(photos[index], index, protocol)
        expected = masks_of(exact, photos[index], objects)
        for dtype, segmenter in zip(ROUNDED, others, strict=True):
            found = masks_of(segmenter, photos[index], objects)
            for prompt in PROMPTS:
                for mask, wanted in zip(found[prompt], expected[prompt], strict=True):
                    if wanted.any():
                        yield dtype, prompt, iou(mask, wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="photos with masks, as `model_store evaluate` takes them")
    parser.add_argument("--model", default="edgesam-lite", help="name or folder of a model")
    parser.add_argument("--photos", type=int, default=57, help="number of photos, spread over the data")
    parser.add_argument("--objects", type=int, default=4, help="largest number of objects of a photo")
    asked = parser.parse_args()
    protocol = Protocol(max_instances=asked.objects, max_photos=asked.photos)
    model = find_artifact(asked.model, DEFAULT_MODELS_DIRECTORY)
    ious: dict[tuple[str, str], list[float]] = {}
    for dtype, prompt, value in measure(model, read_annotations(asked.data), protocol):
        ious.setdefault((dtype, prompt), []).append(value)
    print("| number format | prompt | masks | mean IoU | 1 % are below | least |\n|---|---|---|---|---|---|")
    for (dtype, prompt), values in ious.items():
        low = np.quantile(values, 0.01)
        print(f"| {dtype} | {prompt} | {len(values)} | {np.mean(values):.5f} | {low:.4f} | {min(values):.4f} |")


if __name__ == "__main__":
    main()

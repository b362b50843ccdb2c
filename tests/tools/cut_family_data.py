"""Cuts the committed part out of the full fixtures of the SAM family: ``python tests/tools/cut_family_data.py``.

The committed part has two architectures, whose epsilons differ: the encoder's input and embedding, prompts of every
kind, and the calls of the predictor, in less than 1.5 MB with image, shapes and running statistics. Of the exact
embedding, from which the decoder's cases start, only the last bits are stored, see `float16_with_parity`.
"""

import gzip
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.sam_family_reference import COMMITTED_CASES, COMMITTED_NAMES
from support.sam_family_weights import FAMILY_COMMITTED, FAMILY_FULL, SHAPES_FILE, family_file

ENCODERS = (
    "sam-vit-b", "sam-vit-l", "sam-vit-h", "mobile-sam", "repvit-sam", "efficientvit-sam-l0", "efficientvit-sam-l1",
    "efficientvit-sam-l2", "efficientvit-sam-xl0", "efficientvit-sam-xl1",
)  # fmt: skip
# Running statistics of architectures with tests that need no full fixtures.
RUNNING = ("mobile-sam", "tiny-sam", "efficientvit-sam-l0")
# The encoders' own tests compare taps and embedding.
LEFT_OUT = {"embedding_f16", "embedding_slice", "embedding_row63", "embedding_chan_mean", "resized_slice"}
OF_CASES = {"points", "labels", "boxes", "has_mask", "mask_logits_slice", "iou_pred"}
# All three masks of a point for one architecture. The other one has the masks of prompts that mean one object.
WITH_ALL_CALLS = "efficientvit-sam-l0"
CALLS = ("points_single", "box_single")


def main(full: Path) -> None:
    """Write the committed files.

    Args:
        full: Folder of the full fixtures.
    """
    FAMILY_COMMITTED.mkdir(exist_ok=True)
    shutil.copyfile(full / "picture.webp", FAMILY_COMMITTED / "image.webp")
    SHAPES_FILE.write_bytes(gzip.compress(json.dumps(_shapes(full), separators=(",", ":")).encode(), 9, mtime=0))
    for name in RUNNING:
        file = family_file(name, "_running.npz")
        shutil.copyfile(full / file, FAMILY_COMMITTED / file)
    for name in COMMITTED_NAMES:
        with np.load(full / family_file(name)) as arrays:
            np.savez_compressed(FAMILY_COMMITTED / family_file(name), **_cut(name, arrays))


def _shapes(full: Path) -> Mapping[str, object]:
    """Return keys and shapes of all encoders, and those of the decoder, which all architectures share."""
    encoders, decoders = {}, []
    for name in ENCODERS:
        listed = json.loads((full / family_file(name, "_state_dict.json")).read_text())
        arrays = [[key, entry["shape"]] for key, entry in listed.items()]
        encoders[name] = [array for array in arrays if array[0].startswith("image_encoder.")]
        decoders.append([array for array in arrays if not array[0].startswith("image_encoder.")])
    assert all(decoder == decoders[0] for decoder in decoders)
    return {"decoder": decoders[0], "encoders": encoders}


def _cut(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    calls = (*CALLS, "point_multi") if name == WITH_ALL_CALLS else CALLS
    kept = {key: arrays[key] for key in arrays if _is_kept(key, calls)}
    kept["case_names"] = np.array(COMMITTED_CASES)
    kept["embedding_parity"] = np.packbits(arrays["embedding_f16"].view(np.uint16).reshape(-1) & 1)
    return kept


def _is_kept(key: str, calls: tuple[str, ...]) -> bool:
    group, _, name = key.rpartition("/")
    if not group:
        return key not in LEFT_OUT
    if group.startswith("predict/"):
        return group.removeprefix("predict/") in calls
    return group in COMMITTED_CASES and name in OF_CASES


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FAMILY_FULL)
    sizes = {path.name: path.stat().st_size for path in sorted(FAMILY_COMMITTED.iterdir())}
    print(sizes, "total", sum(sizes.values()), "bytes")

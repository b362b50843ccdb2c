"""Cuts the committed part out of the full fixtures of SAM 2's family: ``python tests/tools/cut_sam2_data.py``.

The committed part has the shapes of all models, EdgeTAM's running statistics, encoder and decoder of EdgeTAM and of
SAM 2.1 tiny, and calls of EdgeTAM's predictor, in less than 1 MB. The image is that of SAM's family.
"""

import gzip
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.sam2_reference import COMMITTED_CALLS, COMMITTED_CASES, COMMITTED_NAMES, COMMITTED_TAPS
from support.sam2_weights import NAMES, SAM2_COMMITTED, SAM2_FULL, SHAPES_FILE, sam2_file

EDGETAM = "edgetam"
# Of these slices only every n-th channel is kept.
CHANNEL_STEPS = {"embedding": 4, "high_res_s1": 2, "high_res_s0": 2}
# Of SAM 2.1 tiny, whose input is EdgeTAM's.
CHANNEL_STEPS_OF_TINY = {"embedding": 8, "high_res_s1": 4, "high_res_s0": 4}
TAP_STEP_OF_TINY = 4
OF_CASES = {
    "points", "labels", "boxes", "has_mask", "mask_logits_slice", "iou_pred", "object_score_logit", "stability_005",
    "single_index", "single_index_times_12", "single_index_iou_reversed", "single_index_mask0_empty",
}  # fmt: skip
INPUT = ("input_slice", "input_row512", "input_stats", "decoder_inputs_stats")
LEFT_OUT = ("_chan_mean", "_chan_std", "_last_row", "dense_pe_slice", "predict_names")


def main(full: Path) -> None:
    """Write the committed files.

    Args:
        full: Folder of the full fixtures.
    """
    SAM2_COMMITTED.mkdir(exist_ok=True)
    SHAPES_FILE.write_bytes(gzip.compress(json.dumps(_shapes(full), separators=(",", ":")).encode(), 9, mtime=0))
    shutil.copyfile(
        full / sam2_file(EDGETAM, "_running_seed0.npz"), SAM2_COMMITTED / sam2_file(EDGETAM, "_running.npz")
    )
    for name in COMMITTED_NAMES:
        with np.load(full / sam2_file(name)) as arrays:
            np.savez_compressed(SAM2_COMMITTED / sam2_file(name), **_cut(name, arrays))


def _shapes(full: Path) -> Mapping[str, object]:
    """Return keys and shapes of what single images need, and of the rest of the files, which serves videos."""
    needed = {}
    for name in NAMES:
        listed = json.loads((full / sam2_file(name, "_state_dict.json")).read_text())
        needed[name] = {key: entry["shape"] for key, entry in listed.items()}
    unused = json.loads((full / "unused_keys.json").read_text())
    return {"needed": needed, "video": {EDGETAM: unused[EDGETAM], "sam2.1": unused["sam2.1_hiera_*"]}}


def _cut(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    kept = {key: arrays[key] for key in arrays if _is_kept(name, key)}
    kept["case_names"] = np.array(COMMITTED_CASES)
    steps = CHANNEL_STEPS
    if name != EDGETAM:
        taps = {key.removesuffix("_slice") for key in kept if key.startswith("tap/") and key.endswith("_slice")}
        steps = CHANNEL_STEPS_OF_TINY | dict.fromkeys(
            (tap for tap in taps if len(kept[f"{tap}_shape"]) == 3), TAP_STEP_OF_TINY
        )
    for part, step in steps.items():
        kept[f"{part}_slice"] = kept[f"{part}_slice"][::step]
        kept[f"{part}_steps"] = kept[f"{part}_steps"] * np.array([step, 1, 1])
    return kept


def _is_kept(name: str, key: str) -> bool:
    group, _, array = key.rpartition("/")
    if group.startswith("case/"):
        return group.removeprefix("case/") in COMMITTED_CASES and array in OF_CASES
    if group.startswith("predict/"):
        return name == EDGETAM and group.removeprefix("predict/") in COMMITTED_CALLS
    if group == "tap":
        return array.rpartition("_")[0] in COMMITTED_TAPS
    left_out = LEFT_OUT if name == EDGETAM else (*LEFT_OUT, *INPUT)
    return not group and not array.endswith(left_out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else SAM2_FULL)
    sizes = {path.name: path.stat().st_size for path in sorted(SAM2_COMMITTED.iterdir())}
    print(sizes, "total", sum(sizes.values()), "bytes")

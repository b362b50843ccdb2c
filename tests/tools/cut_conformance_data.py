"""Cuts the committed part out of the full fixtures: ``python tests/tools/cut_conformance_data.py [FIXTURES]``.

The committed part covers every stage of the encoder, prompts of every kind (two of them step by step), two prompts of
the published decoder and one image end to end, in less than 2 MB. The image is stored as lossless WebP. Of the exact
embedding, from which the decoder's cases start, only the last bits are stored, see ``float16_with_parity``.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.official_reference import COMMITTED, COMMITTED_CASES, COMMITTED_PROMPTS, FULL, Reference

# Large, and covered by the statistics of the same tensor and by the slices before and after it.
LEFT_OUT_OF_ENCODER = {
    "image_u8_hwc", "embedding_f16", "embedding_row0", "embedding_row63", "bilinear_embedding_slice",
    "lateral2_slice", "top_up_slice", "neck0_slice",
}  # fmt: skip
STEPS = {"l0_tokens", "l0_keys_slice", "keys_slice", "up_slice"}
CASES_WITH_STEPS = {"point1", "point_mask"}


def main(folder: Path) -> None:
    """Write the committed files.

    Args:
        folder: Folder of the full fixtures.
    """
    full = Reference(folder)
    COMMITTED.mkdir(exist_ok=True)
    image = Image.fromarray(full.encoder["image_u8_hwc"])
    image.save(COMMITTED / "image.webp", lossless=True, quality=100, method=6)

    encoder = {key: array for key, array in full.encoder.items() if key not in LEFT_OUT_OF_ENCODER}
    encoder["embedding_parity"] = np.packbits(full.encoder["embedding_f16"].view(np.uint16).reshape(-1) & 1)
    _write("encoder", encoder)

    decoder = _of(full.decoder, {*COMMITTED_CASES, "image_pe_stats", "mask_input"})
    _write("decoder", {key: array for key, array in decoder.items() if not _is_left_out_of_decoder(key)})
    _write("onnx_decoder", _of(full.onnx_decoder, set(COMMITTED_PROMPTS)))
    _write("predictor", _of(full.predictor, {"small"}))


def _of(arrays, names):
    return {key: array for key, array in arrays.items() if key.split("/")[0] in names}


def _is_left_out_of_decoder(key):
    case, _, name = key.partition("/")
    return name == "mask_logits_f16" or (name in STEPS and case not in CASES_WITH_STEPS)


def _write(name, arrays):
    np.savez_compressed(COMMITTED / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FULL)
    sizes = {path.name: path.stat().st_size for path in sorted(COMMITTED.iterdir())}
    print(sizes, "total", sum(sizes.values()), "bytes")

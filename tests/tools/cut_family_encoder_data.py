"""Cuts the committed reference of a SAM-family encoder: ``python tests/tools/cut_family_encoder_data.py NAME...``.

NAME is an architecture, for instance ``efficientvit-sam-l0``. The full fixtures have to be beside the repository. The
committed file has every tap and the embedding in half as many places along each axis, and all statistics.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.sam_family_weights import FAMILY_COMMITTED, FAMILY_FULL, family_file


def main(name: str) -> None:
    """Write the committed file of an architecture."""
    with np.load(FAMILY_FULL / family_file(name)) as full:
        arrays = {key: full[key] for key in full.files if key.endswith(("_shape", "_stats")) and _is_of_encoder(key)}
        arrays["input_slice"] = full["input_slice"]
        arrays["embedding_slice"] = full["embedding_slice"][::4, ::2, ::2]
        arrays["embedding_steps"] = np.array([4, 16, 16])
        for key in full.files:
            if key.startswith("tap/") and key.endswith("_slice"):
                steps = f"{key.removesuffix('slice')}steps"
                if steps not in full.files:  # few numbers, of windows
                    arrays[key] = full[key]
                    continue
                arrays[key] = full[key][::2, ::2, ::2]
                arrays[steps] = 2 * full[steps]
    np.savez_compressed(FAMILY_COMMITTED / family_file(name, "_encoder.npz"), **arrays)


def _is_of_encoder(key: str) -> bool:
    return key.startswith(("input_", "embedding_", "tap/"))


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(argument)

"""The loader of the native library: C code for CPUs, built once for each instruction set.

`decoder` holds the prompt decoder, `masks` makes masks as runs of pixels and cleans them, and `resize` makes the
encoder's input. Where no build runs, ONNX Runtime decodes, NumPy makes the masks, and Pillow resizes.
"""

import ctypes
import functools
import logging
import platform
from pathlib import Path

# The best one first.
# Builds for other processors and for other versions of Python may lie in the same folder.
_MACHINES = {"x86_64": ("x86-64-v4", "x86-64-v3"), "aarch64": ("armv8-a",)}
_LEVELS = _MACHINES.get(platform.machine(), ())

# All functions that the Python modules of this package call.
_FUNCTIONS = (
    "edgesam_runs_here",
    "edgesam_decoder_create",
    "edgesam_decoder_free",
    "edgesam_prepare_state",
    "edgesam_needs_maps",
    "edgesam_decode_prompts",
    "edgesam_decode_selected",
    "edgesam_mask_transitions",
    "edgesam_mask_pixels",
    "edgesam_filter_pieces",
    "edgesam_filter_transitions",
    "edgesam_resize_levels",
    "edgesam_resize_floats",
)

_log = logging.getLogger(__name__)


def best_level() -> str | None:
    """Return the instruction set of the build in use, for instance `x86-64-v4`; None where no build runs."""
    found = _find()
    return None if found is None else found[0]


def library() -> ctypes.CDLL | None:
    """Return the build in use, loaded; None where no build runs."""
    found = _find()
    return None if found is None else found[1]


@functools.cache
def _find() -> tuple[str, ctypes.CDLL] | None:
    for level in _LEVELS:
        path = Path(__file__).parent / f"_{level.replace('-', '_')}.so"
        if not path.exists():
            continue
        try:
            loaded = ctypes.CDLL(str(path))
            for name in _FUNCTIONS:
                getattr(loaded, name)
        except (OSError, AttributeError) as error:  # a damaged file, or a build of another source
            _log.warning("%s cannot be used: %s", path.name, error)
            continue
        if loaded.edgesam_runs_here():
            return level, loaded
    return None

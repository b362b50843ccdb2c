"""EdgeSAM's decoder in C for CPUs: one prompt at a time, the image tokens block by block through the cache.

ONNX Runtime decodes where it could not be built, on a GPU, and as the reference. What the C files do is told in
decoder.c; this module loads the best build that the processor runs, and hands arrays over.
"""

import ctypes
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MAX_TOKENS = 123
"""Points of a prompt, absent ones included; decoder.h allows 128 tokens, five of which are the decoder's own."""

# The best one first.
_LEVELS = ("x86-64-v4", "x86-64-v3")


class NativeError(RuntimeError):
    """The parameters are not EdgeSAM's, or memory ran out; the message says which."""


class _Tensor(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("data", c_void_p), ("size", c_int64))


class _Tokens(ctypes.Structure):
    _fields_ = (("half", c_void_p), ("single", c_void_p))


class _States(ctypes.Structure):
    _fields_ = (("count", c_int), ("keys", c_void_p), ("keys0", c_void_p), ("queries0", c_void_p))


class _Prompts(ctypes.Structure):
    _fields_ = (("count", c_int), ("length", c_int), ("points", c_void_p), ("labels", c_void_p))


class _Masks(ctypes.Structure):
    _fields_ = (("mask_logits", c_void_p), ("iou_predictions", c_void_p), ("stability", c_void_p))


def best_level() -> str | None:
    """The instruction set of the build that is used here, for instance `x86-64-v4`; None without one."""
    found = _find()
    return None if found is None else found[0]


def library() -> ctypes.CDLL | None:
    """The build that is used here, for what else is in it (`service.sam.runs`)."""
    found = _find()
    return None if found is None else found[1]


class NativeDecoder:
    """A decoder with its parameters and threads.

    Args:
        parameters: by their names in SAM's checkpoint.
        threads: that may compute at the same time for one prompt.

    Raises:
        NativeError: no build runs here, or the parameters are not EdgeSAM's.
    """

    def __init__(self, parameters: Mapping[str, NDArray[Any]], *, threads: int) -> None:
        found = _find()
        if found is None:
            raise NativeError("no build of the native decoder runs on this machine")
        self.level, self._library = found
        self.threads = threads
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in parameters.items()}
        tensors = (_Tensor * len(arrays))(
            *(_Tensor(name.encode(), array.ctypes.data, array.size) for name, array in arrays.items())
        )
        error = ctypes.create_string_buffer(256)
        self._decoder = self._library.edgesam_decoder_new(tensors, len(arrays), threads, error)
        if not self._decoder:
            raise NativeError(error.value.decode())

    def __del__(self) -> None:
        if getattr(self, "_decoder", None):
            self._library.edgesam_decoder_free(self._decoder)

    def prepare(
        self, tokens: NDArray[np.float16] | NDArray[np.float32], *, threads: int
    ) -> tuple[Floats, Floats, Floats]:
        """Do what depends on a picture alone, where there is no mask prompt. Blocking; releases the interpreter.

        Args:
            tokens: (4096, 256).
            threads: as in `decode`.

        Returns:
            keys (1, 4096, 256), keys0 (1, 4096, 128) and queries0 (1, 4096, 128), as PrepareGraph gives them.

        Raises:
            ValueError: the shape or the type of `tokens`.
        """
        if tokens.shape != (4096, 256) or tokens.dtype not in {np.dtype(np.float16), np.dtype(np.float32)}:
            raise ValueError(f"Tokens have the shape (4096, 256) in float16 or float32, not {tokens.shape}.")
        numbers: NDArray[Any] = np.ascontiguousarray(tokens)
        is_half = numbers.dtype == np.float16
        at = _Tokens(numbers.ctypes.data if is_half else None, None if is_half else numbers.ctypes.data)
        keys, keys0 = np.empty((1, 4096, 256), np.float32), np.empty((1, 4096, 128), np.float32)
        queries0 = np.empty_like(keys0)
        places = (array.ctypes.data for array in (keys, keys0, queries0))
        self._library.edgesam_prepare(self._decoder, at, self._bounded(threads), *places)
        return keys, keys0, queries0

    def decode(
        self,
        keys: Floats,
        keys0: Floats,
        queries0: Floats,
        points: Floats,
        labels: NDArray[np.int64],
        *,
        threads: int,
    ) -> tuple[Floats, Floats, Floats]:
        """Masks for P prompts; a prompt's are the same bit for bit whatever `threads` is, and alone or in company.
        Blocking; releases the interpreter.

        Args:
            keys: (S, 4096, 256), S = 1 or P.
            keys0: (S, 4096, 128).
            queries0: (S, 4096, 128).
            points: (P, N, 2) in the frame, N up to `MAX_TOKENS`.
            labels: (P, N), the table of service.sam.prompts.
            threads: that compute, at most those of the decoder.

        Returns:
            mask_logits (P, 4, 256, 256), iou_predictions (P, 4), stability (P, 4).

        Raises:
            ValueError: shapes, or a label that there is not.
            NativeError: out of memory.
        """
        count, length = labels.shape
        keys, keys0, queries0 = (np.ascontiguousarray(array, np.float32) for array in (keys, keys0, queries0))
        points, labels = np.ascontiguousarray(points, np.float32), np.ascontiguousarray(labels, np.int64)
        shapes = (keys.shape[1:], keys0.shape[1:], queries0.shape[1:])
        states = {len(keys), len(keys0), len(queries0)}
        if shapes != ((4096, 256), (4096, 128), (4096, 128)) or states not in ({1}, {count}):
            raise ValueError(f"An image state for {count} prompts has not the shapes {shapes} of {states} pictures.")
        if points.shape != (count, length, 2) or length > MAX_TOKENS:
            raise ValueError(f"Points {points.shape} do not fit labels {labels.shape} of at most {MAX_TOKENS} points.")
        mask_logits = np.empty((count, 4, 256, 256), np.float32)
        iou_predictions, stability = np.empty((count, 4), np.float32), np.empty((count, 4), np.float32)
        status = self._library.edgesam_decode(
            self._decoder,
            _States(len(keys), keys.ctypes.data, keys0.ctypes.data, queries0.ctypes.data),
            _Prompts(count, length, points.ctypes.data, labels.ctypes.data),
            self._bounded(threads),
            _Masks(mask_logits.ctypes.data, iou_predictions.ctypes.data, stability.ctypes.data),
        )
        if status == -1:
            raise NativeError("out of memory")
        if status:
            raise ValueError(f"Labels must lie between -3 and 3: {labels.tolist()}.")
        return mask_logits, iou_predictions, stability

    def _bounded(self, threads: int) -> int:
        return max(1, min(threads, self.threads))


def _find() -> tuple[str, ctypes.CDLL] | None:
    for level in _LEVELS:
        for path in Path(__file__).parent.glob(f"_{level.replace('-', '_')}.*so"):
            library = _load(path)
            if library.edgesam_runs_here():
                return level, library
    return None


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.edgesam_decoder_new.restype = c_void_p
    library.edgesam_decoder_new.argtypes = [POINTER(_Tensor), c_int, c_int, c_char_p]
    library.edgesam_decoder_free.restype = None
    library.edgesam_decoder_free.argtypes = [c_void_p]
    library.edgesam_prepare.restype = None
    library.edgesam_prepare.argtypes = [c_void_p, _Tokens, c_int, c_void_p, c_void_p, c_void_p]
    library.edgesam_decode.argtypes = [c_void_p, _States, _Prompts, c_int, _Masks]
    return library

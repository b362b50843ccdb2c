"""The prompt decoder of SAM and of SAM 2 in C, for CPUs. It decodes prompts one by one, and the image tokens in blocks.

ONNX Runtime decodes on a GPU, where the library could not be built, and as the reference. decoder.c describes the
computation.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_float, c_int, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from service.native import best_level, library
from service.native.structures import Maps, Masks, Numbers, Prompts, Selection, States, Tensor, pointer, rows
from service.sam.embedding import S0_SHAPE, S1_SHAPE, TOKENS_SHAPE

Floats = NDArray[np.float32]

MAX_POINTS = 123
"""Most points of a prompt, absent ones included, as in decoder.h."""

PACKED_SHAPE = (1, 4096, 3 * 128)
"""Shape of keys0, and of queries0, of one image in bytes: numbers of 24 bits, see csrc/packed.h."""

_NUMBERS = (np.dtype(np.float16), np.dtype(np.float32))

FloatArray = NDArray[np.float16] | NDArray[np.float32]
Rows = NDArray[np.float32] | NDArray[np.uint8]
State = tuple[FloatArray, Rows, Rows]
"""Keys, keys0 and queries0 of S images. In a state of `NativeDecoder.prepare` the keys are the tokens of the image, and
the others are packed, (S, 4096, 384) uint8. A state of the prepare graph is float32: (S, 4096, 256) and twice
(S, 4096, 128)."""


class NativeError(RuntimeError):
    """No build runs here, the parameters are not a SAM decoder's, or there is no memory. The message says which."""


class NativeDecoder:
    """A prompt decoder with its parameters and threads.

    Args:
        parameters: Parameters by their names in SAM's checkpoint.
        norm_epsilon: Epsilon of the layer norms in the transformer.
        threads: Most threads that compute one prompt at the same time.

    Attributes:
        level: Instruction set of the build in use.
        threads: Most threads that compute one prompt at the same time.
        needs_maps: Whether the parameters are those of SAM 2: they have an object score token, and `decode` needs
            high-resolution maps.

    Raises:
        NativeError: No build runs here, or the parameters are not a SAM decoder's.
    """

    def __init__(self, parameters: Mapping[str, NDArray[Any]], *, norm_epsilon: float, threads: int) -> None:
        level, loaded = best_level(), library()
        if level is None or loaded is None:
            raise NativeError("no build of the native decoder runs on this machine")
        _declare(loaded)
        self.level, self._library = level, loaded
        self.threads = threads
        arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in parameters.items()}
        tensors = (Tensor * len(arrays))(
            *(Tensor(name.encode(), array.ctypes.data, array.size) for name, array in arrays.items())
        )
        error = ctypes.create_string_buffer(256)
        self._decoder = self._library.edgesam_decoder_create(tensors, len(arrays), norm_epsilon, threads, error)
        if not self._decoder:
            raise NativeError(error.value.decode())
        self.needs_maps = bool(self._library.edgesam_needs_maps(self._decoder))

    def __del__(self) -> None:
        if getattr(self, "_decoder", None):
            self._library.edgesam_decoder_free(self._decoder)

    def prepare(
        self,
        tokens: FloatArray,
        *,
        threads: int,
        out: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None,
    ) -> tuple[FloatArray, NDArray[np.uint8], NDArray[np.uint8]]:
        """Compute the part that depends on the image alone, for prompts without a mask.

        This blocks the thread and releases Python's global lock.

        Args:
            tokens: Embedding of the image, (4096, 256) float16 or float32.
            threads: Most threads that compute.
            out: Contiguous arrays for keys0 and queries0; new ones by default.

        Returns:
            The tokens as keys (1, 4096, 256), not copied where they are contiguous, and packed keys0 and queries0 of
            `PACKED_SHAPE`. A packed number differs from that of PrepareGraph by at most 2^-16 of itself.

        Raises:
            ValueError: `tokens` or `out` have another shape or type.
        """
        if tokens.shape != TOKENS_SHAPE or tokens.dtype not in _NUMBERS:
            raise ValueError(f"Tokens have the shape {TOKENS_SHAPE} in float16 or float32, not {tokens.shape}.")
        numbers = _in_memory_order(tokens)
        keys0, queries0 = out or (np.empty(PACKED_SHAPE, np.uint8), np.empty(PACKED_SHAPE, np.uint8))
        for array in (keys0, queries0):
            if array.shape != PACKED_SHAPE or array.dtype != np.uint8 or not array.flags.carray:
                raise ValueError(f"A state needs contiguous, writable uint8 arrays of the shape {PACKED_SHAPE}.")
        targets = (array.ctypes.data for array in (keys0, queries0))
        self._library.edgesam_prepare_state(self._decoder, pointer(numbers), self._bounded(threads), *targets)
        return numbers[None], keys0, queries0

    def decode(
        self,
        keys: FloatArray,
        keys0: Rows,
        queries0: Rows,
        points: Floats,
        labels: NDArray[np.int64],
        *,
        threads: int,
        high_res: tuple[FloatArray, FloatArray] | None = None,
    ) -> tuple[Floats, ...]:
        """Decode P prompts. The masks of a prompt do not depend on `threads` or the other prompts, to the last bit.

        This blocks the thread and releases Python's global lock.

        Args:
            keys: Part of the image state, see `State`; S is 1 or P.
            keys0: Part of the image state.
            queries0: Part of the image state.
            points: Points in the frame, (P, N, 2), where N is at most `MAX_POINTS`.
            labels: Labels of the points, (P, N), see service.sam.prompts.
            threads: Most threads that compute, at most those of the decoder.
            high_res: High-resolution maps of the image for SAM 2, float16 or float32, used for all prompts: s1
                (4096, 256), that is (4096, dy, dx, 64), and s0 (4096, 512), that is (4096, dy, dx, 32, dy, dx).
                None for SAM.

        Returns:
            mask_logits (P, 4, 256, 256), iou_predictions (P, 4) and stability (P, 4); with SAM 2 also
            narrow_stability (P,), the stability of output 0 at ±0.05, which is 1 where no logit is above -0.05.

        Raises:
            ValueError: Shapes or types do not fit, a label is unknown, or the maps are missing or not needed.
            NativeError: There is no memory.
        """
        call = self._call(keys, keys0, queries0, points, labels, high_res)
        count = call.prompts.count
        shapes = ((count, 4, 256, 256), (count, 4), (count, 4), *([(count,)] if self.needs_maps else []))
        results = tuple(np.empty(shape, np.float32) for shape in shapes)
        status = self._library.edgesam_decode_prompts(
            self._decoder, call.states, call.maps, call.prompts, self._bounded(threads), _masks(results)
        )
        _check(status, labels)
        return results

    def decode_selected(
        self,
        keys: FloatArray,
        keys0: Rows,
        queries0: Rows,
        points: Floats,
        labels: NDArray[np.int64],
        *,
        outputs: Sequence[int],
        least_iou: float | None,
        cells: tuple[int, int] = (256, 256),
        threads: int,
        high_res: tuple[FloatArray, FloatArray] | None = None,
    ) -> tuple[Floats, Floats, Floats]:
        """Decode P prompts as `decode` does, and compute only the masks that are wanted.

        A prompt without a wanted mask takes about half the time. The numbers of the other ones are those of `decode`.

        Args:
            keys: Part of the image state, see `decode`.
            keys0: Part of the image state.
            queries0: Part of the image state.
            points: Points in the frame, (P, N, 2).
            labels: Labels of the points, (P, N).
            outputs: Outputs that are wanted, 0 to 3.
            least_iou: Predicted IoU that a wanted mask exceeds, compared in float32; None for masks of any.
            cells: Rows and columns of the logits that lie in the image, 1 to 256 each. The rest is padding. With
                `least_iou`, its logits may be -100, also for the stability.
            threads: Most threads that compute, at most those of the decoder.
            high_res: High-resolution maps of the image for SAM 2, see `decode`.

        Returns:
            mask_logits (P, 4, 256, 256), iou_predictions (P, 4) and stability (P, 4). Logits and stabilities of masks
            that are not wanted have any value. Their memory is not touched.

        Raises:
            ValueError, NativeError: As in `decode`.
        """
        call = self._call(keys, keys0, queries0, points, labels, high_res)
        count = call.prompts.count
        results = tuple(np.empty(shape, np.float32) for shape in ((count, 4, 256, 256), (count, 4), (count, 4)))
        bits = sum(1 << output for output in set(outputs))
        status = self._library.edgesam_decode_selected(
            self._decoder,
            call.states,
            call.maps,
            call.prompts,
            self._bounded(threads),
            Selection(bits, math.nan if least_iou is None else least_iou, *(-(-each // 4) for each in cells)),
            _masks(results),
        )
        _check(status, labels)
        mask_logits, iou_predictions, stability = results
        return mask_logits, iou_predictions, stability

    def _call(
        self,
        keys: FloatArray,
        keys0: Rows,
        queries0: Rows,
        points: Floats,
        labels: NDArray[np.int64],
        high_res: tuple[FloatArray, FloatArray] | None,
    ) -> "_Call":
        """Check the arguments of a call, and return them as the library reads them."""
        count, length = labels.shape
        is_packed = keys0.dtype == np.uint8
        keys = _in_memory_order(keys, keys.dtype if is_packed and keys.dtype in _NUMBERS else np.float32)
        keys0, queries0 = (
            _in_memory_order(array, np.uint8 if is_packed else np.float32) for array in (keys0, queries0)
        )
        points, labels = _in_memory_order(points, np.float32), _in_memory_order(labels, np.int64)
        shapes = (keys.shape[1:], keys0.shape[1:], queries0.shape[1:])
        states = {len(keys), len(keys0), len(queries0)}
        row_shape = PACKED_SHAPE[1:] if is_packed else (4096, 128)
        if shapes != ((4096, 256), row_shape, row_shape) or states not in ({1}, {count}):
            raise ValueError(f"An image state for {count} prompts cannot have the shapes {shapes} for {states} images.")
        if points.shape != (count, length, 2) or length > MAX_POINTS:
            raise ValueError(f"Points {points.shape} do not fit labels {labels.shape} of at most {MAX_POINTS} points.")
        maps = self._maps(high_res)
        return _Call(
            States(len(keys), is_packed, pointer(keys), rows(keys0), rows(queries0)),
            Maps(*map(pointer, maps)),
            Prompts(count, length, points.ctypes.data, labels.ctypes.data),
            (keys, keys0, queries0, points, labels, *maps),
        )

    def _maps(self, high_res: tuple[FloatArray, FloatArray] | None) -> tuple[NDArray[Any], ...]:
        """Return s1 and s0 as the library reads them, without a copy where possible; nothing for SAM."""
        if (high_res is not None) != self.needs_maps:
            raise ValueError(
                "A decoder of SAM 2 needs the high-resolution maps of the image."
                if self.needs_maps
                else "A decoder of SAM takes no high-resolution maps."
            )
        given = high_res or ()
        shapes, dtypes = tuple(array.shape for array in given), [array.dtype for array in given]
        if high_res is not None and (shapes != (S1_SHAPE, S0_SHAPE) or not all(dtype in _NUMBERS for dtype in dtypes)):
            raise ValueError(
                f"High-resolution maps are float16 or float32 of the shapes {S1_SHAPE} and {S0_SHAPE}, "
                f"not {', '.join(map(str, dtypes))} of {shapes}."
            )
        return tuple(map(_in_memory_order, given))

    def _bounded(self, threads: int) -> int:
        return max(1, min(threads, self.threads))


@dataclass(frozen=True, slots=True)
class _Call:
    """The inputs of a call, with the arrays that their pointers need alive."""

    states: States
    maps: Maps
    prompts: Prompts
    arrays: tuple[NDArray[Any], ...]


def _masks(results: Sequence[Floats]) -> Masks:
    return Masks(*(array.ctypes.data for array in results))


def _check(status: int, labels: NDArray[np.int64]) -> None:
    if status == -1:
        raise NativeError("out of memory")
    if status:
        raise ValueError(f"Labels must lie between -3 and 3: {labels.tolist()}.")


def _in_memory_order(array: NDArray[Any], dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Return the array itself, or a copy where it is not contiguous, not aligned or of another type."""
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def _declare(loaded: ctypes.CDLL) -> None:
    """Declare the types of the decoder's functions; repeating it changes nothing."""
    loaded.edgesam_decoder_create.restype = c_void_p
    loaded.edgesam_decoder_create.argtypes = [POINTER(Tensor), c_int, c_float, c_int, c_char_p]
    loaded.edgesam_decoder_free.restype = None
    loaded.edgesam_decoder_free.argtypes = [c_void_p]
    loaded.edgesam_prepare_state.restype = None
    loaded.edgesam_prepare_state.argtypes = [c_void_p, Numbers, c_int, c_void_p, c_void_p]
    loaded.edgesam_needs_maps.argtypes = [c_void_p]
    loaded.edgesam_decode_prompts.argtypes = [c_void_p, States, Maps, Prompts, c_int, Masks]
    loaded.edgesam_decode_selected.argtypes = [c_void_p, States, Maps, Prompts, c_int, Selection, Masks]

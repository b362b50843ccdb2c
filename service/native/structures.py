"""The structures of csrc/decoder.h as ctypes passes them."""

import ctypes
from ctypes import c_char_p, c_float, c_int, c_int64, c_uint, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tensor(ctypes.Structure):
    """A parameter under its name in SAM's checkpoint."""

    _fields_ = (("name", c_char_p), ("data", c_void_p), ("size", c_int64))


class Numbers(ctypes.Structure):
    """An array in float16 or in float32; the other pointer is None."""

    _fields_ = (("float16", c_void_p), ("float32", c_void_p))


class Maps(ctypes.Structure):
    """The high-resolution maps of an image."""

    _fields_ = (("s1", Numbers), ("s0", Numbers))


class Rows(ctypes.Structure):
    """An array in float32 or in packed numbers; the other pointer is None."""

    _fields_ = (("float32", c_void_p), ("packed", c_void_p))


class States(ctypes.Structure):
    """The states of one image, or of one image for each prompt."""

    _fields_ = (
        ("count", c_int),
        ("has_tokens", c_int),
        ("keys", Numbers),
        ("keys0", Rows),
        ("queries0", Rows),
    )


class Prompts(ctypes.Structure):
    """Points and labels."""

    _fields_ = (("count", c_int), ("length", c_int), ("points", c_void_p), ("labels", c_void_p))


class Masks(ctypes.Structure):
    """Arrays for the result."""

    _fields_ = (
        ("mask_logits", c_void_p),
        ("iou_predictions", c_void_p),
        ("stability", c_void_p),
        ("narrow_stability", c_void_p),
    )


class Selection(ctypes.Structure):
    """The masks that are wanted."""

    _fields_ = (("outputs", c_uint), ("least_iou", c_float), ("rows", c_int), ("columns", c_int))


def pointer(array: NDArray[Any]) -> Numbers:
    """Return the pointers to an array in float16 or float32, which the caller keeps alive."""
    is_float16 = array.dtype == np.float16
    return Numbers(array.ctypes.data if is_float16 else None, None if is_float16 else array.ctypes.data)


def rows(array: NDArray[Any]) -> Rows:
    """Return the pointers to an array in float32 or uint8, which the caller keeps alive."""
    is_packed = array.dtype == np.uint8
    return Rows(None if is_packed else array.ctypes.data, array.ctypes.data if is_packed else None)

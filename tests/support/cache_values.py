"""Random embeddings and masks, and their bytes with correct checksums whatever their content."""

import struct
import zlib
from dataclasses import replace
from itertools import pairwise

import numpy as np

from service.sam.embedding import HighResMaps, ImageEmbedding
from service.sam.granularity import Proposals
from service.sam.number_format import rounded

MIB = 1 << 20
FINGERPRINT = "0123456789abcdef"


def embedding(dtype=np.float16, original_size=(1200, 1600)):
    tokens = np.random.default_rng(0).normal(size=(4096, 256)).astype(dtype)
    return ImageEmbedding(tokens, original_size)


def proposing(count=1024, dtype=np.float16):
    """Return an embedding with random proposals."""
    random = np.random.default_rng(2)
    boxes = np.sort(random.uniform(0, 1024, (count, 2, 2)), axis=1).reshape(count, 4).astype(np.float32)
    tokens = random.normal(size=(4096, 256)).astype(dtype)
    return ImageEmbedding(tokens, (1200, 1600), Proposals(boxes, random.uniform(size=count).astype(np.float32)))


def high_res(dtype=np.float16):
    """Return an embedding with random maps of high resolution."""
    random = np.random.default_rng(3)
    tokens, s1, s0 = (random.normal(size=(4096, columns)).astype(dtype) for columns in (256, 256, 512))
    return ImageEmbedding(tokens, (1200, 1600), high_res=HighResMaps(s1, s0))


def in_int8(value):
    """Return an embedding with its tokens in int8, and its maps in float16."""
    kept = rounded(value.tokens, value.high_res, "int8")
    assert kept.scales is not None
    return replace(value, tokens=kept.tokens, high_res=kept.high_res, scales=kept.scales)


def parts_of_maps(data):
    """Return header, tokens, s1 and s0 of a value with maps of high resolution in float16."""
    ends = (0, 40, 40 + 2 * MIB, 40 + 4 * MIB, 40 + 8 * MIB)
    return [data[start:end] for start, end in pairwise(ends)]


def low_res_mask():
    return np.random.default_rng(1).normal(scale=9, size=(256, 256)).astype(np.float32)


def sealed(header, payload):
    """Return the bytes with correct checksums, whatever their content."""
    header = header[:32] + struct.pack("<I", zlib.crc32(payload))
    return header + struct.pack("<I", zlib.crc32(header)) + payload

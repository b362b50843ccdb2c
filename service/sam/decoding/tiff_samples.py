"""Reading the samples of a TIFF as they are stored, for layouts that Pillow does not read right.

Pillow's libtiff decompresses: a further directory, which describes the same strips or tiles as 8-bit grey, is appended
to a copy of the file. So the bounds of libtiff hold, and no compressed byte is decoded here. Predictors and byte orders
are left to this module.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import ImageTooLarge, UndecodableImage, UnsupportedImage
from service.sam.decoding import tiff_directory as tags
from service.sam.decoding.tiff_directory import Directory, Form
from service.sam.decoding.tiff_layout import BYTE_COMPRESSIONS, Layout

_OTHER_COMPRESSIONS: Final = {
    2: "CCITT",
    3: "CCITT",
    4: "CCITT",
    6: "JPEG",
    7: "JPEG",
    34712: "JPEG 2000",
    34892: "JPEG",
}
_NO_PREDICTOR, _HORIZONTAL, _FLOATING = 1, 2, 3
# Bytes for each pixel of the largest image while samples are read: those of the compressed pieces and of the samples.
_BYTES_PER_PIXEL: Final = 16
# Rows that are converted together: a copy of all bytes would double the memory.
_BLOCK_ROWS: Final = 256
_LONG, _LONG8, _SHORT = 4, 16, 3


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Strips or tiles of an image, or of one of its planes.

    Args:
        offsets: Positions in the file, row by row.
        sizes: Compressed sizes, bytes.
        width: Width of a piece, pixels.
        height: Height of a piece, pixels.
        across: Number of pieces beside each other.
        is_tiled: Whether the pieces are tiles.
    """

    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    width: int
    height: int
    across: int
    is_tiled: bool


def read_samples(directory: Directory, layout: Layout, bands: tuple[int, ...], max_pixels: int) -> NDArray[Any]:
    """Return the samples of some bands, (H, W, len(bands)), in the byte order of this machine. Blocking.

    Args:
        directory: Directory of the image.
        layout: Layout of the image. Its size has been checked.
        bands: Numbers of bands, from 1; the image has them.
        max_pixels: Largest number of pixels of an image, which bounds the memory.

    Raises:
        UnsupportedImage: Samples or compression are of a kind that is not read.
        ImageTooLarge: The samples would take too much memory.
        UndecodableImage: The file is damaged.
    """
    dtype = layout.dtype
    if layout.compression not in BYTE_COMPRESSIONS:
        name = _OTHER_COMPRESSIONS.get(layout.compression, f"number {layout.compression}")
        raise UnsupportedImage(
            f"The TIFF has {layout.named} with compression {name}, which are not read together. Save it with LZW or "
            "Deflate."
        )
    height, width = layout.size
    together = layout.bands if layout.is_together else 1
    pieces = _pieces(directory, layout)
    stored = pieces[0].across * pieces[0].width * height * together * dtype.itemsize
    kept = height * width * len(bands) * dtype.itemsize
    if stored + kept > _BYTES_PER_PIXEL * max_pixels:
        raise ImageTooLarge(
            f"The TIFF has {width} x {height} pixels of {layout.named}, which take {stored + kept} bytes; at most "
            f"{_BYTES_PER_PIXEL * max_pixels} are taken. Send it scaled down, or with fewer bands.",
            extra={"limit": max_pixels, "width": width, "height": height},
        )
    samples = np.empty((height, width, len(bands)), dtype)
    if layout.is_together:
        _read_piece_rows(directory, layout, pieces[0], samples, [band - 1 for band in bands])
    else:
        for index, band in enumerate(bands):
            _read_piece_rows(directory, layout, pieces[band - 1], samples[..., index : index + 1], [0])
    return samples


def _pieces(directory: Directory, layout: Layout) -> list[_Pieces]:
    """Return the pieces of the image, or of each of its planes."""
    height, width = layout.size
    is_tiled = tags.TILE_OFFSETS in directory
    offsets = directory.values(tags.TILE_OFFSETS if is_tiled else tags.STRIP_OFFSETS)
    sizes = directory.values(tags.TILE_BYTES if is_tiled else tags.STRIP_BYTES)
    piece_width = directory.number(tags.TILE_WIDTH, 0) if is_tiled else width
    piece_height = directory.number(tags.TILE_HEIGHT, 0) if is_tiled else directory.number(tags.ROWS_PER_STRIP, height)
    piece_height = piece_height if is_tiled else min(piece_height, height)
    if piece_width < 1 or piece_height < 1 or (is_tiled and (piece_width % 16 or piece_height % 16)):
        raise UndecodableImage("The TIFF has strips or tiles of an impossible size; save the image again.")
    across, down = -(-width // piece_width), -(-height // piece_height)
    planes = 1 if layout.is_together else layout.bands
    if len(offsets) != planes * across * down or len(sizes) != len(offsets):
        raise UndecodableImage(
            f"The TIFF has {len(offsets)} strips or tiles, and {planes * across * down} are needed; save it again."
        )
    if (offsets + sizes > len(directory.data)).any():
        raise UndecodableImage("The TIFF is cut off in its pixels; send the complete file.")
    plane_offsets, plane_sizes = offsets.reshape(planes, -1), sizes.reshape(planes, -1)
    return [
        _Pieces(plane_offsets[plane], plane_sizes[plane], piece_width, piece_height, across, is_tiled)
        for plane in range(planes)
    ]


def _read_piece_rows(
    directory: Directory, layout: Layout, pieces: _Pieces, samples: NDArray[Any], channels: list[int]
) -> None:
    """Fill `samples` with channels of the pieces, some rows after the other."""
    height, width = layout.size
    together = layout.bands if layout.is_together else 1
    dtype = layout.dtype
    predictor = directory.number(tags.PREDICTOR, _NO_PREDICTOR) if layout.compression != 1 else _NO_PREDICTOR
    piece_bytes = pieces.width * together * dtype.itemsize
    row_bytes = pieces.across * piece_bytes
    with Image.open(io.BytesIO(_as_grey(directory, layout, pieces, row_bytes)), formats=["TIFF"]) as image:
        if image.mode != "L" or image.size != (row_bytes, height):
            raise UndecodableImage("The directory of the TIFF contradicts itself; save the image again.")
        image.load()
        for top in range(0, height, _BLOCK_ROWS):
            content = np.asarray(image.crop((0, top, row_bytes, min(top + _BLOCK_ROWS, height))))
            rows = content.reshape(-1, pieces.across, piece_bytes)
            values = _without_predictor(rows, dtype, directory.form.order, predictor, together)
            row = values.reshape(len(rows), pieces.across * pieces.width, together)[:, :width]
            for index, channel in enumerate(channels):
                samples[top : top + len(rows), :, index] = row[..., channel]


def _without_predictor(
    rows: NDArray[np.uint8], dtype: "np.dtype[Any]", order: Literal["<", ">"], predictor: int, together: int
) -> NDArray[Any]:
    """Return the samples of rows of pieces, (rows, pieces, pixels * together)."""
    count, across, nbytes = rows.shape
    if predictor == _FLOATING:
        if dtype.kind != "f":
            raise UndecodableImage("The TIFF has a predictor of floats for other samples; save the image again.")
        summed = np.cumsum(rows.reshape(count, across, -1, together), axis=2, dtype=np.uint8)
        planes = summed.reshape(count, across, dtype.itemsize, nbytes // dtype.itemsize)  # the first bytes of all, ...
        return np.ascontiguousarray(planes.swapaxes(2, 3)).view(dtype.newbyteorder(">"))[..., 0]
    values = rows.view(dtype.newbyteorder(order))
    if predictor == _NO_PREDICTOR:
        return values
    if predictor != _HORIZONTAL:
        raise UnsupportedImage(f"The TIFF has predictor {predictor}, which is not read; save the image again.")
    whole = f"u{dtype.itemsize}"
    differences = rows.view(np.dtype(whole).newbyteorder(order)).astype(whole)
    pixels = differences.reshape(count, across, -1, together)
    return np.cumsum(pixels, axis=2, dtype=whole).view(dtype).reshape(count, across, -1)


def _as_grey(directory: Directory, layout: Layout, pieces: _Pieces, row_bytes: int) -> bytes:
    """Return the file with a further directory as its first one: the pieces as 8-bit grey of `row_bytes` columns."""
    # In grey of 8 bits the byte order has no meaning, and Pillow reads no big-endian BigTIFF.
    form = Form("<", directory.form.is_big)
    word_kind = _LONG8 if form.is_big else _LONG
    word_bytes = struct.calcsize("<" + form.word)
    places = (tags.TILE_OFFSETS, tags.TILE_BYTES) if pieces.is_tiled else (tags.STRIP_OFFSETS, tags.STRIP_BYTES)
    shape = (
        ((tags.TILE_WIDTH, row_bytes // pieces.across), (tags.TILE_HEIGHT, pieces.height))
        if pieces.is_tiled
        else ((tags.ROWS_PER_STRIP, pieces.height),)
    )
    numbers = (
        (tags.WIDTH, row_bytes), (tags.HEIGHT, layout.size[0]), (tags.BITS, 8), (tags.COMPRESSION, layout.compression),
        (tags.PHOTOMETRIC, 1), (tags.SAMPLES, 1), *shape,
    )  # fmt: skip
    start = len(directory.data) + len(directory.data) % 2
    lists = {places[0]: pieces.offsets, places[1]: pieces.sizes}
    array_start = start + struct.calcsize("<" + form.count) + (len(numbers) + 2) * form.entry.size + word_bytes
    entries = {tag: (_LONG, 1, struct.pack(form.order + "I", number)) for tag, number in numbers}
    arrays = b""
    for tag, values in lists.items():
        content = values.astype(np.dtype(f"u{word_bytes}").newbyteorder(form.order)).tobytes()
        if len(values) > 1:
            position = struct.pack(form.order + form.word, array_start + len(arrays))
            entries[tag] = (word_kind, len(values), position)
            arrays += content
        else:
            entries[tag] = (word_kind, 1, content)
    packed = b"".join(form.entry.pack(tag, *entries[tag]) for tag in sorted(entries))
    count = struct.pack(form.order + form.count, len(entries))
    header = form.mark + struct.pack(form.order + form.word, start)
    body = directory.data[len(header) :]
    return b"".join((header, body, b"\0" * (start - len(directory.data)), count, packed, b"\0" * word_bytes, arrays))

"""PNG files made chunk by chunk, for kinds that Pillow does not write."""

import struct
import zlib

import numpy as np

KINDS = {(): 0, (2,): 4, (3,): 2, (4,): 6}  # colour types, by the shape of a pixel


def chunk(kind, content=b"", *, checksum=None):
    """Return a chunk of a PNG; `checksum` replaces the right one."""
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def pixels(samples, depth=8):
    """Return the compressed rows of samples, (H, W) or (H, W, channels), of 1 to 16 bits."""
    rows = samples.reshape(len(samples), -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    elif depth == 8:
        packed = rows.astype(np.uint8)
    else:
        bits = rows[..., None] >> np.arange(depth - 1, -1, -1) & 1
        packed = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))


def png(samples, *, depth=8, before=b"", after=b"", data=None):
    """Return a PNG of samples in grey or RGB, with or without alpha.

    Args:
        samples: Grey (H, W), grey with alpha (H, W, 2), RGB (H, W, 3) or RGBA (H, W, 4) numbers of `depth` bits.
        depth: Bits of a sample.
        before: Chunks between the header and the pixels.
        after: Chunks behind the pixels.
        data: Chunks with the pixels; None for one chunk.
    """
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, KINDS[samples.shape[2:]], 0, 0, 0)
    data = chunk(b"IDAT", pixels(samples, depth)) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + data + after + chunk(b"IEND")


def exif(orientation, *, kind=3, order="<"):
    """Return an EXIF block with an orientation of a type of TIFF: 3 is SHORT, 4 LONG."""
    start = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(f"{order}HH", orientation, 0) if kind == 3 else struct.pack(f"{order}I", orientation)
    entry = struct.pack(f"{order}HHHI", 1, 0x112, kind, 1) + value
    return start + struct.pack(f"{order}I", 8) + entry + bytes(4)


def frame_control(number, size, offset=(0, 0)):
    """Return the chunk before a frame of an animation, of height and width `size` at (x, y) `offset`."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, size[1], size[0], *offset, 1, 10, 0, 0))


def frame_data(number, samples):
    """Return the chunk with the pixels of a frame of an animation."""
    return chunk(b"fdAT", struct.pack(">I", number) + pixels(samples))


def animation(frames):
    """Return the chunk that announces a number of frames."""
    return chunk(b"acTL", struct.pack(">II", frames, 0))

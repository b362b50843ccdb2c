"""Files of very many small parts are refused before Pillow reads them in Python. Files of encoders are accepted."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sam.sample_values import decode_array, encoded, gradient, tiff

from service.errors import ImageTooLarge, UndecodableImage
from service.sam.image_guards import gif_size

ROOT = Path(__file__).parent.parent.parent
MAX_PIXELS = 52_000_000
PNG, GIF = (encoded(Image.fromarray(gradient(24, 30)).quantize(16), kind) for kind in ("PNG", "GIF"))
GIF_BLOCKS_AT = 13 + (3 << (GIF[10] & 7) + 1)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(chunks: bytes) -> bytes:
    """Return a PNG with chunks behind its header."""
    return PNG[:33] + chunks + PNG[33:]


def gif_with(blocks: bytes) -> bytes:
    """Return a GIF with blocks before its first frame."""
    return GIF[:GIF_BLOCKS_AT] + blocks + GIF[GIF_BLOCKS_AT:]


@pytest.mark.parametrize(
    "parts", [chunk(b"abCd"), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT")], ids=["own", "text", "data"]
)
def test_a_png_of_too_many_chunks_is_refused(parts):
    with pytest.raises(UndecodableImage, match="16384 chunks"):
        decode_array(png_with(parts * 20_000), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    "parts",
    [b"!\xfe\1a\0" * 20_000, b"!\xff" + b"\1a" * 20_000 + b"\0", b"!\xff\x0bNETSCAPE2.0" + b"\1a" * 20_000 + b"\0",
     b"\0" * 20_000],
    ids=["comments", "application", "loop", "nothing"],
)  # fmt: skip
def test_a_gif_of_too_many_blocks_is_refused(parts):
    with pytest.raises(UndecodableImage, match="16384 blocks"):
        decode_array(gif_with(parts), max_pixels=MAX_PIXELS)


def test_ordinary_chunks_and_blocks_before_the_image_are_accepted():
    comment = b"".join(b"\xff" + b"a" * 255 for _ in range(1000))  # a quarter of a MiB
    plain = decode_array(GIF, max_pixels=MAX_PIXELS)

    found = decode_array(gif_with(b"!\xfe" + comment + b"\0"), max_pixels=MAX_PIXELS)

    assert np.array_equal(found, plain)
    assert decode_array(png_with(chunk(b"tEXt", b"a\0b") * 100), max_pixels=MAX_PIXELS).shape == plain.shape


def test_a_large_png_in_chunks_of_libpng_is_read():
    image = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    whole = encoded(image, "PNG", compress_level=0)
    data = whole[whole.index(b"IDAT") + 4 :]
    content = zlib.compress(b"".join(b"\0" + row.tobytes() for row in image), 0)
    pieces = b"".join(chunk(b"IDAT", content[at : at + 8192]) for at in range(0, len(content), 8192))

    found = decode_array(whole[:33] + pieces + chunk(b"IEND"), max_pixels=MAX_PIXELS)

    assert len(data) > 3_000_000
    assert np.array_equal(found, image)


def test_only_the_first_of_thousands_of_frames_is_decoded():
    frames = [Image.new("L", (40, 30), level % 256) for level in range(3000)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)

    image = decode_array(data, max_pixels=MAX_PIXELS)

    assert image.shape == (30, 40, 3)
    assert not image.any()


def gif_of_frame(before: bytes = b"") -> bytes:
    """Return a GIF of 30 x 24 pixels whose only frame has 60 000 x 48 000 pixels and is cleared after display."""
    control = b"!\xf9\4\x08\0\0\0\0"
    frame = b"," + struct.pack("<4HB", 0, 0, 60_000, 48_000, 0) + b"\2\2\x4c\1\0"
    return b"GIF89a" + struct.pack("<HHBBB", 30, 24, 0, 0, 0) + before + control + frame + b";"


DECOY = b"," + struct.pack("<4HB", 0, 0, 3, 2, 0) + bytes(40)


@pytest.mark.parametrize(
    "before",
    [b"", b"!\x01\0" + DECOY[:45] + b"\0", b"!\xf9\0" + DECOY[:45] + b"\0",
     b"!\xff\x0bNETSCAPE2.0\0" + DECOY[:45] + b"\0", b"!\xfe\5,,,,,\0", b"\0\1\2"],
    ids=["plain", "empty block", "empty control", "empty loop", "comment", "nothing"],
)  # fmt: skip
def test_a_gif_with_a_frame_larger_than_its_screen_is_refused_before_opening(before):
    # A fuzzer found this place of a frame, which Pillow accepts: opening the file took 2.3 GiB.
    opened = run_with_little_memory(gif_of_frame(before))

    assert opened.startswith("ImageTooLarge The image has 60000 x 48000"), opened


PIECES = [b"!", b"\xf9", b"\xfe", b"\xff", b"\0", b"\1a", b"\x0bNETSCAPE2.0", b"\2ab", b"\3\1\0\0", b",", b"x", DECOY]


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_the_size_of_a_gif_equals_that_of_pillow(pieces):
    frame = b"," + struct.pack("<4HB", 2, 3, 50, 40, 0) + b"\2\2\x4c\1\0;"
    data = b"GIF89a" + struct.pack("<HHBBB", 30, 24, 0, 0, 0) + b"".join(pieces) + frame
    try:
        with Image.open(io.BytesIO(data), formats=["GIF"]) as opened:
            taken = opened.height, opened.width
    except (OSError, IndexError, struct.error):
        return  # Pillow finds no image

    assert gif_size(data) == taken


def test_a_gif_with_a_frame_outside_its_screen_is_a_larger_image():
    data = bytearray(GIF)
    struct.pack_into("<2H", data, GIF_BLOCKS_AT + 1, 5, 7)

    assert decode_array(bytes(data), max_pixels=MAX_PIXELS).shape == (31, 35, 3)
    with pytest.raises(ImageTooLarge, match="35 x 31"):
        decode_array(bytes(data), max_pixels=30 * 24)


def test_a_tiff_of_more_strips_than_rows_of_images_is_refused():
    rows = 70_000
    pointers = struct.pack(f"<{rows}I", *[8] * rows)
    buffer = io.BytesIO(b"II*\0" + struct.pack("<I", 8 + 40 + 2 * len(pointers)) + bytes(40) + 2 * pointers)
    offsets, counts = 48, 48 + len(pointers)
    entries = [
        (256, 4, 1, 40), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, rows, offsets), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, rows, counts),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)

    with pytest.raises(UndecodableImage, match="70000 pieces"):
        decode_array(buffer.getvalue() + directory + bytes(4), max_pixels=MAX_PIXELS)
    assert decode_array(tiff((24, 30), 8, b"\0" * 720), max_pixels=MAX_PIXELS).shape == (24, 30, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_transparent_image_of_many_bands_is_laid_on_white(mode):
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (700, 50, 4), np.uint8))
    image = colours.quantize(32) if mode == "P" else colours.convert(mode)
    data = encoded(image, "PNG")
    with Image.open(io.BytesIO(data)) as opened:
        layer = opened.convert("RGBA")
    page = Image.new("RGBA", layer.size, "white")
    page.alpha_composite(layer)

    found = decode_array(data, max_pixels=MAX_PIXELS).astype(int)

    assert np.abs(found - np.asarray(page.convert("RGB"), int)).max() <= 1  # rounding of the two compositions


DECODE_IN_LITTLE_MEMORY = """
import resource, sys
from service.sam.images import decode_image
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
try:
    print(decode_image(sys.stdin.buffer.read(), max_pixels=52_000_000).pixels.size)
except Exception as error:
    print(type(error).__name__, error)
"""


def run_with_little_memory(data: bytes) -> str:
    """Decode an image in a process that may use 64 MiB more than at its start; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", DECODE_IN_LITTLE_MEMORY],
        input=data,
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    return done.stdout.decode() or done.stderr.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_lack_of_memory_is_not_an_error_of_the_image():
    data = encoded(Image.new("1", (6000, 6000)), "PNG")

    assert run_with_little_memory(data).startswith("Overloaded There is no memory to decode this image now")


def run_length_bmp(width, height, runs):
    """Return a BMP of 8 bits, run-length coded."""
    palette = bytes(4 * 256)
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(runs), 0, 0, offset) + header + palette + runs


def test_a_small_run_length_bmp_is_read():
    assert decode_array(run_length_bmp(4, 1, b"\x04\x00\x00\x01"), max_pixels=MAX_PIXELS).shape == (1, 4, 3)


@pytest.mark.parametrize(
    "data",
    [
        run_length_bmp(2000, 2000, b"\x01\x00\x00\x00" * 2000 + b"\x00\x01"),
        run_length_bmp(10, 10, b"\x00\x00" * (1 << 20)),
    ],
    ids=["many pixels", "many ends of lines"],
)
def test_runs_that_would_be_decoded_one_by_one_are_refused(data):
    with pytest.raises(UndecodableImage, match="run-length"):
        decode_array(data, max_pixels=MAX_PIXELS)
